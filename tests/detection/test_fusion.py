"""Weighted boxes fusion against a plain loop, and merging by all methods."""

import numpy as np
import pytest
import torch

from mvit_det.detection.fusion import weighted_boxes_fusion
from mvit_det.detection.merging import MergeSettings, merge_boxes
from mvit_det.errors import ConfigError


def plain_fusion(boxes, scores, classes, iou_threshold, num_views):
    """The paper's section 3, with clusters as lists of members."""
    clusters = []
    for index in np.argsort(-scores, kind="stable"):
        box = boxes[index].astype(np.float64)
        candidates = [c for c in clusters if c["class"] == classes[index]]
        overlaps = [iou(box, cluster["box"]) for cluster in candidates]
        if overlaps and max(overlaps) > iou_threshold:
            cluster = candidates[int(np.argmax(overlaps))]
        else:
            cluster = {"class": classes[index], "members": []}
            clusters.append(cluster)
        cluster["members"].append(index)
        weights = scores[cluster["members"]].astype(np.float64)
        cluster["box"] = (weights[:, None] * boxes[cluster["members"]]).sum(0) / weights.sum()
        cluster["score"] = weights.mean() * min(len(weights), num_views) / num_views
    return sorted(clusters, key=lambda cluster: -cluster["score"])


def iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    intersection = np.clip(high - low, 0, None).prod()
    return intersection / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - intersection)


def noisy_views(num_views, seed=0):
    """Ten objects of three classes, seen by several views, and a few that one view sees."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 100, (10, 2))
    objects = np.concatenate([corners, corners + generator.uniform(20, 60, (10, 2))], axis=1)
    labels = generator.integers(0, 3, 10)
    boxes = np.concatenate([objects + generator.normal(0, 2, (10, 4)) for _ in range(num_views)])
    boxes = np.concatenate([boxes, boxes[:3] + 200]).astype(np.float32)
    classes = np.concatenate([np.tile(labels, num_views), labels[:3]])
    return boxes, generator.uniform(0.1, 1, len(boxes)).astype(np.float32), classes


@pytest.mark.parametrize("iou_threshold", [0.3, 0.7])
def test_equals_a_plain_loop(iou_threshold):
    boxes, scores, classes = noisy_views(4)
    expected = plain_fusion(boxes, scores, classes, iou_threshold, 4)
    fused, fused_scores, fused_classes, sources = weighted_boxes_fusion(
        boxes, scores, classes, iou_threshold=iou_threshold, num_views=4
    )
    assert len(fused) == len(expected) < len(boxes)
    np.testing.assert_allclose(fused, [cluster["box"] for cluster in expected], rtol=1e-5)
    np.testing.assert_allclose(fused_scores, [cluster["score"] for cluster in expected], rtol=1e-5)
    assert fused_classes.tolist() == [cluster["class"] for cluster in expected]
    assert sources.tolist() == [cluster["members"][0] for cluster in expected]


def test_views_that_agree_are_surer():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    scores, classes = np.array([0.9, 0.7, 0.9], np.float32), np.zeros(3, np.int64)
    fused, fused_scores, _, sources = weighted_boxes_fusion(boxes, scores, classes, num_views=2)
    assert fused.tolist() == [[0, 0, 10, 10], [50, 50, 60, 60]]
    assert fused_scores.tolist() == pytest.approx([0.8, 0.45])
    assert sources.tolist() == [0, 2]


@pytest.mark.parametrize("method", ["nms", "linear", "gaussian", "fusion"])
def test_merging_copies_of_objects(method):
    """Views that agree to the pixel: each object once, with linear soft-NMS and fusion exactly."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [30, 0, 50, 20], [0, 0, 10, 10], [30, 0, 50, 20]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 2, 1, 2])
    settings = MergeSettings(method, sigma=0.1)
    merged = merge_boxes(boxes, scores, classes, settings, num_views=2, score_threshold=0.1)
    assert torch.equal(merged.boxes, boxes[:2])
    assert merged.classes.tolist() == [1, 2]
    assert merged.sources.tolist() == [0, 1]
    means = [0.8, 0.7] if method == "fusion" else [0.9, 0.8]
    assert merged.scores.tolist() == pytest.approx(means)
    (best,) = merge_boxes(boxes, scores, classes, settings, max_detections=1).boxes
    assert torch.equal(best, boxes[0])


@pytest.mark.parametrize("method", ["nms", "linear", "gaussian", "fusion"])
def test_merging_nothing(method):
    merged = merge_boxes(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), MergeSettings(method)
    )
    assert merged.boxes.shape == (0, 4)
    assert len(merged.scores) == len(merged.classes) == len(merged.sources) == 0


@pytest.mark.parametrize(
    ("field", "value"), [("method", "median"), ("iou_threshold", 0), ("sigma", -1)]
)
def test_settings_out_of_range(field, value):
    with pytest.raises(ConfigError, match=rf"inference\.merge\.{field}.*{value}"):
        MergeSettings(**{field: value})
