"""LVIS without the package of that name, which only its evaluation needs."""

import functools
import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import get_fed_loss_cls_weights
from detectron2.structures import BoxMode

from ..errors import DatasetError

# Those of Detectron2's datasets whose annotations are public.
STANDARD = ("lvis_v1_train", "lvis_v1_val")


def load_lvis_json(path: str | os.PathLike[str], image_root: str, name: str) -> list[dict]:
    """Reads annotations in LVIS's format as Detectron2's function of that name does.

    Args:
        path: of the JSON.
        image_root: where images lie under the last two parts of their ``coco_url``.
        name: of the registered dataset. Its metadata get ``thing_classes`` and
            ``class_image_count`` where they lack them.

    Returns:
        Records of Detectron2, by id of the image, with ``neg_category_ids`` and
        ``not_exhaustive_category_ids``. Classes are category ids less 1.

    Raises:
        DatasetError: the file is not in LVIS's format.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        _complete_metadata(name, content["categories"])
        annotations = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(
                {
                    "bbox": annotation["bbox"],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": annotation["category_id"] - 1,
                    "segmentation": annotation["segmentation"],
                }
            )
        return [
            {
                "file_name": os.path.join(image_root, *image["coco_url"].split("/")[-2:]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "neg_category_ids": image["neg_category_ids"],
                "not_exhaustive_category_ids": image["not_exhaustive_category_ids"],
                "annotations": annotations[image["id"]],
            }
            for image in sorted(content["images"], key=lambda image: image["id"])
        ]
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"'{path}' is not in LVIS's format: there is no {error} in one of its entries"
        ) from error


def _complete_metadata(name: str, categories: list[dict[str, Any]]) -> None:
    metadata = MetadataCatalog.get(name)
    categories = sorted(categories, key=lambda category: category["id"])
    if not metadata.get("thing_classes"):
        metadata.thing_classes = [category["synonyms"][0] for category in categories]
    if not metadata.get("class_image_count"):
        metadata.class_image_count = [
            {"id": category["id"], "image_count": category["image_count"]}
            for category in categories
        ]


def register_lvis() -> None:
    """Has Detectron2's LVIS v1 loaded by `load_lvis_json`; all else of it stays Detectron2's."""
    for name in filter(DatasetCatalog.__contains__, STANDARD):
        metadata = MetadataCatalog.get(name)
        DatasetCatalog.remove(name)
        loader = functools.partial(load_lvis_json, metadata.json_file, metadata.image_root, name)
        DatasetCatalog.register(name, loader)


def federated_weights(dataset_name: str, power: float) -> Callable[[], torch.Tensor]:
    """How often the federated loss draws each class as a negative, for `FastRCNNOutputLayers`.

    Args:
        dataset_name: that of training, registered.
        power: of the number of images that show the class; 0.5 is usual.

    Returns:
        A function that returns one weight per class.
    """

    def weights() -> torch.Tensor:
        if not MetadataCatalog.get(dataset_name).get("class_image_count"):
            # Of generated data they are known once they are generated.
            DatasetCatalog.get(dataset_name)
        return get_fed_loss_cls_weights(dataset_name, power)

    return weights


register_lvis()
