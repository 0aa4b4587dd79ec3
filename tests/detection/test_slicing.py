"""Sliced inference: objects across tile borders are found once, and large images fit in memory."""

from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from mvit_det.benchmarking.memory import peak_memory
from mvit_det.detection.masks import RLEMasks
from mvit_det.detection.merging import MergeSettings
from mvit_det.detection.slicing import SlicedDetector, SliceSettings
from mvit_det.detection.tiling import tile_regions
from mvit_det.errors import ConfigError
from tests.detection.oracle import Oracle, with_oracle

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RESIZE = [T.ResizeShortestEdge(80, 200)]


def detect(oracle, height, width, merge=None, **settings):
    settings = SliceSettings(**{"tile_size": 100, "overlap": 0.2, **settings})
    detector = with_oracle(lambda model: SlicedDetector(model, RESIZE, settings, merge), oracle)
    (found,) = detector([{"image": torch.zeros(3, height, width, dtype=torch.uint8)}])
    return found["instances"]


def ellipse(box, height, width):
    x0, y0, x1, y1 = box
    y, x = np.ogrid[:height, :width]
    x, y = (x + 0.5 - (x0 + x1) / 2) / (x1 - x0), (y + 0.5 - (y0 + y1) / 2) / (y1 - y0)
    return x**2 + y**2 <= 0.25


@pytest.mark.parametrize(
    ("length", "overlap", "starts"),
    [(100, 0.2, [0]), (70, 0.2, [0]), (180, 0.2, [0, 80]), (181, 0.2, [0, 40, 81]),
     (300, 0.0, [0, 100, 200])],
)  # fmt: skip
def test_tiles_cover_the_image(length, overlap, starts):
    regions = tile_regions(60, length, 100, overlap)
    assert regions[:, 0].tolist() == starts
    assert regions[:, 2].tolist() == [min(start + 100, length) for start in starts]
    assert regions[:, [1, 3]].tolist() == [[0, 60]] * len(starts)
    assert torch.equal(tile_regions(length, 60, 100, overlap)[:, [1, 0, 3, 2]], regions)


# Tiles at 0, 80, 160 and 240 pixels, of 100 each.
OBJECTS = {
    "in one tile": [20, 20, 60, 70],
    "whole in two tiles": [83, 10, 97, 40],
    "cut by a border, whole in the next tile": [90, 50, 120, 90],
    "cut on both sides of an overlap": [70, 200, 110, 230],
    "cut by two borders, whole nowhere": [60, 100, 200, 150],
    "across a corner": [150, 150, 250, 250],
    "all of the image": [2, 2, 338, 338],
}


@pytest.mark.parametrize("full_image", [True, False], ids=["with whole", "tiles only"])
@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_found_once(name, full_image):
    box = OBJECTS[name]
    oracle = Oracle([box], [3], [ellipse(box, 340, 340)])
    found = detect(oracle, 340, 340, full_image=full_image)
    assert len(oracle.views) == 16 + full_image
    assert len(found) == 1
    assert found.pred_classes.tolist() == [3]
    torch.testing.assert_close(
        found.pred_boxes.tensor, torch.tensor([box], dtype=torch.float32), atol=0.05, rtol=0
    )
    assert isinstance(found.pred_masks, RLEMasks)
    expected = torch.from_numpy(ellipse(box, 340, 340))
    assert iou(found.pred_masks[0], expected) > 0.93


def iou(a, b):
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("method", ["nms", "linear", "gaussian", "fusion"])
def test_crowds_stay_apart(method):
    """Objects of a class side by side over the borders of tiles, and one of another class."""
    boxes = [[x, y, x + 30, y + 30] for x in range(5, 300, 33) for y in range(5, 300, 33)]
    boxes.append([60, 100, 200, 150])
    classes = [0] * (len(boxes) - 1) + [1]
    merge = MergeSettings(method, sigma=0.05)
    found = detect(Oracle(boxes, classes), 340, 340, merge)
    certain = found[found.scores > 0.5]
    got = sorted(map(tuple, certain.pred_boxes.tensor.round().tolist()))
    assert got == sorted(tuple(map(float, box)) for box in boxes)


def test_scores_are_those_of_the_best_view_and_in_order():
    boxes = [[10, 10, 40, 40], [60, 100, 200, 150], [250, 250, 300, 300]]
    oracle = Oracle(boxes, [0, 0, 0], scores=torch.tensor([0.5, 0.8, 0.7]))
    found = detect(oracle, 340, 340, full_image=False)
    assert found.scores.tolist() == pytest.approx([0.8, 0.7, 0.5])
    assert found.pred_boxes.tensor.round().tolist() == [boxes[1], boxes[2], boxes[0]]
    assert len(detect(oracle, 340, 340, max_detections=2)) == 2


def test_nothing_to_find():
    found = detect(Oracle([], [], []), 340, 340)
    assert len(found) == len(found.pred_masks) == 0


def build(name="mask_rcnn_mvitv2_pico"):
    torch.manual_seed(0)
    config = LazyConfig.load(str(CONFIGS / "shapes" / f"{name}.py")).model
    config.roi_heads.box_predictor.update(test_score_thresh=0.0, test_topk_per_image=10)
    config.proposal_generator.update(pre_nms_topk=[60, 60], post_nms_topk=[30, 30])
    return instantiate(config).eval()


def test_an_image_within_one_tile_is_as_without_tiles():
    model = build()
    image = torch.randint(0, 256, (3, 60, 70), dtype=torch.uint8)
    with torch.no_grad():
        (expected,) = model([{"image": image}])
    detector = SlicedDetector(
        model, [], SliceSettings(tile_size=80), MergeSettings(iou_threshold=1.0)
    )
    (found,) = detector([{"image": image}])
    found, expected = found["instances"], expected["instances"]
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    difference = torch.stack(list(found.pred_masks)) != expected.pred_masks
    assert difference.float().mean() < 1e-3


def test_a_network_sees_tiles_and_the_whole_image_as_an_evaluation_resizes_them():
    model, seen = build(), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2:]))
    detector = SlicedDetector(model, [T.ResizeShortestEdge(64, 96)], SliceSettings(tile_size=100))
    (found,) = detector([{"image": torch.zeros(3, 120, 180, dtype=torch.uint8)}])
    assert len(found["instances"]) > 0
    assert [tuple(shape) for shape in seen] == [(64, 64)] * 4 + [(64, 96)]


@pytest.mark.slow
def test_a_large_image_takes_little_memory():
    """8000 × 8000 pixels with 200 objects, of which one fills the image; as bitmaps 12.8 GB."""
    size, side = 8000, 300
    corners = [(x, y) for x in range(50, 7700, 530) for y in range(50, 7700, 530)][:199]
    boxes = [[x, y, x + side, y + side] for x, y in corners] + [[0, 0, size, size]]
    oracle = Oracle(boxes, [0] * 199 + [1], bitmaps=[])
    disc = torch.from_numpy(ellipse([0, 0, 50, 50], 50, 50)).float()
    oracle._masks = lambda indexes, boxes: disc.expand(len(boxes), 1, 50, 50)
    settings = SliceSettings(tile_size=2048, overlap=0.2)
    detector = with_oracle(lambda model: SlicedDetector(model, RESIZE, settings), oracle)
    outputs = []

    def run():
        image = torch.zeros(3, size, size, dtype=torch.uint8)
        outputs.extend(detector([{"image": image}]))

    assert peak_memory("cpu", run) < 2e9
    found = outputs[0]["instances"]
    assert len(found) == 200
    assert sum(len(rle["counts"]) for rle in found.pred_masks.encoded) < 2**20
    areas = found.pred_masks.areas()[found.pred_classes == 0]
    assert areas.tolist() == pytest.approx([side**2 * np.pi / 4] * 199, rel=0.03)


@pytest.mark.parametrize(
    ("field", "value"), [("tile_size", 0), ("overlap", 1.0), ("max_detections", 0)]
)
def test_fields_out_of_range(field, value):
    with pytest.raises(ConfigError, match=rf"inference\.slices\.{field}.*{value}"):
        SliceSettings(**{field: value})


def test_images_that_cannot_be_sliced():
    detector = SlicedDetector(build(), RESIZE)
    image = torch.zeros(3, 40, 50, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="80 × 100.*40 × 50"):
        detector([{"image": image, "height": 80, "width": 100}])
    model = build()
    model.backbone._square_pad = 64
    detector = SlicedDetector(model, RESIZE)
    with pytest.raises(ConfigError, match="80 × 100.*64"):
        detector([{"image": image}])
    detector = SlicedDetector(build(), RESIZE, SliceSettings(tile_size=1))
    with pytest.raises(ConfigError, match=r"18000 tiles.*inference\.slices\.tile_size=1,"):
        detector([{"image": torch.zeros(3, 100, 180, dtype=torch.uint8)}])
