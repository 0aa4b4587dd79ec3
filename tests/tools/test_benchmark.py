"""The benchmark, on models and images so small that nothing but its own workings is tested."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mvit_det.benchmarking import Case, Row, compare, format_rows, preset, sweep, time_per_pixel
from mvit_det.benchmarking import comparison as comparison_module
from mvit_det.benchmarking import sweep as sweep_function
from mvit_det.benchmarking.comparison import ParityError, check_parity
from mvit_det.benchmarking.memory import DoesNotFitError
from mvit_det.benchmarking.models import build
from mvit_det.benchmarking.report import as_json
from mvit_det.benchmarking.sweep import predict_peak
from mvit_det.benchmarking.timing import count_flops
from mvit_det.benchmarking.workload import Workload
from mvit_det.errors import ConfigError, DeviceError

ROOT = Path(__file__).resolve().parents[2]
PICO = dict(size="pico", image_size=(64, 96))


def run_tool(*arguments, check=True):
    # More threads than cores are free would wait for each other.
    process = subprocess.run(
        [sys.executable, "tools/benchmark.py", "--threads", "1", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0 or not check, process.stderr
    return process


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "tools" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What a whole run leaves: standard output, and the folder of files."""
    output = tmp_path_factory.mktemp("benchmark")
    process = run_tool(
        *("--sweep", "--size", "pico", "--image-size", 64, 96, "--what", "train"),
        *("--repeats", 2, "--output", output),
    )
    return process.stdout, output


def test_prints_a_table(result):
    printed, output = result
    header, _, *lines = printed.splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        "what",
        "of",
        "mvit_det",
        "detectron2",
        "mvit_det over detectron2",
        "over the floor",
        "features' error",
    ]
    assert lines[0].startswith("| training step, peak memory | MViTv2-pico, 64×96, batch 1, fp32 |")
    assert "× the memory" in lines[0]
    assert lines[1].startswith("| training step ")
    assert "× as fast" in lines[1]
    assert lines[-1] == f"Wrote {output}/benchmark.json and {output}/benchmark.png"


def test_json_holds_measurements_machine_and_versions(result):
    _, output = result
    written = json.loads((output / "benchmark.json").read_text())
    memory, time = written["rows"]
    for row, unit, repeats in ((memory, "bytes", 1), (time, "s", 2)):
        assert row["pass"] == "train"
        assert row["unit"] == unit
        assert row["case"]["image_size"] == [64, 96]
        assert row["skipped"] == {}
        for side in ("candidate", "baseline"):
            values = row[side]["values"]
            assert len(values) == repeats
            assert 0 < row[side]["min"] <= row[side]["median"] <= row[side]["max"]
        ratio = row["candidate"]["median"] / row["baseline"]["median"]
        assert row["candidate_over_baseline"] == pytest.approx(ratio)
    assert 0 < time["relative_error"] < 1e-5
    floor = 3 * time["forward_flops"] / time["matmul_flops_per_second"]
    assert time["floor"] == pytest.approx(floor)
    assert time["candidate_over_floor"] == pytest.approx(time["candidate"]["median"] / floor)
    assert time["candidate"]["images_per_second"] == pytest.approx(1 / time["candidate"]["median"])

    assert written["versions"]["torch"] == torch.__version__
    assert set(written["versions"]) == {"python", "torch", "torchvision", "detectron2", "mvit_det"}
    assert written["machine"]["cpu"]
    assert written["machine"]["cores"] >= 1
    assert written["machine"]["threads"] == 1
    assert "--sweep" in written["command"]


def test_plot_shows_both_sides(result):
    _, output = result
    image = cv2.imread(str(output / "benchmark.png"))
    for half in (image[:, :800], image[:, 800:]):
        for blue, green, red in ((178, 114, 0), (0, 94, 213)):
            is_line = (abs(half.astype(int) - (blue, green, red)).max(axis=2) < 8).sum()
            assert is_line > 50


def test_a_mistake_gets_one_sentence_and_no_traceback():
    process = run_tool("--dtype", "fp16", check=False)
    assert process.returncode == 1
    message = "error: dtype fp16 needs CUDA; on the CPU there are fp32 and bf16"
    assert process.stderr.splitlines()[-1] == message
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "full", "--batch", "2"], "--batch: not allowed with argument --preset"),
        (["--what", "speed"], "'speed' is none of forward, train, memory"),
        (["--checkpoint", "scale9"], "'scale9' is none of scale2, scale3, scale4, scale5, all"),
        (["--repeats", "0"], "--repeats: must be positive, not 0"),
    ],
)
def test_options_that_cannot_be_read_are_refused(tool, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    with pytest.raises(SystemExit):
        tool.main()
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--batch", "2"], [Case(batch=2)]),
        (
            ["--image-size", "96", "64", "--image-size", "32", "64", "--detector", "--size", "s"],
            [
                Case(size="s", image_size=(32, 64), detector=True),
                Case(size="s", image_size=(96, 64), detector=True),
            ],
        ),
        (["--mask-padding"], [Case(mask_padding=True, baseline="mvit_det")]),
        (
            ["--checkpoint", "scale2,scale3", "--against", "detectron2"],
            [Case(checkpoint=("scale2", "scale3"))],
        ),
        (["--sweep"], [Case(image_size=(n, n)) for n in (256, 512, 768, 1024, 1536, 2048)]),
    ],
)
def test_options_become_cases(tool, arguments, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    parsed = tool.parse_arguments()
    assert parsed.preset is None
    assert tool.make_cases(parsed) == expected


def test_without_options_the_quick_set_runs(tool, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py"])
    assert tool.parse_arguments().preset == "quick"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(size="xl"), "size must be one of t, s, b, l, h, pico, not 'xl'"),
        (dict(dtype="fp8"), "dtype must be one of fp32, bf16, fp16, not 'fp8'"),
        (dict(image_size=(64, 5)), "image width must be at least 32, not 5"),
        (dict(batch=0), "batch must be at least 1, not 0"),
        (dict(baseline="mvit_det"), "differs from itself only with '--checkpoint' or"),
        (dict(size="h", detector=True), "no Mask R-CNN of size h; there are t, s, b, pico"),
    ],
)
def test_wrong_cases_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Case(**arguments)


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="PyTorch finds no CUDA device on this machine"):
        Case(device="cuda")


def test_both_sides_of_a_detector_do_the_same():
    case = Case(**PICO, detector=True, batch=2)
    sides = {side: Workload(case, side) for side in ("candidate", "baseline")}
    assert check_parity(case, sides) < 1e-5
    gradients = {}
    for side, workload in sides.items():
        workload.run("forward")
        workload.run("train")
        gradients[side] = {name: p.grad for name, p in workload.model.named_parameters()}
    # The loss reaches everything, the mask head included.
    for name, expected in gradients["baseline"].items():
        assert expected is not None, name
    last = "roi_heads.mask_head.predictor.weight"
    expected = gradients["baseline"][last]
    assert expected.norm() > 0
    assert (gradients["candidate"][last] - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize(
    "arguments", [dict(checkpoint=("all",)), dict(checkpoint=("scale2",), dtype="bf16")], ids=str
)
def test_checkpointing_is_compared_with_the_model_without_it(arguments):
    case = Case(**PICO, **arguments, baseline="mvit_det")
    assert build(case, "candidate").checkpointed
    assert not build(case, "baseline").checkpointed
    (row,) = compare(case, ["train"], repeats=1, warmup=0)
    assert row.error == 0
    assert "× the time" in format_rows([row])


def test_masked_padding_is_compared_with_the_model_without_it():
    case = Case(**PICO, mask_padding=True, baseline="mvit_det")
    (row,) = compare(case, ["forward"], repeats=1, warmup=0)
    # It changes features by design.
    assert row.error is None
    assert row.ratio > 0


def test_sides_that_differ_are_not_timed():
    case = Case(**PICO)
    sides = {side: Workload(case, side) for side in ("candidate", "baseline")}
    with torch.no_grad():
        next(sides["candidate"].model.parameters()).mul_(1.1)
    with pytest.raises(ParityError, match=r"differ by .* \(MViTv2-pico, 64×96, batch 1, fp32\)"):
        check_parity(case, sides)


def test_operations_are_those_that_the_model_does():
    case = Case(size="pico", image_size=(70, 100), batch=2)
    workload = Workload(case, "candidate")
    with FlopCounterMode(display=False) as counter:
        workload.run("forward")
    # Counted on the other side, which adds positions by other products.
    assert counter.get_total_flops() == pytest.approx(count_flops(case), rel=0.02)
    assert count_flops(Case(size="pico", detector=True)) is None


@pytest.mark.parametrize("measure", ["peak_of_process(run)", "peak_by_sampling(run) - idle"])
def test_peak_memory_is_seen_after_it_is_gone(measure):
    """In a fresh process, as in use: one that has freed much already may have kept it."""
    code = f"""
import time, psutil, torch
from mvit_det.benchmarking.memory import peak_by_sampling, peak_of_process

def run():
    held = torch.zeros({200 * 2**20}, dtype=torch.uint8).fill_(1)
    time.sleep(0.2)  # a busy machine may keep the sampling thread waiting

torch.zeros({800 * 2**20}, dtype=torch.uint8).fill_(1)  # an earlier and higher peak
idle = psutil.Process().memory_info().rss
print({measure})
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert 0.95 * 200 * 2**20 < int(output) < 1.3 * 200 * 2**20


def test_a_pass_that_does_not_fit_is_skipped_with_a_reason(monkeypatch):
    def measure_peak(case, side, name):
        if side == "baseline":
            raise DoesNotFitError("the process was killed, most likely for want of memory")
        return 10 * 2**20

    monkeypatch.setattr(comparison_module, "measure_peak", measure_peak)
    rows = compare(Case(**PICO), ["forward", "memory"], repeats=1, warmup=0)
    assert [set(row.values) for row in rows] == [{"candidate"}, {"candidate"}]
    text = format_rows(rows)
    assert "| 10 MiB " in text
    assert (
        "Skipped: forward, MViTv2-pico, 64×96, batch 1, fp32, detectron2: "
        "the process was killed, most likely for want of memory."
    ) in text
    assert as_json(rows, [])["rows"][0]["baseline"] is None


def test_a_sweep_leaves_out_what_would_not_fit(monkeypatch):
    asked = []

    def compare(case, what, repeats, warmup, skip):
        asked.append((case.image_size[0], repeats, dict(skip)))
        megapixels = case.pixels / 1e6
        values = {"candidate": (1e8 * megapixels,), "baseline": (1e9 * megapixels**2,)}
        values = {side: value for side, value in values.items() if ("train", side) not in skip}
        return [Row("", "train", "", case, "bytes", values)]

    module = sys.modules[sweep_function.__module__]
    monkeypatch.setattr(module, "compare", compare)
    monkeypatch.setattr(module, "available_memory", lambda device: 8 * 2**30)
    cases = [Case(image_size=(side, side)) for side in (512, 1024, 2048)]
    assert len(list(sweep(cases, ["train"], repeats=5, warmup=1))) == 3
    assert asked[:2] == [(512, 5, {}), (1024, 5, {})]
    side, repeats, skip = asked[2]
    assert (side, repeats) == (2048, 1)
    assert skip == {
        ("train", "baseline"): "it would need about 19 GiB of memory, and 8 GiB are free"
    }


def test_predicted_memory_is_a_linear_and_a_square_part():
    assert predict_peak([(1, 5.0)], 2) == 0
    assert predict_peak([(9, 9.0), (1, 5.0), (2, 14.0)], 3) == pytest.approx(27)  # 3p + 2p²
    # Less than linear, so far: no faster than linear from here.
    assert predict_peak([(1, 5.0), (2, 6.0)], 4) == pytest.approx(12)


def test_time_per_pixel_compares_largest_and_smallest_image():
    def row(side, seconds, **arguments):
        case = Case(image_size=(side, side), **arguments)
        values = {"candidate": (seconds,), "baseline": (2 * seconds,)}
        return Row("forward", "forward", case.describe(), case, "s", values)

    rows = [row(512, 1.0), row(2048, 24.0), row(1024, 9.0), row(512, 1.0, dtype="bf16")]
    (found,) = time_per_pixel(rows)
    assert found.name == "forward, time per pixel over that of 512×512"
    assert found.case.image_size == (2048, 2048)
    assert found.median("candidate") == pytest.approx(1.5)
    assert found.ratio == pytest.approx(1)


@pytest.mark.parametrize("name", ["quick", "full"])
def test_presets_hold_what_matters(name):
    rows = preset(name)
    measured = {
        (row.case.image_size, row.case.dtype, row.case.detector, what)
        for row in rows
        for what in row.what
    }
    assert {
        ((800, 1216), "fp32", False, "forward"),
        ((800, 1216), "bf16", False, "forward"),
        ((512, 512), "fp32", False, "forward"),
        ((2048, 2048), "fp32", False, "forward"),
        ((640, 800), "fp32", False, "train"),
        ((640, 800), "fp32", False, "memory"),
        ((640, 800), "fp32", True, "train"),
    } <= measured
    assert all(row.repeats >= 3 for row in rows)
    assert any(row.case.mask_padding for row in rows) == (name == "full")
    assert any(row.case.checkpoint for row in rows) == (name == "full")
