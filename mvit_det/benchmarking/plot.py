"""Time and memory against the size of the image, as an image."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from ..plotting import COLOURS, new_figure, tidy
from .case import PASSES, SIDES
from .comparison import NAMES
from .row import Row

STYLES = {"forward": "o-", "train": "s--"}
LABELS = {
    "detectron2": {"candidate": "mvit_det", "baseline": "Detectron2's MViT"},
    "mvit_det": {"candidate": "mvit_det, with", "baseline": "mvit_det, without"},
}
PANELS = {"s": ("Time (s)", 1.0), "bytes": ("Peak memory (GiB)", 2.0**30)}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws a panel for time and one for memory; both axes are logarithmic.

    So a slope of one, as the grey line has it, is growth in proportion to the pixels.

    Args:
        rows: of one sweep.
        path: of the PNG to write.
    """
    figure = new_figure(11, 4.8)
    for axes, (unit, (label, scale)) in zip(figure.subplots(1, 2), PANELS.items()):
        _draw_panel(axes, [row for row in rows if row.unit == unit], scale)
        axes.set_ylabel(label)
    case = rows[0].case
    figure.suptitle(f"{case.model}, {case.dtype}, batch {case.batch}, {case.device.upper()}")
    figure.savefig(path, dpi=150)


def _draw_panel(axes: Axes, rows: Sequence[Row], scale: float) -> None:
    sizes = sorted({row.case.image_size for row in rows}, key=lambda size: size[0] * size[1])
    ticks = [height * width for height, width in sizes]
    per_pixel = []
    for name in PASSES:
        for side, colour in zip(SIDES, COLOURS):
            points = [
                (row.case.pixels, middle / scale)
                for row in rows
                if row.pass_name == name and (middle := row.median(side)) is not None
            ]
            if not points:
                continue
            label = f"{LABELS[rows[0].case.baseline][side]}, {NAMES[name]}"
            pixels, values = zip(*points)
            axes.plot(pixels, values, STYLES[name], color=colour, label=label)
            per_pixel += [value / number for number, value in points]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    if per_pixel:
        # Below all others.
        line = [0.7 * min(per_pixel) * number for number in ticks]
        axes.plot(ticks, line, color="0.6", linewidth=1, label="proportional to pixels")
        axes.legend(frameon=False, fontsize=9)
    axes.set_xticks(ticks)
    axes.set_xticks([], minor=True)
    labels = [f"{h}²" if h == w else f"{h}×{w}" for h, w in sizes]
    axes.set_xticklabels(labels, rotation=30 if len(sizes) > 4 else 0)
    axes.set_xlabel("Image size (pixels)")
    tidy(axes)
