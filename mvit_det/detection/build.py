"""A detector with the entry `inference` of a config: test-time augmentation or slices."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import detectron2.data.transforms as T
from detectron2.modeling import meta_arch, roi_heads
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ..errors import ConfigError
from .heads import BoxPredictor, CascadeROIHeads, RetinaNet
from .merging import LOWEST_SCORE, MergeSettings
from .slicing import SlicedDetector, SliceSettings
from .test_time_augmentation import DetectorWithTTA, TTASettings

# Detectron2's classes, which configs of earlier releases name, and those with a choice of NMS.
_WITH_CHOICE = {
    roi_heads.FastRCNNOutputLayers: BoxPredictor,
    roi_heads.CascadeROIHeads: CascadeROIHeads,
    meta_arch.RetinaNet: RetinaNet,
}

_Settings = TypeVar("_Settings", MergeSettings, SliceSettings, TTASettings)


def wrap_detector(
    model: nn.Module,
    inference: Any,
    resize: Sequence[T.Augmentation],
    *,
    score_threshold: float = LOWEST_SCORE,
) -> DetectorWithTTA | SlicedDetector | None:
    """Has a detector look at images as the entry `inference` of a config says.

    Args:
        model: the detector.
        inference: that entry, or None: groups `tta`, `slices` and `merge` with the fields of
            `TTASettings`, `SliceSettings` and `MergeSettings`; what is missing has their defaults.
        resize: for images of an evaluation, of the config's `dataloader.test.mapper`.
        score_threshold: merged detections whose score is not above it are dropped.

    Returns:
        A detector that takes images at their original size; None if the model is to see each image
        once, resized: there is neither `tta.short_sides` nor `slices.tile_size`.

    Raises:
        ConfigError: a field is out of its range, both are set, or the model is of a kind that
            cannot be augmented.
    """
    if OmegaConf.is_config(inference):
        inference = OmegaConf.to_object(inference)
    groups = {name: dict(group) for name, group in (inference or {}).items()}
    merge = _settings(MergeSettings, groups.get("merge", {}))
    tta, slices = groups.get("tta", {}), groups.get("slices", {})
    if tta.get("short_sides") and slices.get("tile_size"):
        raise ConfigError(
            "inference.tta.short_sides and inference.slices.tile_size are both set: choose one, "
            "and leave the other out"
        )
    if tta.get("short_sides"):
        settings = _settings(TTASettings, tta)
        return DetectorWithTTA(model, settings, merge, score_threshold=score_threshold)
    if slices.get("tile_size"):
        tiles = _settings(SliceSettings, slices)
        return SlicedDetector(model, resize, tiles, merge, score_threshold=score_threshold)
    return None


def has_views(inference: Any) -> bool:
    """Whether the entry `inference` of a config has a detector look at several views of images."""
    groups = inference or {}
    return bool(
        groups.get("tta", {}).get("short_sides") or groups.get("slices", {}).get("tile_size")
    )


def set_nms_method(model: DictConfig, method: str) -> None:
    """Sets `test_nms_method` of all box heads in the config of a detector, in place.

    Raises:
        ConfigError: the detector has no head that selects boxes.
    """
    changed = False
    for node in _calls(model):
        target = locate(node._target_) if isinstance(node._target_, str) else node._target_
        if target in _WITH_CHOICE:
            target = _WITH_CHOICE[target]
            node._target_ = f"{target.__module__}.{target.__qualname__}"
        if inspect.isclass(target) and issubclass(target, (BoxPredictor, RetinaNet)):
            node.test_nms_method = method
            changed = True
    if not changed:
        raise ConfigError(
            "the model has no box head for soft-NMS: it needs a Mask, Cascade or Faster R-CNN or a "
            "RetinaNet"
        )


def _calls(node: Any) -> Iterator[DictConfig]:
    """The nodes of a config that are called, from the top down."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield node
        for name in node:
            yield from _calls(node._get_node(name))
    elif isinstance(node, ListConfig):
        for index in range(len(node)):
            yield from _calls(node._get_node(index))


def _settings(kind: type[_Settings], values: Mapping[str, Any]) -> _Settings:
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            f"unknown inference field '{unknown[0]}'; there are {', '.join(sorted(known))}"
        )
    return kind(**values)
