"""An exported Mask R-CNN, and images for it."""

import numpy as np
import pytest

from mvit_det.export import export, prepare
from tests.export.detectors import SIZE, make_detector


@pytest.fixture(scope="session")
def mask_rcnn(tmp_path_factory):
    """A Mask R-CNN, prepared for export."""
    folder = tmp_path_factory.mktemp("mask_rcnn")
    return prepare(*make_detector("mask_rcnn", folder), size=SIZE)


@pytest.fixture(scope="session")
def onnx_file(mask_rcnn, tmp_path_factory):
    """The Mask R-CNN in ONNX."""
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "detector.onnx"
    export(mask_rcnn, path, "onnx")
    return path


@pytest.fixture(scope="session")
def images():
    """Noise of several sizes: on the canvas, beyond it in height, in width, and in both."""
    generator = np.random.default_rng(0)
    sizes = ((96, 128), (60, 90), (150, 100), (80, 200), (300, 400))
    return [generator.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
