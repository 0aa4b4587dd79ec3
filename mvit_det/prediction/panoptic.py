"""Panoptic and semantic segmentation of one image: each pixel's segment and class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.folders import new_file
from ..errors import ImageError


@dataclass(frozen=True)
class Segment:
    """A segment: an object, or all pixels of a kind of stuff.

    Attributes:
        number: of its pixels in `PanopticSegmentation.segments_map`, from 1.
        category_id: of its class in the dataset.
        name: of its class.
        is_thing: whether it is an object.
        area: in pixels.
        score: of an object, in [0, 1]; None for stuff.
    """

    number: int
    category_id: int
    name: str
    is_thing: bool
    area: int
    score: float | None = None


@dataclass(frozen=True, eq=False)
class PanopticSegmentation:
    """The segments of an image.

    Attributes:
        segments_map: (H, W) int32, the `number` of each pixel's segment; 0 for none.
        segments: what is known of each segment.
        semantic: (H, W) uint8, each pixel's index into `semantic_classes`, from the semantic head
            alone; 0 stands for all objects.
        semantic_classes: a name for each.
    """

    segments_map: np.ndarray
    segments: tuple[Segment, ...]
    semantic: np.ndarray
    semantic_classes: tuple[str, ...]

    def to_coco(self, image_id: int = 0, file_name: str = "") -> dict[str, Any]:
        """An annotation of the image in COCO's panoptic format.

        Args:
            image_id: of the image in its dataset.
            file_name: of the PNG that `save_panoptic` writes.
        """
        return {
            "image_id": image_id,
            "file_name": file_name,
            "segments_info": [
                {
                    "id": segment.number,
                    "category_id": segment.category_id,
                    "area": segment.area,
                    "bbox": self._box(segment.number),
                    "iscrowd": 0,
                    **({} if segment.score is None else {"score": segment.score}),
                }
                for segment in self.segments
            ],
        }

    def to_rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 as in COCO's PNG: number = R + 256 · G + 65536 · B."""
        shifts = np.array([0, 8, 16], np.int32)
        return ((self.segments_map[..., None] >> shifts) & 255).astype(np.uint8)

    def save_panoptic(self, path: str | Path) -> None:
        """Writes `to_rgb` as a PNG.

        Raises:
            ImageError: the file cannot be written, or is no PNG.
        """
        _save_png(self.to_rgb(), path)

    def save_semantic(self, path: str | Path) -> None:
        """Writes `semantic` as a PNG with one channel.

        Raises:
            ImageError: the file cannot be written, or is no PNG.
        """
        _save_png(self.semantic, path)

    def _box(self, number: int) -> list[int]:
        """x, y, width and height."""
        pixels = self.segments_map == number
        columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
        if not len(columns):
            return [0, 0, 0, 0]
        left, top = int(columns[0]), int(rows[0])
        return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def read_output(
    output: Mapping[str, Any],
    class_names: Sequence[str],
    category_ids: Sequence[int],
    stuff: Mapping[int, str],
) -> PanopticSegmentation | None:
    """The segments of an output of Detectron2's Panoptic FPN; None of another detector.

    Args:
        output: for an image.
        class_names, category_ids: of the model's classes of objects.
        stuff: names of the kinds of stuff by category id, in the order of the model's classes;
            the first stands for all objects.
    """
    if "panoptic_seg" not in output:
        return None
    numbers, found = output["panoptic_seg"]
    segments_map = numbers.cpu().numpy().astype(np.int32)
    areas = np.bincount(segments_map.ravel(), minlength=len(found) + 1)
    stuff_ids, stuff_names = list(stuff), list(stuff.values())
    segments = []
    for info in found:
        index, is_thing = info["category_id"], info["isthing"]
        segments.append(
            Segment(
                number=info["id"],
                category_id=category_ids[index] if is_thing else stuff_ids[index],
                name=class_names[index] if is_thing else stuff_names[index],
                is_thing=is_thing,
                area=int(areas[info["id"]]),
                score=info.get("score"),
            )
        )
    semantic = output["sem_seg"].argmax(dim=0).cpu().numpy().astype(np.uint8)
    return PanopticSegmentation(segments_map, tuple(segments), semantic, tuple(stuff_names))


def _save_png(pixels: np.ndarray, path: str | Path) -> None:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ImageError(f"cannot write '{path}': a map of segments needs the extension .png")
    try:
        with new_file(path) as temporary:
            Image.fromarray(pixels).save(temporary)
    except OSError as error:
        raise ImageError(f"cannot write '{path}' ({error.strerror or error})") from error
