"""Makes a dataset of one's own known to Detectron2."""

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .coco_json import class_names, class_of_category, load_coco_json


def register_coco_json(
    dataset: Mapping[str, Any],
    json_file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
) -> str:
    """Registers a dataset; doing so again is harmless.

    Args:
        dataset: what `read_coco_json` returns for `json_file`, without errors.
        json_file: the annotations.
        folder: of the images.

    Returns:
        The name, by which Detectron2 loads and evaluates it. It depends on the two paths alone.
    """
    json_file, folder = (str(Path(path).absolute()) for path in (json_file, folder))
    digest = hashlib.sha256(f"{json_file}\n{folder}".encode(errors="surrogateescape"))
    name = f"{Path(json_file).stem}_{digest.hexdigest()[:8]}"
    # The file may have changed since, and with it the classes.
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, functools.partial(load_coco_json, json_file, folder))
    MetadataCatalog.get(name).set(
        thing_classes=class_names(dataset),
        thing_dataset_id_to_contiguous_id=class_of_category(dataset),
        evaluator_type="coco",
        json_file=json_file,
        image_root=folder,
    )
    return name
