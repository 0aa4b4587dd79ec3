"""Datasets: reading images and annotations, checking them, and generated ``shapes``.

Names are loaded on first use: `images` serves `mvit_det.runtime`, which has no PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "DatasetMapper": "mapper",
    "check_datasets": "check",
    "generate_shapes": "shapes",
    "read_image": "images",
    "register_shapes": "shapes",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
