"""Recognises the format of a dataset by looking at its folder, and reads it."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import DatasetError, OutputError
from ..coco import image_path, read_coco, read_json
from ..folders import new_file
from ..urls import expand_home, is_url
from .dataset import SPLIT_NAMES, Dataset, Split, split_named
from .labelme import is_labelme, read_labelme
from .voc import find_xml, read_voc
from .yolo import check_yaml, find_yaml, read_yolo

LAYOUTS = "COCO (*.json), YOLO (data.yaml), Pascal VOC (*.xml) and LabelMe (*.json per image)"


def read_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Reads a dataset in any of the formats.

    Args:
        path: a folder, YOLO's `data.yaml`, or a JSON file in COCO's format.

    Raises:
        DatasetError: no format is recognised, or a file of the dataset cannot be used.
    """
    if is_url(path):
        raise DatasetError(
            f"the folder of a dataset cannot be the URL '{path}'; name its files in COCO's format "
            "with --train-json, --train-images, --val-json and --val-images"
        )
    path = Path(expand_home(path))
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_yolo(path)
    if path.is_file():
        return Dataset("COCO", {"train": _read_coco(path, read_json(path), path.parent)})
    if not path.is_dir():
        raise DatasetError(
            f"there is no dataset '{path}'; name a folder, a data.yaml or a JSON file"
        )
    description = find_yaml(path)
    if description:
        return read_yolo(description)
    files = sorted(each for each in path.rglob("*.json") if not each.name.startswith("."))
    if files:
        # The first file is enough to tell the formats apart.
        first = read_json(files[0])
        if is_labelme(first):
            return read_labelme(path, files)
        contents = {files[0]: first, **{each: read_json(each) for each in files[1:]}}
        if splits := dict(_coco_splits(path, contents)):
            return Dataset("COCO", splits)
    if find_xml(path):
        return read_voc(path)
    check_yaml(path)
    if files:
        raise DatasetError(f"no JSON file in '{path}' has lists of images and categories")
    raise DatasetError(f"no dataset is recognised in '{path}'; there are {LAYOUTS}")


def write_coco(dataset: Dataset, folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Writes a JSON file in COCO's format for each split; returns the files by split.

    Files are complete or not there: they are written under another name first.

    Raises:
        OutputError: the folder cannot be written.
    """
    files = {}
    for name, split in dataset.splits.items():
        path = Path(folder) / f"{name}.json"
        try:
            with new_file(path) as temporary:
                temporary.write_text(json.dumps(split.content), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write '{path}' ({error.strerror or error})") from error
        files[name] = path
    return files


def _coco_splits(folder: Path, contents: Mapping[Path, Any]) -> Iterator[tuple[str, Split]]:
    """The splits that JSON files are named after, in their names or folders."""
    usable = {path: each for path, each in contents.items() if _is_coco(each)}
    # COCO's own folder has keypoints and captions too.
    instances = {path: each for path, each in usable.items() if "instances" in path.stem}
    seen: dict[str, Path] = {}
    for path, content in (instances or usable).items():
        # The dataset's own folder may have any name.
        parent = "" if path.parent == folder else path.parent.name
        split = split_named(path.stem) or split_named(parent) or "train"
        if split in seen:
            raise DatasetError(
                f"'{seen[split]}' and '{path}' are both annotations for '{split}'; name one of "
                "them and its images with --train-json and --train-images"
            )
        seen[split] = path
        yield split, _read_coco(path, content, folder)


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and {"images", "categories"} <= content.keys()


def _read_coco(path: Path, content: Any, root: Path) -> Split:
    """A split whose image folder is the one with the first image of the file."""
    if not _is_coco(content):
        raise DatasetError(f"'{path}' has no lists of images and categories; name a file of COCO's")
    images = content["images"]
    first = images[0].get("file_name") if images and isinstance(images[0], dict) else None
    candidates = list(dict.fromkeys(_image_folders(path, root)))
    for folder in candidates:
        if first is None or Path(image_path(folder, first)).is_file():
            dataset = read_coco(path, content)
            lists = {key: getattr(dataset, key) for key in ("images", "annotations", "categories")}
            return Split({**content, **lists}, folder, path)
    raise DatasetError(
        f"the image '{first}' of '{path}' is in none of "
        f"{', '.join(repr(str(folder)) for folder in candidates)}; name the folder with "
        "--train-images or --val-images"
    )


def _image_folders(path: Path, root: Path) -> Iterator[Path]:
    names = {path.stem, path.stem.removeprefix("instances_")}
    names |= set(SPLIT_NAMES.get(split_named(path.stem), ()))
    for folder in (path.parent, root, path.parent.parent):
        yield folder
        yield folder / "images"
        for name in sorted(names):
            yield folder / name
            yield folder / "images" / name
            yield folder / name / "images"
