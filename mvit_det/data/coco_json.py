"""Datasets of one's own: annotations in COCO's JSON, and a folder of images."""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from ..errors import DatasetError

LISTS = ("images", "annotations", "categories")


def read_coco_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a file of annotations.

    Args:
        path: a JSON file of an object with the lists `images`, `annotations` and `categories`.
            What they hold is for `find_issues` to check.

    Raises:
        DatasetError: there is no such file, it is empty, cut short or not JSON, or a list is
            missing or holds something else than objects.
    """
    path = Path(path)
    try:
        # Some editors begin a file with a byte order mark, which utf-8-sig leaves out.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DatasetError(f"there is no file of annotations '{path}'; check its name") from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"'{path}' is not JSON: it is not text in UTF-8; name the JSON file of annotations"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(
            f"the annotations '{path}' cannot be read ({reason}); name a file that can be read"
        ) from error
    if not text.strip():
        raise DatasetError(f"the annotations '{path}' are empty; export or copy them anew")
    try:
        dataset = json.loads(text)
    except json.JSONDecodeError as error:
        # Where a text ends inside a string, the error points at the string's beginning.
        if error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string"):
            raise DatasetError(
                f"the annotations '{path}' are cut short; export or copy them anew"
            ) from error
        raise DatasetError(
            f"'{path}' is not JSON (line {error.lineno}, column {error.colno}: {error.msg}); mend "
            "it or export it anew"
        ) from error
    # Brackets within brackets without end, or a number of thousands of digits.
    except (RecursionError, ValueError) as error:
        raise DatasetError(f"'{path}' is no file of annotations in COCO's format") from error
    if not isinstance(dataset, dict):
        kind = "a list" if isinstance(dataset, list) else "a single value"
        raise DatasetError(
            f"'{path}' holds {kind} and not an object with the lists images, annotations and "
            "categories; export it in COCO's format for detection"
        )
    for key in LISTS:
        if not isinstance(dataset.get(key), list):
            what = "is not a list" if key in dataset else "is missing"
            raise DatasetError(
                f"'{key}' {what} in '{path}'; export it in COCO's format for detection"
            )
        if not all(isinstance(item, dict) for item in dataset[key]):
            raise DatasetError(
                f"'{key}' in '{path}' has items that are not objects; export it in COCO's format"
            )
    return dataset


def image_path(folder: str | os.PathLike[str], file_name: Any) -> Path:
    """The path of an image, which must lie in its folder.

    Raises:
        DatasetError: `file_name` is not relative to the folder, or leads out of it.
    """
    named = isinstance(file_name, str) and bool(file_name.strip()) and "\0" not in file_name
    name = PurePath(file_name if named else "")
    if not named or name.anchor or ".." in name.parts:
        raise DatasetError(
            f"the image {file_name!r} does not lie in the folder '{folder}'; name images "
            "relative to the folder and without '..'"
        )
    return Path(folder) / name


def class_names(dataset: Mapping[str, Any]) -> list[str]:
    """Names of the classes, by category id: class k of the model is the k-th of them."""
    categories = sorted(dataset["categories"], key=lambda category: category["id"])
    return [category["name"] for category in categories]


def class_of_category(dataset: Mapping[str, Any]) -> dict[int, int]:
    """The model's class for each category id; ids may have gaps."""
    ids = sorted(category["id"] for category in dataset["categories"])
    return {category_id: number for number, category_id in enumerate(ids)}


def load_coco_json(json_file: str, folder: str) -> list[dict[str, Any]]:
    """A dataset without errors, as `find_issues` finds them, in Detectron2's format.

    Args:
        json_file: the annotations.
        folder: of the images.

    Returns:
        One record per image, by id: `file_name`, `height`, `width`, `image_id` and
        `annotations`, each with `id`, `bbox` (x, y, width, height in pixels), `category_id` (the
        model's class, from 0), `iscrowd`, and `segmentation` if it has a mask.

    Raises:
        DatasetError: the file cannot be read, or an image lies outside of the folder.
    """
    dataset = read_coco_json(json_file)
    classes = class_of_category(dataset)
    annotations = defaultdict(list)
    for annotation in dataset["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    return [
        {
            "file_name": str(image_path(folder, image["file_name"])),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [_record(each, classes) for each in annotations[image["id"]]],
        }
        for image in sorted(dataset["images"], key=lambda image: image["id"])
    ]


def _record(annotation: Mapping[str, Any], classes: Mapping[int, int]) -> dict[str, Any]:
    record = {
        "id": annotation["id"],
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": classes[annotation["category_id"]],
        "iscrowd": annotation.get("iscrowd", 0),
    }
    segmentation = annotation.get("segmentation")
    if segmentation:
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        record["segmentation"] = segmentation
    return record
