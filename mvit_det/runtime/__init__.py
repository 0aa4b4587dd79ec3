"""Running exported models without PyTorch and Detectron2.

Needs NumPy, Pillow, OpenCV, and ONNX Runtime or OpenVINO.
"""

from .metadata import Metadata
from .prediction import RuntimePrediction
from .predictor import OnnxPredictor, OpenVinoPredictor, RuntimePredictor

__all__ = [
    "Metadata",
    "OnnxPredictor",
    "OpenVinoPredictor",
    "RuntimePrediction",
    "RuntimePredictor",
]
