"""Comparing an exported file with the model in PyTorch, at the same size."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.modeling import RetinaNet
from detectron2.structures import ImageList

from ..runtime.metadata import Metadata
from ..runtime.prediction import RuntimePrediction
from ..runtime.predictor import to_prediction
from ..runtime.preprocessing import Source, letterbox, load_image, prepare_inputs
from ..runtime.sessions import Session
from ..runtime.video_classification import RuntimeVideoClassifier
from .preparation import Exportable

# Differences that count as equal: pixels, scores and IoU.
MAX_BOX, MAX_SCORE, MIN_MASK_IOU = 0.5, 1e-3, 0.99
# Instances of the same class that overlap more than this are the same instance.
SAME = 0.9


@dataclass
class Differences:
    """How far outputs of a file are from PyTorch's, over all images.

    Attributes:
        images: number of images.
        instances: number of instances that PyTorch finds.
        missing: instances of PyTorch's without a counterpart of the same class in the file's.
        extra: the other way round.
        box: largest difference of a coordinate, in pixels of the image.
        score: largest difference of a score.
        mask_iou: smallest IoU of two masks.
    """

    images: int = 0
    instances: int = 0
    missing: int = 0
    extra: int = 0
    box: float = 0.0
    score: float = 0.0
    mask_iou: float = 1.0

    @property
    def are_within_limits(self) -> bool:
        """Whether the file's instances count as equal to PyTorch's."""
        return (
            not self.missing + self.extra
            and self.box <= MAX_BOX
            and self.score <= MAX_SCORE
            and self.mask_iou >= MIN_MASK_IOU
        )

    def describe(self) -> str:
        """The numbers in a sentence."""
        return (
            f"{self.images} images, {self.instances} instances: {self.missing} missing, "
            f"{self.extra} extra; of the others boxes differ by at most {self.box:.3g} pixels, "
            f"scores by {self.score:.2g}, and masks have an IoU of at least {self.mask_iou:.4f}"
        )

    def add(self, expected: RuntimePrediction, found: RuntimePrediction) -> None:
        """Counts one image."""
        pairs = _match(expected, found)
        self.images += 1
        self.instances += len(expected)
        self.missing += len(expected) - len(pairs)
        self.extra += len(found) - len(pairs)
        for first, second in pairs:
            box = np.abs(expected.boxes[first] - found.boxes[second]).max()
            self.box = max(self.box, float(box))
            score = abs(expected.scores[first] - found.scores[second])
            self.score = max(self.score, float(score))
            if expected.masks is not None and found.masks is not None:
                masks = expected.masks[first], found.masks[second]
                union = np.logical_or(*masks).sum()
                iou = np.logical_and(*masks).sum() / union if union else 1.0
                self.mask_iou = min(self.mask_iou, float(iou))


@dataclass
class ClassDifferences:
    """How far the scores of a classifier's file are from PyTorch's, over all images or clips.

    Attributes:
        unit: "images" or "clips".
        count: number of them.
        changed: those whose most probable class is another one.
        score: largest difference of a score.
    """

    unit: str = "images"
    count: int = 0
    changed: int = 0
    score: float = 0.0

    @property
    def are_within_limits(self) -> bool:
        """Whether the file's scores count as equal to PyTorch's."""
        return self.score <= MAX_SCORE

    def describe(self) -> str:
        """The numbers in a sentence."""
        return (
            f"{self.count} {self.unit}: {self.changed} with another class, scores differ by at "
            f"most {self.score:.2g}"
        )

    def add(self, expected: np.ndarray, found: np.ndarray) -> None:
        """Counts one image or clip, of whose scores both are (classes,)."""
        self.count += 1
        self.changed += int(expected.argmax() != found.argmax())
        self.score = max(self.score, float(np.abs(expected - found).max()))


def compare(
    exportable: Exportable, session: Session, sources: Iterable[Source]
) -> Differences | ClassDifferences:
    """Runs a file and PyTorch on the same images, or on the same clips of videos.

    Args:
        exportable: the detector or classifier that was exported.
        session: the exported file.
        sources: paths of images, or arrays (H, W, 3) uint8 RGB; paths of videos.

    Raises:
        ImageError: an image or video cannot be read.
    """
    if session.metadata.task == "video_classification":
        return _compare_clips(exportable.model, session, sources)
    if session.metadata.task == "classification":
        return _compare_images(exportable.model, session, sources)
    differences = Differences()
    for source in sources:
        image = load_image(source)
        canvas, size = letterbox(image, session.metadata)
        found = to_prediction(session.run(canvas, size), image, size, session.metadata)
        differences.add(reference(exportable.model, image, session.metadata), found)
    return differences


@torch.no_grad()
def reference(model: Any, image: np.ndarray, metadata: Metadata) -> RuntimePrediction:
    """Instances that Detectron2's modules find on the canvas of an exported file.

    Args:
        model: the detector, in evaluation mode.
        image: (H, W, 3) uint8 RGB.
        metadata: of the file.
    """
    canvas, size = letterbox(image, metadata)
    height, width = size.tolist()
    pixels = torch.from_numpy(canvas).to(model.device).float()
    normalized = (pixels - model.pixel_mean) / model.pixel_std
    normalized[:, :, height:] = 0
    normalized[:, :, :, width:] = 0
    images = ImageList(normalized, [(height, width)])
    features = model.backbone(images.tensor)
    if isinstance(model, RetinaNet):
        maps = [features[name] for name in model.head_in_features]
        (instances,) = model.forward_inference(images, maps, model.head(maps))
    else:
        proposals, _ = model.proposal_generator(images, features, None)
        (instances,), _ = model.roi_heads(images, features, proposals, None)
    outputs = {
        "boxes": instances.pred_boxes.tensor.numpy(force=True),
        "scores": instances.scores.numpy(force=True),
        "classes": instances.pred_classes.numpy(force=True),
    }
    if instances.has("pred_masks"):
        outputs["masks"] = instances.pred_masks[:, 0].numpy(force=True)
    return to_prediction(outputs, image, size, metadata)


@torch.no_grad()
def _compare_images(model: Any, session: Session, images: Iterable[Source]) -> ClassDifferences:
    differences = ClassDifferences()
    for source in images:
        (image,) = prepare_inputs(load_image(source), session.metadata)
        (expected,) = model([{"image": torch.from_numpy(image[0])}])
        differences.add(expected["scores"].numpy(force=True), session.run(image)["scores"][0])
    return differences


@torch.no_grad()
def _compare_clips(model: Any, session: Session, videos: Iterable[Any]) -> ClassDifferences:
    classifier = RuntimeVideoClassifier(session)
    differences = ClassDifferences("clips")
    for video in videos:
        for clip in classifier.clips(video):
            (expected,) = model([{"image": torch.from_numpy(clip.views)}])
            found = classifier.scores(clip.views)
            differences.add(expected["scores"].numpy(force=True), found)
    return differences


def _match(first: RuntimePrediction, second: RuntimePrediction) -> list[tuple[int, int]]:
    """Pairs of instances of the same class that overlap most, each in one pair at most."""
    overlaps = _box_iou(first.boxes, second.boxes)
    overlaps[first.classes[:, None] != second.classes[None]] = 0
    # Among duplicates the one with the nearest score.
    closeness = 1e-3 * np.abs(first.scores[:, None] - second.scores[None])
    candidates = np.argwhere(overlaps > SAME)
    order = np.argsort(-(overlaps - closeness)[overlaps > SAME])
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = (set(), set())
    for a, b in candidates[order].tolist():
        if a not in used[0] and b not in used[1]:
            pairs.append((a, b))
            used[0].add(a)
            used[1].add(b)
    return pairs


def _box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of all pairs of boxes x0, y0, x1, y1: (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [
        np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (first, second)
    ]
    union = areas[0][:, None] + areas[1][None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
