"""Classification of your own images or clips, from two paths in the config."""

import logging
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from ..checkpoint import Checkpointer, read_weights
from ..data.clip_datasets import load_clips, register_clips
from ..data.image_folder import register_image_folder
from ..errors import ConfigError
from .validation import locate_target

logger = logging.getLogger(__name__)

FOLDERS = ("train_folder", "val_folder")


def use_image_folders(
    config: DictConfig,
    *,
    evaluate_only: bool = False,
    resume: bool = False,
    trust_checkpoint: bool = False,
) -> None:
    """Registers the classification datasets of `config.data`, and adapts the config, in place.

    Does nothing if `config.data` names no folders. Otherwise the loaders get the datasets, the
    model the number of classes, and `config.data` their names. With weights for other classes
    `train.reset_head` is set. Each rank calls it, before the config is saved.

    Args:
        config: a classifier, as those in `configs/ImageNet/` and `configs/Kinetics/`.
        evaluate_only: the training folder is not needed.
        resume: the training continues from its last checkpoint if there is one.
        trust_checkpoint: lets the weights file run code while it is read.

    Raises:
        ConfigError: a folder is missing, or the config is not a classifier's.
        DatasetError: a dataset cannot be read, or the two differ in their classes.
        CheckpointError: the initial weights are missing or cannot be read.
    """
    data = config.get("data", {})
    given = [key for key in FOLDERS if data.get(key)]
    if not given:
        return
    for key in FOLDERS[1:] if evaluate_only else FOLDERS:
        if not data.get(key):
            raise ConfigError(
                f"--{given[0].replace('_', '-')} needs --{key.replace('_', '-')} (data.{key}) too"
            )
    if "classifier" not in config.model:
        raise ConfigError(
            "folders of images per class train a classifier, and this config describes a "
            "detector; use one of configs/ImageNet/ or configs/Kinetics/, or annotations with "
            "--train-json"
        )
    loaders = config.dataloader
    loader = locate_target(loaders.test.dataset.get("_target_"))
    register = register_clips if loader is load_clips else register_image_folder
    names = list(data.get("class_names") or []) or None
    if not evaluate_only:
        loaders.train.dataset.names, names = register(data.train_folder)
    loaders.test.dataset.names, names = register(data.val_folder, names)
    data.class_names = names
    config.model.num_classes = len(names)
    logger.info("The %d classes: %s", len(names), ", ".join(names))
    if evaluate_only:
        return
    if Path(data.train_folder).resolve() == Path(data.val_folder).resolve():
        logger.warning(
            "'%s' is for training and for evaluation: the metrics will be better than on "
            "new images",
            data.val_folder,
        )
    path, resumes = config.train.init_checkpoint, False
    if resume:
        resumes = any(Checkpointer(nn.Module(), config.train.output_dir).checkpoints())
    if not path or resumes or config.train.reset_head:
        return
    weights = read_weights(path, trust=trust_checkpoint)
    head = weights.tensors.get(f"{weights.root or ''}head.weight")
    known = list(weights.metadata.get("class_names") or names)
    if known != names or (head is not None and len(head) != len(names)):
        config.train.reset_head = True
        logger.warning(
            "The weights '%s' are for other classes: the head is initialised randomly "
            "(train.reset_head=True)",
            path,
        )
