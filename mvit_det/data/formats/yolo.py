"""YOLO's format: a data.yaml, and a label file of boxes or polygons per image."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ...errors import DatasetError
from ..images import IMAGE_EXTENSIONS, read_image_size
from .dataset import SPLIT_NAMES, Dataset, Split, SplitBuilder, bounds

# Coordinates are shares of the image; those of annotations at the border are rounded.
TOLERANCE = 0.01
_SPLIT_KEYS = {"train", "val"}  # of which a data.yaml has one
_BOX_NUMBERS, _MIN_POLYGON_NUMBERS = 5, 7  # with the class


def find_yaml(folder: Path) -> Path | None:
    """The YAML file with `names` and `train` or `val` in a folder; None if there is none.

    Files that cannot be read are skipped: a folder in another format may hold any.
    """
    for path in _yaml_files(folder):
        with contextlib.suppress(DatasetError):
            content = _read_yaml(path)
            if isinstance(content, dict) and "names" in content and content.keys() & _SPLIT_KEYS:
                return path
    return None


def check_yaml(folder: Path) -> None:
    """Checks that the YAML files in a folder can be read.

    Raises:
        DatasetError: names the first one that cannot.
    """
    for path in _yaml_files(folder):
        _read_yaml(path)


def read_yolo(path: Path) -> Dataset:
    """Reads the dataset that a `data.yaml` describes.

    Lines `class x y width height` are boxes and `class x0 y0 x1 y1 …` polygons, in shares of the
    image. An image without a label file, or with an empty one, has no objects. Category ids are
    YOLO's classes, from 0.

    Raises:
        DatasetError: a file is missing or has a line that is neither, with its number.
    """
    content = _read_yaml(path)
    if not isinstance(content, dict):
        raise DatasetError(
            f"'{path}' is no data.yaml: it has no fields such as 'names' and 'train'"
        )
    names = _class_names(path, content)
    roots = _roots(path, content.get("path"))
    splits = {}
    for split, keys in SPLIT_NAMES.items():
        entry = next((content[key] for key in keys if content.get(key)), None)
        if entry is not None:
            splits[split] = _read_split(path, roots, entry, names)
    if "train" not in splits and "val" not in splits:
        raise DatasetError(f"'{path}' names no images: write the folders as 'train:' and 'val:'")
    return Dataset("YOLO", splits)


def _yaml_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise DatasetError(f"cannot read '{path}' ({reason})") from error


def _class_names(path: Path, content: dict[str, Any]) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(key, int) for key in names) or not names:
        raise DatasetError(
            f"'names' in '{path}' is {names!r}; write a list of class names, or a dict by number"
        )
    count = content.get("nc", len(names))
    if count != len(names):
        raise DatasetError(f"'{path}' has nc: {count}, but {len(names)} names; correct one of them")
    return {key: str(name) for key, name in sorted(names.items())}


def _roots(path: Path, entry: Any) -> list[Path]:
    """Folders that entries may be relative to: `path:`, and that of the YAML file itself.

    Files that were copied from another machine often name a folder that only that machine has.
    """
    own = path.parent
    return [own / str(entry), own] if entry else [own]


def _read_split(path: Path, roots: list[Path], entry: Any, names: dict[int, str]) -> Split:
    builder = SplitBuilder(names)
    for name in entry if isinstance(entry, list) else [entry]:
        source = _find_source(path, roots, str(name))
        if source.is_dir():
            images = _images_below(source)
            if not images:
                raise DatasetError(f"the folder '{source}', which '{path}' names, has no images")
            _check_orphans(source, images)
        else:
            images = list(_images_of_list(source))
        for image in images:
            height, width = read_image_size(image)
            builder.add_image(image, height, width)
            _add_objects(builder, label_path(image), height, width, names)
    return builder.build()


def _find_source(path: Path, roots: list[Path], name: str) -> Path:
    # Exports of Roboflow write '../train/images' for a folder beside the YAML file.
    for root in roots:
        for candidate in (root / name, root / name.removeprefix("../")):
            if candidate.exists():
                return candidate
    raise DatasetError(
        f"there is no '{roots[0] / name}', which '{path}' names; correct the entry or 'path:'"
    )


def _images_below(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS)
    return sorted(path for path in found if not path.name.startswith("."))


def _images_of_list(path: Path) -> Iterator[Path]:
    for number, line in enumerate(_lines(path), start=1):
        name = line.strip()
        if not name:
            continue
        # Relative to the list, as in Ultralytics, where the lines begin with './'.
        image = path.parent / name
        if not image.is_file():
            raise DatasetError(f"'{path}', line {number}: there is no image '{name}'")
        yield image


def label_path(image: Path) -> Path:
    """The label file of an image: the last folder `images` of its path becomes `labels`."""
    parts = list(Path(os.path.abspath(image)).parts)
    for index in range(len(parts) - 2, 0, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _check_orphans(folder: Path, images: list[Path]) -> None:
    """Raises an error for a label file in the folder of labels whose image is missing."""
    labels = {label_path(image) for image in images}
    for parent in sorted({label.parent for label in labels}):
        for path in sorted(parent.glob("*.txt")):
            if path not in labels and path.name != "classes.txt" and parent.name != "images":
                raise DatasetError(
                    f"'{path}' has labels of an image that is missing in '{folder}'; add the image "
                    "or remove the labels"
                )


def _add_objects(
    builder: SplitBuilder, path: Path, height: int, width: int, names: dict[int, str]
) -> None:
    if not path.is_file():
        return
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            label, *shares = map(float, fields)
        except ValueError:
            raise DatasetError(
                f"'{path}', line {number}: {line!r} is not a list of numbers"
            ) from None
        problem = _problem(label, shares, names)
        if problem:
            raise DatasetError(f"'{path}', line {number}: {problem}")
        scaled = [each * (height if index % 2 else width) for index, each in enumerate(shares)]
        if len(fields) == _BOX_NUMBERS:
            x, y, w, h = scaled
            builder.add_object(int(label), (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        else:
            builder.add_object(int(label), bounds([scaled]), [scaled])


def _problem(label: float, shares: list[float], names: dict[int, str]) -> str:
    """Says what is wrong with a line; '' if nothing is."""
    count = len(shares) + 1
    if count != _BOX_NUMBERS and (count < _MIN_POLYGON_NUMBERS or count % 2 == 0):
        return (
            f"{count} numbers are neither a box (class x y width height) nor a polygon (class and "
            "at least three points)"
        )
    if label not in names:
        return f"there is no class {label:g}; 'names' has {min(names)} to {max(names)}"
    outside = [share for share in shares if not -TOLERANCE <= share <= 1 + TOLERANCE]
    if outside or not all(map(math.isfinite, shares)):
        value = (outside or shares)[0]
        return f"{value:g} lies outside 0…1; coordinates are shares of the image's width and height"
    return ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise DatasetError(f"cannot read '{path}' ({reason})") from error
