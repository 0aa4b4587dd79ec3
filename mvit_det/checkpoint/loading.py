"""The one way from a file of weights into a model."""

import logging
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .download import local_path
from .formats import Weights, recognise
from .load_report import LoadReport
from .matching import Purpose, check, match
from .reading import read_file

logger = logging.getLogger(__name__)


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    purpose: Purpose = "evaluate",
    trust: bool = False,
    reset_head: bool = False,
) -> LoadReport:
    """Fills a model from a file, whole or not at all, and logs what became of each key.

    It reads detectors of Detectron2's MViTv2 zoo, ImageNet models of facebookresearch/mvit and of
    timm, and this project's own files. Weights of a backbone go into a detector for training, and
    the backbone of a detector into an `MViTv2`.

    Args:
        model: an `MViTv2`, a classifier, a detector, or any other module whose names the file has.
        path: a file, or an `http(s)://` or `detectron2://` address, which is downloaded once.
        purpose: "evaluate" wants every key of the model filled. "train" wants the whole backbone:
            with a backbone's file, FPN and heads stay as they are, and with an ImageNet model's
            the norms of the outputs as well.
        trust: lets the file run code while it is read.
        reset_head: with "train", leaves the layers that depend on the classes as they are.

    Returns:
        The status of each key.

    Raises:
        CheckpointError: the file cannot be had, read or used; the model is as it was.
    """
    weights = read_weights(path, trust=trust)
    return fill_model(model, weights, path, purpose=purpose, reset_head=reset_head)


def read_weights(path: str | Path, *, trust: bool = False) -> Weights:
    """Reads a file of any of the formats.

    Args:
        path: as for `load_weights`.
        trust: as for `load_weights`.

    Raises:
        CheckpointError: the file cannot be had or read, or holds no weights.
    """
    return recognise(read_file(local_path(path), trust=trust), str(path))


def fill_model(
    model: nn.Module,
    weights: Weights,
    path: str | Path,
    *,
    purpose: Purpose = "evaluate",
    reset_head: bool = False,
) -> LoadReport:
    """`load_weights` for weights that are read already; `path` is for messages only."""
    if reset_head and purpose != "train":
        raise ValueError("reset_head goes with purpose 'train': a fresh head has to be trained")
    while isinstance(model, (DataParallel, DistributedDataParallel)):
        model = model.module
    filled, report = match(
        weights, model.state_dict(), path=str(path), purpose=purpose, reset_head=reset_head
    )
    if report.errors:
        logger.error("%s", report.table())
    check(report, str(path))
    with torch.no_grad():
        model.load_state_dict(filled, strict=False)
    logger.info("%s", report.table())
    return report
