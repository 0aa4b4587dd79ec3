"""Weighted boxes fusion (Solovyev et al., 2021): boxes that agree become their weighted mean."""

import numpy as np


def weighted_boxes_fusion(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    *,
    iou_threshold: float = 0.55,
    num_views: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fuses boxes class by class, each into the cluster whose mean it overlaps most.

    Boxes are looked at in descending order of their scores. A cluster's box is the mean of its
    members weighted by their scores, and its score their mean, times min(members, views) / views:
    what few views show is less certain.

    Args:
        boxes: (N, 4) x0, y0, x1, y1.
        scores: (N,) positive.
        classes: (N,) integers.
        iou_threshold: IoU with a cluster's box above which a box joins it.
        num_views: of the image, that could have shown each object.

    Returns:
        (M, 4) boxes, (M,) scores in descending order, (M,) classes, and (M,) indexes of the member
        with the highest score.
    """
    fused: list[tuple[np.ndarray, float, int, int]] = []
    for label in np.unique(classes):
        indexes = np.flatnonzero(classes == label)
        indexes = indexes[np.argsort(-scores[indexes], kind="stable")]
        means, totals, counts, first = _clusters(boxes[indexes], scores[indexes], iou_threshold)
        certainty = totals / counts * np.minimum(counts, num_views) / num_views
        fused += zip(means, certainty, [label] * len(means), indexes[first])
    if not fused:
        return boxes[:0], scores[:0], classes[:0], np.zeros(0, np.int64)
    columns = (np.array(column) for column in zip(*fused))
    new_boxes, new_scores, new_classes, sources = columns
    order = np.argsort(-new_scores, kind="stable")
    return (
        new_boxes[order].astype(boxes.dtype),
        new_scores[order].astype(scores.dtype),
        new_classes[order],
        sources[order],
    )


def _clusters(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Clusters of boxes of one class in descending order of their scores.

    Returns:
        Mean box, sum of scores, number of members and first member of each cluster.
    """
    weighted = np.zeros((len(boxes), 4))
    means = np.zeros((len(boxes), 4))
    totals = np.zeros(len(boxes))
    counts = np.zeros(len(boxes), np.int64)
    first = np.zeros(len(boxes), np.int64)
    number = 0
    for index, (box, score) in enumerate(zip(boxes.astype(np.float64), scores.astype(np.float64))):
        overlaps = _iou(box, means[:number])
        cluster = int(overlaps.argmax()) if number else 0
        if not number or overlaps[cluster] <= iou_threshold:
            cluster = number
            first[cluster] = index
            number += 1
        weighted[cluster] += score * box
        totals[cluster] += score
        counts[cluster] += 1
        means[cluster] = weighted[cluster] / totals[cluster]
    return means[:number], totals[:number], counts[:number], first[:number]


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    intersection = (high - low).clip(min=0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + areas - intersection
    return intersection / np.maximum(union, 1e-12)
