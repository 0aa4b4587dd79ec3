"""Checkpoints of a training run: saving the full state, resuming from it, and starting weights."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

from ..errors import CheckpointError
from .files import atomic_path, read_file, save_torch
from .formats import Weights
from .loading import read_weights, select_weights
from .run_folder import RUN_KEY, RunFolder
from .state import (
    STATE_FILE,
    from_main_process,
    is_main_process,
    load_full_weights,
    load_shards,
    save_shards,
    to_plain,
)

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """A trainer, as far as checkpoints are concerned."""

    def state_dict(self) -> dict[str, Any]:
        """All state but the model's; sharded tensors stay sharded."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state.

        Every rank calls it. Tensors are sharded as those of `state_dict`; or they are full, and
        then in the main process only, with missing keys in the others.
        """


@dataclass
class Resumed:
    """A checkpoint whose model has been loaded.

    Attributes:
        path: of the file or folder.
        metadata: other content. Tensors of a file are in the main process only, those of a sharded
            checkpoint are still on the disk.
    """

    path: Path
    metadata: dict[str, Any] = field(default_factory=dict)

    def restore(self, trainer: Stateful) -> None:
        """Restores the state of a trainer; every rank calls it."""
        state = self.metadata["trainer"]
        if self.path.is_dir():
            shards = {"trainer": trainer.state_dict()}
            state = load_shards(shards, self.path, self.metadata)["trainer"]
        trainer.load_state_dict(state)


class Checkpointer:
    """Saves checkpoints all or nothing, and loads them as `load_weights` does.

    With several ranks, every rank calls each method. Full tensors are put together one at a time,
    and only the main process keeps them, in CPU memory.

    Attributes:
        folder: the checkpoints of the run; None saves nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | Path = "",
        *,
        trust: bool = False,
        reset_head: bool = False,
        class_names: Sequence[str] = (),
        category_ids: Sequence[int] = (),
        sharded: bool = False,
    ) -> None:
        """Creates a checkpointer.

        Args:
            model: to save and load; plain, in DistributedDataParallel, or sharded by FSDP2.
            save_dir: folder of the checkpoints; '' saves nothing.
            trust: lets files run code while they are read.
            reset_head: does not load layers that depend on the classes when a training starts.
            class_names: one per class of the model. They are written into every checkpoint, and
                compared when one is resumed; empty does neither.
            category_ids: the dataset's category id of each class, written as well.
            sharded: saves resumable checkpoints as folders, to which each rank writes its shards,
                for models whose full state does not fit into the memory of one machine. Their
                weights alone are in a file beside the last one.
        """
        self.model = model
        self.folder = RunFolder(save_dir) if save_dir else None
        self.trust = trust
        self.reset_head = reset_head
        self.class_names = list(class_names)
        self.category_ids = list(category_ids)
        self.sharded = sharded

    def save(self, name: str, *, resumable: bool = True, **metadata: Any) -> None:
        """Saves the model and `metadata` as the checkpoint `name`.

        Args:
            name: without file extension.
            resumable: whether `last_checkpoint` names the checkpoint.
            metadata: other content: tensors, numbers, strings, and containers of them.

        Raises:
            CheckpointError: the disk refuses it, or `metadata` could not be read again.
        """
        if not self.folder:
            return
        sharded = self.sharded and resumable
        path = self.folder.path / (name if sharded else f"{name}.pth")
        data: dict[str, Any] = {"model": get_model_state_dict(self.model), **metadata}
        if self.class_names:
            data["class_names"] = self.class_names
        if self.category_ids:
            data["category_ids"] = self.category_ids
        data[RUN_KEY] = self.folder.metadata(path.name)
        folder = self.folder

        def write() -> None:
            if not sharded:
                folder.make_room(path)
                with atomic_path(path) as temporary:
                    save_torch(plain, temporary)
            folder.add(path, resumable=resumable)
            logger.info("Saved %s", path)

        if sharded:
            save_shards(data, path, before=lambda: folder.make_room(path))
        else:
            plain = {key: to_plain(item, key) for key, item in data.items()}
        from_main_process(write)
        if sharded and name == "model_final":
            self.save(name, resumable=False)

    def keep_last(self, count: int) -> None:
        """Deletes the oldest numbered checkpoints of this run, as `RunFolder.keep_last` does."""
        if self.folder and is_main_process():
            self.folder.keep_last(count)

    def last_name(self) -> str:
        """Name of the checkpoint that `--resume` tries first; '' if there is none."""
        return from_main_process(lambda: next(iter(self.checkpoints()), Path()).name)

    def metadata(self, name: str) -> dict[str, Any]:
        """Metadata of this run's checkpoint `name`; {} if there is none.

        Raises:
            CheckpointError: the file cannot be read.
        """
        folder = self.folder

        def read() -> dict[str, Any]:
            path = folder.path / f"{name}.pth" if folder else Path()
            if not path.is_file():
                return {}
            metadata = read_weights(path, trust=self.trust).metadata
            run = (metadata.get(RUN_KEY) or {}).get("id")
            return metadata if folder and run in (None, folder.run_id) else {}

        return from_main_process(read)

    def checkpoints(self) -> list[Path]:
        """Checkpoints to resume, best first; for the main process."""
        return self.folder.checkpoints() if self.folder else []

    def resume_or_load(self, path: str | Path, *, resume: bool = True) -> Resumed | None:
        """Loads the last checkpoint of the folder, or starts a new run from the weights in `path`.

        A corrupt checkpoint is skipped, with a warning, for the one before it.

        Args:
            path: file or URL of weights to start from; '' keeps those of the model.
            resume: False starts a new run in any case.

        Returns:
            The checkpoint, or None for a new run.

        Raises:
            CheckpointError: no file can be downloaded, read or used, or a checkpoint has other
                classes; the model is unchanged.
        """
        weights: dict[str, Tensor] = {}
        state: dict[str, Any] = get_model_state_dict(self.model)

        def read() -> Resumed | None:
            found = self.checkpoints() if resume else []
            if not found:
                weights.update(self._starting_weights(path, state))
                if self.folder:
                    self.folder.begin()
                return None
            resumed, content = self._newest_readable(found)
            self._check_resumable(resumed)
            if content is not None:
                weights.update(select_weights(content, state, resumed.path)[0])
            if self.folder:
                self.folder.resume(resumed.metadata.get(RUN_KEY) or {})
            return resumed

        resumed = from_main_process(read, share=_without_tensors)
        if resumed is not None and resumed.path.is_dir():
            load_shards({"model": state}, resumed.path, resumed.metadata)
            set_model_state_dict(self.model, state)
        else:
            load_full_weights(self.model, weights)
        return resumed

    def _starting_weights(self, path: str | Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not path:
            logger.info("No weights to start from: the model starts from scratch")
            return {}
        try:
            weights = read_weights(path, trust=self.trust)
            selected, _ = select_weights(
                weights, state, path, purpose="train", reset_head=self.reset_head
            )
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}; to start from scratch instead, set train.init_checkpoint=''"
            ) from error
        return selected

    def _newest_readable(self, paths: Sequence[Path]) -> tuple[Resumed, Weights | None]:
        """The first checkpoint that can be read, and its weights; None for those of a folder."""
        issues = []
        for path in paths:
            try:
                if path.is_dir():
                    return Resumed(path, read_file(path / STATE_FILE, trust=self.trust)), None
                weights = read_weights(path, trust=self.trust)
                return Resumed(path, dict(weights.metadata)), weights
            except CheckpointError as error:
                issues.append(str(error))
                logger.warning("Cannot resume this checkpoint: %s", error)
        raise CheckpointError(
            f"no checkpoint in '{paths[0].parent}' can be read ({'; '.join(issues)}); start a new "
            "training without '--resume'"
        )

    def _check_resumable(self, resumed: Resumed) -> None:
        if "trainer" not in resumed.metadata:
            raise CheckpointError(
                f"'{resumed.path}' has weights but no state of the trainer; start a new training "
                "with train.init_checkpoint and without '--resume'"
            )
        check_class_names(resumed.metadata, self.class_names, resumed.path)


def check_class_names(
    metadata: Mapping[str, Any], class_names: Sequence[str], path: str | Path
) -> None:
    """Compares the classes of a checkpoint with those of a config, where both name them.

    Raises:
        CheckpointError: they differ.
    """
    saved = list(metadata.get("class_names") or class_names)
    if class_names and saved != list(class_names):
        raise CheckpointError(
            f"'{path}' was trained for other classes ({_listed(saved)}) than the config has "
            f"({_listed(class_names)}): {_difference(saved, class_names)}; use the dataset of the "
            "checkpoint, or train a new head for these classes with "
            f"train.init_checkpoint='{path}' train.reset_head=True"
        )


def _without_tensors(resumed: Resumed | None) -> Resumed | None:
    """The part of a checkpoint that the other ranks receive."""

    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: strip(v) for k, v in value.items() if not isinstance(v, Tensor)}
        return value

    return resumed and Resumed(resumed.path, strip(resumed.metadata))


def _difference(saved: Sequence[str], wanted: Sequence[str]) -> str:
    """The names that only one of two lists has, or else the first that are in another order."""
    sides = {"checkpoint": (saved, wanted), "config": (wanted, saved)}
    alone = {
        side: [repr(name) for name in names if name not in others]
        for side, (names, others) in sides.items()
    }
    if any(alone.values()):
        return " and ".join(f"only the {s} has {_listed(n)}" for s, n in alone.items() if n)
    pairs = enumerate(zip_longest(map(repr, saved), map(repr, wanted), fillvalue="missing"))
    number, (first, second) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    return f"class {number} is {first} in the checkpoint and {second} in the config"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown}, … {len(names)} in all" if len(names) > 20 else shown
