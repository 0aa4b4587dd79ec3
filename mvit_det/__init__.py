"""MViTv2 for Detectron2: object detection and instance segmentation.

The model needs PyTorch only, and `mvit_det.runtime` not even that: names are loaded on first use.
Importing this package registers the backbones and datasets with Detectron2 (see `plugin`).
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import plugin

if TYPE_CHECKING:
    from .backbone import (
        MViTv2Backbone,
        add_mvitv2_config,
        build_mvitv2_backbone,
        build_mvitv2_fpn_backbone,
        build_retinanet_mvitv2_fpn_backbone,
    )
    from .modeling import (
        MViTv2,
        MViTv2Classifier,
        VideoMViT,
        mvitv2_b,
        mvitv2_h,
        mvitv2_l,
        mvitv2_s,
        mvitv2_t,
        video_mvitv1_b,
        video_mvitv2_b,
        video_mvitv2_l,
        video_mvitv2_s,
    )
    from .prediction import (
        Classifier,
        Predictor,
        VideoClassifier,
        from_pretrained,
        save_pretrained,
    )

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "MViTv2",
    "MViTv2Backbone",
    "MViTv2Classifier",
    "Predictor",
    "VideoClassifier",
    "VideoMViT",
    "add_mvitv2_config",
    "build_mvitv2_backbone",
    "build_mvitv2_fpn_backbone",
    "build_retinanet_mvitv2_fpn_backbone",
    "from_pretrained",
    "mvitv2_b",
    "mvitv2_h",
    "mvitv2_l",
    "mvitv2_s",
    "mvitv2_t",
    "save_pretrained",
    "video_mvitv1_b",
    "video_mvitv2_b",
    "video_mvitv2_l",
    "video_mvitv2_s",
]

_MODULES = {
    "Classifier": "prediction",
    "MViTv2Backbone": "backbone",
    "Predictor": "prediction",
    "VideoClassifier": "prediction",
    "add_mvitv2_config": "backbone",
    "build_mvitv2_backbone": "backbone",
    "build_mvitv2_fpn_backbone": "backbone",
    "build_retinanet_mvitv2_fpn_backbone": "backbone",
    "from_pretrained": "prediction",
    "save_pretrained": "prediction",
}
_INSTALL = {
    "detectron2": "Detectron2, which is not installed; run 'mvit-det install-detectron2'",
    "torch": "PyTorch, which is not installed; run 'pip install torch torchvision'",
}

plugin.register_when_imported()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    try:
        module = importlib.import_module(f".{_MODULES.get(name, 'modeling')}", __name__)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _INSTALL:
            raise
        message = f"mvit_det.{name} needs {_INSTALL[library]}"
        raise ModuleNotFoundError(message, name=library) from error
    value = getattr(module, name)
    globals()[name] = value
    return value
