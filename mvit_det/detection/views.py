"""Views of an image, resized, flipped or cut out of it, and a detector that looks at them."""

import copy
from dataclasses import dataclass
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..errors import ConfigError


@dataclass(frozen=True, eq=False)
class View:
    """A view of an image.

    Attributes:
        image: (3, h, w) uint8, in the channel order of the model.
        transforms: from pixels of the whole image to those of the view.
    """

    image: Tensor
    transforms: T.TransformList

    @property
    def is_flipped(self) -> bool:
        """Whether left and right are exchanged."""
        flips = sum(isinstance(step, T.HFlipTransform) for step in self.transforms.transforms)
        return flips % 2 == 1

    def to_image(self, boxes: Tensor) -> Tensor:
        """(N, 4) boxes of the view, in pixels of the image."""
        moved = self.transforms.inverse().apply_box(boxes.cpu().numpy())
        return torch.from_numpy(moved.astype(np.float32)).to(boxes.device)

    def from_image(self, boxes: Tensor) -> Tensor:
        """(N, 4) boxes of the image, in pixels of the view."""
        moved = self.transforms.apply_box(boxes.cpu().numpy())
        return torch.from_numpy(moved.astype(np.float32)).to(boxes.device)


class ViewDetector:
    """Mask R-CNN, Cascade R-CNN, Faster R-CNN or RetinaNet on single views."""

    def __init__(self, model: nn.Module) -> None:
        """Takes a model, perhaps in DistributedDataParallel.

        Raises:
            ConfigError: it is of another kind.
        """
        model = getattr(model, "module", model)
        is_region_detector = isinstance(model, GeneralizedRCNN) and not isinstance(
            model, PanopticFPN
        )
        if not (is_region_detector or isinstance(model, DenseDetector)):
            raise ConfigError(
                f"test-time augmentation and slices need a Mask, Cascade or Faster R-CNN or a "
                f"RetinaNet, not a {type(model).__name__}: remove inference.tta and "
                "inference.slices"
            )
        self.model: Any = model
        self._heads: Any = getattr(model, "roi_heads", None)

    @property
    def has_masks(self) -> bool:
        """Whether the model has a mask head."""
        return bool(getattr(self._heads, "mask_on", False))

    @property
    def max_detections(self) -> int:
        """How many instances the model finds in an image at most."""
        if self._heads is None:
            return int(self.model.max_detections_per_image)
        predictor = self._heads.box_predictor
        if isinstance(predictor, nn.ModuleList):
            predictor = predictor[-1]
        return int(predictor.test_topk_per_image)

    @property
    def largest_side(self) -> float:
        """Pixels to which a square padding limits views; Detectron2 silently crops larger ones."""
        backbone = getattr(self.model, "backbone", None)
        constraints = getattr(backbone, "padding_constraints", None) or {}
        return constraints.get("square_size") or float("inf")

    def find(self, view: View, *, masks: bool) -> Instances:
        """Finds instances in a view.

        Args:
            view: the view.
            masks: whether to predict masks, if the model has them.

        Returns:
            In pixels of the view: `pred_boxes`, `scores`, `pred_classes`, and `pred_masks`
            (N, 1, M, M), the probabilities within each box.
        """
        if self._heads is None:
            return self.model([{"image": view.image}])[0]["instances"]
        model = self.model if masks else self._without_masks()
        return model.inference([{"image": view.image}], do_postprocess=False)[0]

    def masks(self, view: View, boxes: Tensor, classes: Tensor) -> Tensor:
        """Masks in boxes that are known.

        Args:
            view: the view.
            boxes: (N, 4) in pixels of the image.
            classes: (N,).

        Returns:
            (N, 1, M, M) probabilities within the boxes, not flipped.
        """
        known = Instances(
            tuple(view.image.shape[1:]),
            pred_boxes=Boxes(view.from_image(boxes)),
            pred_classes=classes,
        )
        (found,) = self.model.inference([{"image": view.image}], [known], do_postprocess=False)
        return found.pred_masks.flip(dims=[3]) if view.is_flipped else found.pred_masks

    def _without_masks(self) -> Any:
        """The model without its mask head: a copy with the same layers, for the sake of threads."""
        model, heads = copy.copy(self.model), copy.copy(self._heads)
        heads.mask_on = False
        model._modules = {**self.model._modules, "roi_heads": heads}
        return model
