"""Datasets by the name under which Detectron2 knows them."""

import difflib
import functools
import hashlib
import importlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
)

from ..errors import DatasetError
from .coco import CocoDataset, forget_coco, load_coco_records, read_coco, with_integers
from .folders import datasets_folder
from .lvis import load_lvis_records
from .shapes import GENERATED
from .urls import absolute, check_url, is_url
from .validation import check_dataset

# Modules of the functions that Detectron2 registers for annotations in these formats.
_DETECTRON2_COCO, _DETECTRON2_LVIS = (
    f"detectron2.data.datasets.{name}" for name in ("coco", "lvis")
)
# Modules that register datasets for classification when they are imported. A Python config imports
# its own; the config.yaml of a training has only names.
_REGISTERING = ("clip_datasets", "image_folder", "moving_shapes", "shape_classes")


def load_records(names: str | Sequence[str], filter_empty: bool = True) -> list[dict[str, Any]]:
    """Loads registered datasets, as Detectron2's `get_detection_dataset_dicts` does.

    Datasets in COCO's and LVIS's format are read by this package from now on (`use_own_readers`).

    Args:
        names: one registered name, or several whose records follow each other.
        filter_empty: drops images without objects; crowds are not objects.

    Returns:
        The records in Detectron2's format.

    Raises:
        DatasetError: a dataset is missing, empty or not registered, has errors, all of which are
            listed, or the datasets differ in their classes.
    """
    names = [names] if isinstance(names, str) else list(names)
    check_datasets(names)
    use_own_readers(names)
    records = [record for name in names for record in DatasetCatalog.get(name)]
    _clean_crowds(records, names)
    classes = {tuple(MetadataCatalog.get(name).get("thing_classes", ())) for name in names}
    if len(classes) > 1:
        raise DatasetError(
            f"the datasets {', '.join(names)} differ in their classes; give all of them the same "
            "list of categories"
        )
    if records and "annotations" in records[0]:
        if filter_empty:
            records = filter_images_with_only_crowd_annotations(records)
        if classes != {()}:
            print_instances_class_histogram(records, classes.pop())
    if not records:
        raise DatasetError(
            f"no image of {', '.join(names)} has an object; crowds ('iscrowd': 1) do not count"
        )
    return records


def check_datasets(*names: str | Sequence[str]) -> None:
    """Checks that datasets are registered and their files exist, before anything slow starts.

    Args:
        names: registered names, or lists of them. Those of `shapes` need no files, they are
            generated on first use.

    Raises:
        DatasetError: a name is unknown, or its annotations or folder of images is missing.
    """
    lists = ([each] if isinstance(each, str) else each for each in names)
    for name in itertools.chain.from_iterable(lists):
        if name in GENERATED:
            continue
        if name not in DatasetCatalog:
            for module in _REGISTERING:
                importlib.import_module(f".{module}", __package__)
        if name not in DatasetCatalog:
            near = difflib.get_close_matches(str(name), DatasetCatalog, n=3, cutoff=0)
            raise DatasetError(
                f"dataset '{name}' is not registered; the closest names are {', '.join(near)}; "
                "register your own in a Python config, or name its files by --val-json and so on"
            )
        metadata = MetadataCatalog.get(name)
        for path in filter(None, (metadata.get("json_file"), metadata.get("image_root"))):
            if is_url(path):
                check_url(path)
            elif not Path(path).exists():
                remedy = "correct the path with which it is registered"
                if Path(path).is_relative_to(datasets_folder()):
                    remedy = (
                        "set the environment variable DETECTRON2_DATASETS to the folder that holds "
                        "'coco/annotations' and 'coco/train2017', or try "
                        "'configs/shapes/mask_rcnn_mvitv2_pico.py', which generates its data"
                    )
                raise DatasetError(
                    f"dataset '{name}' is not here: there is no '{Path(path).absolute()}'; {remedy}"
                )


def use_own_readers(names: Iterable[str]) -> None:
    """Has this package read what Detectron2's functions registered in COCO's or LVIS's format.

    Detectron2 registers its own datasets with these functions, and users theirs with
    `register_coco_instances` and `register_lvis_instances`. Annotation files are then read once
    per run and normalised, users' in COCO's format are checked, and LVIS loads without the package
    `lvis`. Names, metadata and records stay Detectron2's. Datasets with keypoints and other
    functions are not touched.
    """
    for name in names:
        metadata = MetadataCatalog.get(name)
        module = getattr(DatasetCatalog.data[name], "__module__", "")
        read: Callable[..., list[dict[str, Any]]]
        if module == _DETECTRON2_COCO and not metadata.get("keypoint_names"):
            read = _load_coco
        elif module == _DETECTRON2_LVIS:
            read = load_lvis_records
        else:
            continue
        DatasetCatalog.remove(name)
        DatasetCatalog.register(
            name, functools.partial(read, metadata.json_file, metadata.image_root, name)
        )


def load_classes(name: str) -> None:
    """Loads a dataset in COCO's or LVIS's format if its metadata lacks the names of its classes."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("json_file") and not metadata.get("thing_classes"):
        use_own_readers([name])
        DatasetCatalog.get(name)


def forget_annotations(but: str) -> None:
    """Frees the memory of annotation files whose records are loaded.

    Args:
        but: dataset whose annotations stay, as each evaluation uses them.
    """
    forget_coco(but=MetadataCatalog.get(but).get("json_file"))


def _load_coco(
    json_file: str | os.PathLike[str], folder: str | os.PathLike[str], name: str
) -> list[dict[str, Any]]:
    """Reads a dataset; one whose classes Detectron2 does not know yet is checked, and they are
    added to its metadata, as Detectron2 does."""
    metadata = MetadataCatalog.get(name)
    classes = metadata.get("thing_dataset_id_to_contiguous_id")
    if classes is None:
        dataset = read_coco(json_file)
        check_dataset(dataset, None, need_objects=False)
        known = list(metadata.get("thing_classes") or dataset.class_names)
        if known != dataset.class_names:
            raise DatasetError(
                f"the dataset '{name}' is registered with the classes {known}, and '{json_file}' "
                f"has {dataset.class_names}; register it without 'thing_classes'"
            )
        if not metadata.get("thing_classes"):
            metadata.thing_classes = known
        metadata.thing_dataset_id_to_contiguous_id = dataset.class_of_category
    return load_coco_records(json_file, folder, classes)


def _clean_crowds(records: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Replaces `iscrowd` that is null or text, which Detectron2 takes for a crowd, in place."""
    for record in records:
        for annotation in record.get("annotations", ()):
            if annotation.get("iscrowd", 0) in (0, 1):
                continue
            value = with_integers(annotation, "iscrowd")["iscrowd"] or 0
            if value not in (0, 1):
                raise DatasetError(
                    f"an object of {', '.join(names)} has 'iscrowd': {value!r}; the function that "
                    "is registered must give 1 for a crowded region and 0 for an object"
                )
            annotation["iscrowd"] = value


def register_coco(dataset: CocoDataset, folder: str | os.PathLike[str]) -> str:
    """Registers a dataset with Detectron2; doing so again is harmless.

    Args:
        dataset: what `read_coco` returned, without errors.
        folder: of the images; may be a URL.

    Returns:
        The name by which Detectron2 loads and evaluates it. It depends on the two paths alone.
    """
    json_file, folder = absolute(dataset.path), absolute(folder)
    digest = hashlib.sha256(f"{json_file}\n{folder}".encode(errors="surrogateescape"))
    name = f"{Path(json_file).stem}_{digest.hexdigest()[:8]}"
    # The file may have changed since, and with it the classes.
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, functools.partial(load_coco_records, json_file, folder))
    MetadataCatalog.get(name).set(
        thing_classes=dataset.class_names,
        thing_dataset_id_to_contiguous_id=dataset.class_of_category,
        evaluator_type="coco",
        json_file=json_file,
        image_root=folder,
    )
    return name
