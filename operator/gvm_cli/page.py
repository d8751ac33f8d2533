"""HTML pages that need nothing but themselves: no scripts, no requests, light or dark, phone or screen.

Owns the markup and its style; text is escaped here. Knows nothing of runs.
"""

from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from gvm_cli.plots import css_variables, to_svg

_STYLE = f"""
:root {{ color-scheme: light dark; --page: #ffffff; --card: #f6f6f8; {css_variables(dark=False)}
  --ink: var(--c1d1d20); --muted: var(--c5d5d63); --line: var(--cdcdce1); }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #151518; --card: #1d1d21; {css_variables(dark=True)} }} }}
body {{ margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.5rem; margin: .5rem 0 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem; }}
p {{ margin: .25rem 0; overflow-wrap: anywhere; }}
.muted, figcaption {{ color: var(--muted); font-size: .85rem; }}
.plots {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }}
figure {{ margin: 0; padding: .75rem; background: var(--card); border-radius: .5rem; min-width: 0;
  max-width: 40rem; }}
figure h3 {{ font-size: .95rem; margin: 0 0 .25rem; }}
svg {{ display: block; width: 100%; height: auto; }}
svg text {{ font-family: system-ui, sans-serif !important; }}
.scroll {{ overflow-x: auto; margin-bottom: 1rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; }}
thead th {{ color: var(--muted); font-size: .85rem; font-weight: normal; }}
tbody th {{ font-weight: 600; }}
pre {{ overflow-x: auto; padding: .75rem; background: var(--card); border-radius: .5rem; font-size: .8rem; }}
"""


def page(title: str, *parts: str) -> str:
    """A whole document of parts that are HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(part for part in parts if part) + "\n</body>\n</html>\n"
    )


def paragraph(text: str, *, muted: bool = False) -> str:
    """A paragraph of plain text; nothing for an empty one."""
    style = ' class="muted"' if muted else ""
    return f"<p{style}>{escape(text)}</p>" if text else ""


def section(heading: str, *parts: str) -> str:
    """A heading over its parts; nothing where all parts are empty."""
    inner = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(heading)}</h2>\n{inner}\n</section>" if inner else ""


def table(rows: Sequence[Sequence[str]], *, has_header: bool) -> str:
    """A table whose first column names the row, in a box of its own that scrolls on a phone."""
    if not rows:
        return ""
    head, body = (rows[0], rows[1:]) if has_header else ((), rows)
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in body
    ]
    return (
        '<div class="scroll"><table>\n'
        + (f"<thead><tr>{header}</tr></thead>\n" if head else "")
        + "<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def plots(*figures: tuple[str, str, Figure | None]) -> str:
    """Figures side by side, each with title and caption; a figure that is None is left out."""
    shown = [
        f"<figure>\n<h3>{escape(title)}</h3>\n{to_svg(figure)}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"
        for title, caption, figure in figures
        if figure is not None
    ]
    return f'<div class="plots">\n{"".join(shown)}\n</div>' if shown else ""


def preformatted(text: str) -> str:
    """Text as it stands, e.g. YAML."""
    return f"<pre>{escape(text)}</pre>"
