"""Ground truth of real COCO images as detections: AP is 100 through soft-NMS, TTA and slices."""

import detectron2.data.transforms as T
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from mvit_det.data import DatasetMapper
from mvit_det.detection.heads import BoxPredictor
from mvit_det.detection.merging import MergeSettings
from mvit_det.detection.slicing import SlicedDetector, SliceSettings
from mvit_det.detection.test_time_augmentation import DetectorWithTTA, TTASettings
from mvit_det.evaluation import COCOEvaluator
from tests.detection.oracle import Oracle, with_oracle

NAME = "coco_2017_val"
# Copies of an object in several views agree up to rounding, and some objects of a class overlap a
# lot. Copies that soft-NMS leaves have all but no score.
MERGE = dict(iou_threshold=0.97, sigma=0.1)


@pytest.fixture(scope="module")
def records(coco_sample):
    return DatasetCatalog.get(NAME)


def truth(record, with_masks=True):
    """An oracle of what is annotated, but for crowds, which do not count."""
    objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    size = record["height"], record["width"]
    bitmaps = [
        mask_util.decode(mask_util.merge(mask_util.frPyObjects(a["segmentation"], *size))) > 0
        for a in objects
    ]
    classes = [a["category_id"] for a in objects]
    return Oracle(boxes, classes, bitmaps if with_masks else None, min_side=1e-3)


def evaluate(records, wrap, with_masks=True):
    mapper = DatasetMapper(is_train=False, augmentations=[], image_format="RGB")
    evaluator = COCOEvaluator(NAME, tasks=["bbox", "segm"] if with_masks else ["bbox"])
    evaluator.reset()
    for record in records:
        entry = mapper(record)
        outputs = with_oracle(wrap, truth(record, with_masks))([entry])
        evaluator.process([entry], outputs)
    results = evaluator.evaluate(img_ids=[record["image_id"] for record in records])
    return [results[task]["AP"] for task in results]


@pytest.mark.parametrize("method", ["nms", "linear", "gaussian", "fusion"])
def test_time_augmentation(records, method):
    settings = TTASettings([500, 800], max_size=1333)
    (box_ap,) = evaluate(
        records,
        lambda model: DetectorWithTTA(model, settings, MergeSettings(method, **MERGE)),
        with_masks=False,
    )
    assert box_ap == pytest.approx(100, abs=1e-6)


@pytest.mark.parametrize("method", ["nms", "linear", "gaussian", "fusion"])
def test_slices(records, method):
    settings = SliceSettings(tile_size=256, overlap=0.25)
    resize = [T.ResizeShortestEdge(300, 600)]
    (box_ap,) = evaluate(
        records,
        lambda model: SlicedDetector(model, resize, settings, MergeSettings(method, **MERGE)),
        with_masks=False,
    )
    assert box_ap == pytest.approx(100, abs=1e-6)


def test_masks(records):
    """As good as they can be from probabilities in a grid of 112 × 112."""
    results = {
        "tta": evaluate(
            records[:8],
            lambda model: DetectorWithTTA(
                model, TTASettings([500], max_size=1333), MergeSettings(**MERGE)
            ),
        ),
        "slices": evaluate(
            records[:8],
            lambda model: SlicedDetector(
                model, [], SliceSettings(tile_size=256), MergeSettings(**MERGE)
            ),
        ),
    }
    for box_ap, mask_ap in results.values():
        assert box_ap == pytest.approx(100, abs=1e-6)
        assert mask_ap > 97


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms(records, method):
    predictor = BoxPredictor(
        4,
        box2box_transform=type("Transform", (), {"weights": (1.0,) * 4})(),
        num_classes=80,
        test_nms_method=method,
        test_score_thresh=0.0,
    )
    evaluator = COCOEvaluator(NAME, tasks=["bbox"])
    evaluator.reset()
    for record in records:
        known = truth(record, with_masks=False)
        scores = torch.zeros(len(known.boxes), 81)
        scores[torch.arange(len(scores)), known.classes] = 0.9
        (found,), _ = predictor.select(
            [known.boxes], [scores], [(record["height"], record["width"])]
        )
        evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100, abs=1e-6)
