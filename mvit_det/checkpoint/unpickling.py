"""Reading of pickles that hold NumPy arrays and plain containers, and nothing that runs code."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np


class RefusedImportError(pickle.UnpicklingError):
    """A pickle wants something that is not data; `name` says what."""

    def __init__(self, name: str) -> None:
        super().__init__(f"'{name}' is not allowed in a file of weights")
        self.name = name


def load_arrays(file: BinaryIO) -> Any:
    """Unpickles arrays, numbers, text, and dicts, lists, tuples and sets of them.

    A pickle is a small program that names what it calls. Here it can name but the few parts below,
    which stand in for those of NumPy and take data apart in Python. NumPy's own would trust the
    description of an array that a file gives, with which a file could reach memory beyond it.

    Args:
        file: a binary file at the beginning of a pickle, of NumPy 1 or 2 and any protocol.

    Raises:
        RefusedImportError: the pickle names something else.
        Exception: of any kind, where the pickle is damaged.
    """
    # Pickles of Python 2 keep the bytes of arrays as text.
    return _to_arrays(_Unpickler(file, encoding="latin1").load())


class _Dtype:
    """Stands in for a `numpy.dtype` of numbers: kind and size, then, by `BUILD`, the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biufc":
            raise RefusedImportError(f"numpy.dtype({code!r})")

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for an array that is filled by `BUILD`."""

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
    """How pickles of protocol 2 spell no bytes at all."""
    return b""


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 spell bytes."""
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
    """Replaces the stand-ins, in containers too."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return {key: _to_arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_arrays(item) for item in value)
    return value
