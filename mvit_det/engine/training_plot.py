"""A training as one image, drawn from the metrics that it wrote."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..evaluation import TASK_NAMES
from ..plotting import COLOURS, any_text, list_lines, new_figure, say, tidy

# Of the metrics of an evaluation, those that are drawn.
SUMMARIES = ("AP", "PQ")


def save_training_plot(metrics_path: str | Path, output_path: str | Path) -> None:
    """Draws losses, AP, learning rate, speed and memory over the iterations.

    Losses and speed are smoothed over a twenty-fifth of the training, with the values themselves
    in a pale line behind.

    Args:
        metrics_path: `metrics.json` of a training, see `read_metrics`.
        output_path: of the PNG to write.

    Raises:
        OSError: a file cannot be read or written.
    """
    rows = read_metrics(metrics_path)
    with any_text():
        figure = new_figure(15, 8)
        losses, parts, ap, rate, speed, memory = figure.subplots(2, 3).flat
        _draw(losses, rows, {"total_loss": "total"}, "Loss", smooth=True)
        names = _names(rows, lambda name: name.startswith("loss_"))
        labels = {name: name.removeprefix("loss_") for name in names}
        _draw(parts, rows, labels, "Parts of the loss", smooth=True)
        names = _names(rows, lambda name: name.rpartition("/")[2] in SUMMARIES)
        _draw(ap, rows, {name: _describe(name) for name in names}, "Evaluation (%)", marker="o")
        _draw(rate, rows, {"lr": ""}, "Learning rate")
        _draw(speed, rows, {"images_per_second": ""}, "Images per second", smooth=True)
        _draw(memory, rows, {"max_mem": ""}, "Peak memory (GiB)", scale=1 / 1024)
        last = max((row["iteration"] for row in rows), default=0)
        for axes in figure.axes:
            axes.set_xlim(0, 1.03 * max(last, 1))
            axes.set_xlabel("Iteration")
        figure.savefig(output_path, dpi=100)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Reads what Detectron2's `JSONWriter` writes: a JSON object per line.

    Where a training was resumed from an earlier iteration, or begun anew in the same folder, what
    had been written of later iterations is replaced. What is left of a line that a killed process
    did not finish is skipped.

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
    """A row of metrics, or None for what is left of one."""
    # A line that was cut has no end: what the next process wrote follows on it.
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
    """'box AP, averaged weights' for 'ema/bbox/AP'."""
    *source, task, metric = name.split("/")
    text = f"{TASK_NAMES.get(task, task)} {metric}"
    return f"{text}, averaged weights" if source == ["ema"] else text


def _draw(
    axes: Axes,
    rows: Sequence[dict[str, Any]],
    labels: dict[str, str],
    title: str,
    *,
    smooth: bool = False,
    marker: str = "",
    scale: float = 1.0,
) -> None:
    """Draws the metrics that `labels` names; the legend tells their last values."""
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
        if smooth:
            axes.plot(iterations, values, color=colour, alpha=0.2, linewidth=1, zorder=1)
            values = _smoothed(values)
        (line,) = axes.plot(iterations, values, style, color=colour, marker=marker, markersize=5)
        drawn.append((values[-1], label, line))
        # The first steps of a training may have losses that would flatten all others.
        highest = max(highest, float(np.quantile(values, 0.98)) if smooth else values.max())
    if not drawn:
        say(axes, "nothing recorded yet")
        return
    axes.set_ylim(0, 1.1 * highest or 1)
    drawn.sort(key=lambda entry: -entry[0])
    if any(label for _, label, _ in drawn):
        texts = [f"{value:.3g}  {label}" for value, label, _ in drawn]
        list_lines(axes, [line for _, _, line in drawn], texts, "at the end")


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean over a window around each value, which is cut off at the ends."""
    half = len(values) // 50
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, end = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[end] - sums[first]) / (end - first)
