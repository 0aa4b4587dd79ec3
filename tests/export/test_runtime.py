"""Predictors of exported files, with and without PyTorch."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import paste_masks_in_image
from PIL import Image
from pycocotools import mask as mask_util

from mvit_det.errors import ConfigError, ExportError, ImageError
from mvit_det.export import export, prepare
from mvit_det.export.comparison import reference
from mvit_det.runtime import Metadata, OnnxPredictor, OpenVinoPredictor, RuntimePredictor
from mvit_det.runtime.masks import encode_mask, paste_masks
from mvit_det.runtime.preprocessing import fitted_size, letterbox
from tests.export.detectors import make_detector
from tests.export.without_torch import run_without_torch

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("size", [(480, 640), (640, 427), (1, 300), (333, 500), (2000, 400)])
def test_resizing_is_detectron2s_where_the_canvas_is_large_enough(size):
    metadata = Metadata("detection", (1344, 1344), short_edge=800, max_size=1333)
    resize = ResizeShortestEdge(800, 1333)
    expected = resize.get_transform(np.zeros((*size, 3), np.uint8))
    assert fitted_size(*size, metadata) == (expected.new_h, expected.new_w)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    canvas, fitted = letterbox(image, replace(metadata, channel_order="BGR"))
    height, width = fitted
    pixels = canvas[0, ::-1, :height, :width].transpose(1, 2, 0)
    np.testing.assert_array_equal(pixels, expected.apply_image(image))
    assert not canvas[:, :, height:].any()
    assert not canvas[:, :, :, width:].any()


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (96, 128)), ((640, 480), (96, 72)), ((10, 20), (10, 20))]
)
def test_images_keep_their_shape_in_a_small_canvas(size, expected):
    assert fitted_size(*size, Metadata("detection", (96, 128))) == expected


def test_masks_are_pasted_as_detectron2_does():
    generator = np.random.default_rng(0)
    masks = generator.random((20, 28, 28), np.float32)
    corners = generator.random((20, 2, 2), np.float32) * [90, 60]
    boxes = np.concatenate([corners.min(1), corners.max(1) + 1], axis=1).astype(np.float32)
    expected = paste_masks_in_image(torch.tensor(masks), torch.tensor(boxes), (60, 90)).numpy()
    found = paste_masks(masks, boxes, 60, 90)
    assert expected.mean() > 0.02
    assert (found != expected).mean() < 1e-4


def test_run_lengths_are_those_of_pycocotools():
    generator = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(300), np.arange(200)) % 70 < 20
    masks = [generator.random((13, 7)) < 0.5, smooth, ~smooth, np.zeros((5, 5), bool)]
    for mask in [*masks, np.ones((40, 50), bool)]:
        expected = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert encode_mask(mask)["counts"] == expected["counts"].decode()


@pytest.mark.parametrize("predictor_class", [OnnxPredictor, OpenVinoPredictor])
def test_predictors_have_the_interface_of_predictor(
    predictor_class, onnx_file, mask_rcnn, images, tmp_path
):
    predictor = predictor_class(onnx_file, score_threshold=0.3)
    Image.fromarray(images[1]).save(tmp_path / "image.png")
    first, second = predictor([tmp_path / "image.png", images[4]])
    expected = reference(mask_rcnn.model, images[4], mask_rcnn.metadata)
    certain = expected.scores > 0.3
    assert 0 < certain.sum() < len(certain)
    np.testing.assert_allclose(second.boxes, expected.boxes[certain], atol=0.05)
    np.testing.assert_array_equal(second.classes, expected.classes[certain])
    assert second.masks.shape == (len(second), 300, 400)
    assert first.draw().shape == images[1].shape
    assert (first.draw() != images[1]).any()
    first.save(tmp_path / "drawn.jpg")
    assert Image.open(tmp_path / "drawn.jpg").size == (90, 60)
    first.save(tmp_path / "found.json", image_id=7)
    results = json.loads((tmp_path / "found.json").read_text())
    assert len(results) == len(first)
    assert {result["image_id"] for result in results} == {7}
    assert predictor.class_names[first.classes[0]] in ("ash", "elm", "fir", "oak", "yew")
    for result, mask in zip(results, first.masks, strict=True):
        np.testing.assert_array_equal(mask_util.decode(result["segmentation"]), mask)


def test_an_image_goes_to_the_file_that_shrinks_it_least():
    class Fixed:
        def __init__(self, size):
            self.metadata = Metadata("detection", size, short_edge=96, max_size=128)

    landscape, portrait = Fixed((96, 128)), Fixed((128, 96))
    predictor = RuntimePredictor([landscape, portrait])
    assert predictor.session_for(np.zeros((300, 400, 3))) is landscape
    assert predictor.session_for(np.zeros((400, 300, 3))) is portrait


def test_bad_files_and_images_are_named(onnx_file, tmp_path):
    predictor = OnnxPredictor(onnx_file)
    with pytest.raises(ImageError, match="float64"):
        predictor(np.zeros((4, 4, 3)))
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        predictor(tmp_path / "missing.jpg")
    with pytest.raises(ConfigError, match="0.01"):
        OnnxPredictor(onnx_file, score_threshold=0.01)
    with pytest.raises(ExportError, match=r"absent\.onnx"):
        OnnxPredictor("absent.onnx")
    with pytest.raises(ConfigError, match="fp8"):
        OpenVinoPredictor(onnx_file, precision="fp8")
    (tmp_path / "broken.onnx").write_bytes(b"\x00" * 100)
    for predictor_class in (OnnxPredictor, OpenVinoPredictor):
        with pytest.raises(ExportError, match=r"broken\.onnx"):
            predictor_class(tmp_path / "broken.onnx")


def test_missing_operators_are_named(tmp_path):
    onnx = pytest.importorskip("onnx")
    # It has no kernel for bfloat16 on the CPU.
    node = onnx.helper.make_node("Erf", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.BFLOAT16, [1]) for n in "xy")
    graph = onnx.helper.make_graph([node], "graph", [x], [y])
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "m.onnx"
    )
    with pytest.raises(ExportError, match=r"Erf\(13\).*export the model without --opset"):
        OnnxPredictor(tmp_path / "m.onnx")
    (tmp_path / "NOT_IMPLEMENTED.onnx").write_bytes(b"\x00" * 100)
    with pytest.raises(ExportError) as broken:
        OnnxPredictor(tmp_path / "NOT_IMPLEMENTED.onnx")
    assert "lacks" not in str(broken.value)


def test_files_without_metadata_are_named(onnx_file, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    for predictor_class in (OnnxPredictor, OpenVinoPredictor):
        with pytest.raises(ExportError, match=r"tools/export\.py"):
            predictor_class(tmp_path / "other.onnx")


def test_backbones_are_no_detectors(onnx_file):
    session = OnnxPredictor(onnx_file).sessions[0]
    session.metadata = replace(session.metadata, task="features")
    with pytest.raises(ExportError, match="features"):
        RuntimePredictor([session])


def test_runs_without_pytorch(onnx_file, images, tmp_path):
    Image.fromarray(images[4]).save(tmp_path / "image.png")
    program = f"""
from mvit_det.runtime import OnnxPredictor, OpenVinoPredictor
for predictor_class in (OnnxPredictor, OpenVinoPredictor):
    prediction = predictor_class("{onnx_file}")("{tmp_path}/image.png")
    prediction.save("{tmp_path}/drawn.png")
    print(len(prediction.to_coco()), *prediction.boxes[0])
"""
    lines = run_without_torch(program, tmp_path / "packages")
    expected = OnnxPredictor(onnx_file)(images[4])
    assert len(lines) == 2
    for line in lines:
        count, *box = map(float, line.split())
        assert count == len(expected)
        np.testing.assert_allclose(box, expected.boxes[0], atol=0.05)


def test_signals_are_handled_when_a_predictor_is_gone(onnx_file):
    """With faulthandler, signal handlers have a stack, which OpenVINO replaces by another one."""
    program = f"""
import faulthandler, signal, subprocess, threading
from mvit_det.runtime import OpenVinoPredictor
faulthandler.enable()
predictors = [OpenVinoPredictor("{onnx_file}") for _ in range(2)]
del predictors[0]
last = threading.Thread(target=predictors.clear)
last.start()
last.join()
signal.signal(signal.SIGCHLD, lambda *_: print("a child ended"))
subprocess.run(["true"])
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "a child ended\n"


@pytest.mark.parametrize("predictor_class", [OnnxPredictor, OpenVinoPredictor])
def test_threads_share_a_predictor(predictor_class, onnx_file, images):
    predictor = predictor_class(onnx_file, threads=2)
    expected = [predictor(image).scores for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = [prediction.scores for prediction in pool.map(predictor, images * 4)]
    for scores, other in zip(found, expected * 4, strict=True):
        np.testing.assert_array_equal(scores, other)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("predictor_class", [OnnxPredictor, OpenVinoPredictor])
def test_works_after_a_fork(predictor_class, onnx_file):
    """In a process without PyTorch, whose threads do not survive a fork."""
    program = f"""
import multiprocessing, numpy as np
from mvit_det.runtime import {predictor_class.__name__}
predictor = {predictor_class.__name__}("{onnx_file}", threads=2)
image = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
def find_scores():
    return predictor(image).scores
expected = find_scores()
with multiprocessing.get_context("fork").Pool(1) as pool:
    scores = pool.apply_async(find_scores).get(timeout=60)
print(len(scores) > 0 and np.array_equal(scores, expected))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout == "True\n", result.stderr


def test_importing_the_runtime_loads_no_pytorch():
    program = "import sys, mvit_det.runtime; print({'torch', 'detectron2'} & {*sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout == "set()\n"


@pytest.mark.slow
def test_a_file_for_each_orientation(tmp_path, images):
    config, weights = make_detector("faster_rcnn", tmp_path)
    for size in ((96, 128), (128, 96)):
        export(prepare(config, weights, size=size), tmp_path / f"{size[0]}.onnx", "onnx")
    predictor = OnnxPredictor([tmp_path / "96.onnx", tmp_path / "128.onnx"])
    assert all(len(prediction) for prediction in predictor(images))


def test_the_example_finds_what_the_predictor_finds(onnx_file, images, tmp_path):
    """It rounds masks in another way, and prints only confident instances."""
    Image.fromarray(images[4]).save(tmp_path / "photo.png")
    result = subprocess.run(
        [sys.executable, ROOT / "docs" / "examples" / "detect_onnx.py", onnx_file, "photo.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    expected = OnnxPredictor(onnx_file, score_threshold=0.5)(images[4])
    lines = result.stdout.splitlines()
    assert len(lines) == len(expected) > 0
    for line, box, score, label, mask in zip(
        lines, expected.boxes, expected.scores, expected.classes, expected.masks, strict=True
    ):
        found = re.fullmatch(r"(\w+) ([\d.]+): (.+), (\d+) pixels", line)
        name, found_score, corners, pixels = found.groups()
        assert name == expected.class_names[label]
        assert float(found_score) == pytest.approx(score, abs=0.01)
        np.testing.assert_allclose([float(x) for x in corners.split()], box, atol=0.1)
        assert int(pixels) == pytest.approx(mask.sum(), rel=0.1, abs=200)
