"""Datasets by the name under which Detectron2 knows them."""

import difflib
import functools
import hashlib
import importlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
)

from ..errors import DatasetError
from .coco import CocoDataset, load_coco_records
from .lvis import load_lvis_records
from .shapes import GENERATED
from .urls import absolute, check_url, is_url

# Detectron2's own datasets that are read by this package's readers once a config asks for them.
STANDARD_COCO = ("coco_2017_train", "coco_2017_val")
STANDARD_LVIS = ("lvis_v1_train", "lvis_v1_val")
# Modules that register datasets for classification when they are imported. A Python config imports
# its own; the config.yaml of a training has only names.
_REGISTERING = ("clip_datasets", "image_folder", "moving_shapes", "shape_classes")


def load_records(names: str | Sequence[str], filter_empty: bool = True) -> list[dict[str, Any]]:
    """Loads registered datasets, as Detectron2's `get_detection_dataset_dicts` does.

    COCO 2017 and LVIS v1 are read by this package from now on (`use_own_readers`).

    Args:
        names: one registered name, or several whose records follow each other.
        filter_empty: drops images without objects; crowds are not objects.

    Returns:
        The records in Detectron2's format.

    Raises:
        DatasetError: a dataset is missing, empty or not registered, or the datasets differ in
            their classes.
    """
    names = [names] if isinstance(names, str) else list(names)
    check_datasets(names)
    use_own_readers(names)
    records = [record for name in names for record in DatasetCatalog.get(name)]
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
                f"dataset '{name}' is not registered; the closest names are {', '.join(near)}"
            )
        metadata = MetadataCatalog.get(name)
        for path in filter(None, (metadata.get("json_file"), metadata.get("image_root"))):
            if is_url(path):
                check_url(path)
            elif not Path(path).exists():
                raise DatasetError(
                    f"dataset '{name}' is not here: there is no '{Path(path).absolute()}'; set "
                    "the environment variable DETECTRON2_DATASETS to the folder that holds "
                    "'coco/annotations' and 'coco/train2017', or try "
                    "'configs/shapes/mask_rcnn_mvitv2_pico.py', which generates its data"
                )


def use_own_readers(names: Sequence[str]) -> None:
    """Has those of Detectron2's COCO 2017 and LVIS v1 that are named read by this package.

    Annotation files are then read once per run and normalised, and LVIS loads without the package
    `lvis`. Names, metadata and records stay Detectron2's. Other datasets are not touched.
    """
    for name in set(names).intersection(STANDARD_COCO + STANDARD_LVIS):
        metadata = MetadataCatalog.get(name)
        files = metadata.json_file, metadata.image_root
        if name in STANDARD_LVIS:
            reader = functools.partial(load_lvis_records, *files, name)
        else:
            classes = metadata.thing_dataset_id_to_contiguous_id
            reader = functools.partial(load_coco_records, *files, classes)
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, reader)


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
