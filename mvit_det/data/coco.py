"""Annotations in COCO's JSON format, read once per run and normalised."""

import functools
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from ..errors import DatasetError
from .urls import absolute, is_url, join, read_url


@dataclass(frozen=True)
class CocoDataset:
    """The content of an annotation file, with one spelling for each value.

    `from_dict` normalises, and everything that uses a dataset relies on it:

    * Ids, `height` and `width` are integers where the file says `1.0` or `"1"`.
    * `iscrowd` is there, and 0 where the file has none or null.
    * `segmentation` is missing where there is no mask (null, `[]`, `[[]]`), and polygons are flat
      lists `[x0, y0, x1, y1, …]` where the file nests points.

    Values that cannot be read this way stay as they are; `validation.find_issues` finds them.

    Attributes:
        images, annotations, categories: COCO's lists of dicts. Do not change them: the training
            records, the evaluator and the statistics share them.
        path: of the file, for messages.
    """

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    path: str = "annotations"

    @classmethod
    def from_dict(cls, content: Any, path: str | os.PathLike[str] = "annotations") -> "CocoDataset":
        """Normalises what a JSON file in COCO's format holds.

        Raises:
            DatasetError: `images` or `categories` is missing, or a list is not a list of dicts.
                Files of test images may lack `annotations`.
        """
        if not isinstance(content, dict):
            kind = "a list" if isinstance(content, list) else "a single value"
            raise DatasetError(
                f"'{path}' holds {kind} instead of an object with the lists images, annotations "
                "and categories; export it in COCO's detection format"
            )
        lists = {"annotations": [], **content}
        for key in ("images", "annotations", "categories"):
            items = lists.get(key)
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                problem = "is not a list of objects" if key in content else "is missing"
                raise DatasetError(f"'{key}' {problem} in '{path}'; export it in COCO's format")
        return cls(
            [with_integers(image, "id", "height", "width") for image in lists["images"]],
            [_clean_annotation(annotation) for annotation in lists["annotations"]],
            [with_integers(category, "id") for category in lists["categories"]],
            str(path),
        )

    @functools.cached_property
    def class_of_category(self) -> dict[int, int]:
        """The model's class for each category id, in the order of the ids, which may have gaps."""
        ids = sorted(category["id"] for category in self.categories)
        return {category_id: index for index, category_id in enumerate(ids)}

    @functools.cached_property
    def class_names(self) -> list[str]:
        """Names of the model's classes."""
        names = {category["id"]: category["name"] for category in self.categories}
        return [names[category_id] for category_id in self.class_of_category]

    @functools.cached_property
    def has_masks(self) -> bool:
        """Whether any object has a mask; crowds do not count."""
        return any("segmentation" in each for each in self.annotations if not each["iscrowd"])

    @functools.cached_property
    def has_run_lengths(self) -> bool:
        """Whether any object but a crowd has a run-length encoded mask."""
        masks = (each.get("segmentation") for each in self.annotations if not each["iscrowd"])
        return any(isinstance(mask, dict) for mask in masks)

    def records(
        self, folder: str | os.PathLike[str], classes: Mapping[int, int] | None = None
    ) -> list[dict[str, Any]]:
        """Returns the dataset in Detectron2's format, for training.

        Args:
            folder: of the images; may be a URL.
            classes: the model's class for each category id; by default `class_of_category`.

        Returns:
            One record per image, by id: `file_name`, `height`, `width`, `image_id` and
            `annotations`, each with `id`, `bbox` (x, y, width, height in pixels), `category_id`
            (the model's class, from 0), `iscrowd`, and `segmentation` if it has a mask.

        Raises:
            DatasetError: an image lies outside of the folder, or a value is missing or unusable.
        """
        try:
            classes = self.class_of_category if classes is None else classes
            annotations = defaultdict(list)
            for annotation in self.annotations:
                annotations[annotation["image_id"]].append(annotation)
            return [
                {
                    "file_name": str(image_path(folder, image["file_name"])),
                    "height": image["height"],
                    "width": image["width"],
                    "image_id": image["id"],
                    "annotations": [_record(each, classes) for each in annotations[image["id"]]],
                }
                for image in sorted(self.images, key=lambda image: image["id"])
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"'{self.path}' has a value that is missing or unusable ({error!r}); "
                f"'python tools/inspect_dataset.py {self.path} --images {folder}' names it"
            ) from error


def read_coco(path: str | os.PathLike[str], content: Any = None) -> CocoDataset:
    """Reads an annotation file, once per run: later calls return the same dataset.

    A file that has changed since is read again. It stays in memory until `forget_coco`.

    Args:
        path: a JSON file, or its URL, with the lists `images`, `annotations` and `categories`.
            Values are normalised, and `validation.find_issues` checks them.
        content: what `read_json` has just returned for the file, if it was called.

    Raises:
        DatasetError: the file is missing, empty, truncated or not JSON, or lacks a list.
    """
    known = _parsed.get(absolute(path))
    version = _version(path)
    if known is None or known[0] != version:
        content = read_json(path) if content is None else content
        known = version, CocoDataset.from_dict(content, path)
        _parsed[absolute(path)] = known
    return known[1]


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file of annotations; a UTF-8 byte-order mark is skipped.

    Raises:
        DatasetError: the file is missing, empty, truncated or not JSON.
        StorageError: the server of a URL fails.
    """
    try:
        content = read_url(str(path)) if is_url(path) else Path(path).read_bytes()
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DatasetError(f"there is no annotation file '{path}'; check its name") from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"'{path}' is not JSON: it is not text in UTF-8; name the JSON file of annotations"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(
            f"the annotations '{path}' cannot be read ({reason}); name a readable file"
        ) from error
    if not text.strip():
        raise DatasetError(f"the annotations '{path}' are empty; export or copy them again")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # Where a file ends inside a string, the error points at the string's beginning.
        if error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string"):
            raise DatasetError(
                f"the annotations '{path}' are truncated; export or copy them again"
            ) from error
        raise DatasetError(
            f"'{path}' is not JSON (line {error.lineno}, column {error.colno}: {error.msg}); "
            "correct it or export it again"
        ) from error
    # Endlessly nested brackets, or a number of thousands of digits.
    except (RecursionError, ValueError) as error:
        raise DatasetError(f"'{path}' is not an annotation file in COCO's format") from error


def load_coco_records(
    json_file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    classes: Mapping[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Reads an annotation file and returns its records, as `CocoDataset.records` does."""
    return read_coco(json_file).records(folder, classes)


def forget_coco(but: str | os.PathLike[str] | None) -> None:
    """Frees the memory of annotation files, which is about five times their size.

    Args:
        but: path or URL of one that stays, as it will be read again.
    """
    kept = None if but is None else absolute(but)
    for path in _parsed.keys() - {kept}:
        del _parsed[path]


def image_path(folder: str | os.PathLike[str], file_name: Any) -> str | Path:
    r"""Returns the path of an image, which must lie in its folder; the URL if the folder is one.

    `file_name` may separate folders by `\`, as Windows does, unless a file has that very name. With
    an empty folder it may be any absolute path.

    Raises:
        DatasetError: `file_name` leads out of the folder.
    """
    named = isinstance(file_name, str) and bool(file_name.strip()) and "\0" not in file_name
    name = file_name if named else ""
    if "\\" in name and (is_url(folder) or not os.path.lexists(Path(folder, name))):
        name = name.replace("\\", "/")
    path = PurePath(name)
    leads_out = ".." in path.parts or name[1:3] == ":/"
    if path.anchor and os.fspath(folder):
        leads_out |= is_url(folder) or not path.is_relative_to(os.path.abspath(folder))
    if not named or leads_out:
        raise DatasetError(
            f"the image {file_name!r} does not lie in the folder '{folder}'; name images "
            "relative to the folder and without '..'"
        )
    return join(folder, name) if is_url(folder) else Path(folder) / path


def with_integers(item: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A copy in which `1.0` and `"1"` and, for `iscrowd`, `true` are integers."""
    item = dict(item)
    for key in keys:
        value = item.get(key)
        if (
            (isinstance(value, float) and value.is_integer())
            or (isinstance(value, str) and value.isdecimal() and len(value) < 20)
            or (isinstance(value, bool) and key == "iscrowd")
        ):
            item[key] = int(value)
    return item


# By absolute path: the file's version and what was read from it.
_parsed: dict[str, tuple[object, CocoDataset]] = {}


def _version(path: str | os.PathLike[str]) -> object:
    """Changes when a file does; a URL is read once per run."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _record(annotation: Mapping[str, Any], classes: Mapping[int, int]) -> dict[str, Any]:
    record = {
        "id": annotation["id"],
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": classes[annotation["category_id"]],
        "iscrowd": annotation["iscrowd"],
    }
    if "segmentation" in annotation:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        record["segmentation"] = segmentation
    return record


def _clean_annotation(annotation: Mapping[str, Any]) -> dict[str, Any]:
    clean = with_integers(annotation, "id", "image_id", "category_id", "iscrowd")
    if clean.get("iscrowd") is None:
        clean["iscrowd"] = 0
    segmentation = clean.pop("segmentation", None)
    if isinstance(segmentation, list):
        segmentation = [_flat(polygon) for polygon in segmentation if polygon != []]
    if segmentation not in (None, [], {}):
        clean["segmentation"] = segmentation
    return clean


def _flat(polygon: Any) -> Any:
    """A polygon `[[x, y], …]` as `[x, y, …]`; anything else as it is."""
    nested = isinstance(polygon, list) and isinstance(polygon[0], list)
    if nested and all(isinstance(point, list) and len(point) == 2 for point in polygon):
        return list(itertools.chain.from_iterable(polygon))
    return polygon
