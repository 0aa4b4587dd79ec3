"""Classification datasets: a folder with one folder of images per class, as ImageNet has them."""

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
from .images import IMAGE_EXTENSIONS

logger = logging.getLogger(__name__)

# Folders below `$DETECTRON2_DATASETS`.
IMAGENET_SPLITS = {
    "imagenet_train": "imagenet/train",
    "imagenet_val": "imagenet/val",
    "imagenet21k_train": "imagenet21k/train",
    "imagenet21k_val": "imagenet21k/val",
}


class ImageFolder:
    """Records of a folder `root/<class>/**/*.jpg`, sorted by class and path.

    Hidden files and folders are ignored: their names begin with "." (`.ipynb_checkpoints`, macOS's
    `._photo.jpg`) or are `__MACOSX`.

    A million records take about 60 MB in two arrays, which the workers of a loader share, and
    build in the seconds that listing the folders takes.

    Attributes:
        root: the folder.
        class_names: names of the class folders, sorted; class k is the k-th.
        labels: (N,) int64, the class of each image.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Lists the images; none of them is opened.

        Raises:
            DatasetError: the folder is missing, or it has no class folders, or no images in them;
                or a link leads to a folder above it.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise DatasetError(
                f"there is no folder '{self.root}'; name one with a folder of images per class"
            )
        self.class_names = sorted(
            entry.name for entry in os.scandir(root) if not _is_hidden(entry) and entry.is_dir()
        )
        paths: list[bytes] = []
        labels: list[int] = []
        for label, name in enumerate(self.class_names):
            found = [os.fsencode(path) for path in _images_below(self.root / name, name)]
            paths += sorted(found)
            labels += [label] * len(found)
        if not paths:
            raise DatasetError(
                f"'{self.root}' has no images in {len(self.class_names)} class folders; the "
                f"layout is '{self.root}/<class>/<image>' with one of {', '.join(IMAGE_EXTENSIONS)}"
            )
        self.labels = np.array(labels, dtype=np.int64)
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        empty = [name for name, count in zip(self.class_names, counts) if not count]
        if empty:
            logger.warning("'%s' has classes without images: %s", self.root, ", ".join(empty))
        self._ends = np.cumsum([len(path) for path in paths])
        self._paths = np.frombuffer(b"".join(paths), dtype=np.uint8)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """A record: `file_name`, `image_id` (the position from 0) and `label` (the class)."""
        position = range(len(self))[index]
        start = self._ends[position - 1] if position else 0
        path = os.fsdecode(self._paths[start : self._ends[position]].tobytes())
        return {
            "file_name": str(self.root / path),
            "image_id": position,
            "label": int(self.labels[position]),
        }


def register_image_folder(
    root: str | os.PathLike[str], class_names: Sequence[str] | None = None
) -> tuple[str, list[str]]:
    """Registers a folder of class folders with Detectron2's catalog; doing so again is harmless.

    Args:
        root: the folder.
        class_names: the classes it must have; None takes those of its folders.

    Returns:
        The name of the dataset, whose metadata hold `thing_classes` and `image_root`, and the
        names of the classes.

    Raises:
        DatasetError: the folder holds no such dataset, or other classes than `class_names`.
    """
    root = Path(root).absolute()
    folder = ImageFolder(root)
    if class_names is not None and list(class_names) != folder.class_names:
        missing = sorted(set(class_names) - set(folder.class_names))
        unknown = sorted(set(folder.class_names) - set(class_names))
        raise DatasetError(
            f"'{root}' has other classes than the training images: missing {missing}, "
            f"unknown {unknown}; name the class folders alike"
        )
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    name = f"{root.name}_{digest}"
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    _register(name, root, lambda: folder)
    MetadataCatalog.get(name).thing_classes = folder.class_names
    return name, folder.class_names


def load_image_folder(names: str) -> ImageFolder:
    """The records of a registered classification dataset.

    Args:
        names: name of the dataset, as `dataset.names` in a config: one that
            `register_image_folder` returned, or one of `IMAGENET_SPLITS`.

    Raises:
        DatasetError: there is no such dataset, or its folder is missing or empty.
    """
    if names not in DatasetCatalog:
        raise DatasetError(
            f"there is no dataset '{names}'; name folders of images with '--train-folder' and "
            "'--val-folder'"
        )
    folder = DatasetCatalog.get(names)
    MetadataCatalog.get(names).thing_classes = folder.class_names
    return folder


def _register(name: str, root: Path, load: Callable[[], ImageFolder]) -> None:
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(evaluator_type="classification", image_root=str(root))


def register_imagenet() -> None:
    """Registers `IMAGENET_SPLITS` below `$DETECTRON2_DATASETS`, by default `datasets`.

    The folders are listed when they are first used.
    """
    for name, folder in IMAGENET_SPLITS.items():
        if name not in DatasetCatalog:
            root = Path(os.getenv("DETECTRON2_DATASETS", "datasets"), folder)
            _register(name, root, functools.cache(functools.partial(ImageFolder, root)))


def _images_below(folder: Path, prefix: str) -> list[str]:
    """Paths of images below a folder, each after `prefix`; links to folders are followed."""
    found = []
    for entry in os.scandir(folder):
        path = f"{prefix}/{entry.name}"
        if _is_hidden(entry):
            continue
        if entry.is_dir():
            if entry.is_symlink() and folder.resolve().is_relative_to(Path(entry.path).resolve()):
                raise DatasetError(f"the link '{entry.path}' leads to a folder above it; remove it")
            found += _images_below(Path(entry.path), path)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS:
            found.append(path)
    return found


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") or entry.name == "__MACOSX"


register_imagenet()
