"""Plots of an evaluation: precision against recall, AP by class, and confusion of classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ..plotting import COLOURS, any_text, list_lines, new_figure, save_figure, say, shorten, tidy
from .metrics import RECALLS, TASK_NAMES, TaskEvaluation

# Title and IoU of each criterion, None for the mean of all IoUs. Means of all classes are drawn in
# greys, since colours stand for classes.
CRITERIA = (("IoU 0.50", 0.5), ("IoU 0.75", 0.75), ("IoU 0.50 to 0.95", None))
GREYS = ("#a0a0a0", "#606060", "#000000")

# With more classes, their curves cannot be told apart.
MAX_CLASSES_WITH_CURVES = 10
BARS_PER_COLUMN = 40
# With more classes, the names beside a confusion matrix cannot be read.
MAX_NAMED_CLASSES = 60


def draw_precision_recall(evaluations: Mapping[str, TaskEvaluation], path: Path) -> None:
    """Draws precision against recall: a row of panels per task.

    The first panel averages over all classes, at an IoU of 0.5, of 0.75, and on average of 0.5 to
    0.95. For 2 to 10 classes, a panel for each of the three shows every class. The area under a
    curve is its AP, which the legend shows.

    Args:
        evaluations: by task; at least one.
        path: of the PNG to write.
    """
    counts = [int((evaluation.objects > 0).sum()) for evaluation in evaluations.values()]
    by_class = 1 < max(counts) <= MAX_CLASSES_WITH_CURVES
    if by_class:
        rows, columns = len(evaluations), 1 + len(CRITERIA)
    else:
        rows, columns = 1, len(evaluations)
    with any_text():
        figure = new_figure(4.4 * columns, 4.4 * rows)
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for number, (task, evaluation) in enumerate(evaluations.items()):
            row = panels[number] if by_class else panels[0, number : number + 1]
            title = f"{TASK_NAMES[task].capitalize()}, "
            _draw_mean_curves(row[0], evaluation)
            row[0].set_title(title + "all classes")
            for axes, (name, iou) in zip(row[1:], CRITERIA):
                _draw_class_curves(axes, evaluation, iou)
                axes.set_title(title + name)
        for axes in panels[:, 0]:
            axes.set_ylabel("Precision (%)")
        for axes in panels[-1]:
            axes.set_xlabel("Recall (%)")
        save_figure(figure, path, dpi=120)


def draw_ap_by_class(evaluations: Mapping[str, TaskEvaluation], path: Path) -> None:
    """Draws the AP of each class as bars, one per task, from the best class to the worst by box AP.

    Up to 40 classes stand in one column, up to 80 in two. Of more, the 40 best and the 40 worst
    are shown. Classes without objects are only counted.

    Args:
        evaluations: by task; at least one, and all of the same classes.
        path: of the PNG to write.
    """
    first = next(iter(evaluations.values()))
    figures = np.array([first.metrics(index)["AP"] for index in range(len(first.class_names))])
    # NaN goes to the end.
    ranking = np.argsort(-figures, kind="stable")[: np.count_nonzero(~np.isnan(figures))]
    columns = _in_columns(ranking)
    longest = max(len(column) for _, column in columns)
    missing = len(first.class_names) - len(ranking)
    with any_text():
        figure = new_figure(7.5 * len(columns), 1.6 + 0.16 * (len(evaluations) + 0.4) * longest)
        panels = figure.subplots(1, len(columns), squeeze=False, sharex=True)[0]
        for axes, (title, column) in zip(panels, columns):
            _draw_bars(axes, evaluations, column, longest)
            axes.set_title(title)
        heading = "AP by class"
        if missing:
            heading += f"; without objects: {missing} of {len(first.class_names)} classes"
        figure.suptitle(heading)
        save_figure(figure, path, dpi=110)


def draw_confusion(
    counts: np.ndarray,
    names: Sequence[str],
    path: Path,
    *,
    title: str = "",
    item: str = "images of the true class",
) -> None:
    """Draws a confusion matrix, as the share of each row.

    Args:
        counts: (K, K); row is the true class, column the predicted one.
        names: K names.
        path: of the PNG to write.
        title: of the figure.
        item: unit of the counts.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    is_named = len(counts) <= MAX_NAMED_CLASSES
    side = 3 + 0.3 * len(counts) if is_named else 10
    with any_text():
        figure = new_figure(side, side)
        axes = figure.add_subplot()
        image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        if is_named:
            labels = [shorten(name, 20) for name in names]
            axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
            axes.set_yticks(range(len(labels)), labels, fontsize=8)
        bar = figure.colorbar(image, ax=axes, shrink=0.6)
        bar.set_label(f"{item} (%)")
        save_figure(figure, path, dpi=100)


def _draw_mean_curves(axes: Axes, evaluation: TaskEvaluation) -> None:
    _draw_curves(axes, [(name, evaluation.curve(iou)) for name, iou in CRITERIA], GREYS)


def _draw_class_curves(axes: Axes, evaluation: TaskEvaluation, iou: float | None) -> None:
    indexes = np.flatnonzero(evaluation.objects).tolist()
    entries = [(evaluation.class_names[i], evaluation.curve(iou, i)) for i in indexes]
    _draw_curves(axes, entries, COLOURS)


def _draw_curves(
    axes: Axes, entries: Sequence[tuple[str, np.ndarray]], colours: Sequence[str]
) -> None:
    """A curve per entry and colour, listed from the best to the worst."""
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    axes.set_aspect("equal")
    tidy(axes)
    drawn = [
        (curve.mean(), name, axes.plot(np.multiply(100, RECALLS), curve, color=colour)[0])
        for (name, curve), colour in zip(entries, colours)
        if not np.isnan(curve).any()
    ]
    if not drawn:
        say(axes, "no annotated objects")
        return
    drawn.sort(key=lambda entry: -entry[0])
    labels = [f"{area:5.1f}  {shorten(name, 22)}" for area, name, _ in drawn]
    list_lines(axes, [line for _, _, line in drawn], labels, "AP")


def _in_columns(ranking: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Titles and class indexes of the columns of bars."""
    size, count = BARS_PER_COLUMN, len(ranking)
    if count <= size:
        return [("", ranking)]
    if count <= 2 * size:
        half = (count + 1) // 2
        return [
            (f"Rank 1 to {half}", ranking[:half]),
            (f"Rank {half + 1} to {count}", ranking[half:]),
        ]
    return [
        (f"The {size} best of {count}", ranking[:size]),
        (f"The {size} worst of {count}", ranking[-size:]),
    ]


def _draw_bars(
    axes: Axes, evaluations: Mapping[str, TaskEvaluation], indexes: np.ndarray, slots: int
) -> None:
    """Bars for the classes of `indexes`, in a panel with room for `slots`."""
    thickness = 0.8 / len(evaluations)
    places = np.arange(len(indexes), dtype=float)
    for number, (task, evaluation) in enumerate(evaluations.items()):
        values = [evaluation.metrics(int(index))["AP"] for index in indexes]
        overall = evaluation.metrics()["AP"]
        bars = axes.barh(
            places + (number - (len(evaluations) - 1) / 2) * thickness,
            values,
            thickness,
            color=COLOURS[number],
            label=f"{TASK_NAMES[task]}: {overall:.1f} on average",
        )
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7, color="0.3", bbox=paper)
        if len(indexes):
            axes.axvline(overall, color=COLOURS[number], linewidth=1, linestyle=":", zorder=0.6)
    some = next(iter(evaluations.values()))
    labels = [f"{shorten(some.class_names[index])}  ({some.objects[index]})" for index in indexes]
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_ylim(slots - 0.4, -0.6)
    axes.set_xlim(0, 105)
    axes.set_xlabel("AP (%); in brackets, the number of annotated objects")
    tidy(axes, "x")
    if len(indexes):
        axes.legend(loc="lower right", fontsize=8, framealpha=0.85, edgecolor="none")
    else:
        say(axes, "no annotated objects")
