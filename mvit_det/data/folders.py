"""Where datasets are, and folders of generated files, which appear once they are complete."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DatasetError
from .urls import is_url


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
