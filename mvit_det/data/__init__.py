"""Datasets: reading images and annotations, checking them, and generated ``shapes``."""

from .check import check_datasets
from .images import read_image
from .mapper import DatasetMapper
from .shapes import generate_shapes, register_shapes

__all__ = [
    "DatasetMapper",
    "check_datasets",
    "generate_shapes",
    "read_image",
    "register_shapes",
]
