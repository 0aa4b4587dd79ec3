"""Which predictions find an object, at an IoU of 0.5: confusion matrix and best thresholds."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from faster_coco_eval import COCOeval_faster
from pycocotools import mask as mask_utils

IOU = 0.5
# Predictions with a lower score are not in the confusion matrix.
CONFUSION_THRESHOLD = 0.5
_NOTHING, _CROWD = -1, -2

Annotation = Mapping[str, Any]


@dataclass(frozen=True)
class Matches:
    """The object that each prediction finds, matched as COCO does for AP50.

    Within an image and class, from the highest score to the lowest, each prediction takes the free
    object with the highest IoU of at least 0.5. Predictions of crowds do not count.

    Attributes:
        annotations: all objects and crowds.
        predictions: those that COCO's evaluation counts and that are not of a crowd.
        objects: (P,) index of the annotation that each prediction finds, or -1.
        category_ids: of the K classes.
    """

    annotations: Sequence[Annotation]
    predictions: Sequence[Annotation]
    objects: np.ndarray
    category_ids: Sequence[int]

    @classmethod
    def of(
        cls,
        evaluation: COCOeval_faster,
        annotations: Sequence[Annotation],
        predictions: Sequence[Annotation],
    ) -> "Matches":
        """Matches with the IoUs of a finished evaluation.

        Args:
            evaluation: of boxes or of masks.
            annotations, predictions: in COCO's format, in the order in which it has them.
        """
        objects_of, found_in = _by_image_and_class(annotations), _by_image_and_class(predictions)
        kept: list[int] = []
        matched: list[int] = []
        for key, ious in evaluation.ious.items():
            found = np.array(found_in.get(key, ()), dtype=int)
            if not found.size:
                continue
            scores = np.array([predictions[index]["score"] for index in found])
            # The rows of the IoUs.
            found = found[np.argsort(-scores, kind="stable")][: evaluation.params.maxDets[-1]]
            objects = np.array(objects_of.get(key, ()), dtype=int)
            crowd = np.array([annotations[index]["iscrowd"] for index in objects], dtype=bool)
            for index, column in zip(found, _match(np.reshape(ious, (len(found), -1)), crowd)):
                if column != _CROWD:
                    kept.append(index)
                    matched.append(objects[column] if column >= 0 else _NOTHING)
        chosen = [predictions[index] for index in kept]
        return cls(annotations, chosen, np.array(matched, dtype=int), evaluation.params.catIds)

    def best_threshold(self, category_id: int | None = None) -> tuple[float, float]:
        """Returns the score threshold with the highest F1, and this F1 in percent.

        Args:
            category_id: of a class; None takes all classes together, with one threshold.

        Returns:
            NaN for both if no prediction finds an object.
        """
        wanted = self.category_ids if category_id is None else [category_id]
        chosen = np.isin(self._predicted_categories, wanted)
        scores = self._scores[chosen]
        hits = self.objects[chosen] >= 0
        total = sum(self._object_counts[each] for each in wanted)
        if not hits.any():
            return float("nan"), float("nan")
        order = np.argsort(-scores, kind="stable")
        scores = scores[order]
        f1 = 2 * np.cumsum(hits[order]) / (np.arange(1, len(scores) + 1) + total)
        # A threshold keeps all predictions of its score.
        f1[:-1][scores[:-1] == scores[1:]] = 0
        best = int(f1.argmax())
        return float(scores[best]), 100 * float(f1[best])

    @cached_property
    def _scores(self) -> np.ndarray:
        return np.array([each["score"] for each in self.predictions])

    @cached_property
    def _predicted_categories(self) -> np.ndarray:
        return np.array([each["category_id"] for each in self.predictions])

    @cached_property
    def _object_counts(self) -> Counter[int]:
        """Objects of each category, without crowds."""
        return Counter(a["category_id"] for a in self.annotations if not a["iscrowd"])

    def confusion(self, threshold: float = CONFUSION_THRESHOLD) -> np.ndarray:
        """Counts objects by their class and that of the prediction that finds them.

        Predictions below `threshold` are ignored. The others find objects of their own class as
        above. Of those that remain, from the highest score to the lowest, each takes the free
        object of any class with the highest box IoU of at least 0.5: it is a confusion.

        Returns:
            (K + 1, K + 1) int64; the row is the class of an object, the column that of a
            prediction. Objects that were missed are in the last column, predictions without an
            object in the last row.
        """
        index_of = {category_id: index for index, category_id in enumerate(self.category_ids)}
        counts = np.zeros((len(index_of) + 1, len(index_of) + 1), dtype=np.int64)
        taken = set()
        remaining = defaultdict(list)
        for prediction, index in zip(self.predictions, self.objects.tolist()):
            if prediction["score"] < threshold:
                continue
            if index >= 0:
                taken.add(index)
                label = index_of[prediction["category_id"]]
                counts[label, label] += 1
            else:
                remaining[prediction["image_id"]].append(prediction)
        free = defaultdict(list)
        for index, annotation in enumerate(self.annotations):
            if index not in taken and not annotation["iscrowd"]:
                free[annotation["image_id"]].append(annotation)
        for image_id in remaining.keys() | free.keys():
            found = sorted(remaining[image_id], key=lambda each: -each["score"])
            objects = free[image_id]
            columns = _match(_box_ious(found, objects), np.zeros(len(objects), dtype=bool))
            for prediction, column in zip(found, columns.tolist()):
                row = index_of[objects[column]["category_id"]] if column >= 0 else -1
                counts[row, index_of[prediction["category_id"]]] += 1
            for column in set(range(len(objects))) - set(columns.tolist()):
                counts[index_of[objects[column]["category_id"]], -1] += 1
        return counts


def _by_image_and_class(items: Sequence[Annotation]) -> dict[tuple[int, int], list[int]]:
    indices = defaultdict(list)
    for index, item in enumerate(items):
        indices[item["image_id"], item["category_id"]].append(index)
    return dict(indices)


def _match(ious: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """The column of the object that each row finds, or `_NOTHING`, or `_CROWD`."""
    columns = np.full(len(ious), _NOTHING)
    free = ~crowd
    for row in np.flatnonzero((ious >= IOU).any(axis=1)):
        candidates = np.where(free, ious[row], 0)
        best = candidates.argmax()
        if candidates[best] >= IOU:
            columns[row] = best
            free[best] = False
        elif (ious[row, crowd] >= IOU).any():
            columns[row] = _CROWD
    return columns


def _box_ious(found: Sequence[Annotation], objects: Sequence[Annotation]) -> np.ndarray:
    if not found or not objects:
        return np.zeros((len(found), len(objects)))
    first, second = (np.array([a["bbox"] for a in each], dtype=float) for each in (found, objects))
    return mask_utils.iou(first, second, np.zeros(len(objects), dtype=np.uint8))
