"""The look of every plot, and how a figure becomes inline SVG or PNG. Knows nothing of what is plotted.

Matplotlib's SVG, since a report of a hundred kilobytes opens from a mail or an archive without scripts;
an inlined plotting library alone weighs several megabytes. Colours become CSS variables, so that a figure
follows the reader's light or dark mode.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1d1d20", "#5d5d63", "#dcdce1"
SERIES = (
    "#1f6fc4",
    "#c8620a",
    "#12805c",
    "#8346b8",
    "#c2334d",
    "#0f7f8c",
    "#7d6f0a",
    "#b0569a",
    "#4a5fd0",
    "#8a5a3c",
    "#5b8c1a",
)
"""Colours of series, in order of use; told apart with the common colour-vision deficiencies."""

CLASSES = ("#8f3209", "#d9681d", "#e8b44c", "#7db4d6", "#2b6aa8")
"""Colours of ordered classes, from one end to the other."""

_DARK_SERIES = (
    "#6cb0f5",
    "#f2a154",
    "#4cc79a",
    "#c397ee",
    "#f28a9a",
    "#5ac8d6",
    "#d0c04f",
    "#e79ad2",
    "#98a6ff",
    "#cfa184",
    "#a5d35f",
)
_DARK_CLASSES = ("#c05a2e", "#ec8a45", "#f0cd7e", "#93c7e6", "#4f8fd0")
_DARK: Mapping[str, str] = dict(
    zip(
        (INK, MUTED, GRID, *SERIES, *CLASSES),
        ("#ececef", "#a8a8b0", "#3b3b42", *_DARK_SERIES, *_DARK_CLASSES),
        strict=True,
    )
)
"""What each colour becomes in dark mode."""

Size = Literal["small", "normal", "wide"]
_INCHES: Mapping[Size, tuple[float, float]] = {"small": (3.5, 2.4), "normal": (4.7, 2.9), "wide": (5.8, 3.3)}
# Of a legend's entry, and of what stands left of the plot.
_HANDLE_INCHES, _CHARACTER_INCHES, _MARGIN_INCHES = 0.4, 0.066, 0.3

# Any: matplotlib types the keys as a literal of all its parameters.
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.4,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "gvm",
    "text.color": INK,
    "text.parse_math": False,  # names may hold a $
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A finished plot, in the two forms in which it is given out."""

    name: str
    """The stem of its file, e.g. accuracy_by_tokens."""

    title: str
    caption: str
    svg: str
    """For a page: text as text, colours as CSS variables."""

    png: bytes
    """For papers, slides and tickets: on white, 200 dots an inch."""


def new_figure(*, x: str = "", y: str, columns: int = 1, size: Size = "normal") -> tuple[Figure, list[Axes]]:
    """An empty figure of `columns` plots with labelled axes. But for wide ones it is readable at a phone's width."""
    with mpl.rc_context(_STYLE):
        width, height = _INCHES[size]
        figure = Figure(figsize=(width * columns, height), layout="constrained")
        plots = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
        for axes in plots:
            axes.set(xlabel=x, ylabel=y)
            axes.set_axisbelow(True)
    return figure, plots


def add_legend(axes: Axes) -> None:
    """A legend above the plot, so that it never covers a curve."""
    with mpl.rc_context(_STYLE):
        num_columns = _legend_columns(axes.get_legend_handles_labels()[1], _width(axes))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.1, 1), ncols=num_columns, columnspacing=1.2, borderaxespad=0.3)


def _width(axes: Axes) -> float:
    """Of a plot without what stands left of it, in inches."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return float(figure.get_size_inches()[0]) / len(figure.axes) - _MARGIN_INCHES


def _legend_columns(labels: Sequence[str], inches: float) -> int:
    """One row where all of them fit into a width, else columns as wide as the longest."""
    widths = [_HANDLE_INCHES + _CHARACTER_INCHES * len(label) for label in labels]
    return len(labels) if sum(widths) <= inches else max(1, int(inches / max(widths)))


def finished(*drafts: tuple[str, str, str, Figure | None]) -> list[Plot]:
    """Plots of drafts (name, title, caption, figure), those without a figure left out.

    The figures must not be drawn upon any more.
    """
    plots = []
    for name, title, caption, figure in drafts:
        if figure is not None:
            svg = to_svg(figure)
            # The arrangement stays as it is; finding it again would take as long as drawing.
            figure.set_layout_engine("none")
            plots.append(Plot(name=name, title=title, caption=caption, svg=svg, png=to_png(figure)))
    return plots


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element to be put into HTML: scalable, text as text, colours as CSS variables."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every figure of a page, and of no use there
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for colour in _DARK:
        svg = svg.replace(colour, f"var({_variable(colour)})")
    return svg


def to_png(figure: Figure) -> bytes:
    """The figure as PNG on white."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()


def css_variables(*, dark: bool) -> str:
    """The CSS declarations that `to_svg` relies upon."""
    return " ".join(f"{_variable(light)}: {other if dark else light};" for light, other in _DARK.items())


def _variable(colour: str) -> str:
    return f"--c{colour[1:]}"
