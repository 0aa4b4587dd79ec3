"""Top-1 and top-5 accuracy of image classification, with tables and plots by class."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.folders import write_rows
from ..data.labelled_files import load_files
from ..data.videos import read_preview
from ..errors import ImageError
from ..plotting import any_text, new_figure, save_figure, shorten
from .plots import draw_confusion

logger = logging.getLogger(__name__)

TOP = 5
WORST_MISTAKES = 12


@dataclass(frozen=True)
class Mistake:
    """An image whose best class is wrong."""

    file_name: str
    label: int
    predicted: int
    score: float


class AccuracyEvaluator(DatasetEvaluator):
    """Accuracy over all images, each counted once.

    Attributes:
        class_names: K names.
        confusion: (K, K) int64; row is the label, column the class with the highest score.
        hits: (K,) int64, images of each class whose label is among the five best.
        mistakes: the most confident mistakes, the worst first.
    """

    metric_names = ("classification/top1", "classification/top5")

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        """Starts without images.

        Args:
            dataset_name: a registered classification dataset.
            output_dir: accepted as by other evaluators; files are written by `save_report`.
        """
        names = MetadataCatalog.get(dataset_name).get("thing_classes")
        self.class_names: list[str] = list(names or load_files(dataset_name).class_names)
        self.output_dir = output_dir
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        count = len(self.class_names)
        self.confusion = np.zeros((count, count), dtype=np.int64)
        self.hits = np.zeros(count, dtype=np.int64)
        self.mistakes: list[Mistake] = []

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Counts a batch.

        Args:
            inputs: records with `label` and `file_name`.
            outputs: for each its `scores`, (K,).
        """
        if not inputs:
            return
        scores = torch.stack([output["scores"] for output in outputs]).float().cpu()
        values, classes = scores.topk(min(TOP, scores.shape[1]), dim=1)
        for record, best_scores, best in zip(inputs, values.tolist(), classes.tolist()):
            label = record["label"]
            self.confusion[label, best[0]] += 1
            self.hits[label] += label in best
            if best[0] != label:
                self.mistakes.append(Mistake(record["file_name"], label, best[0], best_scores[0]))
        self.mistakes = _worst(self.mistakes)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gathers all ranks' counts.

        Returns:
            `{"classification": {"top1": …, "top5": …}}` in percent, NaN without images; {} in all
            ranks but the first.
        """
        gathered = comm.gather((self.confusion, self.hits, self.mistakes))
        if not comm.is_main_process():
            return {}
        confusions, hits, mistakes = zip(*gathered)
        self.confusion, self.hits = sum(confusions), sum(hits)
        self.mistakes = _worst([mistake for part in mistakes for mistake in part])
        total = int(self.confusion.sum())
        top1 = 100 * np.trace(self.confusion) / total if total else float("nan")
        top5 = 100 * self.hits.sum() / total if total else float("nan")
        logger.info("Top-1 %.2f %%, top-5 %.2f %% on %d images", top1, top5, total)
        return {"classification": {"top1": float(top1), "top5": float(top5)}}

    def save_report(self, folder: str | Path) -> None:
        """Writes `accuracy.csv`, `confusion_matrix.png` and `worst_mistakes.png`.

        Args:
            folder: an existing one.
        """
        folder = Path(folder)
        header = ["class", "images", "top1", "top5", "most_confused_with"]
        write_rows(folder / "accuracy.csv", [header, *self._rows()])
        draw_confusion(self.confusion, self.class_names, folder / "confusion_matrix.png")
        if self.mistakes:
            self._draw_mistakes(folder / "worst_mistakes.png")
        logger.info("Accuracy by class, confusion matrix and worst mistakes are in %s", folder)

    def _rows(self) -> list[list[Any]]:
        rows: list[list[Any]] = []
        for label, name in enumerate(self.class_names):
            images = int(self.confusion[label].sum())
            others = self.confusion[label].copy()
            correct, others[label] = int(others[label]), 0
            shares = ["", ""]
            if images:
                shares = [f"{100 * n / images:.2f}" for n in (correct, self.hits[label])]
            confused = self.class_names[others.argmax()] if others.any() else ""
            rows.append([name, images, *shares, confused])
        return rows

    def _draw_mistakes(self, path: Path) -> None:
        columns = min(4, len(self.mistakes))
        rows = -(-len(self.mistakes) // columns)
        with any_text():
            figure = new_figure(3 * columns, 3.2 * rows)
            for number, mistake in enumerate(self.mistakes, start=1):
                axes = figure.add_subplot(rows, columns, number)
                axes.axis("off")
                label, predicted = (
                    shorten(self.class_names[index], 24)
                    for index in (mistake.label, mistake.predicted)
                )
                axes.set_title(f"{predicted} {mistake.score:.2f}\nis {label}", fontsize=9)
                try:
                    axes.imshow(read_preview(mistake.file_name))
                except ImageError:
                    # Gone since it was evaluated; the caption still says which class it was.
                    continue
            save_figure(figure, path, dpi=100)


def _worst(mistakes: list[Mistake]) -> list[Mistake]:
    """The most confident mistakes; ties are ordered by file name, whatever rank saw them."""
    ordered = sorted(mistakes, key=lambda mistake: (-mistake.score, mistake.file_name))
    return ordered[:WORST_MISTAKES]
