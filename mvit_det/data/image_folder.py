"""Image classification datasets: a folder with one folder of images per class, as ImageNet's."""

import os
from collections.abc import Sequence

from .folders import datasets_folder
from .images import IMAGE_EXTENSIONS
from .labelled_files import (
    LabelledFiles,
    list_class_folders,
    load_files,
    register_files,
    register_when_used,
)
from .urls import join

# Folders below `$DETECTRON2_DATASETS`.
IMAGENET_SPLITS = {
    "imagenet_train": "imagenet/train",
    "imagenet_val": "imagenet/val",
    "imagenet21k_train": "imagenet21k/train",
    "imagenet21k_val": "imagenet21k/val",
}


class ImageFolder(LabelledFiles):
    """Records of a folder `root/<class>/**/*.jpg`, sorted by class and path.

    Class k is the k-th of the class folders, by name.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Lists the images; none of them is opened.

        Raises:
            DatasetError: as `list_class_folders`.
        """
        super().__init__(root, *list_class_folders(root, IMAGE_EXTENSIONS, "image"))


def register_image_folder(
    root: str | os.PathLike[str], class_names: Sequence[str] | None = None
) -> tuple[str, list[str]]:
    """Registers a folder of class folders with Detectron2's catalog, as `register_files` does."""
    return register_files(root, ImageFolder, class_names)


def load_image_folder(names: str) -> LabelledFiles:
    """The records of a registered classification dataset.

    Args:
        names: name of the dataset, as `dataset.names` in a config: one that
            `register_image_folder` returned, or one of `IMAGENET_SPLITS`.

    Raises:
        DatasetError: there is no such dataset, or its folder is missing or empty.
    """
    return load_files(names)


def register_imagenet() -> None:
    """Registers `IMAGENET_SPLITS` below `$DETECTRON2_DATASETS`, by default `datasets`."""
    for name, folder in IMAGENET_SPLITS.items():
        root = join(datasets_folder(), folder)
        register_when_used(name, root, ImageFolder, image_root=root)


register_imagenet()
