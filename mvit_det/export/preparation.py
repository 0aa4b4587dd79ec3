"""Models with everything that their exported file needs: the function to trace, and metadata."""

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import torch
from detectron2.config import instantiate
from detectron2.modeling import RetinaNet
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.export import Dim

from ..checkpoint import local_path
from ..config import find_config
from ..config.validation import locate_target
from ..data.clip_mapper import ClipMapper
from ..data.clip_sampling import DenseSampling
from ..errors import ExportError
from ..prediction import Classifier, Predictor, VideoClassifier
from ..runtime.metadata import Metadata
from .checks import check_backbone, check_detector, check_square
from .graphs import ClassifierGraph, FeatureGraph, RCNNGraph, RetinaNetGraph

PARTS = ("model", "backbone")
LIBRARIES = ("mvit_det", "torch", "torchvision", "onnx", "onnxscript", "openvino", "nncf")


@dataclass(frozen=True, eq=False)
class Exportable:
    """A model that is ready to be exported.

    Attributes:
        graph: the function of tensors to export, in evaluation mode.
        metadata: of the file.
        model: the model that the graph was made from, the reference for its outputs.
    """

    graph: nn.Module
    metadata: Metadata
    model: nn.Module

    def example(self) -> dict[str, Tensor]:
        """Inputs to trace with, by name: noise, which on a canvas fills up to its last rows."""
        height, width = self.metadata.size
        frames = [self.metadata.num_frames] if self.metadata.num_frames else []
        count = 2 if self.dynamic_shapes else 1
        shape = (count, 3, *frames, height, width)
        image = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).byte()
        if self.dynamic_shapes:
            return {"image": image}
        return {"image": image, "image_size": torch.tensor([height - 1, width])}

    @property
    def dynamic_shapes(self) -> dict[str, Any] | None:
        """The axes that stay open: the batch of a classifier."""
        is_classifier = self.metadata.task in ("classification", "video_classification")
        return {"image": {0: Dim("batch")}} if is_classifier else None


def prepare(
    config: str | Path | DictConfig,
    weights: str | Path | None = None,
    *,
    size: tuple[int, int] | None = None,
    part: str = "model",
    score_threshold: float | None = None,
    overrides: Sequence[str] = (),
    trust_checkpoint: bool = False,
) -> Exportable:
    """Loads a detector or a classifier of images or videos, and makes it exportable.

    Args:
        config: a config file, a loaded config, or the name of a published model.
        weights: file or URL; by default those of the published model.
        size: height and width in pixels of the canvas into which images are fitted. Classifiers
            need none: by default it is the size of their evaluation.
        part: "model", or of a detector "backbone" for its feature maps without a pyramid.
        score_threshold: detections need a higher score, in [0, 1]; by default the model's
            `test_score_thresh`.
        overrides: changes to the config as `key.of.field=value`.
        trust_checkpoint: lets the file of weights run code while it is read.

    Raises:
        ExportError: the model or its pre-processing cannot be exported, or the size does not fit.
        ConfigError, CheckpointError: as `Predictor` and the classifiers.
    """
    name = "" if isinstance(config, DictConfig) else str(config)
    if part not in PARTS:
        raise ExportError(f"the part is '{part}'; it must be one of {', '.join(PARTS)}")
    if not isinstance(config, DictConfig):
        config, published = find_config(config, overrides)
        weights = weights or published
    if "classifier" in config.get("model", {}):
        if part != "model" or score_threshold is not None:
            option = "score_threshold" if part == "model" else f"part '{part}'"
            raise ExportError(f"the config is a classifier's; export it without {option}")
        return _prepare_classifier(config, weights, size, name, trust_checkpoint)
    if size is None:
        raise ExportError(
            "the size is missing: give height and width of the canvas, such as --size 800x1344"
        )
    predictor = Predictor(
        config,
        weights,
        score_threshold=score_threshold,
        device="cpu",
        trust_checkpoint=trust_checkpoint,
    )
    model: Any = predictor.model
    if predictor.detector is not model:
        raise ExportError(
            "the config's 'inference' asks for test-time augmentation or slices, which exported "
            "files do not have; export with inference=null"
        )
    short_edge, max_size = _resize_policy(config)
    common: dict[str, Any] = dict(
        size=size,
        channel_order=config.dataloader.test.mapper.image_format,
        short_edge=short_edge,
        max_size=max_size,
        class_names=predictor.class_names,
        category_ids=predictor.category_ids,
        **_origin(model, name, weights),
    )
    if part == "backbone":
        check_backbone(model, size)
        backbone = getattr(model.backbone, "bottom_up", model.backbone)
        graph: nn.Module = FeatureGraph(backbone, model.pixel_mean, model.pixel_std)
        return Exportable(graph.eval(), Metadata("features", **common), backbone)
    check_detector(model, size)
    is_retinanet = isinstance(model, RetinaNet)
    graph = RetinaNetGraph(model, size) if is_retinanet else RCNNGraph(model, size)
    return Exportable(
        graph.eval(), Metadata("detection", **common, **_thresholds(model)), model.eval()
    )


def takes_videos(config: DictConfig) -> bool:
    """Whether a config is that of a video classifier."""
    mapper = locate_target(OmegaConf.select(config, "dataloader.test.mapper._target_"))
    return isinstance(mapper, type) and issubclass(mapper, ClipMapper)


def _prepare_classifier(
    config: DictConfig,
    weights: str | Path | None,
    size: tuple[int, int] | None,
    name: str,
    trust_checkpoint: bool,
) -> Exportable:
    is_video = takes_videos(config)
    kind = VideoClassifier if is_video else Classifier
    classifier = kind(config, weights, device="cpu", trust_checkpoint=trust_checkpoint)
    model: Any = classifier.model
    mapper = classifier.mapper
    size = size or (mapper.image_size, mapper.image_size)
    check_square(size, least=model.classifier.patch_embed.proj.kernel_size[-1])
    policy = _clip_policy(mapper, size[0]) if is_video else _crop_policy(mapper, size[0])
    metadata = Metadata(
        "video_classification" if is_video else "classification",
        size=size,
        class_names=classifier.class_names,
        **policy,
        **_origin(model, name, weights),
    )
    # (C, 1, 1), for frames (C, 1, 1, 1)
    mean, std = (
        values[..., None] if is_video else values for values in (model.pixel_mean, model.pixel_std)
    )
    return Exportable(ClassifierGraph(model.classifier, mean, std).eval(), metadata, model)


def _crop_policy(mapper: Any, size: int) -> dict[str, Any]:
    """Metadata about how images get onto the canvas of an image classifier."""
    if mapper.crop != "center":
        return dict(resize="stretch")
    return dict(resize="crop", short_edge=int(size / mapper.crop_ratio))


def _clip_policy(mapper: Any, size: int) -> dict[str, Any]:
    """Metadata about how videos become clips."""
    policy = dict(
        resize="crop",
        short_edge=round(mapper.short_side * size / mapper.image_size),
        crops=mapper.crops,
        num_frames=mapper.sampling.num_frames,
    )
    if isinstance(mapper.sampling, DenseSampling):
        policy.update(frame_step=mapper.sampling.step, frame_rate=mapper.sampling.rate)
    return policy


def _origin(model: Any, name: str, weights: str | Path | None) -> dict[str, Any]:
    """Metadata that say where a file comes from, and its normalisation."""
    checkpoint = local_path(weights or "")
    return dict(
        pixel_mean=tuple(model.pixel_mean.flatten().tolist()),
        pixel_std=tuple(model.pixel_std.flatten().tolist()),
        config=name,
        checkpoint=checkpoint.name,
        checkpoint_sha256=_sha256(checkpoint),
        versions=_versions(),
    )


def _resize_policy(config: DictConfig) -> tuple[int, int]:
    """Shorter side and bound of the longer one, of the test-time resizing; (0, 0) for none.

    Raises:
        ExportError: the config asks for anything else.
    """
    augmentations = instantiate(OmegaConf.select(config, "dataloader.test.mapper.augmentations"))
    match list(augmentations or []):
        case []:
            return 0, 0
        case [T.ResizeShortestEdge() as resize] if len({*resize.short_edge_length}) == 1:
            return int(resize.short_edge_length[0]), min(int(resize.max_size), 2**31 - 1)
    names = ", ".join(type(each).__name__ for each in augmentations)
    raise ExportError(
        f"dataloader.test.mapper.augmentations has {names}; exported files know one "
        "ResizeShortestEdge of one size, or none"
    )


def _thresholds(model: Any) -> dict[str, Any]:
    if isinstance(model, RetinaNet):
        return dict(
            score_threshold=model.test_score_thresh,
            nms_threshold=model.test_nms_thresh,
            max_detections=model.max_detections_per_image,
        )
    predictor = model.roi_heads.box_predictor
    last = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
    return dict(
        score_threshold=last.test_score_thresh,
        nms_threshold=last.test_nms_thresh,
        max_detections=last.test_topk_per_image,
        has_masks=model.roi_heads.mask_on,
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
