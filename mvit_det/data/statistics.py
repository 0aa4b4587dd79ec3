"""Statistics of a dataset in COCO's format: objects by class and size, and their distributions."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from .coco import CocoDataset
from .validation import box_error, is_integer

# COCO's limits, in square pixels.
SMALL, LARGE = 32**2, 96**2
_KEYS = ("image_id", "category_id", "bbox")
QUANTILES = {"min": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "max": 1.0}


@dataclass(frozen=True)
class ClassCount:
    """Objects and crowds of a class, and the images that show any of them."""

    name: str
    objects: int
    crowds: int
    images: int


@dataclass(frozen=True)
class Statistics:
    """Counts and distributions. Objects are annotations with a usable box, except crowds.

    Attributes:
        images, annotations: their numbers.
        images_without_objects: number of images that training skips.
        classes: of each category, by id.
        sizes: objects with a box that is "small" (area below 32² pixels), "medium" or "large"
            (from 96² on).
        objects_per_image: one number per image.
        box_sides: square root of the area of each object's box, in pixels.
        aspect_ratios: width of each object's box by its height.
        heights, widths: of the images in pixels.
    """

    images: int
    annotations: int
    images_without_objects: int
    classes: Sequence[ClassCount]
    sizes: Mapping[str, int]
    objects_per_image: np.ndarray
    box_sides: np.ndarray
    aspect_ratios: np.ndarray
    heights: np.ndarray
    widths: np.ndarray

    def __str__(self) -> str:
        crowds = sum(each.crowds for each in self.classes)
        objects = int(self.objects_per_image.sum())
        overview = (
            f"{self.images} images ({self.images_without_objects} without objects), "
            f"{objects} objects and {crowds} crowds in {len(self.classes)} classes"
        )
        # Line breaks and bars would end a cell of the table.
        names = [" ".join(each.name.split()).replace("|", "\\|") for each in self.classes]
        counts = [(each.objects, each.crowds, each.images) for each in self.classes]
        classes = [(name, *row) for name, row in zip(names, counts)]
        rows = {
            "objects per image": self.objects_per_image,
            "side of a box (√area)": self.box_sides,
            "width / height of a box": self.aspect_ratios,
            "height of an image": self.heights,
            "width of an image": self.widths,
        }
        distributions = [
            (name, *np.quantile(values, list(QUANTILES.values())))
            for name, values in rows.items()
            if len(values)
        ]
        boxes = ", ".join(
            f"{count} {size} ({count / max(objects, 1):.0%})" for size, count in self.sizes.items()
        )
        return "\n\n".join(
            [
                overview,
                # Names such as '007' are no numbers.
                tabulate(
                    classes,
                    ["class", "objects", "crowds", "images"],
                    tablefmt="github",
                    disable_numparse=[0] if classes else False,
                ),
                tabulate(
                    distributions,
                    ["", *QUANTILES],
                    tablefmt="github",
                    floatfmt=".4g",
                ),
                f"Boxes: {boxes}; small is below 32², large from 96² pixels on",
            ]
        )


def count(dataset: CocoDataset) -> Statistics:
    """Computes the statistics of a dataset; unusable annotations are skipped."""
    images = {each["id"]: each for each in dataset.images if is_integer(each.get("id"))}
    categories = {each["id"]: each for each in dataset.categories if is_integer(each.get("id"))}
    objects: Counter[int] = Counter()
    crowds: Counter[int] = Counter()
    images_of: defaultdict[int, set[int]] = defaultdict(set)
    per_image: Counter[int] = Counter()
    boxes = []
    image: Any
    category: Any
    box: Any
    for annotation in dataset.annotations:
        image, category, box = (annotation.get(key) for key in _KEYS)
        if not (is_integer(image) and is_integer(category)):
            continue
        known = image in images and category in categories
        if not known or box_error(box) or min(box[2:]) <= 0:
            continue
        images_of[category].add(image)
        if annotation["iscrowd"]:
            crowds[category] += 1
            continue
        objects[category] += 1
        per_image[image] += 1
        boxes.append(box[2:])

    width, height = np.array(boxes, dtype=float).reshape(-1, 2).T
    area = width * height
    sizes = {
        "small": int((area < SMALL).sum()),
        "medium": int(((area >= SMALL) & (area < LARGE)).sum()),
        "large": int((area >= LARGE).sum()),
    }
    return Statistics(
        images=len(dataset.images),
        annotations=len(dataset.annotations),
        images_without_objects=len(images) - len(per_image),
        classes=[
            ClassCount(
                str(categories[each].get("name")), objects[each], crowds[each], len(images_of[each])
            )
            for each in sorted(categories)
        ],
        sizes=sizes,
        objects_per_image=np.array([per_image[each] for each in images], dtype=int),
        box_sides=np.sqrt(area),
        aspect_ratios=width / height,
        heights=_numbers(images.values(), "height"),
        widths=_numbers(images.values(), "width"),
    )


def _numbers(images: Any, key: str) -> np.ndarray:
    values = (image.get(key) for image in images)
    return np.array([value for value in values if is_integer(value)], dtype=float)
