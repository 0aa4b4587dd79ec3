"""Predictions for images and videos, from a config and weights."""

from .classifier import Classifier, ClassScore
from .prediction import Prediction
from .predictor import Predictor
from .video_classifier import ClipScores, VideoClassifier

__all__ = ["ClassScore", "Classifier", "ClipScores", "Prediction", "Predictor", "VideoClassifier"]
