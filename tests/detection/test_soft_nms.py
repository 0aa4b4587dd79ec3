"""Soft-NMS against a plain loop over classes and boxes."""

import math

import numpy as np
import pytest
import torch

from mvit_det.detection.soft_nms import soft_nms


def plain_soft_nms(boxes, scores, classes, method, iou_threshold, sigma, score_threshold):
    """The paper's pseudo code, class by class, in the arithmetic of float32."""
    one = np.float32(1)
    selected = []
    for label in sorted(set(classes.tolist())):
        left = {int(i): scores[i] for i in np.flatnonzero(classes == label)}
        while left:
            best = max(left, key=left.get)
            selected.append((left.pop(best), best))
            for other in left:
                iou = plain_iou(boxes[best], boxes[other])
                if method == "gaussian":
                    left[other] *= np.exp(-(iou**2) / np.float32(sigma))
                elif iou >= iou_threshold:
                    left[other] *= one - iou
    selected = [entry for entry in selected if entry[0] > score_threshold]
    return sorted(selected, key=lambda entry: -entry[0])


def plain_iou(a, b):
    zero = np.float32(0)
    width = max(min(a[2], b[2]) - max(a[0], b[0]), zero)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), zero)
    intersection = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (b, a)]
    return intersection / (areas[0] + areas[1] - intersection)


def random_candidates(count, num_classes, seed=0):
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(5, 50, (count, 2))], axis=1)
    scores = generator.permutation(np.linspace(0.001, 0.999, count))
    return (
        boxes.astype(np.float32),
        scores.astype(np.float32),
        generator.integers(0, num_classes, count),
    )


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("score_threshold", [0.0, 0.05])
def test_equals_a_plain_loop(method, score_threshold):
    boxes, scores, classes = random_candidates(120, num_classes=4)
    expected = plain_soft_nms(boxes, scores, classes, method, 0.3, 0.4, score_threshold)
    tensors = map(torch.from_numpy, (boxes, scores, classes))
    indexes, final = soft_nms(
        *tensors, method=method, iou_threshold=0.3, sigma=0.4, score_threshold=score_threshold
    )
    assert indexes.tolist() == [index for _, index in expected]
    assert final.tolist() == [score for score, _ in expected]
    assert final.tolist() != sorted(scores.tolist(), reverse=True)[: len(final)]


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_the_best_are_the_first_of_all(method):
    tensors = list(map(torch.from_numpy, random_candidates(200, num_classes=7, seed=1)))
    indexes, final = soft_nms(*tensors, method=method)
    best, best_scores = soft_nms(*tensors, method=method, max_detections=30)
    assert torch.equal(best, indexes[:30])
    assert torch.equal(best_scores, final[:30])


def test_formulas():
    """Two boxes of a class with IoU 0.5, and a third one of another class."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([3, 3, 1])
    for arguments, expected in (
        (dict(method="linear", iou_threshold=0.5), 0.4),
        (dict(method="linear", iou_threshold=0.51), 0.8),
        (dict(method="gaussian", sigma=0.5), 0.8 * math.exp(-0.25 / 0.5)),
    ):
        indexes, final = soft_nms(boxes, scores, classes, **arguments)
        assert dict(zip(indexes.tolist(), final.tolist())) == pytest.approx(
            {0: 0.9, 1: expected, 2: 0.7}
        )


def test_boxes_without_area_and_without_company():
    boxes = torch.tensor([[1.0, 1, 1, 5], [1, 1, 1, 5]])
    indexes, final = soft_nms(boxes, torch.tensor([0.5, 0.6]), torch.tensor([0, 0]))
    assert indexes.tolist() == [1, 0]
    assert final.tolist() == pytest.approx([0.6, 0.5])
    indexes, final = soft_nms(boxes[:0], torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert indexes.shape == final.shape == (0,)
    assert indexes.dtype == torch.int64
