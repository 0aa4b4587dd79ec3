"""Running exported models without PyTorch and Detectron2.

Needs NumPy, Pillow, OpenCV, and ONNX Runtime or OpenVINO.
"""

from .classification import ClassScore, OnnxClassifier, OpenVinoClassifier, RuntimeClassifier
from .metadata import Metadata
from .prediction import RuntimePrediction
from .predictor import OnnxPredictor, OpenVinoPredictor, RuntimePredictor
from .video_classification import (
    ClipScores,
    OnnxVideoClassifier,
    OpenVinoVideoClassifier,
    RuntimeVideoClassifier,
)

__all__ = [
    "ClassScore",
    "ClipScores",
    "Metadata",
    "OnnxClassifier",
    "OnnxPredictor",
    "OnnxVideoClassifier",
    "OpenVinoClassifier",
    "OpenVinoPredictor",
    "OpenVinoVideoClassifier",
    "RuntimeClassifier",
    "RuntimePrediction",
    "RuntimePredictor",
    "RuntimeVideoClassifier",
]
