"""Real images, and the metrics of a detector that has learnt something."""

from dataclasses import replace

import pytest

from mvit_det.config import load_config, resolve_device
from mvit_det.engine import evaluate_checkpoint, train
from mvit_det.export import compare, export, prepare
from mvit_det.export.evaluation import evaluate
from mvit_det.export.exporting import save_openvino
from mvit_det.export.quantization import groups_of, quantize
from mvit_det.runtime import OpenVinoPredictor
from mvit_det.runtime.sessions import OnnxSession
from tests.export.detectors import CONFIGS

pytest.importorskip("onnxscript")


@pytest.mark.slow
def test_real_images(mask_rcnn, onnx_file, coco_sample):
    pytest.importorskip("onnxruntime")
    images = sorted((coco_sample / "coco" / "val2017").glob("*.jpg"))
    differences = compare(mask_rcnn, OnnxSession(onnx_file), images)
    assert differences.images == len(images)
    assert differences.instances > 20 * len(images)
    assert (differences.missing, differences.extra) == (0, 0)
    assert differences.box <= 0.5
    assert differences.score <= 1e-3
    assert differences.mask_iou >= 0.99


@pytest.mark.slow
def test_metrics_of_a_trained_detector(shapes_root, tmp_path):
    for library in ("openvino", "nncf"):
        pytest.importorskip(library)
    config = load_config(
        CONFIGS / "mask_rcnn_mvitv2_pico.py",
        [f"train.output_dir={tmp_path}", "train.max_iter=150", "train.visualized_images=0"],
    )
    resolve_device(config, "cpu")
    train(config)
    weights = tmp_path / "model_final.pth"
    config.train.init_checkpoint = str(weights)
    expected = evaluate_checkpoint(config)

    path = tmp_path / "detector.xml"
    export(prepare(config, weights, size=(128, 128)), path, "openvino")
    found = evaluate(OpenVinoPredictor(path), config)
    assert expected["bbox"]["AP"] > 1
    for task in ("bbox", "segm"):
        assert found[task]["AP"] == pytest.approx(expected[task]["AP"], abs=0.1)

    groups = ["patch_embed", "attention", "mlp", "fpn", "rpn", "box_head", "box_predictor"]
    assert groups_of(path) == [*groups, "mask_head"]
    images = sorted((shapes_root / "train" / "images").glob("*.png"))[:50]
    model, metadata = quantize(path, images, keep=["patch_embed"])
    assert metadata.class_names == OpenVinoPredictor(path).class_names
    save_openvino(model, replace(metadata, precision="int8"), tmp_path / "int8.xml")
    quantized = OpenVinoPredictor(tmp_path / "int8.xml")
    assert quantized.sessions[0].metadata.precision == "int8"
    assert (tmp_path / "int8.bin").stat().st_size < 0.5 * (tmp_path / "detector.bin").stat().st_size
    # So short a training leaves masks close to their threshold, where rounding decides.
    assert evaluate(quantized, config)["bbox"]["AP"] > expected["bbox"]["AP"] - 1
