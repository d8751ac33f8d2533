"""Pages in a real browser: nothing is fetched, nothing sticks out on a phone, dark mode and paper look as such."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from needed import CHROMIUM, NO_CHROMIUM, NO_PLAYWRIGHT

from gvm_cli.page import Card, cards, definitions, page, paragraph, plots, preformatted, section, table, tiles
from gvm_cli.plots import add_legend, finished, new_figure

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WHITE, DARK = "rgb(255, 255, 255)", "rgb(21, 21, 24)"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    api = pytest.importorskip("playwright.sync_api", reason=NO_PLAYWRIGHT)
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of part, each with a text that is too long for a phone."""
    long, figure = "x" * 400, new_figure(x="iteration", y="share", size="wide")
    figure[1][0].plot([1, 2], [0.1, 0.2], label="a series")
    add_legend(figure[1][0])
    drawn = finished(("plot", "A plot", long, figure[0]))
    card = Card(heading=long, verdict="good", verdict_text="accepted", facts=long, texts=[("prompt", long)])
    html = page(
        long,
        paragraph(long, kind="lead"),
        tiles([("name", long, long)] * 5),
        section("Tables", table([("a", "b")] + [(long, long)] * 2, kind="numbers"), preformatted(long)),
        section("Plots", plots(drawn), plots(drawn, size="small"), plots(drawn, size="wide")),
        section("Texts", cards([card]), definitions([(long, long)])),
    )
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(html)
    return path


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_nothing_sticks_out_and_nothing_is_fetched(browser: "Browser", file: Path, width: int) -> None:
    shown = browser.new_page(viewport={"width": width, "height": 800})
    requests: list[str] = []
    shown.on("request", lambda request: requests.append(request.url))
    shown.goto(file.as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    assert requests == [file.as_uri()]
    shown.close()


@pytest.mark.parametrize(
    ("media", "scheme", "background", "ink"),
    [
        ("screen", "light", WHITE, "29, 29, 32"),
        ("screen", "dark", DARK, "236, 236, 239"),
        ("print", "dark", WHITE, "29, 29, 32"),
    ],
)
def test_page_and_plots_are_dark_on_a_dark_screen_and_never_on_paper(
    browser: "Browser", file: Path, media: str, scheme: str, background: str, ink: str
) -> None:
    shown = browser.new_page()
    shown.emulate_media(media=media, color_scheme=scheme)
    shown.goto(file.as_uri())
    colours = shown.evaluate(
        "JSON.stringify([getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        " getComputedStyle([...document.querySelectorAll('svg text')].at(-1)).fill])"
    )
    assert json.loads(colours) == [background, f"rgb({ink})", f"rgb({ink})"]
    shown.close()
