"""Training and evaluation as LazyConfig files describe them."""

from .evaluate import evaluate, evaluate_checkpoint
from .launching import launch
from .own_data import set_own_data, use_own_data
from .schedule import fit_schedule
from .settings import choose_device, load_config, resolve_device
from .stopping import TrainingStopped
from .train import train

__all__ = [
    "TrainingStopped",
    "choose_device",
    "evaluate",
    "evaluate_checkpoint",
    "fit_schedule",
    "launch",
    "load_config",
    "resolve_device",
    "set_own_data",
    "train",
    "use_own_data",
]
