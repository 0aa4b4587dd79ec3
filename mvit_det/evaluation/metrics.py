"""COCO's metrics and precision-recall curves of one task, class by class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from faster_coco_eval import COCOeval_faster

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

# The tasks and their titles in plots.
TASK_NAMES = {"bbox": "box", "segm": "mask"}

# COCO's parameters: IoUs from 0.50 to 0.95, recalls from 0 to 1, areas "all" and three ranges.
IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALLS = tuple(step / 100 for step in range(101))
AREAS = 4


@dataclass(frozen=True)
class TaskEvaluation:
    """The precision of each class at each recall, and the recall that it reaches.

    T are the IoUs of `IOUS`, R the recalls of `RECALLS`, K the classes, and A the areas: all,
    small (under 32² pixels), medium, and large (over 96²).

    Attributes:
        class_names: K names, in the order of the dataset's category ids.
        objects: (K,) annotated objects; crowds do not count.
        precision: (T, R, K, A) in [0, 1], the best precision at this recall or a higher one; -1
            for classes without an object of that area.
        recall: (T, K, A) in [0, 1], the highest recall that the predictions reach; -1 likewise.
    """

    class_names: Sequence[str]
    objects: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @classmethod
    def of(cls, evaluation: COCOeval_faster) -> "TaskEvaluation":
        """Takes over a finished evaluation, for its largest number of predictions per image."""
        truth, parameters = evaluation.cocoGt, evaluation.params
        index_of = {category_id: index for index, category_id in enumerate(parameters.catIds)}
        objects = np.zeros(len(index_of), dtype=int)
        counted = truth.getAnnIds(parameters.imgIds, parameters.catIds, iscrowd=False)
        for annotation in truth.loadAnns(counted):
            objects[index_of[annotation["category_id"]]] += 1
        return cls(
            [truth.cats[category_id]["name"] for category_id in parameters.catIds],
            objects,
            np.array(evaluation.eval["precision"])[..., -1],
            np.array(evaluation.eval["recall"])[..., -1],
        )

    @classmethod
    def without_objects(cls, class_names: Sequence[str]) -> "TaskEvaluation":
        """Represents a dataset without annotations, whose metrics are all NaN."""
        count = len(class_names)
        return cls(
            class_names,
            np.zeros(count, dtype=int),
            np.full((len(IOUS), len(RECALLS), count, AREAS), -1.0),
            np.full((len(IOUS), count, AREAS), -1.0),
        )

    def metrics(self, index: int | None = None) -> dict[str, float]:
        """Returns the `METRICS` and AR, in percent; NaN where there are no objects.

        AR is the recall that is reached, averaged over the IoUs.

        Args:
            index: of a class; None averages over all classes that have objects.
        """
        classes = slice(None) if index is None else slice(index, index + 1)
        precision, recall = self.precision[:, :, classes], self.recall[:, classes]
        return {
            "AP": _mean(precision[..., 0]),
            "AP50": _mean(precision[IOUS.index(0.5), ..., 0]),
            "AP75": _mean(precision[IOUS.index(0.75), ..., 0]),
            "APs": _mean(precision[..., 1]),
            "APm": _mean(precision[..., 2]),
            "APl": _mean(precision[..., 3]),
            "AR": _mean(recall[..., 0]),
        }

    def curve(self, iou: float | None = None, index: int | None = None) -> np.ndarray:
        """Returns the precision at the recalls of `RECALLS`, for objects of any size.

        Its mean is the AP: this is how COCO computes the area under a curve.

        Args:
            iou: one of `IOUS`; None averages over all of them.
            index: of a class; None averages over all classes that have objects.

        Returns:
            (R,) in percent; NaN if there are no objects.
        """
        precision = self.precision[..., 0]
        if iou is not None:
            precision = precision[[IOUS.index(iou)]]
        classes = np.flatnonzero(precision[0, 0] >= 0)
        if index is not None:
            classes = classes[classes == index]
        if not classes.size:
            return np.full(len(RECALLS), np.nan)
        return 100 * precision[:, :, classes].mean(axis=(0, 2))


def _mean(values: np.ndarray) -> float:
    """The mean in percent, without entries of -1."""
    values = values[values >= 0]
    return 100 * float(values.mean()) if values.size else float("nan")
