"""Checkpoints of a training run: writing them, going on from them, and what a run starts from."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ..errors import CheckpointError
from .formats import Weights
from .loading import fill_model, read_weights
from .writing import atomic_path, save_torch

logger = logging.getLogger(__name__)

# What PyTorch reads without running code, besides tensors and containers.
_PLAIN = (str, bytes, bool, int, float, complex, type(None), torch.Size, torch.dtype, torch.device)
# Checkpoints that hold all a training needs to go on.
_RESUMABLE = re.compile(r"model_(\d+|final)\.pth")


class Checkpointer:
    """Writes checkpoints whole or not at all, and reads them with `load_weights`'s care.

    `last_checkpoint` in the folder names the last one that is whole.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | Path = "",
        *,
        trust: bool = False,
        reset_head: bool = False,
        class_names: Sequence[str] = (),
    ) -> None:
        """Builds a checkpointer.

        Args:
            model: to save and fill; perhaps in DistributedDataParallel, or, to save it, sharded.
            save_dir: folder of the checkpoints; '' saves nothing.
            trust: lets files run code while they are read.
            reset_head: leaves layers that depend on the classes out of what a training starts from.
            class_names: one per class of the model, written into every checkpoint as "class_names",
                so that whoever uses it can name what it finds; empty writes none.
        """
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.save_dir = Path(save_dir) if save_dir else None
        self.trust = trust
        self.reset_head = reset_head
        self.class_names = list(class_names)

    def save(self, name: str, *, resumable: bool = True, **metadata: Any) -> None:
        """Writes the model and `metadata` to `name.pth`.

        In distributed training all processes have to call it, and the main one writes.

        Args:
            name: without the ending.
            resumable: whether `last_checkpoint` shall name the file.
            metadata: what else the file shall hold: tensors, numbers, text, containers of them.

        Raises:
            CheckpointError: the disk refuses it, or it holds what could not be read again.
        """
        if not self.save_dir:
            return
        state = {key: _whole(value) for key, value in self.model.state_dict().items()}
        if not _is_main_process():
            return
        data = {"model": state, **metadata}
        if self.class_names:
            data["class_names"] = self.class_names
        data = {key: _to_plain(item, key) for key, item in data.items()}
        path = self.save_dir / f"{name}.pth"
        with atomic_path(path) as temporary:
            save_torch(data, temporary)
        if resumable:
            with atomic_path(self.save_dir / "last_checkpoint") as temporary:
                temporary.write_text(path.name)
        logger.info("Saved %s", path)

    def checkpoints(self) -> list[Path]:
        """Files to go on from: first the one that `last_checkpoint` names, then the newest."""
        if not self.save_dir or not self.save_dir.is_dir():
            return []
        found = [path for path in self.save_dir.iterdir() if _RESUMABLE.fullmatch(path.name)]
        found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        note = self.save_dir / "last_checkpoint"
        if note.is_file():
            last = note.read_text().strip()
            found.sort(key=lambda path: path.name != last)
            if all(path.name != last for path in found):
                logger.warning("'%s' names '%s', which is not there", note, last)
        return found

    def keep_last(self, number: int) -> None:
        """Deletes all numbered checkpoints but the newest; does so in the main process only."""
        if self.save_dir and _is_main_process():
            numbered = sorted(self.save_dir.glob("model_[0-9]*.pth"))
            for path in numbered[: max(len(numbered) - number, 0)]:
                path.unlink()

    def remove_unfinished(self) -> None:
        """Deletes what processes that were killed while they wrote a checkpoint have left."""
        if self.save_dir and _is_main_process():
            for path in self.save_dir.glob(".*.pth.*.tmp"):
                path.unlink()

    def resume_or_load(self, path: str | Path, *, resume: bool = True) -> dict[str, Any]:
        """Goes on from the last checkpoint if there is one, and starts from `path` if not.

        A damaged checkpoint is passed over, with a warning, for the one before it.

        Args:
            path: file or address of weights to start from; '' starts from scratch.
            resume: False starts from `path` in any case.

        Returns:
            What else the last checkpoint holds; {} where the training starts.

        Raises:
            CheckpointError: there is no file that can be had, read or used; the model is as it was.
        """
        if resume and (found := self.checkpoints()):
            checkpoint, weights = self._newest_whole(found)
            if "trainer" not in weights.metadata:
                raise CheckpointError(
                    f"'{checkpoint}' has weights but no state of the trainer to go on from; start "
                    "a new training with train.init_checkpoint and without '--resume'"
                )
            fill_model(self.model, weights, checkpoint)
            return dict(weights.metadata)
        if not path:
            logger.info("No weights to start from: the model starts from scratch")
            return {}
        try:
            weights = read_weights(path, trust=self.trust)
            fill_model(self.model, weights, path, purpose="train", reset_head=self.reset_head)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}; to start from scratch instead, set train.init_checkpoint=''"
            ) from error
        return {}

    def _newest_whole(self, paths: Sequence[Path]) -> tuple[Path, Weights]:
        """The first of the files that can be read, and what it holds."""
        issues = []
        for path in paths:
            try:
                return path, read_weights(path, trust=self.trust)
            except CheckpointError as error:
                issues.append(str(error))
                logger.warning("Cannot go on from this checkpoint: %s", error)
        raise CheckpointError(
            f"no checkpoint in '{self.save_dir}' can be read ({'; '.join(issues)}); start the "
            "training anew without '--resume'"
        )


def _is_main_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _whole(value: Any) -> Any:
    """A sharded tensor put together, on the CPU; anything else as it is."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _to_plain(value: Any, place: str) -> Any:
    """A copy of the state of training that can be read again without running code.

    Lists and dicts of a config, which optimizers keep as they got them, become plain ones.

    Args:
        value: tensors, numbers, text, and containers of them.
        place: where in the checkpoint, for messages.

    Raises:
        CheckpointError: there is something else.
    """
    if isinstance(value, Tensor) or type(value) in _PLAIN:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _to_plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, (tuple, set)):
        return type(value)(_to_plain(item, place) for item in value)
    if isinstance(value, Sequence):
        return [_to_plain(item, place) for item in value]
    raise CheckpointError(
        f"'{place}' of the checkpoint is a {type(value).__module__}.{type(value).__name__}, which "
        "cannot be read again safely; let state_dict() return tensors, numbers, text and plain "
        "containers of them"
    )
