"""Where datasets are, and files and folders that appear once they are complete."""

import csv
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..errors import DatasetError, OutputError
from .urls import is_url

_ROOM = 2**18  # bytes of a config, a table and a log


def datasets_folder() -> str:
    """The folder that `$DETECTRON2_DATASETS` names, by default `datasets`, or its URL."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS") or "datasets")


def local_folder(folder: str | os.PathLike[str]) -> Path:
    """The absolute path of a folder for generated files.

    Raises:
        DatasetError: the folder is a URL.
    """
    if is_url(folder):
        raise DatasetError(
            f"cannot generate a dataset at '{folder}', as nothing is written to URLs; set the "
            "environment variable DETECTRON2_DATASETS to a folder, such as './datasets'"
        )
    return Path(folder).absolute()


def cannot_generate(folder: str | os.PathLike[str], error: OSError) -> DatasetError:
    """The error about a generated dataset that cannot be written."""
    return DatasetError(
        f"cannot write the dataset '{folder}' ({error.strerror or error}); set the environment "
        "variable DETECTRON2_DATASETS to a writable folder"
    )


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path with the same extension, and renames it to `path` at the end.

    Readers of `path` see the old file or the new one, never half of it. An exception, as on a full
    disk, deletes the temporary file and keeps the old one.

    Args:
        path: to create, with its folder, or to replace; a link stays one, and `~` is the home
            folder.

    Raises:
        OSError: the file cannot be written, as its path is a URL or a folder, for example.
    """
    if is_url(path):
        raise OSError(errno.EINVAL, "files are not written to URLs", path)
    target = Path(os.path.realpath(os.path.expanduser(path)))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if target.exists() and not target.is_file():
        # A device, such as /dev/null, or a pipe: it must not become a file.
        yield target
        return
    # Not the whole name: it may be as long as the file system allows.
    temporary = target.with_name(f".{target.stem[:50]}.{os.getpid()}.tmp{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        reason = os.strerror(errno.ENOTDIR)
        raise NotADirectoryError(errno.ENOTDIR, reason, str(target.parent)) from error
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Writes text in UTF-8, all or nothing; returns the path.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with new_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(
            f"cannot write '{path}' ({error.strerror or error}); make room there, or name another "
            "folder"
        ) from error
    return Path(path)


def write_rows(path: str | os.PathLike[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file in UTF-8, all or nothing.

    Raises:
        OSError: the file cannot be written.
    """
    with new_file(path) as temporary, open_csv(temporary) as file:
        csv.writer(file).writerows(rows)


def open_csv(path: str | os.PathLike[str]) -> TextIO:
    """Opens a CSV file to write, in UTF-8; bytes of paths that are no UTF-8 are escaped."""
    return open(path, "w", encoding="utf-8", errors="backslashreplace", newline="")


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Creates a folder, and checks that files can be written there, before anything slow starts.

    Raises:
        OSError: they cannot, or there is no room for a config or a table.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_ROOM))
        file.flush()


@contextmanager
def new_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty temporary folder, and renames it to `folder` at the end.

    An exception deletes the temporary folder.

    Args:
        folder: to create, with its parents; it may exist if it is empty.
        overwrite: replaces a `folder` with files.

    Raises:
        FileExistsError: `folder` has files, perhaps of another process that was faster.
        OSError: the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        unfinished = Path(temporary, "new")
        unfinished.mkdir()
        yield unfinished
        if overwrite and folder.exists():
            folder.rename(Path(temporary, "old"))
        # Renaming is atomic, and fails if there are files meanwhile.
        try:
            unfinished.rename(folder)
        except OSError as error:
            if folder.exists():
                raise FileExistsError(f"'{folder}' was written by another process") from error
            raise
