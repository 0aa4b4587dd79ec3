"""Files that appear under their name only when they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file in the same folder, which takes over the name `path` at the end.

    Whoever opens `path` sees the old file or the new one, and never a part of it: also after an
    exception, a full disk or a loss of power. What an exception interrupts leaves nothing behind.

    Args:
        path: the file to write or to replace. Its folder is made.

    Yields:
        Where to write.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
        if os.name == "posix":
            # Elsewhere a folder cannot be opened; there the rename itself has to do.
            _sync(path.parent, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(
            f"cannot write '{path}' ({error.strerror or error}); make room there, or choose "
            "another folder"
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def disk_error(error: Exception) -> OSError | None:
    """What the disk has against a file that could not be written; None if it is something else.

    PyTorch fails over the file that is too short, and only hints at why it is.
    """
    reason = error if isinstance(error, OSError) else error.__context__
    return reason if isinstance(reason, OSError) else None


def save_torch(data: Any, path: Path) -> None:
    """`torch.save` that says what the disk has against it.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        with open(path, "wb") as file:
            torch.save(data, file)
    except RuntimeError as error:
        reason = disk_error(error)
        if reason is not None:
            raise reason from error
        raise


def _sync(path: Path, flags: int) -> None:
    """Waits until the disk holds what was written."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
