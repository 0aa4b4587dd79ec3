"""From a file to what it holds, without running any code the file may contain."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..errors import CheckpointError
from .unpickling import RefusedImportError, load_arrays

_TORCH_LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19."
_HEAD_SIZE = 64  # bytes that tell what a file is


def read_file(path: Path, *, trust: bool = False) -> Any:
    """What a file of weights holds: of PyTorch, of safetensors, or a pickle of arrays.

    Which of them it is comes from its first bytes, whatever it is called.

    Args:
        path: an existing file.
        trust: reads files of PyTorch and pickles with all they contain, so that they can run any
            code. Only for files whose origin is known.

    Returns:
        Containers, tensors on the CPU, arrays, numbers and text; any object with `trust`.

    Raises:
        CheckpointError: the file is empty, damaged, no file of weights, or contains more than data.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD_SIZE)
    if not head:
        raise CheckpointError(f"'{path}' is empty; get it anew")
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            raise _cut_short(path)
        _check_sums(path)
        return _read_torch(path, trust)
    if head.startswith(b"\x80"):
        read = _read_torch if _TORCH_LEGACY_MAGIC in head else _read_pickle
        return read(path, trust)
    if head[8:9] == b"{":
        return _read_safetensors(path, int.from_bytes(head[:8], "little"))
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise CheckpointError(
            f"'{path}' is a web page and not weights; open its address in a browser to see why, "
            "and get it anew"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"'{path}' only points to weights kept by Git LFS; get them with 'git lfs pull'"
        )
    raise CheckpointError(
        f"'{path}' is not a file of weights: neither PyTorch's, nor safetensors, nor a pickle"
    )


def _check_sums(path: Path) -> None:
    """Compares the parts of a file with their checksums, which PyTorch writes and does not read."""
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    # Whatever a damaged file makes of the reader.
    except Exception as error:
        raise _damaged(path, error) from error
    if broken:
        raise CheckpointError(f"'{path}' is damaged (the checksum of '{broken}'); get it anew")


def _read_torch(path: Path, trust: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise _refused(path, wanted.group(1)) from error
        raise _damaged(path, error) from error
    # Whatever a damaged file makes of the reader: there is no list of what it may raise.
    except Exception as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path, trust: bool) -> Any:
    try:
        with open(path, "rb") as file:
            return pickle.load(file, encoding="latin1") if trust else load_arrays(file)
    except RefusedImportError as error:
        raise _refused(path, error.name) from error
    except Exception as error:
        raise _damaged(path, error) from error


def _read_safetensors(path: Path, header_size: int) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        if path.stat().st_size < header_size + 8:
            raise _cut_short(path) from error
        raise _damaged(path, error) from error


def _refused(path: Path, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"'{path}' wants to import '{wanted}', and so could run any code; if you trust its "
        "origin, read it with --trust-checkpoint (trust=True)"
    )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    text = str(error).lower()
    if isinstance(error, EOFError) or any(
        sign in text for sign in ("truncated", "incomplete", "ran out of input", "unexpected eof")
    ):
        return _cut_short(path)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"'{path}' is damaged ({reason}); get it anew")


def _cut_short(path: Path) -> CheckpointError:
    return CheckpointError(f"'{path}' is cut short: its end is missing; get it anew")
