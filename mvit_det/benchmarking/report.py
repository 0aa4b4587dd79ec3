"""Results as Markdown tables, as JSON and as a plot, with the machine and versions behind them."""

import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import detectron2
import torch
import torchvision
from matplotlib.axes import Axes
from tabulate import tabulate

import mvit_det

from ..plotting import COLOURS, new_figure, save_figure, tidy
from .case import PASSES, SIDES, Case
from .comparison import NAMES, Row
from .memory import cores, physical_memory

MODULES = (torch, torchvision, detectron2, mvit_det)
HEADERS = {
    "detectron2": ("mvit_det", "detectron2", "mvit_det over detectron2"),
    "timm": ("mvit_det", "timm", "mvit_det over timm"),
    "torchvision": ("mvit_det", "torchvision", "mvit_det over torchvision"),
    "mvit_det": ("with", "without", "with over without"),
}
STYLES = {"forward": "o-", "train": "s--"}
LEGENDS = {
    "detectron2": {"candidate": "mvit_det", "baseline": "Detectron2's MViT"},
    "timm": {"candidate": "mvit_det", "baseline": "timm"},
    "torchvision": {"candidate": "mvit_det", "baseline": "torchvision"},
    "mvit_det": {"candidate": "mvit_det, with", "baseline": "mvit_det, without"},
}
PANELS = {"s": ("Time (s)", 1.0), "bytes": ("Peak memory (GiB)", 2.0**30)}


def format_rows(rows: Iterable[Row]) -> str:
    """Formats a Markdown table for each baseline, and a line for each skipped measurement.

    Cells show the median and, in brackets, the minimum and the maximum of all repeats.
    """
    tables, notes = [], []
    by_baseline = sorted(rows, key=lambda row: row.case.baseline)
    for baseline, group in groupby(by_baseline, lambda row: row.case.baseline):
        lines = []
        for row in group:
            of = row.case.describe()
            sides = [_format_side(row, side) for side in SIDES]
            floor = "" if row.over_floor is None else f"{row.over_floor:.2f}×"
            error = "" if row.error is None else f"{row.error:.0e}"
            lines.append([row.name, of, *sides, _format_ratio(row), floor, error])
            names = dict(zip(SIDES, HEADERS[baseline]))
            notes += [
                f"Skipped: {row.name}, {of}, {names[side]}: {reason}."
                for side, reason in row.skipped.items()
            ]
        header = ["what", "of", *HEADERS[baseline], "over the floor", "features' error"]
        tables.append(format_table(header, lines))
    return "\n\n".join([*tables, "\n".join(notes)] if notes else tables)


def format_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Formats a Markdown table."""
    escaped = [
        [each.replace("|", "\\|") if isinstance(each, str) else each for each in line]
        for line in lines
    ]
    return tabulate(escaped, header, tablefmt="github", disable_numparse=True)


def format_seconds(values: Sequence[float]) -> str:
    """Formats the median of measured seconds and, in brackets, their minimum and maximum."""
    middle = median(values)
    factor, unit = (1, "s") if middle >= 1 else (1e3, "ms")
    digits = [
        # Three digits are more than the spread is worth.
        f"{value * factor:.3g}" if value * factor < 1000 else f"{value * factor:.0f}"
        for value in (middle, min(values), max(values))
    ]
    return f"{digits[0]} {unit} ({digits[1]}–{digits[2]})"


def as_json(rows: Sequence[Row], command: Sequence[str]) -> dict[str, Any]:
    """Results with all repeats, and the machine and versions behind them."""
    return {**provenance(command), "rows": [_row_as_json(row) for row in rows]}


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """When, by which command and commit, and on which machine and versions results were made."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": list(command),
        "commit": _commit(),
        "machine": {
            "cpu": _cpu_model(),
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "memory_bytes": physical_memory(),
            "gpu": gpu and gpu.name,
            "gpu_memory_bytes": gpu and gpu.total_memory,
            "cuda": torch.version.cuda if gpu else None,
        },
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in MODULES},
        },
    }


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws the time and memory of a sweep against the size of the image or the length of the clip.

    Both axes are logarithmic: the slope of the grey line is growth in proportion to the pixels.

    Args:
        rows: of one sweep.
        path: of the PNG to write.
    """
    figure = new_figure(11, 4.8)
    for axes, (unit, (label, scale)) in zip(figure.subplots(1, 2), PANELS.items()):
        _draw_panel(axes, [row for row in rows if row.unit == unit], scale)
        axes.set_ylabel(label)
    case = rows[0].case
    of = f"{case.model}, {case.image_size[0]}²" if case.task == "video" else case.model
    figure.suptitle(f"{of}, {case.dtype}, batch {case.batch}, {case.device.upper()}")
    save_figure(figure, path, dpi=150)


def _format_side(row: Row, side: str) -> str:
    middle = row.median(side)
    if middle is None:
        return "skipped"
    if row.unit == "bytes":
        return f"{middle / 2**20:.0f} MiB"
    if row.unit == "ratio":
        return f"{middle:.2f}×"
    text = format_seconds(row.values[side])
    if row.case.detector or row.pass_name == "loader":
        text += f", {row.images_per_second(side):.3g} images/s"
    return text


def _format_ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    if row.unit == "s" and row.case.baseline != "mvit_det":
        return f"{1 / row.ratio:.2f}× as fast"
    words = {"s": " the time", "bytes": " the memory", "ratio": ""}
    return f"{row.ratio:.2f}×{words[row.unit]}"


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        **asdict(row),
        "medians": {side: row.median(side) for side in row.values},
        "images_per_second": {side: row.images_per_second(side) for side in row.values},
        "candidate_over_baseline": row.ratio,
        "floor": row.floor,
        "candidate_over_floor": row.over_floor,
    }


def _draw_panel(axes: Axes, rows: Sequence[Row], scale: float) -> None:
    cases = sorted({row.case.pixels: row.case for row in rows}.items())
    is_video = rows[0].case.task == "video"
    per_pixel = []
    for name in PASSES:
        for side, colour in zip(SIDES, COLOURS):
            points = [
                (row.case.pixels, middle / scale)
                for row in rows
                if row.pass_name == name and (middle := row.median(side)) is not None
            ]
            if points:
                label = f"{LEGENDS[rows[0].case.baseline][side]}, {NAMES[name]}"
                axes.plot(*zip(*points), STYLES[name], color=colour, label=label)
                per_pixel += [value / pixels for pixels, value in points]
    axes.loglog()
    axes.yaxis.set_major_formatter("{x:g}")
    ticks = [pixels for pixels, _ in cases]
    if per_pixel:
        # Below all others.
        line = [0.7 * min(per_pixel) * pixels for pixels in ticks]
        to = "frames" if is_video else "pixels"
        axes.plot(ticks, line, color="0.6", linewidth=1, label=f"proportional to {to}")
        axes.legend(frameon=False, fontsize=9)
    labels = [str(case.frames) if is_video else _image_label(case) for _, case in cases]
    axes.set_xticks(ticks, labels, rotation=30 if len(ticks) > 4 else 0)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("Clip length (frames)" if is_video else "Image size (pixels)")
    tidy(axes)


def _image_label(case: Case) -> str:
    height, width = case.image_size
    return f"{height}²" if height == width else f"{height}×{width}"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout, with "-dirty" if files differ from it; None outside of one."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
