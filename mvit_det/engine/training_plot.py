"""The plot of a training, drawn from its metrics."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..evaluation import TASK_NAMES
from ..plotting import COLOURS, any_text, list_lines, new_figure, save_figure, say, tidy

# Metrics of an evaluation to draw.
SUMMARIES = ("AP", "PQ")


def save_training_plot(metrics_path: str | Path, output_path: str | Path) -> None:
    """Draws losses, AP, learning rate, speed and memory over the iterations.

    Losses and speed are smoothed over a twenty-fifth of the training, with a pale line of the raw
    values behind.

    Args:
        metrics_path: `metrics.json` of a training, see `read_metrics`.
        output_path: of the PNG to write.

    Raises:
        OSError: a file cannot be read or written.
    """
    rows = read_metrics(metrics_path)
    with any_text():
        figure = new_figure(15, 8)
        losses, terms, ap, rate, speed, memory = figure.subplots(2, 3).flat
        labels = {"total_loss": "training"}
        for name in ("validation/total_loss", "ema/validation/total_loss"):
            if _names(rows, name.__eq__):
                labels[name] = "validation, EMA" if name.startswith("ema/") else "validation"
        _draw(losses, rows, labels, "Loss", smooth=True)
        names = _names(rows, lambda name: name.startswith("loss_"))
        labels = {name: name.removeprefix("loss_") for name in names}
        _draw(terms, rows, labels, "Terms of the loss", smooth=True)
        names = _names(rows, lambda name: name.rpartition("/")[2] in SUMMARIES)
        _draw(ap, rows, {name: _describe(name) for name in names}, "Evaluation (%)")
        _draw(rate, rows, {"lr": ""}, "Learning rate")
        _draw(speed, rows, {"images_per_second": ""}, "Images per second", smooth=True)
        _draw(memory, rows, {"max_mem": ""}, "Peak memory (GiB)", scale=1 / 1024)
        last = max((row["iteration"] for row in rows), default=0)
        for axes in figure.axes:
            axes.set_xlim(0, 1.03 * max(last, 1))
            axes.set_xlabel("Iteration")
        save_figure(figure, output_path, dpi=100)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Reads what Detectron2's `JSONWriter` writes: a JSON object per line.

    Where a training resumed from an earlier iteration, or a new one started in the same folder,
    earlier lines of later iterations are ignored. Incomplete lines of killed processes are skipped.

    Returns:
        A dict of metrics for each iteration that has any, in order, with "iteration".

    Raises:
        OSError: the file cannot be read.
    """
    rows: dict[int, dict[str, Any]] = {}
    last_step = -1
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        row = _parse(line)
        if row is None:
            continue
        iteration = row["iteration"]
        if "total_loss" in row:
            # The lines of a training come in order, those of its evaluations perhaps later.
            if iteration <= last_step:
                rows = {number: kept for number, kept in rows.items() if number < iteration}
            last_step = iteration
        rows.setdefault(iteration, {}).update(row)
    return [rows[iteration] for iteration in sorted(rows)]


def _parse(line: str) -> dict[str, Any] | None:
    """A row of metrics, or None for an incomplete one."""
    # An incomplete line has no end: the first line of the next process follows on it.
    for text in (line, line[line.rfind("{") :]):
        try:
            row = json.loads(text)
        except ValueError:
            continue
        if isinstance(row, dict) and "iteration" in row:
            return row
    return None


def _names(rows: Iterable[dict[str, Any]], is_wanted: Callable[[str], bool]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row if is_wanted(name)))


def _describe(name: str) -> str:
    """'box AP, EMA' for 'ema/bbox/AP'."""
    *source, task, metric = name.split("/")
    text = f"{TASK_NAMES.get(task, task)} {metric}"
    return f"{text}, EMA" if source == ["ema"] else text


def _draw(
    axes: Axes,
    rows: Sequence[dict[str, Any]],
    labels: dict[str, str],
    title: str,
    *,
    smooth: bool = False,
    scale: float = 1.0,
) -> None:
    """Draws the metrics in `labels`, with their last values in the legend."""
    axes.set_title(title)
    tidy(axes)
    drawn = []
    highest = 0.0
    for number, (name, label) in enumerate(labels.items()):
        points = [(row["iteration"], scale * row[name]) for row in rows if name in row]
        points = [point for point in points if np.isfinite(point[1])]
        if not points:
            continue
        iterations, values = np.array(points).T
        colour = COLOURS[number % len(COLOURS)]
        style = "-" if number < len(COLOURS) else "--"
        # An evaluation, whose metrics have a slash in their names, is a point.
        is_evaluation = "/" in name
        if smooth and not is_evaluation:
            axes.plot(iterations, values, color=colour, alpha=0.2, linewidth=1, zorder=1)
            values = _smoothed(values)
        marker = "o" if is_evaluation else ""
        (line,) = axes.plot(iterations, values, style, color=colour, marker=marker, markersize=5)
        drawn.append((values[-1], label, line))
        # Losses of the first steps can be so high that they flatten the rest.
        highest = max(highest, float(np.quantile(values, 0.98)) if smooth else values.max())
    if not drawn:
        say(axes, "nothing recorded yet")
        return
    axes.set_ylim(0, 1.1 * highest or 1)
    drawn.sort(key=lambda entry: -entry[0])
    if any(label for _, label, _ in drawn):
        captions = [f"{value:.3g}  {label}" for value, label, _ in drawn]
        list_lines(axes, [line for _, _, line in drawn], captions, "at the end")


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean over a window around each value, truncated at the ends."""
    half = len(values) // 50
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, end = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[end] - sums[first]) / (end - first)
