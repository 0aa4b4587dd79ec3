"""Exported files find what PyTorch finds, and say what they are."""

import hashlib

import numpy as np
import pytest
import torch

from mvit_det.export import compare, export, prepare
from mvit_det.export.comparison import Differences, reference
from mvit_det.export.nms import grouped_nms
from mvit_det.export.torch_session import TorchSession
from mvit_det.runtime.sessions import OnnxSession, OpenVinoSession
from tests.export.detectors import SIZE, make_detector

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


def assert_equal(differences, images):
    assert differences.images == len(images)
    assert differences.instances > 10 * len(images)
    assert (differences.missing, differences.extra) == (0, 0)
    assert differences.box < 0.05
    assert differences.score < 1e-4
    assert differences.mask_iou > 0.99


@pytest.mark.parametrize("session", [OnnxSession, OpenVinoSession])
def test_onnx_equals_pytorch(session, mask_rcnn, onnx_file, images):
    assert_equal(compare(mask_rcnn, session(onnx_file), images), images)


@pytest.mark.slow
def test_openvino_and_torch_files_equal_pytorch(mask_rcnn, images, tmp_path):
    export(mask_rcnn, tmp_path / "detector.xml", "openvino")
    export(mask_rcnn, tmp_path / "detector.pt2", "torch")
    for session in (
        OpenVinoSession(tmp_path / "detector.xml"),
        TorchSession(tmp_path / "detector.pt2"),
    ):
        assert_equal(compare(mask_rcnn, session, images), images)
        assert session.metadata == mask_rcnn.metadata


@pytest.mark.parametrize(
    "name",
    [
        "retinanet",
        pytest.param("cascade_mask_rcnn", marks=pytest.mark.slow),
        pytest.param("faster_rcnn", marks=pytest.mark.slow),
    ],
)
def test_other_detectors_equal_pytorch(name, images, tmp_path):
    detector = prepare(*make_detector(name, tmp_path), size=SIZE)
    export(detector, tmp_path / "detector.onnx", "onnx")
    assert_equal(compare(detector, OnnxSession(tmp_path / "detector.onnx"), images), images)
    assert detector.metadata.has_masks == ("mask" in name)


def test_the_reference_is_detectron2s_inference(mask_rcnn, images):
    """On an image as large as the canvas, `GeneralizedRCNN.inference` pads to the same size."""
    image = images[0]
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())
    with torch.no_grad():
        ((output,),) = [mask_rcnn.model([{"image": pixels}])]
    found = reference(mask_rcnn.model, image, mask_rcnn.metadata)
    np.testing.assert_array_equal(found.boxes, output["instances"].pred_boxes.tensor.numpy())
    np.testing.assert_array_equal(found.scores, output["instances"].scores.numpy())
    masks = output["instances"].pred_masks.numpy()
    assert (found.masks != masks).mean() < 1e-4


def test_backbone_equals_pytorch(mask_rcnn, tmp_path):
    detector = prepare(*make_detector("mask_rcnn", tmp_path), size=SIZE, part="backbone")
    export(detector, tmp_path / "backbone.onnx", "onnx")
    session = OnnxSession(tmp_path / "backbone.onnx")
    assert session.metadata.task == "features"
    inputs = detector.example()
    found = session.run(*(tensor.numpy() for tensor in inputs.values()))
    with torch.no_grad():
        expected = detector.graph(**inputs)
    assert list(found) == ["scale2", "scale3", "scale4", "scale5"]
    for name, features in expected.items():
        np.testing.assert_allclose(found[name], features.numpy(), atol=1e-4)


def test_metadata_say_where_a_file_comes_from(mask_rcnn, onnx_file, tmp_path):
    config, weights = make_detector("mask_rcnn", tmp_path)
    metadata = OnnxSession(onnx_file).metadata
    assert metadata == OpenVinoSession(onnx_file).metadata == mask_rcnn.metadata
    assert metadata.size == SIZE
    assert metadata.class_names == ("ash", "elm", "fir", "oak", "yew")
    assert (metadata.score_threshold, metadata.nms_threshold) == (0.05, 0.5)
    assert (metadata.max_detections, metadata.has_masks) == (100, True)
    assert metadata.checkpoint == "mask_rcnn.pth"
    detector = prepare(config, weights, size=SIZE)
    assert detector.metadata.checkpoint_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_nms_goes_by_group():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 11], [50, 0, 60, 10.0]])
    scores = torch.tensor([[0.9, 0.8, 0.1, 0.3], [0.2, 0.0, 0.7, 0.05]])
    kept = sorted(zip(*(each.tolist() for each in grouped_nms(boxes[None], scores, 0.5, 0.1))))
    assert kept == [(0, 0), (0, 3), (1, 2)]
    operator = torch.ops.mvit_det.grouped_nms(boxes.expand(2, -1, -1), scores, 0.5, 0.1)
    assert sorted(map(tuple, operator.tolist())) == kept


def test_differences_are_found(mask_rcnn, images):
    expected = reference(mask_rcnn.model, images[0], mask_rcnn.metadata)
    moved = type(expected)(
        **{
            **vars(expected),
            "boxes": expected.boxes[1:] + np.float32([0.5, 0, 0, 0]),
            "scores": expected.scores[1:] - np.float32(0.01),
            "classes": expected.classes[1:],
            "masks": np.roll(expected.masks[1:], 1, axis=2),
        }
    )
    found = Differences()
    found.add(expected, moved)
    assert found.missing >= 1
    assert found.box >= 0.5
    assert found.score >= 0.01
    assert found.mask_iou < 0.99
