"""Training and evaluation on data of one's own, from four paths in the config."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ..checkpoint import Checkpointer
from ..checkpoint.loading import read_weights
from ..data.catalog import register_coco
from ..data.coco import read_coco
from ..data.validation import check_dataset
from ..errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

PATHS = ("train_json", "train_images", "val_json", "val_images")


def set_custom_dataset(config: DictConfig, **paths: str | Path | None) -> None:
    """Writes paths into `config.data`, absolute, so that the saved config works from everywhere.

    Args:
        config: changed in place; without an entry `data` it gets one.
        paths: any of `train_json`, `train_images`, `val_json` and `val_images`; those that are
            None stay as they are.
    """
    given = {key: str(Path(path).absolute()) for key, path in paths.items() if path is not None}
    if given:
        config.data = {**config.get("data", {}), **given}


def use_custom_dataset(
    config: DictConfig,
    *,
    evaluate_only: bool = False,
    resume: bool = False,
    trust_checkpoint: bool = False,
) -> None:
    """Checks and registers the datasets of `config.data`, and fits the config to them, in place.

    Nothing happens if `config.data` names no files. Else loaders and evaluator get the datasets,
    all heads their number of classes, and `config.data.class_names` their names. To train:

    * Without masks in the training data the mask head is taken out, and masks are not asked for.
    * With masks as run-length encoding, masks are bitmaps in training, and not polygons.
    * With weights for other classes, `train.reset_head` is set.

    Called in every process, before the config is saved. The files of images are looked at in the
    main process of each machine only.

    Args:
        config: a detector with `roi_heads` or with a number of classes of its own (RetinaNet).
        evaluate_only: the training data are not needed, and the model stays as it is but for its
            number of classes.
        resume: the training goes on from its last checkpoint if there is one, and other weights do
            not count then.
        trust_checkpoint: lets the file of weights run code while it is read.

    Raises:
        ConfigError: a path is missing, or the model has no number of classes.
        DatasetError: a file of annotations cannot be read or has errors, all of which are listed;
            or training and validation data differ in their categories.
        CheckpointError: the weights to start from cannot be had or read.
    """
    data = config.get("data", {})
    if not any(data.get(key) for key in PATHS):
        return
    _check_paths(data, evaluate_only)
    validation = read_coco(data.val_json)
    training = validation if evaluate_only else read_coco(data.train_json)
    heads = config.model.get("roi_heads") or {}
    need_masks = not evaluate_only and heads.get("mask_head") is not None
    folders = {key: data[key] if comm.get_local_rank() == 0 else None for key in PATHS[1::2]}
    if not evaluate_only:
        check_dataset(training, folders["train_images"], need_masks=need_masks)
    check_dataset(validation, folders["val_images"], need_objects=False)

    names = validation.class_names
    expected = data.get("class_names", []) if evaluate_only else training.class_names
    if expected and list(expected) != names:
        raise DatasetError(_difference(list(expected), names, data))
    data.class_names = names
    _set_class_count(config.model, len(names))
    _use(config.dataloader.test, register_coco(validation, data.val_images))
    evaluator = config.dataloader.evaluator
    if not OmegaConf.is_interpolation(evaluator, "dataset_name"):
        evaluator.dataset_name = config.dataloader.test.dataset.names
    logger.info("The %d classes: %s", len(names), ", ".join(names))
    if evaluate_only:
        return

    _use(config.dataloader.train, register_coco(training, data.train_images))
    mapper = config.dataloader.train.mapper
    if not training.has_masks:
        if need_masks:
            logger.warning(
                "'%s' has boxes and no masks: the model is trained without a mask head",
                data.train_json,
            )
            heads.update(mask_in_features=None, mask_pooler=None, mask_head=None)
        mapper.use_instance_mask = False
        mapper.recompute_boxes = False
    elif need_masks and training.has_run_lengths:
        mapper.instance_mask_format = "bitmask"
    goes_on = resume and any(Checkpointer(nn.Module(), config.train.output_dir).checkpoints())
    if config.train.init_checkpoint and not goes_on and not config.train.reset_head:
        _choose_reset_head(config, trust_checkpoint)


def _check_paths(data: Mapping[str, Any], evaluate_only: bool) -> None:
    needed = PATHS[2:] if evaluate_only else PATHS
    for key in needed:
        if not data.get(key):
            given = next(key for key in PATHS if data.get(key))
            raise ConfigError(
                f"--{given.replace('_', '-')} needs --{key.replace('_', '-')} (data.{key}) too: "
                + (
                    "a training is evaluated on images that it has not seen"
                    if key.startswith("val")
                    else "annotations and images go together"
                )
            )
    for key in needed[1::2]:
        if not Path(data[key]).is_dir():
            raise DatasetError(
                f"there is no folder of images '{data[key]}'; check --{key.replace('_', '-')}"
            )


def _difference(expected: Sequence[str], found: Sequence[str], data: Mapping[str, Any]) -> str:
    """A sentence on how the categories of two datasets differ."""
    reference = f"'{data['train_json']}'" if data.get("train_json") else "the training data"
    parts = [
        f"only in {where}: {', '.join(repr(name) for name in names)}"
        for where, names in (
            (reference, [name for name in expected if name not in found]),
            (f"'{data['val_json']}'", [name for name in found if name not in expected]),
        )
        if names
    ]
    return (
        f"the categories of {reference} and '{data['val_json']}' differ ("
        + ("; ".join(parts) or "their ids put the same names in another order")
        + "); give both files the same list of categories"
    )


def _use(loader: DictConfig, name: str) -> None:
    loader.dataset.names = name


def _set_class_count(model: DictConfig, count: int) -> None:
    """Sets `num_classes` of the model, its `head`, and all there is below `roi_heads`.

    Other heads, as that for semantic segmentation, count other classes.
    """
    changed = [_set_in(node, count) for node in (model, model.get("head")) if node is not None]
    heads = model.get("roi_heads")
    if heads is not None:
        changed += [_set_in(node, count) for node in _nodes(heads)]
    if not any(changed):
        raise ConfigError(
            "the model has no 'num_classes', neither itself nor in 'head' or 'roi_heads', to set "
            "for data of one's own; use a config of such a model, as those in 'configs/'"
        )


def _nodes(node: Any) -> list[DictConfig]:
    """A node and all those below it."""
    if isinstance(node, DictConfig):
        keys: Any = node
    elif isinstance(node, ListConfig):
        keys = range(len(node))
    else:
        return []
    below = [inner for key in keys for inner in _nodes(node[key])]
    return [node, *below] if isinstance(node, DictConfig) else below


def _set_in(node: DictConfig, count: int) -> bool:
    if "num_classes" not in node:
        return False
    # What refers to another number follows it.
    if node.num_classes != count:
        node.num_classes = count
    return True


def _choose_reset_head(config: DictConfig, trust: bool) -> None:
    """Sets `train.reset_head` if the weights to start from are for other classes."""
    path = config.train.init_checkpoint
    weights = read_weights(path, trust=trust)
    names = list(config.data.class_names)
    known = list(weights.metadata.get("class_names") or names)
    counts = {
        # One row is for the background.
        tensor.shape[0] - 1
        for key, tensor in weights.tensors.items()
        if key.endswith("cls_score.weight") and "roi_heads" in key
    }
    if known != names or counts - {len(names)}:
        config.train.reset_head = True
        logger.warning(
            "The weights '%s' are for other classes: the layers that depend on the classes start "
            "anew (train.reset_head=True)",
            path,
        )
