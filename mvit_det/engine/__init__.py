"""Training and evaluation as LazyConfig files describe them."""

from .evaluate import evaluate, evaluate_checkpoint
from .settings import choose_device, load_config, resolve_device
from .train import train

__all__ = [
    "choose_device",
    "evaluate",
    "evaluate_checkpoint",
    "load_config",
    "resolve_device",
    "train",
]
