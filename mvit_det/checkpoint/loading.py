"""Loading a file of weights into a model."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..errors import CheckpointError
from .download import local_path
from .files import read_file
from .formats import Weights, recognise
from .matching import LoadReport, Purpose, check, match
from .state import is_sharded, read_shards

logger = logging.getLogger(__name__)


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    purpose: Purpose = "evaluate",
    trust: bool = False,
    reset_head: bool = False,
) -> LoadReport:
    """Loads a file of weights into a model, all or nothing, and logs the status of each key.

    The formats are those of Detectron2's MViTv2 zoo, of ImageNet models of facebookresearch/mvit
    and timm, and of this project. Weights of a backbone load into a detector for training, and the
    backbone of a detector loads into an `MViTv2`.

    Args:
        model: an `MViTv2`, a classifier, a detector, or any other module whose names the file has.
        path: a file, or an `http(s)://` or `detectron2://` URL, which is downloaded once.
        purpose: "evaluate" needs every key of the model. "train" needs the whole backbone: FPN and
            heads, and the norms of the outputs, may keep their values.
        trust: lets the file run code while it is read.
        reset_head: with "train", does not load the layers that depend on the classes.

    Returns:
        The status of each key.

    Raises:
        CheckpointError: the file cannot be downloaded, read or used; the model is unchanged.
    """
    weights = read_weights(path, trust=trust)
    return fill_model(model, weights, path, purpose=purpose, reset_head=reset_head)


def read_weights(path: str | Path, *, trust: bool = False) -> Weights:
    """Reads a file of any of the formats.

    Args:
        path: as for `load_weights`; with `trust` also the folder of a sharded checkpoint, whose
            index PyTorch reads with pickle.
        trust: as for `load_weights`.

    Raises:
        CheckpointError: the file cannot be downloaded or read, or holds no weights.
    """
    if trust and is_sharded(path):
        return recognise(read_shards(Path(path).expanduser()), str(path))
    return recognise(read_file(local_path(path), trust=trust), str(path))


def fill_model(
    model: nn.Module,
    weights: Weights,
    path: str | Path,
    *,
    purpose: Purpose = "evaluate",
    reset_head: bool = False,
) -> LoadReport:
    """`load_weights` for weights that have been read; `path` is for messages only."""
    while isinstance(model, (DataParallel, DistributedDataParallel)):
        model = model.module
    selected, report = select_weights(
        weights, model.state_dict(), path, purpose=purpose, reset_head=reset_head
    )
    with torch.no_grad():
        model.load_state_dict(selected, strict=False)
    return report


def select_weights(
    weights: Weights,
    state: Mapping[str, Tensor],
    path: str | Path,
    *,
    purpose: Purpose = "evaluate",
    reset_head: bool = False,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Selects and resizes the weights that a model with this `state_dict` loads.

    Only the names and shapes of `state` are read, so that it may be sharded. Other arguments,
    logging and errors are those of `fill_model`.
    """
    if reset_head and purpose != "train":
        raise ValueError("reset_head goes with purpose 'train': a new head has to be trained")
    selected, report = match(weights, state, path=str(path), purpose=purpose, reset_head=reset_head)
    logger.log(logging.ERROR if report.errors else logging.INFO, "%s", report.table())
    check(report, str(path))
    _check_values(selected, state, path)
    return selected, report


def _check_values(
    selected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str | Path
) -> None:
    """Refuses weights with which a model would silently find nothing.

    Raises:
        CheckpointError: a weight is infinite, NaN or an integer.
    """
    for name, tensor in selected.items():
        if state[name].is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"'{name}' of '{path}' is of type {kind}; convert it again")
    check_finite(selected, path)


def check_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuses weights of a training that has diverged.

    Raises:
        CheckpointError: a weight is infinite or NaN.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"'{name}' of '{path}' has infinite or NaN values; take weights of an earlier "
                "iteration"
            )
