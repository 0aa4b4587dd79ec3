"""Reading, checking, converting and writing weights; needs no Detectron2."""

from .checkpointer import Checkpointer, check_class_names
from .download import local_path
from .formats import Weights
from .loading import fill_model, load_weights, read_weights
from .matching import KeyStatus, LoadReport

__all__ = [
    "Checkpointer",
    "KeyStatus",
    "LoadReport",
    "Weights",
    "check_class_names",
    "fill_model",
    "load_weights",
    "local_path",
    "read_weights",
]
