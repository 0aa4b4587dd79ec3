"""Predictions for images and videos."""

from .prediction import Prediction
from .predictor import Predictor, find_config

__all__ = ["Prediction", "Predictor", "find_config"]
