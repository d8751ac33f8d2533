"""The look of every plot, and how a figure becomes inline SVG or PNG. Knows nothing of what is plotted.

Matplotlib's SVG, since a report of a hundred kilobytes opens from a mail or an archive without scripts;
an inlined plotting library alone weighs several megabytes. Colours become CSS variables, so that a figure
follows the reader's light or dark mode.
"""

import io
import re
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1d1d20", "#5d5d63", "#dcdce1"
SERIES = ("#1f6fc4", "#c8620a", "#12805c", "#8346b8", "#c2334d", "#0f7f8c", "#7d6f0a", "#77777c", "#b0569a")
"""Colours of series, in order of use; told apart with the common colour-vision deficiencies."""

_DARK_SERIES = ("#6cb0f5", "#f2a154", "#4cc79a", "#c397ee", "#f28a9a", "#5ac8d6", "#d0c04f", "#a6a6ad", "#e79ad2")
_DARK: Mapping[str, str] = dict(
    zip((INK, MUTED, GRID, *SERIES), ("#ececef", "#a8a8b0", "#3b3b42", *_DARK_SERIES), strict=True)
)
"""What each colour becomes in dark mode."""

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
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "gvm",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def new_figure(*, x: str = "", y: str, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of `columns` plots with labelled axes. It is readable at a phone's width."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6 * columns, 2.9), layout="constrained")
        plots = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
        for axes in plots:
            axes.set(xlabel=x, ylabel=y)
            axes.set_axisbelow(True)
    return figure, plots


def add_legend(axes: Axes) -> None:
    """A legend above the plot, so that it never covers a curve."""
    with mpl.rc_context(_STYLE):
        num_entries = len(axes.get_legend_handles_labels()[1])
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(num_entries, 4), columnspacing=1.2)


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element to be put into HTML: scalable, text as text, colours as CSS variables."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for colour in _DARK:
        svg = svg.replace(colour, f"var({_variable(colour)})")
    return svg


def to_png(figure: Figure) -> bytes:
    """The figure as PNG on white, for slides and mails."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def css_variables(*, dark: bool) -> str:
    """The CSS declarations that `to_svg` relies upon."""
    return " ".join(f"{_variable(light)}: {other if dark else light};" for light, other in _DARK.items())


def _variable(colour: str) -> str:
    return f"--c{colour[1:]}"
