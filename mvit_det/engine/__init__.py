"""Training and evaluation as LazyConfig files describe them."""

from .evaluate import evaluate, evaluate_checkpoint
from .launching import launch
from .schedule import fit_schedule
from .settings import load_config, resolve_device
from .stopping import TrainingStopped
from .train import train

__all__ = [
    "TrainingStopped",
    "evaluate",
    "evaluate_checkpoint",
    "fit_schedule",
    "launch",
    "load_config",
    "resolve_device",
    "train",
]
