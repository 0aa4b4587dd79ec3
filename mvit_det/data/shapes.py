"""The generated `shapes` datasets: images and annotations for the quick start, without a download.

`generate_shapes` writes images and annotations in COCO's format. `register_shapes` makes
`shapes_train` and `shapes_val` known to Detectron2, which generates them on first use, and two more
views of the same images: `shapes_panoptic_…` with semantic maps, and `shapes_lvis_…` in LVIS's
format.
"""

import contextlib
import functools
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_util

from .coco import load_coco_records
from .folders import cannot_generate, datasets_folder, local_folder, new_file, new_folder
from .shape_scene import CATEGORIES, SURFACES, SceneObject, draw_scene
from .urls import absolute, join

logger = logging.getLogger(__name__)

# Number of images and seed of each registered dataset. Different seeds share no image.
SPLITS = {"shapes_train": (1000, 0), "shapes_val": (200, 1)}
SPLIT_SIZE = 128  # pixels
# Classes of the semantic maps: 0 on shapes, else that of the background's surface.
STUFF_CLASSES = ("things", *SURFACES)
GENERATED = frozenset(
    name.replace("shapes_", f"shapes_{view}")
    for name in SPLITS
    for view in ("", "panoptic_", "lvis_")
)

_DESCRIPTION = "Generated images of textured, overlapping shapes"
_LIMITS = {
    "num_images": (1, 999_999),
    "height": (64, 2048),
    "width": (64, 2048),
    "seed": (0, 2**63 - 1),
    "max_shapes": (1, 50),
    "crowd_fraction": (0, 1),
}


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
    """Writes `images/000001.png`, … and `annotations.json` in COCO's format.

    Image i depends on the seed, the size, `max_shapes`, `crowd_fraction` and i alone, so a larger
    dataset begins with the smaller one. Shapes are annotated by polygons around their visible
    regions, crowds (groups of small shapes of one category, `iscrowd` 1) by run-length encoding.
    Each entry of `images` also names the `surface` of its background. The dataset appears under
    `output_dir` once it is complete.

    Args:
        output_dir: folder to create; it may exist if it is empty.
        num_images: number of images.
        size: of the images in pixels; one number or (height, width).
        seed: seed of all randomness.
        max_shapes: largest number of shapes per image, crowds not counted.
        crowd_fraction: share of the images that contain a crowd, in [0, 1].
        overwrite: replace a dataset that this function wrote to `output_dir` earlier.

    Returns:
        The content of `annotations.json`.

    Raises:
        ValueError: an argument is out of its range.
        DatasetError: `output_dir` is a URL.
        FileExistsError: `output_dir` holds something that must not or cannot be replaced.
        OSError: the folder cannot be written.
    """
    height, width = (size, size) if isinstance(size, int) else size
    given = (num_images, height, width, seed, max_shapes, crowd_fraction)
    for (name, (low, high)), value in zip(_LIMITS.items(), given, strict=True):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; it must be between {low} and {high}")
    output = local_folder(output_dir)
    _check_output(output, overwrite)
    with new_folder(output, overwrite) as unfinished:
        (unfinished / "images").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(1, num_images + 1):
            rng = np.random.default_rng([seed, number - 1])
            image, objects, surface = draw_scene(rng, height, width, max_shapes, crowd_fraction)
            name = f"{number:06d}.png"
            write_png(unfinished / "images" / name, image[..., ::-1])
            entry = {"id": number, "file_name": name, "height": height, "width": width}
            images.append({**entry, "surface": surface})
            annotations += [
                {"id": len(annotations) + index, "image_id": number, **_annotation(thing)}
                for index, thing in enumerate(objects, start=1)
            ]
        dataset = {
            "info": {"description": _DESCRIPTION, "seed": seed, "max_shapes": max_shapes},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": number, "name": name, "supercategory": "shape"}
                for number, name in enumerate(CATEGORIES, start=1)
            ],
        }
        (unfinished / "annotations.json").write_text(json.dumps(dataset), encoding="utf-8")
    return dataset


def register_shapes(root: str | os.PathLike[str] | None = None) -> None:
    """Registers the datasets and views of this module with Detectron2.

    Calling this again is harmless; with another `root` it moves the registration there.

    Args:
        root: folder of the datasets; by default `shapes` in the folder that the environment
            variable `DETECTRON2_DATASETS` names, else `./datasets/shapes`.
    """
    if root is None:
        root = join(datasets_folder(), "shapes")
    classes = {number: number - 1 for number in range(1, len(CATEGORIES) + 1)}
    for name in SPLITS:
        folder = absolute(join(root, name.removeprefix("shapes_")))
        coco: Any = {
            "json_file": join(folder, "annotations.json"),
            "thing_dataset_id_to_contiguous_id": classes,
        }
        _register(name, "", _load, folder, evaluator_type="coco", **coco)
        _register(
            *(name, "panoptic_", _load_panoptic, folder),
            evaluator_type="coco_panoptic_seg",
            sem_seg_root=f"{folder}_semantic",
            stuff_classes=list(STUFF_CLASSES),
            ignore_label=255,
            **coco,
        )
        lvis_file = f"{folder}_lvis.json"
        _register(name, "lvis_", _load_lvis, folder, evaluator_type="lvis", json_file=lvis_file)


def _register(
    split: str,
    view: str,
    load: Callable[[str, str, str], list[dict[str, Any]]],
    folder: str,
    **metadata: Any,
) -> None:
    # Importing this module must not import Detectron2's catalogue, which registers this module.
    from detectron2.data import DatasetCatalog, MetadataCatalog

    name = split.replace("shapes_", f"shapes_{view}")
    if name in DatasetCatalog:
        if MetadataCatalog.get(name).json_file == metadata["json_file"]:
            return
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, functools.partial(load, name, split, folder))
    MetadataCatalog.get(name).set(
        thing_classes=list(CATEGORIES), image_root=join(folder, "images"), **metadata
    )


def _load(name: str, split: str, root: str) -> list[dict[str, Any]]:
    """Loads a dataset in Detectron2's format, after generating it if it is missing."""
    folder = local_folder(root)
    if not (folder / "annotations.json").exists():
        num_images, seed = SPLITS[split]
        logger.info("Generating the %d images of '%s' in '%s'", num_images, split, folder)
        try:
            generate_shapes(folder, num_images, SPLIT_SIZE, seed)
        except OSError as error:
            # Several processes may start at once: the first to finish has done it for all.
            if not (folder / "annotations.json").exists():
                raise cannot_generate(folder, error) from error
    return load_coco_records(folder / "annotations.json", folder / "images")


def _load_panoptic(name: str, split: str, root: str) -> list[dict[str, Any]]:
    """As `_load`, with the semantic map of each image, written if it is missing."""
    records = _load(name, split, root)
    # The folder of the dataset itself is written as a whole.
    folder, semantic = Path(root), Path(f"{root}_semantic")
    if not semantic.exists():
        dataset = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        annotations = _by_image(dataset)
        # As above, another process may have been faster.
        with contextlib.suppress(FileExistsError), new_folder(semantic) as maps:
            for image in dataset["images"]:
                path = maps / image["file_name"]
                write_png(path, semantic_map(image, annotations[image["id"]]))
    return [
        {**record, "sem_seg_file_name": str(semantic / Path(record["file_name"]).name)}
        for record in records
    ]


def _load_lvis(name: str, split: str, root: str) -> list[dict[str, Any]]:
    """As `_load`, from annotations in LVIS's format, written if they are missing."""
    from .lvis import load_lvis_records

    _load("", split, root)
    folder, path = Path(root), Path(f"{root}_lvis.json")
    if not path.exists():
        dataset = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        with new_file(path) as unfinished:
            unfinished.write_text(json.dumps(to_lvis(dataset)), encoding="utf-8")
    return load_lvis_records(path, str(folder), name)


def semantic_map(image: dict[str, Any], annotations: list[dict[str, Any]]) -> np.ndarray:
    """Draws the semantic map of an image, (H, W) uint8 with indexes of `STUFF_CLASSES`.

    Args:
        image: its entry in `images`.
        annotations: those of the image.
    """
    height, width = image["height"], image["width"]
    result = np.full((height, width), STUFF_CLASSES.index(image["surface"]), np.uint8)
    for annotation in annotations:
        encoded = annotation["segmentation"]
        if isinstance(encoded, list):
            encoded = mask_util.merge(mask_util.frPyObjects(encoded, height, width))
        result[mask_util.decode(encoded) > 0] = 0
    return result


def to_lvis(dataset: dict[str, Any]) -> dict[str, Any]:
    """Converts the content of `annotations.json` to LVIS's format, whose annotations are federated.

    LVIS has no crowds. An image with one is not exhaustively annotated for its category
    (`not_exhaustive_category_ids`); the categories that it does not show are `neg_category_ids`.
    """
    ids = {category["id"] for category in dataset["categories"]}
    shown: Counter[int] = Counter()
    images = []
    annotations = _by_image(dataset)
    for image in dataset["images"]:
        of_image = annotations[image["id"]]
        objects = {each["category_id"] for each in of_image if not each["iscrowd"]}
        crowds = {each["category_id"] for each in of_image if each["iscrowd"]}
        shown.update(objects)
        images.append(
            {
                **image,
                "coco_url": f"images/{image['file_name']}",
                "neg_category_ids": sorted(ids - objects - crowds),
                "not_exhaustive_category_ids": sorted(crowds),
            }
        )
    objects_only = [each for each in dataset["annotations"] if not each["iscrowd"]]
    instances = Counter(each["category_id"] for each in objects_only)
    return {
        **dataset,
        "images": images,
        "annotations": [
            {key: value for key, value in each.items() if key != "iscrowd"} for each in objects_only
        ],
        "categories": [
            {
                **category,
                "synset": f"{category['name']}.n.01",
                "synonyms": [category["name"]],
                "def": f"a generated {category['name']}",
                # Rare up to 10 images, common up to 100, frequent above.
                "frequency": "rcf"[(shown[category["id"]] > 10) + (shown[category["id"]] > 100)],
                "image_count": shown[category["id"]],
                "instance_count": instances[category["id"]],
            }
            for category in dataset["categories"]
        ],
    }


def _by_image(dataset: dict[str, Any]) -> defaultdict[int, list[dict[str, Any]]]:
    annotations = defaultdict(list)
    for annotation in dataset["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    return annotations


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuses a folder that holds anything but a dataset which may be overwritten."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    try:
        description = json.loads((output / "annotations.json").read_text())["info"]["description"]
        others = {entry.name for entry in output.iterdir()} - {"annotations.json", "images"}
    except (OSError, ValueError, KeyError, TypeError):
        description, others = "", set()
    if description != _DESCRIPTION or others:
        raise FileExistsError(
            f"'{output}' holds something else than a generated dataset; choose another folder"
        )
    if not overwrite:
        raise FileExistsError(
            f"'{output}' already holds a generated dataset; choose another folder or overwrite it"
        )


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Writes (H, W) or BGR (H, W, 3) uint8 pixels."""
    # OpenCV writes no paths that are not UTF-8, and does not say why it fails.
    path.write_bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


def _annotation(thing: SceneObject) -> dict[str, Any]:
    """COCO's annotation of one object, without ids."""
    segmentation: Any
    if thing.is_crowd:
        segmentation = mask_util.encode(np.asfortranarray(thing.mask.astype(np.uint8)))
        box = mask_util.toBbox(segmentation).tolist()
        segmentation["counts"] = segmentation["counts"].decode()
        area = float(thing.mask.sum())
    else:
        segmentation = [outline.ravel().tolist() for outline in thing.polygons]
        corners = np.concatenate(thing.polygons)
        low = corners.min(axis=0)
        box = [*low.tolist(), *(corners.max(axis=0) - low).tolist()]
        area = thing.area
    return {
        "category_id": thing.category + 1,
        "iscrowd": int(thing.is_crowd),
        "area": area,
        "bbox": box,
        "segmentation": segmentation,
    }
