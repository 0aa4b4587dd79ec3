"""Sliced inference: a large image in overlapping tiles, and once as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..errors import ConfigError
from .masks import RLEMasks, paste_as_rle, union
from .merging import LOWEST_SCORE, MergeSettings, merge_boxes
from .tiling import agreement, are_cut, are_whole_elsewhere, cut_sides, join_pieces, tile_regions
from .views import View, ViewDetector

# A box so near to where a tile is cut, as a fraction of the tile, may belong to an object that goes
# on behind it: boxes of cut objects rarely end at the very pixel.
BORDER = 0.01

# More would take hours: a mistake in `tile_size` or `overlap`.
MAX_TILES = 10_000


@dataclass(frozen=True)
class SliceSettings:
    """The tiles of an image.

    Attributes:
        tile_size: side of the square tiles in pixels of the image.
        overlap: least overlap of neighbouring tiles, as a fraction of a tile. Objects up to this
            size are seen whole by a tile.
        full_image: looks at the whole image, too, for objects larger than a tile.
        max_detections: instances of an image, best first.
    """

    tile_size: int = 1024
    overlap: float = 0.2
    full_image: bool = True
    max_detections: int = 1000

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ConfigError: one is out of its range.
        """
        for name in ("tile_size", "max_detections"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"inference.slices.{name} must be at least 1, not {getattr(self, name)}"
                )
        if not 0 <= self.overlap < 1:
            raise ConfigError(
                f"inference.slices.overlap must be at least 0 and below 1, not {self.overlap}"
            )


class SlicedDetector:
    """A detector that looks at an image in tiles; called as the detector itself.

    An object that a tile's border cuts is found once: what one tile sees cut and another one whole
    is the latter's, and pieces of an object too large for any tile are joined. Two detections are
    taken for the same object if they agree on what both tiles see of it: if their boxes within the
    tiles' intersection have an IoU of at least `merge.iou_threshold`.

    Masks are `RLEMasks`, so that memory does not grow with pixels times instances.
    """

    def __init__(
        self,
        model: nn.Module,
        resize: Sequence[T.Augmentation],
        settings: SliceSettings | None = None,
        merge: MergeSettings | None = None,
        *,
        score_threshold: float = LOWEST_SCORE,
    ) -> None:
        """Wraps a model, which stays as it is.

        Args:
            model: a Mask, Cascade or Faster R-CNN or a RetinaNet, in evaluation mode when called.
            resize: for tiles and the whole image, as for the images of an evaluation.
            settings: the tiles.
            merge: how detections of different tiles are merged; by default by NMS.
            score_threshold: merged boxes whose score is not above it are dropped.

        Raises:
            ConfigError: the model is of another kind.
        """
        self.detector = ViewDetector(model)
        self.resize = T.AugmentationList(list(resize))
        self.settings = settings or SliceSettings()
        self.merge = merge or MergeSettings()
        self.score_threshold = score_threshold

    @torch.no_grad()
    def __call__(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Takes and returns the same as Detectron2's detectors, with masks as `RLEMasks`.

        Args:
            batched_inputs: dicts with `image`, (3, H, W) uint8 at its original size.

        Raises:
            ConfigError: `height` or `width` of an input is not that of its image, or tiles are
                resized to more than the model takes.
        """
        return [{"instances": self._detect(entry)} for entry in batched_inputs]

    def _detect(self, entry: dict[str, Any]) -> Instances:
        height, width = entry["image"].shape[1:]
        if (entry.get("height", height), entry.get("width", width)) != (height, width):
            raise ConfigError(
                f"slices need the image at its original size of {entry['height']} × "
                f"{entry['width']}, not at {height} × {width}: set "
                "dataloader.test.mapper.augmentations=[]"
            )
        tiles = tile_regions(height, width, self.settings.tile_size, self.settings.overlap)
        if len(tiles) > MAX_TILES:
            raise ConfigError(
                f"an image of {height} × {width} pixels would have {len(tiles)} tiles, and "
                f"{MAX_TILES} are the maximum: increase inference.slices.tile_size="
                f"{self.settings.tile_size}, or decrease inference.slices.overlap="
                f"{self.settings.overlap}"
            )
        regions = tiles
        if self.settings.full_image and len(tiles) > 1:
            regions = torch.cat([tiles, tiles.new_tensor([[0, 0, width, height]])])
        found = _concatenate([self._find(entry["image"], region) for region in regions])

        border = BORDER * self.settings.tile_size
        cut = are_cut(found.boxes, found.regions, cut_sides(found.regions, height, width), border)
        redundant = are_whole_elsewhere(found.boxes, tiles, cut_sides(tiles, height, width), border)
        objects = self._merge_whole(found[~cut])
        pieces = found[cut & ~redundant & (found.scores > self.score_threshold)]
        objects += self._join(pieces, objects)
        objects.sort(key=lambda entry: -entry.score)
        return _to_instances(objects[: self.settings.max_detections], height, width, found)

    def _find(self, image: Tensor, region: Tensor) -> "_Found":
        """Instances in a region, in pixels of the image."""
        left, top, right, bottom = region.int().tolist()
        pixels = image[:, top:bottom, left:right].permute(1, 2, 0).cpu().numpy()
        augmented = T.AugInput(np.ascontiguousarray(pixels))
        resized = self.resize(augmented)
        tensor = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if max(tensor.shape) > self.detector.largest_side:
            raise ConfigError(
                f"a tile is resized to {tensor.shape[1]} × {tensor.shape[2]} pixels, and the model "
                f"pads images to {self.detector.largest_side:g}: resize to less in "
                "dataloader.test.mapper.augmentations, or set model.backbone.square_pad=0"
            )
        crop = T.CropTransform(left, top, right - left, bottom - top, *image.shape[:0:-1])
        view = View(tensor, T.TransformList([crop, resized]))
        instances = self.detector.find(view, masks=True).to("cpu")
        boxes = view.to_image(instances.pred_boxes.tensor)
        boxes = torch.minimum(torch.maximum(boxes, region[[0, 1, 0, 1]]), region[[2, 3, 2, 3]])
        found = _Found(
            boxes,
            instances.scores,
            instances.pred_classes,
            region.expand_as(boxes),
            instances.pred_masks[:, 0] if instances.has("pred_masks") else None,
        )
        return found[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]

    def _merge_whole(self, found: "_Found") -> list["_Object"]:
        """Objects that are not cut, each once."""
        merged = merge_boxes(
            found.boxes,
            found.scores,
            found.classes,
            self.merge,
            score_threshold=self.score_threshold,
        )
        return [
            _Object(box, score, label, found[source : source + 1])
            for box, score, label, source in zip(
                merged.boxes, merged.scores.tolist(), merged.classes.tolist(), merged.sources
            )
        ]

    def _join(self, pieces: "_Found", whole: Sequence["_Object"]) -> list["_Object"]:
        """Objects of which there are only pieces, each once."""
        if whole and len(pieces):
            boxes = torch.stack([entry.box for entry in whole])
            classes = torch.tensor([entry.label for entry in whole])
            everything = boxes.new_tensor([-1, -1, 1, 1]).expand_as(boxes) * float("inf")
            known = [
                (
                    agreement(box, region, boxes, everything)[classes == label]
                    >= self.merge.iou_threshold
                ).any()
                for box, region, label in zip(pieces.boxes, pieces.regions, pieces.classes)
            ]
            pieces = pieces[~torch.tensor(known)]
        groups = join_pieces(pieces.boxes, pieces.classes, pieces.regions, self.merge.iou_threshold)
        objects = []
        for group in groups:
            members = pieces[torch.tensor(group)]
            low, high = members.boxes[:, :2].amin(dim=0), members.boxes[:, 2:].amax(dim=0)
            best = int(members.scores.argmax())
            objects.append(
                _Object(
                    torch.cat([low, high]),
                    float(members.scores[best]),
                    int(members.classes[best]),
                    members,
                )
            )
        return objects


@dataclass(frozen=True, eq=False)
class _Found:
    """N detections, each with the region (N, 4) it was found in, and masks (N, M, M) or None."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    regions: Tensor
    masks: Tensor | None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, item: Any) -> "_Found":
        return _Found(
            self.boxes[item],
            self.scores[item],
            self.classes[item],
            self.regions[item],
            None if self.masks is None else self.masks[item],
        )


@dataclass(frozen=True, eq=False)
class _Object:
    """An object of the image, and the detections whose masks make up its own."""

    box: Tensor
    score: float
    label: int
    members: _Found


def _concatenate(found: Sequence[_Found]) -> _Found:
    masks = [entry.masks for entry in found if entry.masks is not None]
    return _Found(
        torch.cat([entry.boxes for entry in found]),
        torch.cat([entry.scores for entry in found]),
        torch.cat([entry.classes for entry in found]),
        torch.cat([entry.regions for entry in found]),
        torch.cat(masks) if masks else None,
    )


def _to_instances(objects: Sequence[_Object], height: int, width: int, found: _Found) -> Instances:
    boxes = torch.stack([entry.box for entry in objects]) if objects else torch.zeros(0, 4)
    instances = Instances(
        (height, width),
        pred_boxes=Boxes(boxes),
        scores=torch.tensor([entry.score for entry in objects]),
        pred_classes=torch.tensor([entry.label for entry in objects], dtype=torch.int64),
    )
    if found.masks is not None:
        pasted = [
            paste_as_rle(entry.members.masks, entry.members.boxes, height, width)
            for entry in objects
            if entry.members.masks is not None
        ]
        encoded = [union(masks.encoded) for masks in pasted]
        instances.pred_masks = RLEMasks(encoded, height, width)
    return instances
