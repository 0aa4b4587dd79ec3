"""Reading, checking, converting and writing weights; needs no Detectron2."""

from .accounting import Accounting
from .checkpointer import Checkpointer
from .download import local_path
from .formats import Weights
from .loading import fill_model, load_weights, read_weights

__all__ = [
    "Accounting",
    "Checkpointer",
    "Weights",
    "fill_model",
    "load_weights",
    "local_path",
    "read_weights",
]
