"""Evaluations to describe, and models to evaluate."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from mvit_det.evaluation.metrics import AREAS, IOUS, RECALLS, TaskEvaluation


class TruthfulModel(torch.nn.Module):
    """Predicts the annotations of each image: exactly, or with seeded errors of every kind."""

    def __init__(self, dataset_name, errors=0.0, with_masks=True):
        super().__init__()
        metadata = MetadataCatalog.get(dataset_name)
        self.coco = COCO(metadata.json_file)
        self.to_class = metadata.thing_dataset_id_to_contiguous_id
        self.errors = errors
        self.with_masks = with_masks

    def forward(self, inputs):
        return [{"instances": self.predict(image["image_id"])} for image in inputs]

    def predict(self, image_id):
        rng = np.random.default_rng(image_id)
        image = self.coco.imgs[image_id]
        boxes, masks, classes = [], [], []
        for annotation in self.coco.imgToAnns[image_id]:
            if annotation.get("iscrowd", 0) or rng.random() < 0.3 * self.errors:
                continue
            for _ in range(1 + (rng.random() < 0.3 * self.errors)):
                x, y, width, height = annotation["bbox"]
                box = np.array([x, y, x + width, y + height])
                boxes.append(box + self.errors * rng.normal(0, 0.05, 4) * max(width, height))
                if self.with_masks:
                    shift = np.rint(self.errors * rng.normal(0, 0.03, 2) * [height, width])
                    mask = self.coco.annToMask(annotation)
                    masks.append(np.roll(mask, shift.astype(int), axis=(0, 1)))
                confused = rng.random() < 0.1 * self.errors
                true_class = self.to_class[annotation["category_id"]]
                classes.append((true_class + confused) % len(self.to_class))
        size = image["height"], image["width"]
        instances = Instances(size)
        instances.pred_boxes = Boxes(torch.tensor(np.array(boxes)).float().reshape(-1, 4))
        instances.pred_classes = torch.tensor(classes, dtype=torch.long)
        instances.scores = torch.tensor(rng.uniform(0.05, 1, len(boxes)).round(2)).float()
        if self.with_masks:
            instances.pred_masks = torch.tensor(np.array(masks).reshape(-1, *size)).bool()
        return instances


class BlindModel(torch.nn.Module):
    """Finds nothing."""

    def forward(self, inputs):
        nothing = {
            "pred_boxes": Boxes(torch.zeros(0, 4)),
            "scores": torch.zeros(0),
            "pred_classes": torch.zeros(0, dtype=torch.long),
        }
        return [{"instances": Instances((i["height"], i["width"]), **nothing)} for i in inputs]


@pytest.fixture
def truthful_model():
    """The class `TruthfulModel`."""
    return TruthfulModel


@pytest.fixture
def blind_model():
    """The class `BlindModel`."""
    return BlindModel


@pytest.fixture
def make_evaluation():
    """A function from names of classes to an evaluation of them; some may have no objects."""

    def make(class_names, empty=(), seed=0):
        rng = np.random.default_rng(seed)
        shape = (len(IOUS), len(RECALLS), len(class_names), AREAS)
        precision = np.sort(rng.uniform(0, 1, shape), axis=1)[:, ::-1]
        precision = np.ascontiguousarray(np.sort(precision, axis=0)[::-1])
        recall = rng.uniform(0, 1, (len(IOUS), len(class_names), AREAS))
        objects = rng.integers(1, 500, len(class_names))
        for index in empty:
            precision[:, :, index], recall[:, index], objects[index] = -1, -1, 0
        return TaskEvaluation(list(class_names), objects, precision, recall)

    return make
