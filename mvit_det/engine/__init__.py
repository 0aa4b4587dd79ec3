"""Training and evaluation as LazyConfig files describe them."""

from .evaluate import evaluate, evaluate_checkpoint
from .own_data import set_own_data, use_own_data
from .settings import load_config, resolve_device
from .train import train

__all__ = [
    "evaluate",
    "evaluate_checkpoint",
    "load_config",
    "resolve_device",
    "set_own_data",
    "train",
    "use_own_data",
]
