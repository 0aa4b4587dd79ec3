"""Runtimes side by side, on a model so small that only the benchmark itself is tested."""

import pytest

from mvit_det.benchmarking.runtimes import (
    RUNTIMES,
    RuntimeRow,
    compare_runtimes,
    format_runtimes,
)
from mvit_det.errors import ConfigError, ExportError

SIZE = (64, 96)


@pytest.mark.slow
def test_runtimes_are_measured_and_files_are_kept(tmp_path):
    for library in ("onnxscript", "onnxruntime", "openvino", "nncf"):
        pytest.importorskip(library)
    # Compiling takes minutes.
    runtimes = [name for name in RUNTIMES if name != "pytorch compiled"]
    common = dict(repeats=2, threads=1)
    rows = list(compare_runtimes("pico", SIZE, tmp_path, runtimes=runtimes, **common))
    assert [(row.part, row.runtime) for row in rows] == [
        (part, name) for part in ("detector", "backbone") for name in runtimes
    ]
    assert all(len(row.latencies) == 2 and min(row.latencies) > 0 for row in rows)
    assert {row.runtime for row in rows if row.throughput} == {
        "openvino",
        "openvino bf16",
        "openvino int8",
    }
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.xml")}
    assert {path.name for path in files} == {"model.xml", "int8.xml"}
    list(compare_runtimes("pico", SIZE, tmp_path, runtimes=["openvino int8"], **common))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.xml")} == files


@pytest.mark.slow
def test_video_classifiers_are_measured(tmp_path):
    for library in ("onnxscript", "openvino", "nncf"):
        pytest.importorskip(library)
    runtimes = ["pytorch", "pytorch bf16", "openvino", "openvino int8"]
    options = dict(parts=["video"], runtimes=runtimes, repeats=2, threads=1)
    rows = list(compare_runtimes("pico", (32, 32), tmp_path, **options))
    assert [(row.part, row.runtime) for row in rows] == [("video", name) for name in runtimes]
    assert [bool(row.throughput) for row in rows] == [False, False, True, True]
    assert "clips/s in streams" in format_runtimes(rows)


def test_speed_ups_are_over_pytorch_in_the_same_type():
    rows = [
        RuntimeRow("detector", "pytorch", (4.0, 5.0, 6.0)),
        RuntimeRow("detector", "pytorch bf16", (3.0,)),
        RuntimeRow("detector", "openvino", (2.5,), 0.5),
        RuntimeRow("detector", "openvino bf16", (1.5,), 1.0),
        RuntimeRow("backbone", "openvino", (1.0,), 1.25),
    ]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in format_runtimes(rows).splitlines()[2:]
    ]
    assert [line[3:] for line in lines] == [
        ["1.00×", ""],
        ["1.00×", ""],
        ["2.00×", "0.50"],
        ["2.00×", "1.00"],
        ["", "1.25"],
    ]
    assert lines[0][2] == "5 s (4–6)"


@pytest.mark.parametrize(
    ("part", "size", "image_size", "error", "named"),
    [
        ("detector", "l", SIZE, ConfigError, "size l"),
        ("video", "t", SIZE, ConfigError, "size t"),
        ("detector", "pico", (50, 96), ExportError, "50x96"),
    ],
)
def test_what_does_not_fit_is_named(part, size, image_size, error, named, tmp_path):
    with pytest.raises(error, match=named):
        list(compare_runtimes(size, image_size, tmp_path, parts=[part], runtimes=["pytorch"]))
