"""Predictions for images and videos, from a config and weights."""

from .classifier import Classifier, ClassScore
from .prediction import Prediction
from .predictor import Predictor
from .sharing import from_pretrained, push_to_hub, save_pretrained
from .video_classifier import ClipScores, VideoClassifier

__all__ = [
    "ClassScore",
    "Classifier",
    "ClipScores",
    "Prediction",
    "Predictor",
    "VideoClassifier",
    "from_pretrained",
    "push_to_hub",
    "save_pretrained",
]
