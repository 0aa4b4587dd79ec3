"""The state of a distributed training: as full tensors in the main process, or as shards."""

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor

from ..errors import CheckpointError, MViTDetError
from .files import read_file, save_torch

logger = logging.getLogger(__name__)

STATE_FILE = "state.pth"  # of a sharded checkpoint: all but the tensors

# Types that PyTorch reads without running code, next to tensors and containers.
_PLAIN = (str, bytes, bool, int, float, complex, type(None), torch.Size, torch.dtype, torch.device)

T = TypeVar("T")


def is_main_process() -> bool:
    """Whether this is rank 0, or the only process."""
    return not dist.is_initialized() or dist.get_rank() == 0


def from_main_process(function: Callable[[], T], share: Callable[[T], T] = lambda x: x) -> T:
    """Calls a function in the main process, and returns or raises its outcome in every rank.

    Args:
        function: raises no errors but `MViTDetError`; others end the main process alone.
        share: makes of the result what the other ranks get.
    """
    if not dist.is_initialized():
        return function()
    outcome: list[Any] = [None]
    result: Any = None
    if is_main_process():
        try:
            result = function()
            outcome = [share(result)]
        except MViTDetError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], MViTDetError):
        raise outcome[0]
    return result if is_main_process() else outcome[0]


def load_full_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads full tensors of the main process into the model of every rank.

    Args:
        model: plain, in DistributedDataParallel, or sharded.
        weights: by name, of the model's shapes; other weights of the model keep their values. Empty
            in the other ranks.
    """
    options = StateDictOptions(
        full_state_dict=True, broadcast_from_rank0=dist.is_initialized(), strict=False
    )
    if dist.is_initialized():
        set_model_state_dict(model, dict(weights), options=options)
    else:
        model.load_state_dict(weights, strict=False)


def to_plain(value: Any, place: str, shards: dict[str, Tensor] | None = None) -> Any:
    """Copies the state of a training into types that can be read without running code.

    Lists and dicts of OmegaConf, which optimizers keep as they are, become plain ones. Sharded
    tensors become full ones, on the CPU of the main process.

    Args:
        value: tensors, numbers, strings, and containers of them.
        place: in the checkpoint; for messages, and for names of shards.
        shards: takes the tensors, by place, instead of the result.

    Raises:
        CheckpointError: `value` holds anything else.
    """
    if isinstance(value, Tensor):
        if shards is not None:
            shards[place] = value
            return None
        if isinstance(value, DTensor):
            value = value.full_tensor()
        # The main process alone writes.
        return value.detach().cpu() if is_main_process() else None
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: to_plain(item, f"{place}.{key}", shards) for key, item in value.items()}
    if isinstance(value, (tuple, set)):
        return type(value)(
            to_plain(item, f"{place}.{index}", shards) for index, item in enumerate(value)
        )
    if isinstance(value, Sequence):
        return [to_plain(item, f"{place}.{index}", shards) for index, item in enumerate(value)]
    raise CheckpointError(
        f"'{place}' of the checkpoint is a {type(value).__module__}.{type(value).__name__}, which "
        "cannot be read again safely; let state_dict() return tensors, numbers, strings and plain "
        "containers of them"
    )


def save_shards(state: Mapping[str, Any], folder: Path, before: Callable[[], None]) -> None:
    """Writes a state as a folder, all or nothing: each rank its shards, the main process the rest.

    Args:
        state: the same structure in every rank.
        folder: is replaced.
        before: is called in the main process before the finished folder gets its name.

    Raises:
        CheckpointError: a rank cannot write.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    tensors: dict[str, Tensor] = {}
    plain = {key: to_plain(item, key, tensors) for key, item in state.items()}

    def prepare() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            save_torch(plain, temporary / STATE_FILE)
        except OSError as error:
            raise _cannot_write(folder, error) from error

    def finish() -> None:
        before()
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)

    from_main_process(prepare)
    try:
        dcp.save(tensors, checkpoint_id=temporary)
    # It carries the errors of all ranks, to all ranks.
    except dcp.CheckpointException as error:
        raise _cannot_write(folder, _first_failure(error)) from error
    from_main_process(finish)


def load_shards(state: Mapping[str, Any], folder: Path, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Reads tensors into a state, in place, from a folder of `save_shards`.

    PyTorch reads the index of such a folder with pickle: it is for checkpoints of one's run alone.

    Args:
        state: gives the shapes and the shards of this rank.
        folder: of the checkpoint.
        saved: content of `STATE_FILE`. Tensors of `state` that were not saved stay out.

    Returns:
        `saved` with the tensors of `state` in their places.

    Raises:
        CheckpointError: a rank cannot read the folder, or shapes differ.
    """
    tensors: dict[str, Tensor] = {}
    merged = {key: _merge(saved[key], item, key, tensors) for key, item in state.items()}
    with _readable(folder):
        dcp.load(tensors, checkpoint_id=folder)
    return merged


def read_shards(folder: Path) -> dict[str, Any]:
    """Reads the weights in a folder of `save_shards` in this process alone, as full tensors.

    As `load_shards`, for checkpoints of one's run alone. Tensors of other states are None.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    content = read_file(folder / STATE_FILE)
    with _readable(folder):
        saved = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        weights = {
            place: torch.empty(item.size, dtype=item.properties.dtype)
            for place, item in saved.items()
            if place.startswith("model.") and isinstance(item, TensorStorageMetadata)
        }
        dcp.load(weights, checkpoint_id=folder, no_dist=True)
    return {**content, "model": {p.removeprefix("model."): w for p, w in weights.items()}}


def is_sharded(path: str | Path) -> bool:
    """Whether a path is a folder of `save_shards`."""
    return os.path.isfile(os.path.join(os.path.expanduser(path), STATE_FILE))


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turns errors about a folder of `save_shards` into one sentence.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    try:
        with warnings.catch_warnings():
            # That a single process reads, which is no surprise here.
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            yield
    except (dcp.CheckpointException, EOFError, OSError, RuntimeError, UnpicklingError) as error:
        cause: BaseException = error
        if isinstance(error, dcp.CheckpointException):
            cause = _first_failure(error)
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise CheckpointError(
            f"the sharded checkpoint '{folder}' cannot be read ({reason}); delete it to resume the "
            "one before"
        ) from error


def _merge(saved: Any, state: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Replaces the empty places of tensors in a saved state, and collects the tensors."""
    if isinstance(state, Tensor):
        tensors[place] = state
        return state
    if not isinstance(state, Mapping) or not isinstance(saved, Mapping):
        return saved
    return {
        key: _merge(item, state[key], f"{place}.{key}", tensors) if key in state else item
        for key, item in saved.items()
    }


def _first_failure(error: dcp.CheckpointException) -> BaseException:
    return next(iter(error.failures.values()))[0]


def _cannot_write(path: Path, error: BaseException) -> CheckpointError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return CheckpointError(
        f"cannot write '{path}' ({reason}); make room there, or choose another folder"
    )
