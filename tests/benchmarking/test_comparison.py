"""Comparisons, on models and images so small that only the benchmark itself is tested."""

import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mvit_det.benchmarking import (
    Case,
    Row,
    as_json,
    compare,
    comparison,
    format_rows,
    preset,
    sweep,
    time_per_pixel,
)
from mvit_det.benchmarking.comparison import ParityError, check_parity, count_flops, predict_peak
from mvit_det.benchmarking.memory import DoesNotFitError, peak_memory
from mvit_det.benchmarking.workload import Workload, build
from mvit_det.errors import ConfigError, DeviceError

pytestmark = pytest.mark.slow

PICO = dict(size="pico", image_size=(64, 96), repeats=1, warmup=0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(size="xl"), "size must be one of .* not 'xl'"),
        (dict(dtype="fp8"), "dtype must be one of .* not 'fp8'"),
        (dict(image_size=(64, 5)), "image width must be at least 32, not 5"),
        (dict(batch=0), "batch must be at least 1, not 0"),
        (dict(repeats=0), "repeats must be at least 1, not 0"),
        (dict(dtype="fp16"), "dtype fp16 needs CUDA"),
        (dict(baseline="mvit_det"), "'--checkpoint' or '--mask-padding'"),
        (dict(task="segmentation"), "task must be one of .* not 'segmentation'"),
        (dict(baseline="timm"), "baseline must be one of detectron2, mvit_det, not 'timm'"),
        (dict(task="classification", baseline="timm", image_size=(64, 96)), "not 64 by 96"),
        (dict(size="h", detector=True), "no Mask R-CNN of size h; there are t, s, b, pico"),
    ],
)
def test_wrong_cases_are_refused(arguments, named):
    with pytest.raises(ConfigError, match=named):
        Case(**arguments)


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="--device cpu"):
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


def test_a_classifier_is_compared_with_timms():
    case = Case(**{**PICO, "image_size": (64, 64)}, task="classification", baseline="timm", batch=2)
    sides = {side: Workload(case, side) for side in ("candidate", "baseline")}
    assert check_parity(case, sides) < 1e-5
    for workload in sides.values():
        workload.run("train")
    ours, theirs = (sides[side].model for side in ("candidate", "baseline"))
    torch.testing.assert_close(ours.head.weight.grad, theirs.head.fc.weight.grad)
    torch.testing.assert_close(
        ours.patch_embed.proj.weight.grad, theirs.patch_embed.proj.weight.grad, rtol=1e-3, atol=1e-6
    )
    rows = compare(replace(case, what=("forward", "train")))
    assert [row.pass_name for row in rows] == ["forward", "train"]
    assert all(row.floor > 0 for row in rows)
    table = format_rows(rows)
    assert "| timm " in table
    assert "MViTv2-pico classifier, 64×64, batch 2, fp32" in table
    assert "× as fast" in table


def test_a_video_model_is_compared_with_torchvisions():
    video = dict(image_size=(64, 64), task="video", frames=6, baseline="torchvision", repeats=1)
    case = Case(**{**PICO, **video})
    sides = {side: Workload(case, side) for side in ("candidate", "baseline")}
    assert check_parity(case, sides) < 1e-5
    for workload in sides.values():
        workload.run("train")
    ours, theirs = (sides[side].model for side in ("candidate", "baseline"))
    torch.testing.assert_close(ours.head.weight.grad, theirs.head[1].weight.grad)
    torch.testing.assert_close(
        ours.patch_embed.proj.weight.grad, theirs.conv_proj.weight.grad, rtol=1e-3, atol=1e-6
    )
    rows = compare(replace(case, what=("forward", "train")))
    assert all(row.floor > 0 for row in rows)
    assert rows[0].flops == pytest.approx(count_flops(replace(case, checkpoint=("all",))))
    table = format_rows(rows)
    assert "| torchvision " in table
    assert "MViTv2-pico video model, 6×64×64, batch 1, fp32" in table


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(size="t"), "size t"),
        (dict(image_size=(64, 96)), "64 by 96"),
        (dict(frames=1), "not 1"),
        (dict(mask_padding=True), "video"),
    ],
)
def test_cases_of_clips_are_checked(arguments, named):
    video = dict(image_size=(64, 64), task="video", baseline="torchvision")
    with pytest.raises(ConfigError, match=named):
        Case(**{**PICO, **video, **arguments})


@pytest.mark.parametrize(
    "arguments", [dict(checkpoint=("all",)), dict(checkpoint=("scale2",), dtype="bf16")], ids=str
)
def test_checkpointing_is_compared_with_the_model_without_it(arguments):
    case = Case(**PICO, **arguments, baseline="mvit_det", what=("train",))
    assert build(case, "candidate").checkpointed
    assert not build(case, "baseline").checkpointed
    (row,) = compare(case)
    assert row.error == 0
    assert "× the time" in format_rows([row])


def test_masked_padding_is_compared_with_the_model_without_it():
    (row,) = compare(Case(**PICO, mask_padding=True, baseline="mvit_det", what=("forward",)))
    # It changes features by design.
    assert row.error is None
    assert row.ratio > 0


def test_sides_that_differ_are_not_timed():
    case = Case(**PICO)
    sides = {side: Workload(case, side) for side in ("candidate", "baseline")}
    with torch.no_grad():
        next(sides["candidate"].model.parameters()).mul_(1.1)
    with pytest.raises(ParityError, match=r"MViTv2-pico, 64×96, batch 1, fp32"):
        check_parity(case, sides)


@pytest.mark.parametrize("side", ["candidate", "baseline"])
@pytest.mark.parametrize(
    "case",
    [
        Case(size="pico", image_size=(70, 100), batch=2),
        Case(task="classification", baseline="timm", size="pico", image_size=(96, 96), batch=2),
    ],
    ids=lambda case: case.task,
)
def test_operations_are_those_of_both_models(case, side):
    workload = Workload(case, side)
    with FlopCounterMode(display=False) as counter:
        workload.run("forward")
    assert count_flops(case) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_operations_of_a_detector_depend_on_its_detections():
    assert count_flops(Case(size="pico", detector=True)) is None


def test_without_timm_only_the_comparison_with_detectron2_is_refused(monkeypatch):
    """Detectron2's MViT imports it; the extra `dev` installs it."""
    monkeypatch.setitem(sys.modules, "timm.models.layers", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    case = Case(**PICO, what=("forward",))
    with pytest.raises(ConfigError, match="pip install timm"):
        compare(case)
    (row,) = compare(replace(case, mask_padding=True, baseline="mvit_det"))
    assert row.floor > 0


def test_peak_memory_is_that_of_the_function():
    def run():
        torch.zeros(200 * 2**20, dtype=torch.uint8).fill_(1)

    torch.zeros(800 * 2**20, dtype=torch.uint8).fill_(1)  # an earlier and higher peak
    assert 0.95 * 200 * 2**20 < peak_memory("cpu", run) < 1.3 * 200 * 2**20


def test_a_pass_that_does_not_fit_is_skipped_with_a_reason(monkeypatch):
    def measure_peak(case, side, name):
        if side == "baseline":
            raise DoesNotFitError("the process was killed")
        return 10 * 2**20

    monkeypatch.setattr(comparison, "measure_peak", measure_peak)
    rows = compare(Case(**PICO, what=("forward", "memory")))
    assert [set(row.values) for row in rows] == [{"candidate"}, {"candidate"}]
    text = format_rows(rows)
    assert "| 10 MiB " in text
    assert (
        "Skipped: forward, MViTv2-pico, 64×96, batch 1, fp32, detectron2: the process was killed."
    ) in text
    assert set(as_json(rows, [])["rows"][0]["values"]) == {"candidate"}


def test_a_sweep_skips_passes_that_would_not_fit(monkeypatch):
    asked = []

    def compare(case, skip):
        asked.append((case.image_size[0], case.repeats, dict(skip)))
        megapixels = case.pixels / 1e6
        values = {"candidate": (1e8 * megapixels,), "baseline": (1e9 * megapixels**2,)}
        values = {side: value for side, value in values.items() if ("train", side) not in skip}
        return [Row("", "train", case, "bytes", values)]

    monkeypatch.setattr(comparison, "compare", compare)
    monkeypatch.setattr(comparison, "available_memory", lambda device: 8 * 2**30)
    cases = [Case(image_size=(side, side), what=("train",)) for side in (512, 1024, 2048)]
    assert len(list(sweep(cases))) == 3
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
        return Row("forward", "forward", case, "s", values)

    rows = [row(512, 1.0), row(2048, 24.0, repeats=3), row(1024, 9.0), row(512, 1.0, dtype="bf16")]
    (found,) = time_per_pixel(rows)
    assert found.name == "forward, time per pixel over that of 512×512"
    assert found.case.image_size == (2048, 2048)
    assert found.median("candidate") == pytest.approx(1.5)
    assert found.ratio == pytest.approx(1)


@pytest.mark.parametrize("name", ["quick", "full"])
def test_presets_hold_the_cases_of_the_tables(name):
    cases = preset(name, Case(size="t"))
    measured = {
        (case.image_size, case.dtype, case.detector, what) for case in cases for what in case.what
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
    assert all(case.repeats >= 3 for case in cases)
    assert any(case.mask_padding for case in cases) == (name == "full")
    assert any(case.checkpoint for case in cases) == (name == "full")


def test_presets_for_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cases = preset("full", Case(device="cuda", size="l", warmup=3))
    assert {case.dtype for case in cases} == {"bf16"}
    assert {case.warmup for case in cases} == {3}
    assert not any(case.detector for case in cases)
