"""Video classification datasets: class folders, Kinetics' CSV and Something-Something's JSON."""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .folders import datasets_folder
from .labelled_files import (
    LabelledFiles,
    list_class_folders,
    load_files,
    register_files,
    register_when_used,
)
from .urls import is_url, join
from .videos import VIDEO_EXTENSIONS

# Below `$DETECTRON2_DATASETS`. Without an extension: a folder, or a CSV file of the same name.
SPLITS = {
    **{
        f"kinetics{classes}_{split}": f"kinetics{classes}/{split}"
        for classes in (400, 600, 700)
        for split in ("train", "val")
    },
    "ssv2_train": "ssv2/train.json",
    "ssv2_val": "ssv2/validation.json",
}
# Where the videos of Something-Something are, relative to the folder of its JSON files.
_SSV2_FOLDERS = (".", "20bn-something-something-v2", "videos")
_SSV2_EXTENSIONS = (".webm", ".mp4")


def read_clips(
    path: str | os.PathLike[str], class_names: Sequence[str] | None = None
) -> LabelledFiles:
    """Lists the videos of a dataset, none of which is opened.

    The formats are

    * a folder with a folder of videos per class;
    * a file with a video and its class in each line, such as Kinetics' `train.csv`: the path,
      relative to the file, then a space, a tab or a comma, then the class. Classes are names, or
      numbers from 0 on, whose names are the lines of a `classes.txt` beside the file;
    * Something-Something's JSON: a list of objects with `id` and `template`, beside a file
      `labels.json` that numbers the templates. The videos are beside it, or in
      `20bn-something-something-v2`.

    Args:
        path: of the folder or file.
        class_names: names of numbered classes, where there is no `classes.txt`.

    Raises:
        DatasetError: there is no such dataset, or it has mistakes.
    """
    if is_url(path):
        raise DatasetError(f"videos are read from files only, not from '{path}'; copy them here")
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _read_something(path)
    if path.is_dir():
        return LabelledFiles(path, *list_class_folders(path, VIDEO_EXTENSIONS, "video"))
    return _read_lines(path, class_names)


def register_clips(
    path: str | os.PathLike[str], class_names: Sequence[str] | None = None
) -> tuple[str, list[str]]:
    """Registers a dataset that `read_clips` reads, as `register_files` does."""
    read = functools.partial(read_clips, class_names=class_names)
    return register_files(path, read, class_names)


def load_clips(names: str) -> LabelledFiles:
    """The records of a registered video classification dataset.

    Args:
        names: name of the dataset, as `dataset.names` in a config: one that `register_clips`
            returned, or one of `SPLITS`.

    Raises:
        DatasetError: there is no such dataset, or its files are missing.
    """
    return load_files(names)


def register_clip_datasets() -> None:
    """Registers `SPLITS` below `$DETECTRON2_DATASETS`, by default `datasets`."""
    for name, relative in SPLITS.items():
        register_when_used(name, join(datasets_folder(), relative), _load)


def _load(root: str) -> LabelledFiles:
    if is_url(root):
        return read_clips(root)
    path = Path(root)
    is_file = not path.suffix and not path.is_dir() and path.with_suffix(".csv").is_file()
    return read_clips(path.with_suffix(".csv") if is_file else path)


def _read_lines(path: Path, class_names: Sequence[str] | None) -> LabelledFiles:
    lines = [line.strip() for line in _read_text(path).splitlines() if line.strip()]
    paths: list[str] = []
    classes: list[str] = []
    for number, line in enumerate(lines, start=1):
        # A path may hold the separators too.
        separator = next((each for each in "\t, " if each in line), None)
        name, _, label = line.rpartition(separator or ",")
        if not name.strip() or not label.strip():
            raise DatasetError(
                f"line {number} of '{path}' is {line!r}; it must be a path, a space and a class"
            )
        paths.append(name.strip())
        classes.append(label.strip())
    if not paths:
        raise DatasetError(f"'{path}' lists no videos; each line is a path, a space and a class")
    _check_first(path.parent / paths[0], path)
    if all(label.isdecimal() for label in classes):
        labels = [int(label) for label in classes]
        count = max(labels) + 1
        beside = path.with_name("classes.txt")
        if beside.is_file():
            class_names = [line for line in _read_text(beside).splitlines() if line.strip()]
        names = list(class_names or (f"class {number}" for number in range(count)))
        if count > len(names):
            raise DatasetError(
                f"'{path}' has class {count - 1}, but there are {len(names)} class names"
            )
        return LabelledFiles(path.parent, paths, labels, names)
    names = sorted(set(classes))
    numbers = {name: number for number, name in enumerate(names)}
    return LabelledFiles(path.parent, paths, [numbers[label] for label in classes], names)


def _read_something(path: Path) -> LabelledFiles:
    entries = _read_json(path)
    labels_file = path.with_name("labels.json")
    if not labels_file.is_file():
        # As in the first release: something-something-v2-train.json.
        labels_file = path.with_name(path.name.rpartition("-")[0] + "-labels.json")
    numbers = _read_json(labels_file)
    try:
        names = sorted(numbers, key=lambda name: int(numbers[name]))
        templates = [entry["template"].replace("[", "").replace("]", "") for entry in entries]
        ids = [str(entry["id"]) for entry in entries]
        labels = [int(numbers[template]) for template in templates]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"'{path}' must be a list of objects with 'id' and 'template', and "
            f"'{labels_file.name}' a number for each template; there is a mistake at {error}"
        ) from error
    if not ids or sorted(int(number) for number in numbers.values()) != list(range(len(names))):
        raise DatasetError(
            f"'{path}' lists no videos, or '{labels_file}' does not number its classes from 0 on"
        )
    found = [
        (folder, extension)
        for folder in _SSV2_FOLDERS
        for extension in _SSV2_EXTENSIONS
        if (path.parent / folder / f"{ids[0]}{extension}").is_file()
    ]
    if not found:
        raise DatasetError(
            f"there is no video '{ids[0]}.webm' of '{path}'; extract the videos to "
            f"'{path.parent / _SSV2_FOLDERS[1]}'"
        )
    folder, extension = found[0]
    return LabelledFiles(
        path.parent / folder, [f"{each}{extension}" for each in ids], labels, names
    )


def _check_first(video: Path, path: Path) -> None:
    """A missing first video shows a wrong folder or format before a training starts."""
    if not video.is_file():
        raise DatasetError(
            f"there is no video '{video}', the first of '{path}'; each line is a path relative to "
            "the file, a space and a class"
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(
            f"'{path}' cannot be read ({reason}); name a folder with a folder of videos per "
            "class, a CSV file or a JSON file"
        ) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except ValueError as error:
        raise DatasetError(f"'{path}' is not valid JSON ({error}); download it again") from error


register_clip_datasets()
