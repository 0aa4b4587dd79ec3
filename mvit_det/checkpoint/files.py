"""Safe files of weights: reading runs no code of the file, writing is all-or-nothing."""

import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch

from ..data.folders import new_file
from ..errors import CheckpointError

_TORCH_LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19."
_HEAD_SIZE = 64  # bytes that identify the format
_METADATA = "mvit_det"  # in the header of safetensors, which holds strings only: as JSON


class RefusedImportError(pickle.UnpicklingError):
    """A pickle imports something that is not data; `name` is the import."""

    def __init__(self, name: str) -> None:
        super().__init__(f"'{name}' is not allowed in a file of weights")
        self.name = name


def read_file(path: Path, *, trust: bool = False) -> Any:
    """Reads a file of weights: PyTorch's, safetensors, or a pickle of arrays.

    The first bytes decide on the format; the name of the file does not matter.

    Args:
        path: an existing file.
        trust: unpickles everything, so that the file can run any code. Only for files whose origin
            is known.

    Returns:
        Containers, tensors on the CPU, arrays, numbers and strings; any object with `trust`.

    Raises:
        CheckpointError: the file cannot be read, is empty, corrupt or no file of weights, or
            contains more than data.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_SIZE)
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}' ({error.strerror})") from error
    if not head:
        raise CheckpointError(f"'{path}' is empty; download it again")
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            raise _truncated(path)
        _check_sums(path)
        return _read_torch(path, trust)
    # The size of the header in 8 bytes, then JSON; the first byte may be that of a pickle.
    if head[4:9] == b"\0\0\0\0{":
        return _read_safetensors(path, int.from_bytes(head[:8], "little"))
    if head.startswith(b"\x80"):
        read = _read_torch if _TORCH_LEGACY_MAGIC in head else _read_pickle
        return read(path, trust)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise CheckpointError(
            f"'{path}' is a web page and not weights; open its URL in a browser to see why, "
            "and download it again"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"'{path}' only points to weights kept by Git LFS; get them with 'git lfs pull'"
        )
    raise CheckpointError(
        f"'{path}' is not a file of weights: neither PyTorch's, nor safetensors, nor a pickle"
    )


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and renames it to `path` at the end.

    Readers of `path` see the old file or the new one, never half of it: also after an exception, a
    full disk or a loss of power. An exception deletes the temporary file.

    Args:
        path: the file to write or to replace. Its folder is created.

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    try:
        with new_file(path) as temporary:
            yield temporary
            _sync(temporary, os.O_RDWR)
        if os.name == "posix":
            # Windows cannot open a folder to sync it.
            _sync(path.parent, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(
            f"cannot write '{path}' ({error.strerror or error}); make room there, or choose "
            "another folder"
        ) from error


def disk_error(error: Exception) -> OSError | None:
    """The operating system's error behind a failed write; None if there is none.

    PyTorch raises an error about the incomplete file, with that of the disk as its context.
    """
    reason = error if isinstance(error, OSError) else error.__context__
    return reason if isinstance(reason, OSError) else None


def save_torch(data: Any, path: Path) -> None:
    """`torch.save` that raises the operating system's error.

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


def save_safetensors(
    tensors: dict[str, torch.Tensor], path: Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """`safetensors.torch.save_file` that raises the operating system's error.

    Others may read the file, if the umask lets them: safetensors 0.8 writes it for its owner only.

    Args:
        tensors: by name.
        path: the file to write.
        metadata: for `read_file`: numbers, strings, and lists of them.

    Raises:
        OSError: the file cannot be written.
    """
    header = {"format": "pt"}
    if metadata:
        header[_METADATA] = json.dumps(metadata)
    try:
        safetensors.torch.save_file(tensors, path, metadata=header)
        os.umask(umask := os.umask(0o077))
        path.chmod(0o666 & ~umask)
    except safetensors.SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def _check_sums(path: Path) -> None:
    """Verifies the checksums of a file, which PyTorch writes and does not read."""
    try:
        with zipfile.ZipFile(path) as file:
            corrupt = file.testzip()
    # A corrupt file can raise anything in the reader.
    except Exception as error:
        raise _corrupt(path, error) from error
    if corrupt:
        raise CheckpointError(
            f"'{path}' is corrupt (the checksum of '{corrupt}' is wrong); download it again"
        )


def _read_torch(path: Path, trust: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise _refused(path, wanted.group(1)) from error
        raise _corrupt(path, error) from error
    # A corrupt file can raise anything in the reader.
    except Exception as error:
        raise _corrupt(path, error) from error


def _read_pickle(path: Path, trust: bool) -> Any:
    try:
        with open(path, "rb") as file:
            return pickle.load(file, encoding="latin1") if trust else _load_arrays(file)
    except RefusedImportError as error:
        raise _refused(path, error.name) from error
    except Exception as error:
        raise _corrupt(path, error) from error


def _read_safetensors(path: Path, header_size: int) -> dict[str, Any]:
    """The tensors by name; where there is metadata, with the tensors under "model" in it."""
    try:
        tensors = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
        return {**metadata, "model": tensors} if metadata else tensors
    except safetensors.SafetensorError as error:
        if path.stat().st_size < header_size + 8:
            raise _truncated(path) from error
        raise _corrupt(path, error) from error
    except (RecursionError, TypeError, ValueError) as error:  # of the metadata
        raise _corrupt(path, error) from error


def _refused(path: Path, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"'{path}' imports '{wanted}', so it could run any code; if you trust its origin, "
        "read it with --trust-checkpoint (trust=True)"
    )


def _corrupt(path: Path, error: Exception) -> CheckpointError:
    text = str(error).lower()
    if isinstance(error, EOFError) or any(
        sign in text for sign in ("truncated", "incomplete", "ran out of input", "unexpected eof")
    ):
        return _truncated(path)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"'{path}' is corrupt ({reason}); download it again")


def _truncated(path: Path) -> CheckpointError:
    return CheckpointError(f"'{path}' is truncated; download it again")


def _load_arrays(file: BinaryIO) -> Any:
    """Unpickles arrays, numbers, strings, and dicts, lists, tuples and sets of them.

    A pickle is a program that names the functions it calls. Only the names in `_ALLOWED` resolve,
    and to stand-ins for NumPy's: NumPy itself trusts the array header in the file, by which a file
    could read memory out of bounds. PyTorch's weights_only unpickler does not read plain pickles.

    Args:
        file: a binary file at the beginning of a pickle, of NumPy 1 or 2 and any protocol.

    Raises:
        RefusedImportError: the pickle names something else.
        Exception: of any kind, where the pickle is corrupt.
    """
    # Pickles of Python 2 hold the bytes of arrays as strings.
    return _to_arrays(_Unpickler(file, encoding="latin1").load())


class _Dtype:
    """Stand-in for a numeric `numpy.dtype`: kind and size, then, by `BUILD`, the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biufc":
            raise RefusedImportError(f"numpy.dtype({code!r})")

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stand-in for an array that `BUILD` fills."""

    def __init__(self, *_: Any) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _from_bytes(data, dtype, shape, "F" if is_fortran else "C")


def _from_bytes(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    if isinstance(data, str):
        data = data.encode("latin1")
    # A writable copy, in the byte order of this machine, which PyTorch needs.
    array = np.frombuffer(data, dtype.dtype).astype(dtype.dtype.newbyteorder("="))
    return array.reshape(shape, order=order)


def _from_buffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return _from_bytes(data, dtype, shape, order)


def _scalar(dtype: _Dtype, data: Any) -> Any:
    return _from_bytes(data, dtype, (), "C")[()]


def _no_bytes() -> bytes:
    """Empty bytes, as protocol 2 writes them."""
    return b""


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as protocol 2 writes them."""
    if encoding != "latin1":
        raise RefusedImportError(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


_NUMPY_CORES = ("numpy.core", "numpy._core")  # of NumPy 1 and NumPy 2
_ALLOWED: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("__builtin__", "bytes"): _no_bytes,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(f"{core}.multiarray", "_reconstruct"): _Array for core in _NUMPY_CORES},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in _NUMPY_CORES},
    **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in _NUMPY_CORES},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise RefusedImportError(f"{module}.{name}")
        return _ALLOWED[module, name]


def _to_arrays(value: Any) -> Any:
    """Replaces the stand-ins by arrays, in containers too."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return {key: _to_arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_arrays(item) for item in value)
    return value


def _sync(path: Path, flags: int) -> None:
    """Waits until written data is on the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
