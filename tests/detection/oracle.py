"""A detector that knows the ground truth: what is left to test is all around the network."""

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances

MASK_SIZE = 112


class Oracle:
    """Stands for `ViewDetector`; finds in each view what there is of the objects of an image.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the image.
        classes: (N,).
        bitmaps: N arrays (H, W) bool, or None for a detector of boxes.
        scores: (N,), by default all 0.9.
        min_side: pixels of a view that an object has to exceed to be seen.
    """

    max_detections = 1000
    largest_side = float("inf")

    def __init__(self, boxes, classes, bitmaps=None, scores=None, min_side=2.0):
        self.boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        self.classes = torch.as_tensor(classes, dtype=torch.int64)
        self.bitmaps = bitmaps
        self.scores = torch.full((len(self.boxes),), 0.9) if scores is None else scores
        self.min_side = min_side
        self.views = []

    @property
    def has_masks(self):
        return self.bitmaps is not None

    def find(self, view, *, masks):
        height, width = view.image.shape[1:]
        self.views.append((height, width))
        boxes = Boxes(view.from_image(self.boxes))
        boxes.clip((height, width))
        seen = boxes.nonempty(threshold=self.min_side)
        found = Instances(
            (height, width),
            pred_boxes=boxes[seen],
            scores=self.scores[seen],
            pred_classes=self.classes[seen],
        )
        if masks and self.has_masks:
            # The part of a mask that is in the view.
            indexes = seen.nonzero()[:, 0].tolist()
            parts = view.to_image(found.pred_boxes.tensor)
            found.pred_masks = self._masks(indexes, parts)
        return found

    def masks(self, view, boxes, classes):
        """Those of the objects whose boxes overlap most, in the frame of the image."""
        overlaps = torch.stack([_iou(box, self.boxes) for box in boxes])
        overlaps[classes[:, None] != self.classes] = -1
        return self._masks(overlaps.argmax(dim=1).tolist(), boxes)

    def _masks(self, indexes, boxes):
        masks = [self._resample(self.bitmaps[i], box) for i, box in zip(indexes, boxes)]
        return torch.stack(masks)[:, None] if masks else torch.zeros(0, 1, MASK_SIZE, MASK_SIZE)

    @staticmethod
    def _resample(bitmap, box):
        x0, y0, x1, y1 = box.tolist()
        steps = (np.arange(MASK_SIZE) + 0.5) / MASK_SIZE
        columns = (x0 + steps * (x1 - x0)).astype(int).clip(0, bitmap.shape[1] - 1)
        rows = (y0 + steps * (y1 - y0)).astype(int).clip(0, bitmap.shape[0] - 1)
        return torch.from_numpy(bitmap[np.ix_(rows, columns)].astype(np.float32))


class NoModel(GeneralizedRCNN):
    """Has the wrappers accept that there is no network."""

    def __init__(self):
        torch.nn.Module.__init__(self)


def with_oracle(wrap, oracle):
    """A wrapper of detectors around an oracle instead of a network."""
    detector = wrap(NoModel())
    detector.detector = oracle
    return detector


def _iou(box, others):
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    intersection = (high - low).clamp(min=0).prod(dim=1)
    areas = (others[:, 2:] - others[:, :2]).prod(dim=1)
    return intersection / ((box[2:] - box[:2]).prod() + areas - intersection)
