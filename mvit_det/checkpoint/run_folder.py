"""The checkpoints of a training run in its output folder: which belong to it, and which may go."""

import contextlib
import logging
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import TrainingError
from .files import atomic_path
from .state import STATE_FILE

logger = logging.getLogger(__name__)

RUN_KEY = "run"  # of the metadata of each checkpoint

# Checkpoints that `--resume` uses: files, or folders of sharded checkpoints.
_RESUMABLE = re.compile(r"model_(\d+|final)(\.pth)?")


class RunFolder:
    """Checkpoints of one training run, in a folder that may hold files of others.

    Each new training has a random id, written to the file `run_id` and into its checkpoints.
    Checkpoints of another id are neither resumed, nor overwritten, nor deleted. Those of earlier
    versions have no id, and are resumed in a folder without the file `run_id`.

    Attributes:
        path: the folder.
        run_id: of the run that writes; '' before the first call of `begin`, `resume` or `metadata`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.run_id = ""
        self._numbered: list[str] = []

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other trainings out of the folder, on any machine that shares it.

        Only the main process of a training calls it. The lock ends with the process at the latest.

        Raises:
            TrainingError: another training holds the lock.
        """
        try:
            import fcntl
        except ImportError:  # Windows has no such locks.
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "a+") as file:
            # A record lock: child processes do not inherit it, so none can outlive the training.
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                file.seek(0)
                raise TrainingError(
                    f"another training ({file.read().strip() or 'unknown'}) writes to "
                    f"'{self.path}'; wait for its end, or choose another folder with "
                    "train.output_dir=…"
                ) from error
            except OSError as error:
                # As on some network file systems.
                logger.warning(
                    "'%s' cannot be locked (%s): nothing keeps other trainings out of it",
                    self.path,
                    error.strerror,
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield
            file.truncate(0)

    def begin(self) -> None:
        """Starts a new run, which resumes none of the checkpoints in the folder."""
        others = self._resumable()
        if others:
            logger.warning(
                "'%s' holds checkpoints of an earlier training, such as '%s': they are kept, and "
                "renamed where this training writes a file of the same name",
                self.path,
                others[0].name,
            )
        self.run_id = uuid.uuid4().hex
        self._numbered = []
        self._write("run_id", self.run_id)

    def resume(self, run: dict[str, Any]) -> None:
        """Continues the run of a checkpoint.

        Args:
            run: from `metadata`; {} for a checkpoint of an earlier version.
        """
        self._numbered = list(run.get("numbered", []))
        self.run_id = run.get("id", "")
        if self.run_id:
            self._write("run_id", self.run_id)
        else:
            # Written with the first checkpoint, as the one that is resumed has no id yet.
            self.run_id = uuid.uuid4().hex

    def metadata(self, name: str) -> dict[str, Any]:
        """Description of the run for the checkpoint `name`, to be stored under `RUN_KEY`."""
        self.run_id = self.run_id or uuid.uuid4().hex
        numbered = [*self._numbered, name] if _number(name) is not None else self._numbered
        return {"id": self.run_id, "numbered": list(dict.fromkeys(numbered))}

    def make_room(self, path: Path) -> None:
        """Renames a file or folder of another run that is in the way of a new checkpoint."""
        is_checkpoint = path.is_file() or (path / STATE_FILE).is_file()
        if not is_checkpoint or self._is_own(path):
            return
        number = 1
        while (kept := path.with_name(f"{path.stem}.earlier-{number}{path.suffix}")).exists():
            number += 1
        path.rename(kept)
        logger.warning("'%s' belongs to another training: renamed it to '%s'", path, kept.name)

    def add(self, path: Path, *, resumable: bool) -> None:
        """Records a new checkpoint of the run, in `last_checkpoint` if it is resumable."""
        if resumable:
            self._write("run_id", self.run_id)
            self._write("last_checkpoint", path.name)
        if _number(path.name) is not None and path.name not in self._numbered:
            self._numbered.append(path.name)

    def keep_last(self, count: int) -> None:
        """Deletes the oldest numbered checkpoints of the run, down to `count` of them.

        The one that `last_checkpoint` names stays in any case.
        """
        existing = [name for name in self._numbered if (self.path / name).exists()]
        existing.sort(key=lambda name: _number(name) or 0)
        last = self.last_name()
        self._numbered = existing[max(len(existing) - count, 0) :]
        for name in existing[: max(len(existing) - count, 0)]:
            path = self.path / name
            if name == last or not self._is_own(path):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def last_name(self) -> str:
        """Name of the last checkpoint, '' if there is none."""
        return _read_note(self.path / "last_checkpoint")

    def checkpoints(self) -> list[Path]:
        """Checkpoints to resume, best first: the one in `last_checkpoint`, then the newest.

        Checkpoints of other runs than that of the folder are skipped, with a warning.
        """
        own: list[Path] = []
        others: list[Path] = []
        for path in self._resumable():
            (own if self._belongs(path) else others).append(path)
        if others:
            logger.warning(
                "not resumed, as a later training was started in '%s': %s; delete '%s' to resume",
                self.path,
                _listed(path.name for path in others),
                self.path / "run_id",
            )
        last = self.last_name()
        own.sort(key=lambda path: path.name != last)
        if last and not (self.path / last).exists():
            logger.warning("'%s' names '%s', which does not exist", self.path, last)
        return own

    def remove_unfinished(self) -> None:
        """Deletes temporary files of processes that were killed while they wrote a checkpoint."""
        for path in self.path.glob(".*.tmp*"):
            if path.is_dir():
                shutil.rmtree(path)
            # Of earlier versions: '.model_final.pth.123.tmp'.
            elif path.name.endswith(".tmp.pth") or ".pth." in path.name:
                path.unlink()

    def _resumable(self) -> list[Path]:
        """Files and folders that may be resumed, newest first."""
        if not self.path.is_dir():
            return []
        found = [path for path in self.path.iterdir() if _RESUMABLE.fullmatch(path.name)]
        # Beside the folder of a sharded checkpoint, a file holds the weights alone.
        found = [p for p in found if p.suffix or (p / STATE_FILE).is_file()]
        found = [p for p in found if not (p.suffix and (p.with_suffix("") / STATE_FILE).is_file())]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)

    def _belongs(self, path: Path) -> bool:
        """Whether a checkpoint is of the last run in the folder."""
        run_id = _read_note(self.path / "run_id")
        if not run_id:
            return True
        run = _run_of(path)
        # Loading reports files that cannot be read.
        return run is None or run.get("id") == run_id

    def _is_own(self, path: Path) -> bool:
        run = _run_of(path)
        return run is not None and run.get("id") == self.run_id

    def _write(self, name: str, text: str) -> None:
        with atomic_path(self.path / name) as temporary:
            temporary.write_text(text)


def _read_note(path: Path) -> str:
    """The text of a file; '' if it is missing, or corrupt after a power failure."""
    text = path.read_bytes().decode(errors="replace").strip() if path.is_file() else ""
    return text if text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text else ""


def _run_of(path: Path) -> dict[str, Any] | None:
    """The run that wrote a checkpoint: {} if it does not say, None if it cannot be read."""
    if path.is_dir():
        path = path / STATE_FILE
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    # A corrupt file can raise anything in the reader.
    except Exception:
        return None
    return dict(content.get(RUN_KEY) or {}) if isinstance(content, dict) else {}


def _number(name: str) -> int | None:
    match = re.fullmatch(r"model_(\d+)(\.pth)?", name)
    return int(match[1]) if match else None


def _listed(names: Iterable[str]) -> str:
    names = [f"'{name}'" for name in names]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
