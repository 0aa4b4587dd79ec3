"""Generated images of one shape each, in class folders: a classification dataset in seconds."""

import contextlib
import functools
import os

import cv2
import numpy as np

from .folders import local_folder, new_folder
from .image_folder import ImageFolder
from .labelled_files import register_generated
from .shape_scene import CATEGORIES, draw_scene
from .shapes import write_png

# Number of images and seed of each registered dataset; `shapes` uses other seeds.
SPLITS = {"shape_classes_train": (4000, 100), "shape_classes_val": (500, 101)}
SIZE = 64


def generate_shape_classes(
    output_dir: str | os.PathLike[str], num_images: int, size: int, seed: int
) -> None:
    """Writes `<class>/000001.png`, …, images of one shape on a textured background.

    Shapes have the sizes that they have in images of `shapes` twice as wide.

    Image i depends on the seed, the size and i alone. The folder appears once it is complete.

    Args:
        output_dir: folder to create; an existing one is left as it is.
        num_images: number of images.
        size: side in pixels.
        seed: 0 or more.

    Raises:
        DatasetError: `output_dir` is a URL.
        OSError: the folder cannot be written.
    """
    output = local_folder(output_dir)
    # Another process may be faster.
    with contextlib.suppress(FileExistsError), new_folder(output) as unfinished:
        for name in CATEGORIES:
            (unfinished / name).mkdir()
        for index in range(num_images):
            rng = np.random.default_rng([seed, index])
            scene, (thing,), _ = draw_scene(rng, 2 * size, 2 * size, 1, crowd_fraction=0)
            path = unfinished / CATEGORIES[thing.category] / f"{index + 1:06d}.png"
            write_png(path, _crop(rng, scene, thing.mask, size)[:, :, ::-1])


def _crop(rng: np.random.Generator, scene: np.ndarray, mask: np.ndarray, size: int) -> np.ndarray:
    """A square around the object with a random margin, resized."""
    occupied = [np.flatnonzero(mask.any(1 - axis)) for axis in (0, 1)]
    centre = [(indexes[0] + indexes[-1] + 1) / 2 for indexes in occupied]
    side = max(indexes[-1] + 1 - indexes[0] for indexes in occupied) * rng.uniform(1.1, 1.8)
    centre = [middle + rng.uniform(-0.05, 0.05) * side for middle in centre]
    scale = size / side
    matrix = np.array(
        [
            [scale, 0, size / 2 - scale * centre[1]],
            [0, scale, size / 2 - scale * centre[0]],
        ]
    )
    return cv2.warpAffine(
        scene, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )


def register_shape_classes() -> None:
    """Registers `SPLITS` below `$DETECTRON2_DATASETS`, by default `datasets`.

    They are generated when they are first loaded.
    """
    for name, (num_images, seed) in SPLITS.items():
        generate = functools.partial(
            generate_shape_classes, num_images=num_images, size=SIZE, seed=seed
        )
        register_generated(name, generate, ImageFolder, thing_classes=sorted(CATEGORIES))


register_shape_classes()
