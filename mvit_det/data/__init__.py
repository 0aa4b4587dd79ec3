"""Datasets: images and annotations, their validation, loaders, and the generated `shapes`.

Names are loaded on first use: `images` serves `mvit_det.runtime`, which has no PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .catalog import check_datasets, load_records
    from .coco import CocoDataset, read_coco
    from .images import read_image
    from .mapper import DatasetMapper
    from .shapes import generate_shapes, register_shapes

__all__ = [
    "CocoDataset",
    "DatasetMapper",
    "check_datasets",
    "generate_shapes",
    "load_records",
    "read_coco",
    "read_image",
    "register_shapes",
]

_MODULES = {
    "CocoDataset": "coco",
    "DatasetMapper": "mapper",
    "check_datasets": "catalog",
    "generate_shapes": "shapes",
    "load_records": "catalog",
    "read_coco": "coco",
    "read_image": "images",
    "register_shapes": "shapes",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
