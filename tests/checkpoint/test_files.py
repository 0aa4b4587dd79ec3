"""Files that are corrupt, are something else, or would run code."""

import os
import pickle
import re
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from mvit_det.checkpoint import load_weights
from mvit_det.checkpoint.files import read_file
from mvit_det.errors import CheckpointError


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


def write_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


WRITERS = {"pickle": write_pickle, "torch": torch.save, "legacy": write_legacy}


@pytest.mark.parametrize("kind", WRITERS)
def test_code_is_refused_unless_trusted(kind, backbone, tmp_path):
    created, path = tmp_path / "created", tmp_path / "weights.pkl"
    model = backbone(seed=1)
    state = {k: v.numpy() if kind == "pickle" else v for k, v in model.state_dict().items()}
    content = {"model": state, "__author__": "?", "extra": Malicious(created)}
    WRITERS[kind](content, path)
    message = "imports 'posix.mkdir', so it could run any code; if you trust its origin"
    with pytest.raises(CheckpointError, match=re.escape(f"'{path}' {message}")):
        load_weights(model, path)
    assert not created.exists()
    load_weights(model, path, trust=True)
    assert created.is_dir()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("numpy", "load"),
        ("numpy._core.multiarray", "_reconstruct.__globals__"),
        ("torch.storage", "_load_from_bytes"),
        ("collections", "Counter"),
    ],
)
def test_only_the_listed_names_can_be_imported(module, name, tmp_path):
    path = tmp_path / "x.pkl"
    text = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    path.write_bytes(b"\x80\x04" + text + b"\x93.")
    with pytest.raises(CheckpointError, match=re.escape(f"imports '{module}.{name}'")):
        read_file(path)


def test_arrays_of_objects_and_other_codecs_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    write_pickle({"x": np.array([{}, []], dtype=object)}, path)
    with pytest.raises(CheckpointError, match=re.escape("imports 'numpy.dtype('O8')'")):
        read_file(path)
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(CheckpointError, match="imports '_codecs.encode to rot13'"):
        read_file(path)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_content_arrives_as_it_was(protocol, tmp_path):
    content = {
        "arrays": [np.arange(6, dtype="<f4").reshape(2, 3), np.arange(4, dtype=">i8")],
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "zero": np.zeros(()),
        "none": np.zeros((0, 3), dtype=np.uint8),
        "flags": np.array([True, False]),
        "scalar": np.int64(3),
        "ordered": OrderedDict(a=1, b=(2.5, "text", None, b"\xff\x00")),
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_file(path)
    assert found.keys() == content.keys()
    for key in ("fortran", "zero", "none", "flags"):
        assert found[key].dtype == content[key].dtype
        np.testing.assert_array_equal(found[key], content[key])
        assert found[key].flags.writeable
    for ours, theirs in zip(found["arrays"], content["arrays"], strict=True):
        assert ours.dtype == theirs.dtype.newbyteorder("=")
        np.testing.assert_array_equal(ours, theirs)
    assert found["scalar"] == 3
    assert found["ordered"] == dict(content["ordered"])


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_numpy_1_and_2(core, tmp_path):
    path = tmp_path / "x.pkl"
    content = pickle.dumps(np.arange(3.0), protocol=2)
    path.write_bytes(re.sub(rb"numpy\._?core", core, content))
    np.testing.assert_array_equal(read_file(path), np.arange(3.0))


def test_safetensors_that_begin_as_a_pickle(tmp_path):
    """They begin with the size of their header, a multiple of 8: one in 32 has this first byte."""
    path = tmp_path / "x.safetensors"
    tensors = {"weight": torch.arange(3.0)}
    for length in range(0, 256, 8):
        safetensors.torch.save_file(tensors, path, {"text": "x" * length})
        if path.read_bytes().startswith(b"\x80"):
            break
    assert path.read_bytes().startswith(b"\x80")
    assert torch.equal(read_file(path)["weight"], tensors["weight"])


def written_files(folder):
    tensors = {"weight": torch.randn(100, 100)}
    for name, write in WRITERS.items():
        content = {"weight": tensors["weight"].numpy()} if name == "pickle" else tensors
        write(content, folder / name)
    safetensors.torch.save_file(tensors, folder / "safetensors")
    return [*WRITERS, "safetensors"]


def test_truncated_files(tmp_path):
    for name in written_files(tmp_path):
        whole = (tmp_path / name).read_bytes()
        path = tmp_path / f"{name}.part"
        for size in (len(whole) - 1, len(whole) // 2, 100):
            path.write_bytes(whole[:size])
            message = re.escape(f"'{path}' is truncated; download it again")
            with pytest.raises(CheckpointError, match=message):
                read_file(path)


def test_corrupt_files_get_one_sentence(tmp_path):
    for name in written_files(tmp_path):
        whole = bytearray((tmp_path / name).read_bytes())
        path = tmp_path / f"{name}.damaged"
        whole[10:90] = bytes(80)
        path.write_bytes(whole)
        with pytest.raises(CheckpointError, match="is (corrupt|truncated)") as caught:
            read_file(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; download it again"),
        (b"\n <!DOCTYPE html><html>404</html>", "is a web page and not weights; open its URL"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error>", "is a web page and not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "get them with 'git lfs pull'"),
        (b"weights", "is not a file of weights: neither PyTorch's, nor safetensors, nor a pickle"),
        (b"PK\x03\x04", "is truncated"),
        (b"\x80", "is truncated"),
    ],
)
def test_files_that_are_something_else(content, message, tmp_path):
    path = tmp_path / "model_final.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"'{path}' ")


def test_safetensors_on_a_full_disk_and_for_others_to_read(tmp_path):
    program = """
import os, resource, signal, sys, torch
from pathlib import Path
from mvit_det.checkpoint.files import save_safetensors
os.umask(0o022)
save_safetensors({"a": torch.zeros(9)}, Path("a.safetensors"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_safetensors({"a": torch.zeros(9999)}, Path("b.safetensors"))
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "File too large\n"
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644
