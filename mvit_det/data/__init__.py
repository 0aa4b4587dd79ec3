"""Data sets: the generated ``shapes``, and checks of those that are registered with Detectron2."""

from .check import check_datasets
from .shapes import generate_shapes, register_shapes

__all__ = ["check_datasets", "generate_shapes", "register_shapes"]
