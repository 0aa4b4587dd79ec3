"""A dataset with its splits, as content of COCO's JSON files."""

import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

# Names of the folders and files of a split, in lower case.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Split:
    """Images for one purpose, and their annotations.

    Attributes:
        content: of a JSON file in COCO's format; names of images are relative to `folder`.
        folder: of the images.
        file: the JSON file that has just this content, if there is one.
    """

    content: dict[str, Any]
    folder: Path
    file: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset in one of the formats.

    Attributes:
        kind: name of the format.
        splits: by name: "train", "val" and "test", as far as the dataset has them.
        notes: sentences on how it was read, for the log.
    """

    kind: str
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()

    def with_validation(self, fraction: float = 0.1, seed: int = 0) -> "Dataset":
        """The dataset with a validation split, taken from the training images if it has none.

        Args:
            fraction: share of the images that are moved, at least one.
            seed: the same seed and images give the same split.

        Raises:
            ConfigError: the share is not between 0 and 1.
            DatasetError: there are less than two images to split.
        """
        if not 0 < fraction < 1:
            raise ConfigError(f"--val-fraction is {fraction:g}, but must be between 0 and 1")
        if "val" in self.splits or "train" not in self.splits:
            return self
        whole = self.splits["train"]
        # By name: a dataset that was copied or listed in another order splits the same way.
        names = sorted(str(image["file_name"]) for image in whole.content["images"])
        if len(names) < 2:
            raise DatasetError(
                f"the dataset in '{whole.folder}' has {len(names)} images, too few to set some "
                "aside for validation; add images, or a validation split"
            )
        number = min(max(1, round(fraction * len(names))), len(names) - 1)
        chosen = set(random.Random(seed).sample(names, number))
        note = (
            f"There is no validation split: {number} of {len(names)} images were set aside for it "
            f"at random (seed {seed})"
        )
        splits = {
            **self.splits,
            "train": _subset(whole, set(names) - chosen),
            "val": _subset(whole, chosen),
        }
        return replace(self, splits=splits, notes=(*self.notes, note))


def _subset(split: Split, names: set[str]) -> Split:
    images = [each for each in split.content["images"] if str(each["file_name"]) in names]
    ids = {image["id"] for image in images}
    annotations = [each for each in split.content["annotations"] if each.get("image_id") in ids]
    content = {**split.content, "images": images, "annotations": annotations}
    return Split(content, split.folder)


def split_named(text: str) -> str:
    """The split that a file or folder is named after, such as "val" for "instances_val2017"."""
    words = "".join(letter if letter.isalpha() else " " for letter in text.lower()).split()
    for split, names in SPLIT_NAMES.items():
        if set(words) & set(names):
            return split
    return ""


@dataclass
class SplitBuilder:
    """Collects images and objects of a split.

    Attributes:
        categories: name by id.
    """

    categories: dict[int, str]
    _images: list[tuple[Path, int, int]] = field(default_factory=list)
    _annotations: list[dict[str, Any]] = field(default_factory=list)

    def add_image(self, path: Path, height: int, width: int) -> None:
        """Adds an image; the objects added next are in it."""
        self._images.append((Path(os.path.abspath(path)), height, width))

    def add_object(
        self,
        category: int,
        box: Sequence[float],
        segmentation: list[list[float]] | dict[str, Any] | None = None,
        is_crowd: bool = False,
    ) -> None:
        """Adds an object of the last image.

        Args:
            category: its id.
            box: x0, y0, x1, y1 in pixels.
            segmentation: polygons x0, y0, x1, y1, …, or run-length encoding.
            is_crowd: training ignores it, and an evaluation neither rewards nor punishes it.
        """
        x0, y0, x1, y1 = map(float, box)
        annotation = {
            "id": len(self._annotations) + 1,
            "image_id": len(self._images),
            "category_id": category,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": int(is_crowd),
        }
        if segmentation:
            annotation["segmentation"] = segmentation
            if isinstance(segmentation, list):
                annotation["area"] = sum(map(_polygon_area, segmentation))
        self._annotations.append(annotation)

    def build(self) -> Split:
        """The split, with images relative to the folder that contains all of them."""
        parents = {str(path.parent) for path, _, _ in self._images}
        folder = Path(os.path.commonpath(parents)) if parents else Path()
        images = [
            {
                "id": number,
                "file_name": path.relative_to(folder).as_posix(),
                "height": height,
                "width": width,
            }
            for number, (path, height, width) in enumerate(self._images, start=1)
        ]
        categories = [{"id": key, "name": name} for key, name in self.categories.items()]
        content = {"images": images, "annotations": self._annotations, "categories": categories}
        return Split(content, folder)


def bounds(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The box x0, y0, x1, y1 around polygons."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _polygon_area(polygon: Sequence[float]) -> float:
    x, y = np.asarray(polygon[0::2]), np.asarray(polygon[1::2])
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
