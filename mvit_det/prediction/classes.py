"""Names and category ids of a model's classes, found without opening a dataset."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from ..data.shapes import SPLITS
from ..errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)


def find_class_names(
    config: DictConfig,
    metadata: Mapping[str, Any],
    weights: str | Path,
    num_classes: int,
    standard: Sequence[str] = (),
) -> tuple[str, ...]:
    """One name for each class, from the first place that has any.

    The places are the checkpoint, `data.class_names` of the config, `standard`, and the dataset
    that the config evaluates on if its number of classes fits. Without names, classes are called
    "class 0" and so on.

    Args:
        config: of the detector or classifier.
        metadata: everything in the checkpoint but the weights.
        weights: file of the checkpoint, for messages.
        num_classes: of the model.
        standard: names of the dataset that published weights are for, if it is known.

    Raises:
        CheckpointError: the checkpoint has names, but for another number of classes.
        ConfigError: the config has names, but for another number of classes.
    """
    names = metadata.get("class_names")
    if names:
        if len(names) != num_classes or not all(isinstance(name, str) for name in names):
            raise CheckpointError(
                f"'{weights}' names {len(names)} classes, but the model has {num_classes}; set "
                f"{_field(config)}={len(names)}, or use the config of its training"
            )
        return tuple(names)
    names = OmegaConf.select(config, "data.class_names")
    if names:
        if len(names) != num_classes:
            raise ConfigError(
                f"data.class_names has {len(names)} names, but the model has {num_classes} "
                f"classes; set {_field(config)}={len(names)}"
            )
        return tuple(names)
    if standard:
        return tuple(standard)
    names = _dataset_metadata(config).get("thing_classes", ())
    if len(names) == num_classes:
        return tuple(names)
    return tuple(f"class {index}" for index in range(num_classes))


def find_category_ids(
    config: DictConfig, metadata: Mapping[str, Any], weights: str | Path, num_classes: int
) -> tuple[int, ...]:
    """The dataset's category id of each class, from the first place that has any.

    The places are the checkpoint, `data.category_ids` of the config, and the dataset that the
    config evaluates on, if its number of classes fits. For older checkpoints of custom datasets,
    whose ids are in `data.val_json` only, that file is read. Otherwise ids are the indexes of the
    classes.

    Args:
        config: of the detector.
        metadata: everything in the checkpoint but the weights.
        weights: file of the checkpoint, for messages.
        num_classes: of the model.

    Raises:
        CheckpointError: the checkpoint has ids, but for another number of classes.
    """
    ids = metadata.get("category_ids")
    if ids:
        if len(ids) != num_classes or not all(isinstance(number, int) for number in ids):
            raise CheckpointError(
                f"'{weights}' has {len(ids)} category ids, but the model has {num_classes} "
                f"classes; set {_field(config)}={len(ids)}, or use the config of its "
                "training"
            )
        return tuple(ids)
    ids = OmegaConf.select(config, "data.category_ids") or ()
    if len(ids) == num_classes:
        return tuple(ids)
    dataset = _dataset_metadata(config)
    of_category = dataset.get("thing_dataset_id_to_contiguous_id")
    if of_category:
        ids = sorted(of_category, key=of_category.__getitem__)
    elif dataset.get("name") in SPLITS or dataset.get("evaluator_type") == "lvis":
        ids = list(range(1, len(dataset.get("thing_classes") or range(num_classes)) + 1))
    else:
        ids = _ids_in_file(OmegaConf.select(config, "data.val_json") or dataset.get("json_file"))
    return tuple(ids) if len(ids) == num_classes else tuple(range(num_classes))


def find_stuff(config: DictConfig, category_ids: Sequence[int], num_kinds: int) -> dict[int, str]:
    """Names of the kinds of stuff of a panoptic model, by category id, in the model's order.

    They are those of the dataset that the config evaluates on, if their number fits, and else
    "stuff 1" and so on. The first stands for all objects. Datasets without category ids for stuff
    get those behind the ids of objects.

    Args:
        config: of the detector.
        category_ids: of its classes of objects.
        num_kinds: classes of the model's semantic head.
    """
    dataset = _dataset_metadata(config)
    names = list(dataset.get("stuff_classes", ()))
    if len(names) != num_kinds:
        names = ["things", *(f"stuff {index}" for index in range(1, num_kinds))]
    of_category = dataset.get("stuff_dataset_id_to_contiguous_id") or {}
    ids = sorted(of_category, key=of_category.__getitem__)
    if len(ids) != num_kinds:
        ids = [0, *(max(category_ids) + index for index in range(1, num_kinds))]
    return dict(zip(ids, names))


def _field(config: DictConfig) -> str:
    """The field with the number of classes."""
    return f"model.{'roi_heads.' if 'roi_heads' in config.model else ''}num_classes"


def _ids_in_file(path: str | None) -> list[int]:
    """The category ids in a file of annotations; [], with a warning, if it cannot be read."""
    if not path:
        return []
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        return sorted(int(category["id"]) for category in content["categories"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        logger.warning(
            "The checkpoint has no category ids, and '%s' cannot be read (%s): results in COCO's "
            "format have the class indexes, from 0 on, as category ids",
            path,
            reason,
        )
        return []


def _dataset_metadata(config: DictConfig) -> Any:
    """Detectron2's metadata of the dataset that a config evaluates on; {} if not registered."""
    names = OmegaConf.select(config, "dataloader.test.dataset.names") or ""
    name = names if isinstance(names, str) else names[0]
    return MetadataCatalog.get(name) if name in MetadataCatalog.list() else {}
