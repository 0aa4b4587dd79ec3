"""Predictions for images and videos, from a config and weights."""

from .classifier import Classifier, ClassScore
from .prediction import Prediction
from .predictor import Predictor

__all__ = ["ClassScore", "Classifier", "Prediction", "Predictor"]
