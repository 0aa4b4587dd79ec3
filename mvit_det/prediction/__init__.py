"""Predictions for images and videos."""

from .prediction import Prediction
from .predictor import Predictor

__all__ = ["Prediction", "Predictor"]
