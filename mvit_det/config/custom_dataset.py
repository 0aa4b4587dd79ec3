"""Training and evaluation on a custom dataset, from four paths in the config."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ..checkpoint import Checkpointer, read_weights
from ..checkpoint.matching import count_classes
from ..data.catalog import register_coco
from ..data.coco import CocoDataset, image_path, read_coco
from ..data.urls import absolute, check_url, is_url
from ..data.validation import check_dataset
from ..errors import ConfigError, DatasetError
from ..evaluation import COCOEvaluator
from ..evaluation.lvis import LVISEvaluator
from .validation import locate_target

logger = logging.getLogger(__name__)

PATHS = ("train_json", "train_images", "val_json", "val_images")


def set_custom_dataset(config: DictConfig, **paths: str | Path | None) -> None:
    """Writes paths into `config.data`, absolute, so that the saved config works from everywhere.

    Args:
        config: changed in place; gets an entry `data` if it has none.
        paths: any path or URL of `config.data`; those that are None stay as they are.
    """
    given = {key: absolute(path) for key, path in paths.items() if path is not None}
    if given:
        config.data = {**config.get("data", {}), **given}


def use_custom_dataset(
    config: DictConfig,
    *,
    evaluate_only: bool = False,
    resume: bool = False,
    trust_checkpoint: bool = False,
) -> None:
    """Checks and registers the datasets of `config.data`, and adapts the config, in place.

    Does nothing if `config.data` has no paths. Otherwise the loaders and the evaluator get the
    datasets, all heads get the number of classes, and `config.data` their names and category ids.
    A config for LVIS then trains without the federated loss and is evaluated as COCO is. To train:

    * Without masks in the training data the mask head is removed, and no masks are loaded.
    * With run-length encoded masks, masks are bitmaps in training instead of polygons.
    * With weights for other classes, `train.reset_head` is set.

    Each rank calls it, before the config is saved. Image files are checked by one rank per machine;
    those at a URL are not, and raise an error when they are read.

    Args:
        config: a detector with `roi_heads`, or with a `num_classes` itself (RetinaNet).
        evaluate_only: the training data are not needed, and only the number of classes of the
            model changes.
        resume: the training continues from its last checkpoint if there is one, so that the
            weights it started from do not matter.
        trust_checkpoint: lets the weights file run code while it is read.

    Raises:
        ConfigError: a path is missing, or the model cannot learn from such a dataset.
        DatasetError: an annotation file cannot be read or has errors, all of which are listed; or
            training and validation data differ in their categories.
        CheckpointError: the initial weights are missing or cannot be read.
    """
    data = config.get("data", {})
    if not any(data.get(key) for key in PATHS):
        return
    if "classifier" in config.model:
        raise ConfigError(
            "a classifier learns from a folder of images per class: use --train-folder and "
            "--val-folder, or take a detector's config for annotations in COCO's format"
        )
    _check_paths(data, evaluate_only)
    _check_model(config.model)
    validation = read_coco(data.val_json)
    training = validation if evaluate_only else read_coco(data.train_json)
    heads = config.model.get("roi_heads") or {}
    need_masks = not evaluate_only and heads.get("mask_head") is not None
    folders = {
        key: data[key] if comm.get_local_rank() == 0 and not is_url(data[key]) else None
        for key in PATHS[1::2]
    }
    if not evaluate_only:
        check_dataset(training, folders["train_images"], need_masks=need_masks)
    check_dataset(validation, folders["val_images"], need_objects=False)

    names = validation.class_names
    expected = data.get("class_names", []) if evaluate_only else training.class_names
    if expected and list(expected) != names:
        raise DatasetError(_difference(list(expected), names, data))
    data.class_names = names
    data.category_ids = list(validation.class_of_category)
    _set_class_count(config.model, len(names))
    _leave_lvis(config)
    config.dataloader.test.dataset.names = register_coco(validation, data.val_images)
    evaluator = config.dataloader.evaluator
    if not OmegaConf.is_interpolation(evaluator, "dataset_name"):
        evaluator.dataset_name = config.dataloader.test.dataset.names
    logger.info("The %d classes: %s", len(names), ", ".join(names))
    if evaluate_only:
        return

    config.dataloader.train.dataset.names = register_coco(training, data.train_images)
    _warn_of_shared_images(training, validation, data)
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
    resumes = resume and any(Checkpointer(nn.Module(), config.train.output_dir).checkpoints())
    if config.train.init_checkpoint and not resumes and not config.train.reset_head:
        _choose_reset_head(config, trust_checkpoint)


def check_classes(model: DictConfig, class_names: Mapping[str, Sequence[str]]) -> None:
    """Checks that a model and all its datasets have the same classes.

    A model with fewer would learn the last classes as background, and an evaluation with other
    classes would compare each with another.

    Args:
        model: of a config.
        class_names: by the registered name of a dataset, that for training first; [] if unknown.

    Raises:
        DatasetError: the datasets differ.
        ConfigError: the model has another number of classes.
    """
    known = {dataset: list(names) for dataset, names in class_names.items() if names}
    if not known:
        return
    dataset, names = next(iter(known.items()))
    for other, others in known.items():
        if others != names:
            raise DatasetError(
                f"the datasets '{dataset}' and '{other}' differ in their classes; give all of them "
                "the same list of categories"
            )
    for name in ("", "head", "roi_heads"):
        group = model.get(name) if name else model
        count = group.get("num_classes") if isinstance(group, DictConfig) else None
        if count not in (None, len(names)):
            field = ".".join(filter(None, ("model", name, "num_classes")))
            raise ConfigError(
                f"the dataset '{dataset}' has {len(names)} classes, and the model has {count}; "
                f"set {field}={len(names)}"
            )


def _check_paths(data: Mapping[str, Any], evaluate_only: bool) -> None:
    needed = PATHS[2:] if evaluate_only else PATHS
    for key in needed:
        if not data.get(key):
            given = next(key for key in PATHS if data.get(key))
            raise ConfigError(
                f"--{given.replace('_', '-')} needs --{key.replace('_', '-')} (data.{key}) too: "
                + (
                    "a training is evaluated on images it has not seen"
                    if key.startswith("val")
                    else "annotations and images go together"
                )
            )
    for key in needed[1::2]:
        if is_url(data[key]):
            check_url(data[key])
        elif not Path(data[key]).is_dir():
            raise DatasetError(
                f"there is no image directory '{data[key]}'; check --{key.replace('_', '-')}"
            )


def _warn_of_shared_images(
    training: CocoDataset, validation: CocoDataset, data: Mapping[str, Any]
) -> None:
    seen, unseen = (
        {
            str(image_path(folder if is_url(folder) else os.path.realpath(folder), name))
            for name in (each["file_name"] for each in dataset.images)
        }
        for dataset, folder in ((training, data["train_images"]), (validation, data["val_images"]))
    )
    if shared := seen & unseen:
        logger.warning(
            "%d of the %d images for evaluation are also trained on, such as '%s': the metrics "
            "will be better than on new images",
            len(shared),
            len(unseen),
            min(shared),
        )


def _check_model(model: DictConfig) -> None:
    if model.get("sem_seg_head") is not None:
        raise ConfigError(
            "a panoptic model learns from a semantic map per image, which a custom dataset does "
            "not have; use a config of Mask R-CNN, such as configs/COCO/mask_rcnn_mvitv2_t.py"
        )


def _difference(expected: Sequence[str], found: Sequence[str], data: Mapping[str, Any]) -> str:
    """A sentence on how the categories of two datasets differ."""
    reference = f"'{data['train_json']}'" if data.get("train_json") else "the training data"
    lists = (
        (reference, [name for name in expected if name not in found]),
        (f"'{data['val_json']}'", [name for name in found if name not in expected]),
    )
    only = [f"only in {where}: {', '.join(map(repr, names))}" for where, names in lists if names]
    return (
        f"the categories of {reference} and '{data['val_json']}' differ ("
        + ("; ".join(only) or "their ids put the same names in another order")
        + "); give both files the same list of categories"
    )


def _set_class_count(model: DictConfig, count: int) -> None:
    """Sets `num_classes` of the model, of its `head`, and of all groups below `roi_heads`."""
    groups = [model, model.get("head"), *_groups(model.get("roi_heads"))]
    with_classes = [group for group in groups if group is not None and "num_classes" in group]
    for group in with_classes:
        # References to another field follow it.
        if group.num_classes != count:
            group.num_classes = count
    if not with_classes:
        raise ConfigError(
            "the model has no 'num_classes', neither itself nor in 'head' or 'roi_heads', to set "
            "for a custom dataset; use a config of such a model, as those in 'configs/'"
        )


def _groups(node: Any) -> Iterator[DictConfig]:
    """A group of fields and all those below it."""
    if isinstance(node, DictConfig):
        yield node
    if isinstance(node, (DictConfig, ListConfig)):
        for inner in node.values() if isinstance(node, DictConfig) else node:
            yield from _groups(inner)


def _leave_lvis(config: DictConfig) -> None:
    """Replaces the federated loss and the evaluation of LVIS, which need its annotations."""
    for group in _groups(config.model.get("roi_heads")):
        if group.get("use_fed_loss"):
            group.use_fed_loss = False
            group.get_fed_loss_cls_weights = None
            logger.info("The federated loss is off: it needs annotations in LVIS's format")
    evaluator = config.dataloader.evaluator
    target = locate_target(evaluator.get("_target_"))
    if isinstance(target, type) and issubclass(target, LVISEvaluator):
        config.dataloader.evaluator = LazyCall(COCOEvaluator)(
            dataset_name="${..test.dataset.names}"
        )


def _choose_reset_head(config: DictConfig, trust: bool) -> None:
    """Sets `train.reset_head` if the initial weights are for other classes."""
    path = config.train.init_checkpoint
    weights = read_weights(path, trust=trust)
    names = list(config.data.class_names)
    known = list(weights.metadata.get("class_names") or names)
    counts = {
        count_classes(weights.tensors, key)
        for key in weights.tensors
        if key.endswith("cls_score.weight")
    }
    if known != names or counts - {len(names)}:
        config.train.reset_head = True
        logger.warning(
            "The weights '%s' are for other classes: the layers that depend on the classes are "
            "initialised randomly (train.reset_head=True)",
            path,
        )
