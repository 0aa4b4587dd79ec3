"""Errors name the heads, sizes, options and libraries with which nothing can be exported or run."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from mvit_det.config import load_config
from mvit_det.errors import ConfigError, ExportError
from mvit_det.export import export, prepare
from mvit_det.export.checks import check_detector
from mvit_det.export.quantization import quantize
from mvit_det.runtime import OnnxPredictor, OpenVinoPredictor, RuntimePredictor
from tests.export.detectors import CONFIGS, SIZE, make_detector


@pytest.mark.parametrize(
    ("name", "override", "options", "named"),
    [
        ("mask_rcnn", "", {"size": (100, 128)}, "100x128.* --size 96x128"),
        ("mask_rcnn", "", {"size": None}, "--size"),
        ("mask_rcnn", "", {"part": "head"}, "'head'"),
        ("mask_rcnn", "+model.backbone.square_pad=128", {"size": (96, 128)}, "128x128"),
        ("mask_rcnn", "model.backbone.bottom_up.mask_padding=true", {}, "mask_padding"),
        ("mask_rcnn", "model.backbone.bottom_up.mask_padding=true", {"part": "backbone"}, "mask_p"),
        ("panoptic_fpn", "", {}, "PanopticFPN"),
        ("mask_rcnn", "inference.tta.short_sides=[64]", {}, "inference=null"),
        ("faster_rcnn", "inference.slices.tile_size=64", {}, "inference=null"),
        ("faster_rcnn", "model.roi_heads.box_predictor.test_nms_method=linear", {}, "'linear'"),
        ("retinanet", "model.test_nms_method=gaussian", {}, "'gaussian'"),
        (
            "mask_rcnn",
            "dataloader.test.mapper.augmentations="
            "[{_target_: detectron2.data.transforms.RandomFlip}]",
            {},
            "RandomFlip",
        ),
    ],
    ids=lambda value: str(value).rpartition(".")[2][:24] or "-",
)
def test_what_cannot_be_exported_is_named(name, override, options, named, tmp_path):
    config = load_config(CONFIGS / f"{name}_mvitv2_pico.py", [override] if override else [])
    weights = tmp_path / "weights.pth"
    torch.save({"model": instantiate(config.model).state_dict()}, weights)
    with pytest.raises(ExportError, match=named):
        prepare(config, weights, **{"size": SIZE, **options})


@pytest.mark.parametrize(
    ("module", "named"),
    [
        ("proposal_generator", "model.proposal_generator is a Bilinear"),
        ("roi_heads", "model.roi_heads is a Bilinear"),
        ("roi_heads.box_predictor", "box predictor is a Bilinear"),
        ("roi_heads.mask_head", "mask_head is a Bilinear"),
        ("roi_heads.mask_pooler.level_poolers.0", "pooler is a Bilinear"),
    ],
)
def test_unsupported_modules_are_named(module, named):
    model = instantiate(load_config(CONFIGS / "mask_rcnn_mvitv2_pico.py").model)
    check_detector(model, SIZE)
    model.set_submodule(module, nn.Bilinear(1, 1, 1))
    with pytest.raises(ExportError, match=named):
        check_detector(model, SIZE)


def test_heads_without_a_counterpart_are_named():
    model = instantiate(load_config(CONFIGS / "mask_rcnn_mvitv2_pico.py").model)
    model.roi_heads.mask_pooler = None
    with pytest.raises(ExportError, match="mask_pooler"):
        check_detector(model, SIZE)
    model.roi_heads.keypoint_on = True
    with pytest.raises(ExportError, match="keypoint_head=null"):
        check_detector(model, SIZE)
    with pytest.raises(ExportError, match="Linear cannot be exported"):
        check_detector(nn_model_with_backbone(), SIZE)


def nn_model_with_backbone():
    model = nn.Linear(1, 1)
    model.backbone = instantiate(load_config(CONFIGS / "mask_rcnn_mvitv2_pico.py").model.backbone)
    return model


@pytest.mark.parametrize(
    ("library", "file_format"), [("onnx", "onnx"), ("onnxscript", "onnx"), ("openvino", "openvino")]
)
def test_missing_libraries_of_exports_are_named(library, file_format, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    exportable = prepare(*make_detector("faster_rcnn", tmp_path), size=SIZE)
    monkeypatch.setitem(sys.modules, library, None)
    path = tmp_path / ("d.xml" if file_format == "openvino" else "d.onnx")
    with pytest.raises(ExportError, match=rf"pip install {library}'.*mvit_det\[{file_format}\]"):
        export(exportable, path, file_format)
    assert not path.exists()


@pytest.mark.parametrize(
    ("library", "call"),
    [
        ("onnxruntime", lambda path: OnnxPredictor(path)),
        ("openvino", lambda path: OpenVinoPredictor(path)),
        ("nncf", lambda path: quantize(path, [])),
    ],
    ids=["onnxruntime", "openvino", "nncf"],
)
def test_missing_libraries_of_runtimes_are_named(library, call, tmp_path, monkeypatch):
    if library == "nncf":
        pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExportError, match=f"run 'pip install {library}'"):
        call(tmp_path / "detector.xml")


def test_bad_outputs_are_named(mask_rcnn, tmp_path):
    pytest.importorskip("onnxscript")
    for opset in (9, 17, 99):
        with pytest.raises(ExportError, match=f"opset is {opset}; it must be from 18 to"):
            export(mask_rcnn, tmp_path / "detector.onnx", "onnx", opset=opset)
    with pytest.raises(ExportError, match=r"\.onnx"):
        export(mask_rcnn, tmp_path / "detector.xml", "onnx")
    with pytest.raises(ExportError, match="tflite"):
        export(mask_rcnn, tmp_path / "detector.tflite", "tflite")


@pytest.mark.slow
def test_bad_calibrations_are_named(onnx_file, tmp_path):
    pytest.importorskip("nncf")
    noise = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(ConfigError, match="'neck'"):
        quantize(onnx_file, [noise], keep=["neck"])
    with pytest.raises(ExportError, match=r"absent\.xml"):
        quantize(tmp_path / "absent.xml", [noise])


def test_files_that_do_not_belong_together_are_named(mask_rcnn):
    class Fixed:
        def __init__(self, metadata):
            self.metadata = metadata

    with pytest.raises(ConfigError, match="no files"):
        RuntimePredictor([])
    other = replace(mask_rcnn.metadata, class_names=("ant", "bee"))
    with pytest.raises(ExportError, match="ant, bee"):
        RuntimePredictor([Fixed(mask_rcnn.metadata), Fixed(other)])
