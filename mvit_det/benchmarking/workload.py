"""A model together with its input, ready to run what is measured."""

import warnings
from typing import Any

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor

from .case import DTYPES, Case
from .models import build, compile_backbone

# About as many as an image of COCO shows.
OBJECTS = 8


class Workload:
    """One side of a case.

    A training step is forward and backward pass with gradients left in the parameters, without
    optimizer: that costs both sides the same. fp16 runs without loss scaling.
    """

    def __init__(self, case: Case, side: str) -> None:
        self.case = case
        self.model = build(case, side).to(case.device)
        if case.compile:
            compile_backbone(self.model)
        torch.manual_seed(1)
        self.inputs = (
            random_images(case.image_size, case.batch) if case.detector else _backbone_inputs(case)
        )
        self.autocast = torch.autocast(
            case.device,
            dtype=DTYPES[case.dtype] if case.dtype != "fp32" else torch.bfloat16,
            enabled=case.dtype != "fp32",
        )

    def run(self, name: str) -> None:
        """Runs one of `PASSES` and waits for its end."""
        # So that a detector samples the same regions every time, and on both sides.
        torch.manual_seed(2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
            if name == "train":
                self._train()
            else:
                self._forward()
        if self.case.device == "cuda":
            torch.cuda.synchronize()

    def features(self) -> dict[str, Tensor]:
        """Outputs of the backbone by name, of a detector's with its feature pyramid."""
        self.model.eval()
        # TensorFloat-32 would hide, on CUDA, how close the two sides are.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.no_grad(), self.autocast, exact:
            if isinstance(self.model, GeneralizedRCNN):
                images = self.model.preprocess_image(self.inputs)
                return self.model.backbone(images.tensor)
            return self.model(self.inputs)

    def _forward(self) -> None:
        self.model.eval()
        with torch.no_grad(), self.autocast:
            self.model(self.inputs)

    def _train(self) -> None:
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        with EventStorage(), self.autocast:
            outputs = self.model(self.inputs)
            # A detector returns losses. Features get one that reaches each of their elements.
            losses = (
                outputs.values()
                if self.case.detector
                else [feature.float().square().mean() for feature in outputs.values()]
            )
            loss = sum(losses)
        loss.backward()


def _backbone_inputs(case: Case) -> Tensor:
    return torch.randn(case.batch, 3, *case.image_size, device=case.device)


def random_images(
    size: tuple[int, int], count: int, objects: int = OBJECTS
) -> list[dict[str, Any]]:
    """Random images with octagons as objects, in the format of Detectron2's data loaders.

    Args:
        size: height and width in pixels.
        count: number of images.
        objects: of each image, all of class 0.
    """
    height, width = size
    images = []
    for _ in range(count):
        # From a sixteenth of the sides to half of them, anywhere in the image.
        extent = torch.rand(objects, 2) * 7 / 16 + 1 / 16
        corner = torch.rand(objects, 2) * (1 - extent)
        boxes = torch.cat([corner, corner + extent], dim=1)
        boxes = boxes * torch.tensor([width, height, width, height])
        instances = Instances(size)
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.zeros(objects, dtype=torch.int64)
        instances.gt_masks = PolygonMasks([[_octagon(box)] for box in boxes.numpy()])
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        # All of it background; only panoptic detectors look at this.
        stuff = torch.zeros(size, dtype=torch.int64)
        images.append(
            dict(image=image, height=height, width=width, instances=instances, sem_seg=stuff)
        )
    return images


def _octagon(box: np.ndarray) -> np.ndarray:
    """The octagon that touches a box (x0, y0, x1, y1), as x and y by turns."""
    angles = np.pi * (np.arange(8) + 0.5) / 4
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1) / np.cos(np.pi / 8)
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return (centre + half * directions).reshape(-1).astype(np.float64)
