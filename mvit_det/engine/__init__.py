"""Training and evaluation as LazyConfig files describe them."""

from .evaluate import evaluate, evaluate_checkpoint
from .launch import launch
from .stopping import TrainingStopped
from .train import train

__all__ = ["TrainingStopped", "evaluate", "evaluate_checkpoint", "launch", "train"]
