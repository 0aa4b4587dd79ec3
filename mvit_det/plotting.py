"""Shared style and helpers of the project's plots."""

import contextlib
import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from .data.folders import new_file

# Distinguishable for colour-blind readers (Okabe and Ito's palette, extended).
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00",
    "#56b4e9", "#7f3c8d", "#8c564b", "#4d4d4d", "#b8a900",
)  # fmt: skip

# For letters that matplotlib's own font lacks; those that are installed are used.
FALLBACK_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Zen Hei",
    "Hiragino Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Arial Unicode MS",
)


def new_figure(width: float, height: float) -> Figure:
    """Creates an empty figure of this size in inches, which needs no display."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int) -> None:
    """Writes a figure; an older file stays as it is if that fails.

    Raises:
        OSError: the file cannot be written.
    """
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi)


@contextlib.contextmanager
def any_text() -> Iterator[None]:
    """Draws names literally: dollar signs start no formula, missing letters cause no warning."""
    installed = set(font_manager.get_font_names())
    fonts = ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed)]
    settings: Any = {"text.parse_math": False, "font.family": fonts}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def shorten(name: str, width: int = 28) -> str:
    """Shortens a name to one line of at most `width` characters, all of them UTF-8."""
    name = " ".join(name.encode(errors="replace").decode().split())
    return name if len(name) <= width else name[: width - 1].rstrip() + "…"


def tidy(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Draws a pale grid, and no frame at the top and on the right.

    Args:
        axes: to be changed.
        grid: which lines.
    """
    axes.set_axisbelow(True)
    axes.grid(True, axis=grid, which="major", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def list_lines(axes: Axes, lines: Sequence[Line2D], labels: Sequence[str], title: str) -> None:
    """Adds a translucent legend inside the plot.

    Args:
        axes: to be changed.
        lines, labels: of equal number, from top to bottom.
        title: over them.
    """
    axes.legend(
        lines,
        labels,
        title=title,
        alignment="left",
        loc="best",
        fontsize=8,
        title_fontsize=8,
        framealpha=0.85,
        edgecolor="none",
    )


def say(axes: Axes, text: str) -> None:
    """Writes a message where there is nothing to draw."""
    axes.text(
        0.5,
        0.5,
        textwrap.fill(text, 40),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="0.5",
    )
