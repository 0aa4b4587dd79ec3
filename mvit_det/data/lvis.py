"""LVIS without the package of that name."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from torch import Tensor

from ..errors import DatasetError
from .coco import read_coco


def load_lvis_records(
    json_file: str | os.PathLike[str], image_root: str, name: str
) -> list[dict[str, Any]]:
    """Reads annotations in LVIS's format, as Detectron2's `load_lvis_json` does.

    Args:
        json_file: the annotations.
        image_root: folder in which images lie under the last two parts of their `coco_url`.
        name: of the registered dataset. Its metadata gets `thing_classes` and `class_image_count`
            where it lacks them.

    Returns:
        Records in Detectron2's format, by image id, with `neg_category_ids` and
        `not_exhaustive_category_ids`. Classes are category ids less 1.

    Raises:
        DatasetError: the file cannot be read or is not in LVIS's format.
    """
    dataset = read_coco(json_file)
    try:
        _complete_metadata(name, dataset.categories)
        annotations = defaultdict(list)
        for annotation in dataset.annotations:
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
            for image in sorted(dataset.images, key=lambda image: image["id"])
        ]
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"'{json_file}' is not in LVIS's format: there is no {error} in one of its entries"
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


def federated_weights(dataset_name: str | Sequence[str], power: float) -> Callable[[], Tensor]:
    """Weights by which the federated loss draws classes as negatives, for `FastRCNNOutputLayers`.

    Args:
        dataset_name: that of training, registered, or several.
        power: of the number of images that show the class; 0.5 is usual.

    Returns:
        A function that returns one weight per class.
    """
    names = [dataset_name] if isinstance(dataset_name, str) else list(dataset_name)

    def weights() -> Tensor:
        counts: Counter[int] = Counter()
        for name in names:
            if not MetadataCatalog.get(name).get("class_image_count"):
                # Of generated data they are known once they are generated.
                DatasetCatalog.get(name)
            for each in MetadataCatalog.get(name).class_image_count:
                counts[each["id"]] += each["image_count"]
        return (
            torch.tensor([counts[number] for number in sorted(counts)], dtype=torch.float32)
            ** power
        )

    return weights
