"""Checkpoints of a training run: writing them, going on from them, and what a run starts from."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fvcore.common.checkpoint
import numpy as np
import torch
import torch.distributed
from torch import nn

from ..errors import CheckpointError
from .loading import fill_model, read_weights
from .matching import Purpose
from .writing import atomic_path

logger = logging.getLogger(__name__)

# What PyTorch reads without running code, besides tensors and containers.
_PLAIN = (str, bytes, bool, int, float, complex, type(None), torch.Size, torch.dtype, torch.device)


class Checkpointer(fvcore.common.checkpoint.Checkpointer):
    """Writes checkpoints whole or not at all, and reads them with `load_weights`'s care.

    `last_checkpoint` in the folder names the last one that is whole.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | Path = "",
        *,
        trust: bool = False,
        fresh_head: bool = False,
        class_names: Sequence[str] = (),
        **checkpointables: Any,
    ) -> None:
        """Builds a checkpointer.

        Args:
            model: to save and fill.
            save_dir: folder of the checkpoints; '' saves nothing.
            trust: lets files run code while they are read.
            fresh_head: leaves layers that depend on the classes out of what a training starts from.
            class_names: one per class of the model, written into every checkpoint as "class_names",
                so that whoever uses it can name what it finds; empty writes none.
            checkpointables: other objects with `state_dict` and `load_state_dict`, by name.
        """
        is_main = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        super().__init__(model, str(save_dir), save_to_disk=is_main, **checkpointables)
        self.trust = trust
        self.fresh_head = fresh_head
        self.class_names = list(class_names)

    def save(self, name: str, **extras: Any) -> None:
        """Writes model, checkpointables and `extras` to `name.pth`; does so in one process only.

        Raises:
            CheckpointError: the disk refuses it, or it holds what could not be read again.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        state = {key: item.state_dict() for key, item in self.checkpointables.items()}
        data: dict[str, Any] = {"model": self.model.state_dict()}
        if self.class_names:
            data["class_names"] = _to_plain(self.class_names, "class_names")
        data.update((key, _to_plain(item, key)) for key, item in {**state, **extras}.items())
        path = Path(self.save_dir) / f"{name}.pth"
        with atomic_path(path) as temporary:
            torch.save(data, temporary)
        self.tag_last_checkpoint(path.name)
        logger.info("Saved %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Notes which checkpoint is the last."""
        with atomic_path(Path(self.save_dir) / "last_checkpoint") as temporary:
            temporary.write_text(last_filename_basename)

    def load(
        self,
        path: str | Path,
        checkpointables: Sequence[str] | None = None,
        *,
        purpose: Purpose = "evaluate",
    ) -> dict[str, Any]:
        """Fills the model, and then the checkpointables.

        Args:
            path: file or address; '' loads nothing.
            checkpointables: which to fill, all of which have to be in the file; None is all.
            purpose: as for `load_weights`.

        Returns:
            What else the file holds.

        Raises:
            CheckpointError: the file cannot be had, read or used; the model is as it was.
        """
        if not path:
            logger.info("No weights to start from: the model starts from scratch")
            return {}
        weights = read_weights(path, trust=self.trust)
        extras = dict(weights.extras)
        names = list(self.checkpointables if checkpointables is None else checkpointables)
        for name in names:
            if name not in extras:
                raise CheckpointError(
                    f"'{path}' has weights but no state of the {name} to go on from; start a new "
                    "training with train.init_checkpoint and without '--resume'"
                )
        fresh_head = self.fresh_head and purpose == "train"
        fill_model(self.model, weights, path, purpose=purpose, fresh_head=fresh_head)
        for name in names:
            self.checkpointables[name].load_state_dict(extras.pop(name))
        return extras

    def resume_or_load(self, path: str | Path, *, resume: bool = True) -> dict[str, Any]:
        """Goes on from the last checkpoint if there is one, and starts from `path` if not.

        Args:
            path: file or address of weights to start from; '' starts from scratch.
            resume: False starts from `path` in any case.

        Returns:
            As `load`.

        Raises:
            CheckpointError: as `load`.
        """
        if resume and self.has_checkpoint():
            return self.load(self.get_checkpoint_file())
        try:
            return self.load(path, checkpointables=[], purpose="train")
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}; to start from scratch instead, set train.init_checkpoint=''"
            ) from error


def _to_plain(value: Any, place: str) -> Any:
    """A copy of the state of training that can be read again without running code.

    Lists and dicts of a config, which optimizers keep as they got them, become plain ones.

    Args:
        value: tensors, numbers, text, and containers of them.
        place: where in the checkpoint, for messages.

    Raises:
        CheckpointError: there is something else.
    """
    if isinstance(value, torch.Tensor) or type(value) in _PLAIN:
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
