"""Running exported models without PyTorch and Detectron2.

Needs NumPy, Pillow, OpenCV, and ONNX Runtime or OpenVINO.
"""

from .classification import ClassScore, OnnxClassifier, OpenVinoClassifier, RuntimeClassifier
from .metadata import Metadata
from .prediction import RuntimePrediction
from .predictor import OnnxPredictor, OpenVinoPredictor, RuntimePredictor

__all__ = [
    "ClassScore",
    "Metadata",
    "OnnxClassifier",
    "OnnxPredictor",
    "OpenVinoClassifier",
    "OpenVinoPredictor",
    "RuntimeClassifier",
    "RuntimePrediction",
    "RuntimePredictor",
]
