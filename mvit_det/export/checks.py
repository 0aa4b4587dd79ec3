"""Which models and sizes can be exported."""

from typing import Any

from detectron2.layers import ROIAlign
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from torch import nn

from ..acceleration import ThreadedROIAlign
from ..errors import ExportError

SUPPORTED = "Mask, Faster and Cascade R-CNN and RetinaNet"


def check_detector(model: nn.Module, size: tuple[int, int]) -> None:
    """Checks that a detector can be exported for a canvas.

    Raises:
        ExportError: it has a head that no exported file can hold, or the size does not fit.
    """
    check_backbone(model, size)
    if isinstance(model, PanopticFPN) or not isinstance(model, (GeneralizedRCNN, RetinaNet)):
        raise ExportError(
            f"a {type(model).__name__} cannot be exported; supported are {SUPPORTED}, and of "
            "every model the backbone alone (--part backbone)"
        )
    if isinstance(model, RetinaNet):
        _check_nms(model)
        return
    heads: Any = model.roi_heads
    _check_type("model.proposal_generator", model.proposal_generator, RPN)
    _check_type("model.roi_heads", heads, StandardROIHeads, CascadeROIHeads)
    if heads.keypoint_on:
        raise ExportError(
            "model.roi_heads has a keypoint head, which cannot be exported; export it without "
            "(model.roi_heads.keypoint_head=null)"
        )
    is_cascade = isinstance(heads.box_predictor, nn.ModuleList)
    for predictor in heads.box_predictor if is_cascade else [heads.box_predictor]:
        _check_type("the box predictor", predictor, FastRCNNOutputLayers)
        _check_nms(predictor)
    poolers = [heads.box_pooler]
    if heads.mask_on:
        _check_type("model.roi_heads.mask_head", heads.mask_head, MaskRCNNConvUpsampleHead)
        poolers.append(heads.mask_pooler)
    for pooler in poolers:
        if pooler is None:
            raise ExportError("model.roi_heads.mask_pooler is missing; export a model that has one")
        for layer in pooler.level_poolers:
            _check_type("a layer of a pooler", layer, ROIAlign, ThreadedROIAlign)


def check_backbone(model: Any, size: tuple[int, int]) -> None:
    """Checks that a detector's backbone can be exported for a canvas.

    Raises:
        ExportError: it masks padding, or the size does not fit.
    """
    for module in model.backbone.modules():
        if getattr(module, "mask_padding", False):
            raise ExportError(
                "the backbone has mask_padding=True, with which sizes within it depend on each "
                "image; files have fixed sizes: export it with "
                "model.backbone.bottom_up.mask_padding=false, if it was trained so"
            )
    check_size(size, model.backbone.size_divisibility)
    side = (model.backbone.padding_constraints or {}).get("square_size", 0)
    if side and size != (side, side):
        raise ExportError(
            f"the size is {size[0]}x{size[1]}, but the model pads images to {side}x{side}; "
            f"use --size {side}x{side}"
        )


def check_size(size: tuple[int, int], divisor: int) -> None:
    """Checks that both sides of a canvas are multiples of the coarsest stride.

    Raises:
        ExportError: they are not.
    """
    divisor = max(divisor, 1)
    if min(size) < divisor or size[0] % divisor or size[1] % divisor:
        near = [max(round(side / divisor), 1) * divisor for side in size]
        raise ExportError(
            f"the size is {size[0]}x{size[1]}, but the strides of the model, and so its windows "
            f"and anchors, need multiples of {divisor}; use --size {near[0]}x{near[1]}"
        )


def check_square(size: tuple[int, int], least: int) -> None:
    """Checks that a classifier's canvas is a square of at least one patch of `least` pixels.

    Raises:
        ExportError: it is not.
    """
    height, width = size
    if height != width or height < least:
        side = max(*size, least)
        raise ExportError(
            f"the size is {height}x{width}, but classifiers take a square of at least {least} "
            f"pixels; use --size {side}x{side}"
        )


def _check_type(place: str, module: Any, *types: type) -> None:
    if not isinstance(module, types):
        names = " or ".join(each.__name__ for each in types)
        raise ExportError(
            f"{place} is a {type(module).__name__}, which cannot be exported; it must be a {names}"
        )


def _check_nms(module: Any) -> None:
    method = getattr(module, "test_nms_method", "hard")
    if method != "hard":
        raise ExportError(
            f"test_nms_method is '{method}', but exported files have NMS only; export with "
            "test_nms_method=hard"
        )
