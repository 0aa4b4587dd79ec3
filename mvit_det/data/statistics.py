"""What is in a dataset in COCO's format, in numbers."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from .annotations import box_error

# COCO's limits, in square pixels.
SMALL, LARGE = 32**2, 96**2
QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


@dataclass(frozen=True)
class ClassCount:
    """Objects of a class, crowds apart, and the images that any of them is in."""

    name: str
    objects: int
    crowds: int
    images: int


@dataclass(frozen=True)
class Statistics:
    """Counts and distributions. Objects are annotations that are no crowd and have a good box.

    Attributes:
        images, annotations: how many.
        images_without_objects: how many have none; training leaves them out.
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
        classes = [(each.name, each.objects, each.crowds, each.images) for each in self.classes]
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
                tabulate(classes, ["class", "objects", "crowds", "images"], tablefmt="github"),
                tabulate(
                    distributions,
                    ["", *QUANTILES],
                    tablefmt="github",
                    floatfmt=".4g",
                ),
                f"Boxes: {boxes}; small is below 32², large from 96² pixels on",
            ]
        )


def count(dataset: Mapping[str, Any]) -> Statistics:
    """Counts what is in a dataset; annotations that are not usable are left out.

    Args:
        dataset: as `read_coco_json` returns it; it may have errors.
    """
    images = {image.get("id"): image for image in dataset["images"] if _is_key(image.get("id"))}
    categories = {each["id"]: each for each in dataset["categories"] if _is_key(each.get("id"))}
    objects: Counter[int] = Counter()
    crowds: Counter[int] = Counter()
    images_of: defaultdict[int, set[int]] = defaultdict(set)
    per_image: Counter[int] = Counter()
    boxes = []
    for annotation in dataset["annotations"]:
        image, category = annotation.get("image_id"), annotation.get("category_id")
        known = _is_key(image) and image in images and _is_key(category) and category in categories
        box = annotation.get("bbox")
        if not known or box_error(box) or min(box[2:]) <= 0:
            continue
        images_of[category].add(image)
        if annotation.get("iscrowd", 0):
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
        images=len(dataset["images"]),
        annotations=len(dataset["annotations"]),
        images_without_objects=len(images) - len(per_image),
        classes=[
            ClassCount(
                str(categories[each].get("name")), objects[each], crowds[each], len(images_of[each])
            )
            for each in sorted(categories)
        ],
        sizes=sizes,
        objects_per_image=np.array([per_image[image] for image in images], dtype=int),
        box_sides=np.sqrt(area),
        aspect_ratios=width / height,
        heights=_numbers(images.values(), "height"),
        widths=_numbers(images.values(), "width"),
    )


def _is_key(value: Any) -> bool:
    return isinstance(value, int)


def _numbers(images: Any, key: str) -> np.ndarray:
    values = (image.get(key) for image in images)
    return np.array([value for value in values if isinstance(value, int)], dtype=float)
