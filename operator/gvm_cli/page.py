"""HTML pages that need nothing but themselves: no scripts, no requests; for a screen, a phone, paper, light or dark.

Owns the markup and its style; text is escaped here. Knows nothing of runs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from gvm_cli.plots import Plot, Size, css_variables

_STYLE = f"""
:root {{ color-scheme: light; --page: #ffffff; --card: #f6f6f8; --good: #12805c; --bad: #c2334d;
  {css_variables(dark=False)}
  --ink: var(--c1d1d20); --muted: var(--c5d5d63); --line: var(--cdcdce1); }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ color-scheme: dark; --page: #151518; --card: #1d1d21; --good: #4cc79a; --bad: #f28a9a;
    {css_variables(dark=True)} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 1.5rem 1.25rem 3rem; max-width: 74rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; -webkit-text-size-adjust: 100%; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }}
h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }}
p {{ margin: .35rem 0; max-width: 54rem; }}
a {{ color: inherit; }}
.muted, figcaption, .note {{ color: var(--muted); font-size: .85rem; }}
.lead {{ font-size: 1.1rem; margin: .75rem 0; }}
.remark {{ padding: .5rem .75rem; border-left: 3px solid var(--cc8620a); background: var(--card); }}
nav {{ display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 1rem 0; font-size: .9rem; }}
.tiles {{ display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); margin: 1rem 0; }}
.tile {{ background: var(--card); border-radius: .5rem; padding: .65rem .8rem; min-width: 0; }}
.tile span {{ display: block; color: var(--muted); font-size: .8rem; line-height: 1.35; }}
.tile strong {{ display: block; font-size: 1.3rem; font-weight: 600; line-height: 1.35;
  font-variant-numeric: tabular-nums; }}
.plots {{ display: grid; gap: 1rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 29rem), 1fr)); }}
.plots.small {{ grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }}
.plots.wide {{ grid-template-columns: minmax(0, 1fr); }}
.plots.wide figure {{ max-width: 46rem; }}
figure {{ margin: 0; padding: .75rem; background: var(--card); border-radius: .5rem; min-width: 0; max-width: 42rem;
  break-inside: avoid; }}
figure h3, .sample h3 {{ font-size: .95rem; margin: 0 0 .35rem; }}
figcaption {{ margin-top: .35rem; }}
svg {{ display: block; width: 100%; height: auto; }}
svg text {{ font-family: system-ui, sans-serif !important; }}
.scroll {{ overflow-x: auto; margin: .5rem 0 1rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }}
th, td {{ padding: .3rem 1.25rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: top; }}
.numbers td, .numbers thead th:not(:first-child) {{ text-align: right; }}
thead th {{ color: var(--muted); font-size: .85rem; font-weight: normal; vertical-align: bottom; }}
tbody th {{ font-weight: 600; }}
.prose td {{ white-space: normal; min-width: 12rem; }}
pre {{ overflow-x: auto; margin: .5rem 0; padding: .75rem; background: var(--card); border-radius: .5rem;
  font-size: .8rem; line-height: 1.45; }}
dt {{ font-weight: 600; margin-top: .6rem; }}
dd {{ margin: 0; max-width: 54rem; color: var(--muted); }}
.beside {{ display: flex; flex-wrap: wrap; gap: 0 3rem; align-items: flex-start; }}
.beside > * {{ min-width: 0; max-width: 100%; }}
.beside > .plots {{ flex: 1 1 29rem; max-width: 36rem; grid-template-columns: 1fr; }}
.samples {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 29rem), 1fr)); }}
.sample {{ background: var(--card); border-radius: .5rem; padding: .75rem; min-width: 0; break-inside: avoid; }}
.sample h3 span {{ font-weight: normal; }}
.sample pre {{ padding: 0; margin: .15rem 0 .5rem; white-space: pre-wrap; background: none; }}
.good {{ color: var(--good); }} .bad {{ color: var(--bad); }}
summary {{ cursor: pointer; color: var(--muted); }}
@media print {{
  @page {{ margin: 14mm; }}
  body {{ padding: 0; max-width: none; font-size: 11pt; }}
  nav {{ display: none; }}
  .plots, .samples {{ grid-template-columns: 1fr 1fr; }}
  figure, .tile, .sample, pre {{ border: 1px solid var(--line); background: none; }}
  .sample pre {{ border: 0; }}
  .tile strong {{ font-size: 1.05rem; }}
  table {{ font-size: 9pt; }}
  th, td {{ white-space: normal; padding-right: .8rem; }}
  pre {{ white-space: pre-wrap; }}
  h2 {{ break-after: avoid; }} tr {{ break-inside: avoid; }}
}}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A text with a heading: a sample. `verdict` is good, bad or neither (empty)."""

    heading: str
    verdict_text: str
    verdict: str
    facts: str
    texts: Sequence[tuple[str, str]]
    """(label, text as it stands) each."""


def page(title: str, *parts: str) -> str:
    """A whole document of parts that are HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(part for part in parts if part) + "\n</body>\n</html>\n"
    )


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph of plain text, of a kind such as muted, lead or remark; nothing for an empty one."""
    style = f' class="{kind}"' if kind else ""
    return f"<p{style}>{escape(text)}</p>" if text else ""


def section(heading: str, *parts: str) -> str:
    """A heading over its parts, which `contents` links to; nothing where all parts are empty."""
    inner = "\n".join(part for part in parts if part)
    return f'<section id="{_anchor(heading)}">\n<h2>{escape(heading)}</h2>\n{inner}\n</section>' if inner else ""


def contents(headings: Iterable[str]) -> str:
    """Links to sections."""
    links = [f'<a href="#{_anchor(heading)}">{escape(heading)}</a>' for heading in headings]
    return f"<nav>{''.join(links)}</nav>"


def tiles(facts: Iterable[tuple[str, str, str]]) -> str:
    """Figures to be seen first: (name, value, remark) each."""
    shown = [
        f'<div class="tile"><span>{escape(name)}</span><strong>{escape(value)}</strong>'
        f"<span>{escape(remark)}</span></div>"
        for name, value, remark in facts
    ]
    return f'<div class="tiles">{"".join(shown)}</div>' if shown else ""


def table(rows: Sequence[Sequence[str]], *, has_header: bool = True, kind: str = "") -> str:
    """A table whose first column names the row, in a box of its own that scrolls on a phone.

    Of kind `numbers` its cells stand at the right, of kind `prose` they wrap; nothing for one without rows.
    """
    head, body = (rows[0], rows[1:]) if rows and has_header else ((), rows)
    if not body:
        return ""
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in body
    ]
    return (
        f'<div class="scroll"><table class="{kind}">\n'
        + (f"<thead><tr>{header}</tr></thead>\n" if head else "")
        + "<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def plots(shown: Sequence[Plot], *, size: Size = "normal") -> str:
    """Plots side by side, three of small ones and one wide one, each with title and caption."""
    figures = [
        f"<figure>\n<h3>{escape(plot.title)}</h3>\n{plot.svg}\n<figcaption>{escape(plot.caption)}</figcaption>\n</figure>"
        for plot in shown
    ]
    return f'<div class="plots {size}">\n{"".join(figures)}\n</div>' if figures else ""


def cards(shown: Sequence[Card]) -> str:
    """Texts side by side."""
    return f'<div class="samples">\n{"".join(map(_card, shown))}\n</div>' if shown else ""


def _card(card: Card) -> str:
    texts = [f'<div class="muted">{escape(label)}</div><pre>{escape(text)}</pre>' for label, text in card.texts]
    return (
        f'<article class="sample"><h3>{escape(card.heading)} <span class="{card.verdict}">'
        f'{escape(card.verdict_text)}</span></h3><p class="note">{escape(card.facts)}</p>{"".join(texts)}</article>\n'
    )


def definitions(terms: Iterable[tuple[str, str]]) -> str:
    """A list of terms and what they mean."""
    lines = [f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in terms]
    return f"<dl>{''.join(lines)}</dl>"


def beside(*parts: str) -> str:
    """Parts side by side where there is room, else below one another."""
    return f'<div class="beside">{"".join(parts)}</div>' if any(parts) else ""


def preformatted(text: str) -> str:
    """Text as it stands, e.g. YAML."""
    return f"<pre>{escape(text)}</pre>"


def folded(label: str, inner: str) -> str:
    """HTML that is opened by a click; paper does not show it."""
    return f"<details><summary>{escape(label)}</summary>\n{inner}\n</details>"


def _anchor(heading: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in heading.lower())
