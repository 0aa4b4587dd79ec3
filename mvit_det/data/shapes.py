"""The generated ``shapes`` dataset: COCO-style instance annotations without a download.

:func:`generate_shapes` writes images and annotations and needs NumPy and OpenCV only.
:func:`register_shapes` makes ``shapes_train`` and ``shapes_val`` known to Detectron2, which
generates them when they are first used, and the same images for panoptic segmentation and in
LVIS's format.
"""

import contextlib
import functools
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .coco import load_coco_records
from .shape_scene import CATEGORIES, SceneObject, draw_scene
from .shape_views import IGNORED, STUFF_CLASSES, write_lvis, write_semantic_maps

logger = logging.getLogger(__name__)

ANNOTATIONS_FILE = "annotations.json"
IMAGES_FOLDER = "images"
DESCRIPTION = "Generated images of textured, overlapping shapes"

# Number of images and seed of each registered dataset. Different seeds share no image.
SPLITS = {"shapes_train": (1000, 0), "shapes_val": (200, 1)}
SPLIT_SIZE = 128
# What else is registered of each: "shapes_panoptic_train" and so on.
VIEWS = ("panoptic", "lvis")
GENERATED = frozenset(
    [*SPLITS, *(name.replace("shapes_", f"shapes_{view}_") for name in SPLITS for view in VIEWS)]
)


def generate_shapes(
    output_dir: str | os.PathLike[str],
    num_images: int,
    size: int | tuple[int, int],
    seed: int,
    *,
    max_shapes: int = 5,
    crowd_fraction: float = 0.1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a dataset of ``images/000001.png``, … and ``annotations.json`` in COCO's format.

    Image i depends on the seed, the size, ``max_shapes``, ``crowd_fraction`` and i alone, so a
    larger dataset begins with the smaller one. Single shapes are annotated by polygons around
    what is visible of them, crowds (groups of small shapes of one category, ``iscrowd`` 1) by
    run-length encoding. Category ids start at 1, as in COCO. Each entry of ``images`` also names
    the ``surface`` of its background.

    The dataset appears under ``output_dir`` only once it is complete.

    Args:
        output_dir: folder to create; it may exist if it is empty.
        num_images: number of images, 1 to 999,999.
        size: of the images in pixels, 64 to 2048; one number or (height, width).
        seed: 0 or more.
        max_shapes: largest number of shapes per image besides a crowd, 1 to 50.
        crowd_fraction: share of the images that contain a crowd, in [0, 1].
        overwrite: replace a dataset that this function wrote to ``output_dir`` earlier.

    Returns:
        The content of ``annotations.json``.

    Raises:
        ValueError: an argument is out of its range.
        FileExistsError: ``output_dir`` holds something that must not or cannot be replaced.
        OSError: the folder cannot be written.
    """
    height, width = _height_and_width(size)
    _check_range("num_images", num_images, 1, 999_999)
    _check_range("height", height, 64, 2048)
    _check_range("width", width, 64, 2048)
    _check_range("seed", seed, 0, None)
    _check_range("max_shapes", max_shapes, 1, 50)
    _check_range("crowd_fraction", crowd_fraction, 0, 1)
    output = Path(output_dir).absolute()
    _check_output(output, overwrite)

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as temporary:
        unfinished = Path(temporary, "new")
        (unfinished / IMAGES_FOLDER).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(num_images):
            rng = np.random.default_rng([seed, index])
            image, objects, surface = draw_scene(rng, height, width, max_shapes, crowd_fraction)
            file_name = f"{index + 1:06d}.png"
            _write_image(unfinished / IMAGES_FOLDER / file_name, image)
            images.append(
                {
                    "id": index + 1,
                    "file_name": file_name,
                    "height": height,
                    "width": width,
                    "surface": surface,
                }
            )
            for scene_object in objects:
                annotation_id = len(annotations) + 1
                annotations.append(_annotation(annotation_id, index + 1, scene_object))

        dataset = {
            "info": {"description": DESCRIPTION, "seed": seed, "max_shapes": max_shapes},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": index + 1, "name": name, "supercategory": "shape"}
                for index, name in enumerate(CATEGORIES)
            ],
        }
        (unfinished / ANNOTATIONS_FILE).write_text(json.dumps(dataset), encoding="utf-8")
        if overwrite and output.exists():
            output.rename(Path(temporary, "old"))
        # Renaming is atomic and fails if another process has put a dataset there meanwhile.
        try:
            unfinished.rename(output)
        except OSError as error:
            if output.exists():
                raise FileExistsError(f"'{output}' was written by another process") from error
            raise
    return dataset


def register_shapes(root: str | os.PathLike[str] | None = None) -> None:
    """Registers ``shapes_train`` and ``shapes_val`` with Detectron2, and other views of them.

    They hold 1000 and 200 images of 128 x 128 pixels, generated from different seeds when a data
    set is first loaded and not there yet, and are evaluated as COCO datasets are. Calling this
    again is harmless; with another ``root`` it moves the registration there.

    ``shapes_panoptic_train`` and ``shapes_panoptic_val`` add semantic maps, in which shapes are 0
    and the surface of the background is a class. ``shapes_lvis_train`` and ``shapes_lvis_val`` are
    annotated as LVIS is.

    Args:
        root: folder with the two datasets; by default ``shapes`` in the folder that the
            environment variable ``DETECTRON2_DATASETS`` names, else ``./datasets/shapes``.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    if root is None:
        datasets = os.path.expanduser(os.getenv("DETECTRON2_DATASETS") or "datasets")
        root = Path(datasets, "shapes")
    for split in SPLITS:
        folder = Path(root, split.removeprefix("shapes_")).absolute()
        annotations_file = str(folder / ANNOTATIONS_FILE)
        lvis_file = str(folder.with_name(f"{folder.name}_lvis.json"))
        common = {"thing_classes": list(CATEGORIES), "image_root": str(folder / IMAGES_FOLDER)}
        categories = {
            "thing_dataset_id_to_contiguous_id": {i + 1: i for i in range(len(CATEGORIES))}
        }
        panoptic = {
            "evaluator_type": "coco_panoptic_seg",
            **categories,
            "sem_seg_root": str(_semantic_folder(folder)),
            "stuff_classes": list(STUFF_CLASSES),
            "ignore_label": IGNORED,
        }
        for view, load, json_file, metadata in (
            ("", _load_split, annotations_file, {"evaluator_type": "coco", **categories}),
            ("panoptic_", _load_panoptic, annotations_file, panoptic),
            ("lvis_", _load_lvis, lvis_file, {"evaluator_type": "lvis"}),
        ):
            name = split.replace("shapes_", f"shapes_{view}")
            if name in DatasetCatalog:
                if MetadataCatalog.get(name).json_file == json_file:
                    continue
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
            DatasetCatalog.register(name, functools.partial(load, name, split, folder))
            MetadataCatalog.get(name).set(json_file=json_file, **common, **metadata)


def _load_split(name: str, split: str, folder: Path) -> list[dict[str, Any]]:
    """Loads a registered dataset in Detectron2's format, generating it if it is not there."""
    _generate_split(split, folder)
    return load_coco_records(folder / ANNOTATIONS_FILE, folder / IMAGES_FOLDER)


def _load_panoptic(name: str, split: str, folder: Path) -> list[dict[str, Any]]:
    """As `_load_split`, with the semantic map of each image, made if it is not there."""
    records = _load_split(name, split, folder)
    semantic = _semantic_folder(folder)
    if not semantic.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{semantic.name}-") as new:
            maps = Path(new, "maps")
            maps.mkdir()
            write_semantic_maps(_read(folder), maps)
            # Several processes may start at once: the first to finish has done it for all.
            with contextlib.suppress(OSError):
                maps.rename(semantic)
    return [
        {**record, "sem_seg_file_name": str(semantic / Path(record["file_name"]).name)}
        for record in records
    ]


def _load_lvis(name: str, split: str, folder: Path) -> list[dict[str, Any]]:
    """As `_load_split`, from annotations in LVIS's format, written if they are not there."""
    # It imports `detectron2.data`, which imports this module in order to register the datasets.
    from .lvis import load_lvis_records

    _generate_split(split, folder)
    path = folder.with_name(f"{folder.name}_lvis.json")
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}")
        write_lvis(_read(folder), unfinished, IMAGES_FOLDER)
        unfinished.replace(path)
    return load_lvis_records(path, str(folder), name)


def _semantic_folder(folder: Path) -> Path:
    """Where the semantic maps of a dataset lie: beside it, as it is written as a whole."""
    return folder.with_name(f"{folder.name}_semantic")


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ANNOTATIONS_FILE).read_text(encoding="utf-8"))


def _generate_split(name: str, folder: Path) -> None:
    """Generates a registered dataset if it is not there."""
    annotations_file = folder / ANNOTATIONS_FILE
    if not annotations_file.exists():
        num_images, seed = SPLITS[name]
        logger.info("Generating the %d images of '%s' in '%s'", num_images, name, folder)
        try:
            generate_shapes(folder, num_images, SPLIT_SIZE, seed)
        except OSError as error:
            # Several processes may start at once: the first to finish has done it for all.
            if not annotations_file.exists():
                raise OSError(
                    f"cannot write the dataset '{name}' to '{folder}' ({error}); set the "
                    "environment variable DETECTRON2_DATASETS to a folder that can be written"
                ) from error


def _height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise ValueError(f"size is {size}; it must be one number or (height, width)")
    return size


def _check_range(name: str, value: float, low: int, high: int | None) -> None:
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} is {value}; it must be {allowed}")


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuses a place that holds anything but a dataset which may be overwritten."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not _is_generated(output):
        raise FileExistsError(
            f"'{output}' holds something else than a generated dataset; choose another folder"
        )
    if not overwrite:
        raise FileExistsError(
            f"'{output}' already holds a generated dataset; choose another folder or overwrite it"
        )


def _is_generated(folder: Path) -> bool:
    """Whether ``folder`` holds a dataset written by :func:`generate_shapes` and nothing else."""
    if not folder.is_dir():
        return False
    if {entry.name for entry in folder.iterdir()} != {ANNOTATIONS_FILE, IMAGES_FOLDER}:
        return False
    try:
        dataset = json.loads((folder / ANNOTATIONS_FILE).read_text(encoding="utf-8"))
        return dataset["info"]["description"] == DESCRIPTION
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_image(path: Path, image: np.ndarray) -> None:
    """Writes ``image``, (H, W, 3) uint8 RGB, as PNG, which keeps every pixel as it is."""
    if not cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"cannot write '{path}'; is the disk full?")


def _annotation(annotation_id: int, image_id: int, scene_object: SceneObject) -> dict[str, Any]:
    """COCO's annotation of one object; ``area`` in pixels, ``bbox`` is x, y, width, height."""
    segmentation: dict[str, Any] | list[list[float]]
    if scene_object.is_crowd:
        segmentation = _run_lengths(scene_object.mask)
        area = float(scene_object.mask.sum())
        rows, columns = np.nonzero(scene_object.mask)
        low = [columns.min(), rows.min()]
        high = [columns.max() + 1, rows.max() + 1]
    else:
        segmentation = [outline.ravel().tolist() for outline in scene_object.polygons]
        area = scene_object.area
        corners = np.concatenate(scene_object.polygons)
        low, high = corners.min(axis=0), corners.max(axis=0)
    x, y, right, bottom = map(float, [*low, *high])
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": scene_object.category + 1,
        "iscrowd": int(scene_object.is_crowd),
        "area": area,
        "bbox": [x, y, right - x, bottom - y],
        "segmentation": segmentation,
    }


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed run-length encoding of ``mask``, (H, W) bool.

    ``counts`` are the lengths of alternating runs of 0 and 1 down the columns, beginning with 0.
    """
    pixels = np.concatenate([[False], mask.ravel(order="F")])
    starts = np.flatnonzero(np.diff(pixels))
    lengths = np.diff(np.concatenate([[0], starts, [mask.size]]))
    return {"size": list(mask.shape), "counts": lengths.tolist()}
