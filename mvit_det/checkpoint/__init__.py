"""Reading, checking, converting and writing weights; needs no Detectron2."""

from .checkpointer import Checkpointer
from .download import local_path
from .formats import Weights
from .load_report import LoadReport
from .loading import fill_model, load_weights, read_weights

__all__ = [
    "LoadReport",
    "Checkpointer",
    "Weights",
    "fill_model",
    "load_weights",
    "local_path",
    "read_weights",
]
