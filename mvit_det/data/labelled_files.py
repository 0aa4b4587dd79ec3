"""Files with a class each, as records whose memory the workers of a loader share."""

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import DatasetError
from .folders import cannot_generate, datasets_folder
from .urls import absolute, find_urls, is_url, join

logger = logging.getLogger(__name__)


class LabelledFiles:
    """Records of images or videos, each with a class.

    A million records take about 60 MB in two arrays, which the workers of a loader share.

    Attributes:
        root: the folder, or its URL, that relative paths start from.
        class_names: K names.
        labels: (N,) int64, the class of each file.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        paths: Sequence[str],
        labels: Sequence[int],
        class_names: Sequence[str],
    ) -> None:
        """Stores the paths; no file is opened.

        Args:
            root: the folder, or its URL, that relative paths start from.
            paths: relative to `root`, or absolute.
            labels: for each path its class, in [0, len(class_names)).
            class_names: one name per class.
        """
        self.root = str(root)
        self.class_names = list(class_names)
        self.labels = np.array(labels, dtype=np.int64)
        encoded = [os.fsencode(path) for path in paths]
        self._ends = np.cumsum([len(path) for path in encoded])
        self._paths = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        empty = [name for name, count in zip(self.class_names, counts) if not count]
        if empty:
            logger.warning("'%s' has classes without files: %s", self.root, ", ".join(empty))

    def __len__(self) -> int:
        """Number of files."""
        return len(self.labels)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """A record: `file_name`, `image_id` (the position from 0) and `label` (the class)."""
        position = range(len(self))[index]
        start = self._ends[position - 1] if position else 0
        path = os.fsdecode(self._paths[start : self._ends[position]].tobytes())
        return {
            "file_name": join(self.root, path),
            "image_id": position,
            "label": int(self.labels[position]),
        }


def list_class_folders(
    root: str | os.PathLike[str], extensions: Sequence[str], kind: str
) -> tuple[list[str], list[int], list[str]]:
    """Lists the files `root/<class>/**/*`, sorted by class and path.

    Hidden files and folders are ignored: their names begin with "." (`.ipynb_checkpoints`, macOS's
    `._photo.jpg`) or are `__MACOSX`.

    Args:
        root: the folder, or its URL.
        extensions: lower-case file extensions that count.
        kind: "image" or "video", for messages.

    Returns:
        Paths relative to `root`, the class of each, and the names of the classes.

    Raises:
        DatasetError: the folder is missing, or has no such files in class folders; or a link leads
            to a folder above it.
    """
    if is_url(root):
        paths, labels, class_names = _list_class_urls(str(root), extensions)
    else:
        paths, labels, class_names = _list_local_classes(Path(root), extensions, kind)
    if not paths:
        raise DatasetError(
            f"'{root}' has no {kind}s in {len(class_names)} class folders; the layout is "
            f"'{root}/<class>/<{kind}>' with one of {', '.join(extensions)}"
        )
    return paths, labels, class_names


def _list_class_urls(
    root: str, extensions: Sequence[str]
) -> tuple[list[str], list[int], list[str]]:
    prefix = join(root, "")
    found = [url.removeprefix(prefix) for url in find_urls(root, extensions, recursive=True)]
    paths = [
        path
        for path in found
        if "/" in path and not any(_is_hidden(name) for name in path.split("/"))
    ]
    class_names = sorted({path.partition("/")[0] for path in paths})
    number = {name: label for label, name in enumerate(class_names)}
    paths.sort(key=lambda path: (number[path.partition("/")[0]], os.fsencode(path)))
    return paths, [number[path.partition("/")[0]] for path in paths], class_names


def _list_local_classes(
    root: Path, extensions: Sequence[str], kind: str
) -> tuple[list[str], list[int], list[str]]:
    if not root.is_dir():
        raise DatasetError(
            f"there is no folder '{root}'; name one with a folder of {kind}s per class"
        )
    class_names = sorted(
        entry.name for entry in os.scandir(root) if not _is_hidden(entry.name) and entry.is_dir()
    )
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = sorted(_files_below(root / name, name, extensions), key=os.fsencode)
        paths += found
        labels += [label] * len(found)
    return paths, labels, class_names


def register_files(
    path: str | os.PathLike[str],
    read: Callable[[str], LabelledFiles],
    class_names: Sequence[str] | None = None,
) -> tuple[str, list[str]]:
    """Registers a dataset with Detectron2's catalog; doing so again is harmless.

    Args:
        path: folder or file of the dataset, or the URL of a folder.
        read: makes its records from the absolute path or the URL.
        class_names: the classes it must have; None takes its own.

    Returns:
        The name of the dataset, whose metadata hold `thing_classes` and `image_root`, and the
        names of the classes.

    Raises:
        DatasetError: there is no such dataset, or it has other classes than `class_names`.
    """
    path = absolute(path)
    files = read(path)
    if class_names is not None and list(class_names) != files.class_names:
        missing = sorted(set(class_names) - set(files.class_names))
        unknown = sorted(set(files.class_names) - set(class_names))
        raise DatasetError(
            f"'{path}' has other classes than the training data: missing {missing}, "
            f"unknown {unknown}; name the classes alike"
        )
    name = f"{Path(path).name}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: files)
    MetadataCatalog.get(name).set(
        evaluator_type="classification", image_root=path, thing_classes=files.class_names
    )
    return name, files.class_names


def register_when_used(
    name: str, root: str, read: Callable[[str], LabelledFiles], **metadata: Any
) -> None:
    """Registers a dataset that is read, or generated, when it is first used.

    Args:
        name: of the dataset; nothing happens if there is one already.
        root: its folder, file or URL.
        read: makes its records from `root`.
        metadata: to set, beside the type of the evaluator.
    """
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, functools.cache(functools.partial(read, root)))
        MetadataCatalog.get(name).set(evaluator_type="classification", **metadata)


def register_generated(
    name: str,
    generate: Callable[[str], None],
    read: Callable[[str], LabelledFiles],
    **metadata: Any,
) -> None:
    """Registers a dataset in `$DETECTRON2_DATASETS/shapes`, by default `datasets/shapes`.

    Args:
        name: of the dataset and its folder.
        generate: writes the folder if it is not there when the dataset is first used.
        read: makes the records from the folder.
        metadata: as for `register_when_used`.
    """

    def generate_and_read(root: str) -> LabelledFiles:
        try:
            if not Path(root).is_dir():
                generate(root)
        except OSError as error:
            raise cannot_generate(root, error) from error
        return read(root)

    root = join(datasets_folder(), f"shapes/{name}")
    register_when_used(name, root, generate_and_read, **metadata)


def load_files(name: str) -> LabelledFiles:
    """The records of a registered classification dataset, whose metadata get its classes.

    Raises:
        DatasetError: there is no such dataset, or its files are missing.
    """
    if name not in DatasetCatalog:
        raise DatasetError(
            f"there is no dataset '{name}'; name your own with '--train-folder' and '--val-folder'"
        )
    files = DatasetCatalog.get(name)
    MetadataCatalog.get(name).thing_classes = files.class_names
    return files


def _files_below(folder: Path, prefix: str, extensions: Sequence[str]) -> list[str]:
    """Paths of files below a folder, each after `prefix`; links to folders are followed."""
    found = []
    for entry in os.scandir(folder):
        path = f"{prefix}/{entry.name}"
        if _is_hidden(entry.name):
            continue
        if entry.is_dir():
            if entry.is_symlink() and folder.resolve().is_relative_to(Path(entry.path).resolve()):
                raise DatasetError(f"the link '{entry.path}' leads to a folder above it; remove it")
            found += _files_below(Path(entry.path), path, extensions)
        elif os.path.splitext(entry.name)[1].lower() in extensions:
            found.append(path)
    return found


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
