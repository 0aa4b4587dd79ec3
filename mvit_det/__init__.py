"""MViTv2 for Detectron2: object detection and instance segmentation.

The model itself needs PyTorch only. Where Detectron2 is installed, importing this package also
registers the backbones and the generated datasets with it, and has it load LVIS by itself.
"""

import warnings
from typing import TYPE_CHECKING, Any

from .modeling import (
    MViTv2,
    MViTv2Classifier,
    mvitv2_b,
    mvitv2_h,
    mvitv2_l,
    mvitv2_s,
    mvitv2_t,
)

try:
    with warnings.catch_warnings():
        # Detectron2 scripts some functions when imported; its users cannot help that.
        warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
        from .backbone import (
            MViTv2Backbone,
            add_mvitv2_config,
            build_mvitv2_backbone,
            build_mvitv2_fpn_backbone,
        )
        from .data import register_shapes
        from .data.lvis import register_lvis
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "detectron2":
        raise
else:
    register_shapes()
    register_lvis()

if TYPE_CHECKING:
    from .prediction import Predictor

__version__ = "0.1.0"

__all__ = [
    "MViTv2",
    "MViTv2Backbone",
    "MViTv2Classifier",
    "Predictor",
    "add_mvitv2_config",
    "build_mvitv2_backbone",
    "build_mvitv2_fpn_backbone",
    "mvitv2_b",
    "mvitv2_h",
    "mvitv2_l",
    "mvitv2_s",
    "mvitv2_t",
]


def __getattr__(name: str) -> Any:
    """Loads what takes long when it is first used, and says what is missing without Detectron2."""
    if name == "Predictor" and "MViTv2Backbone" in globals():
        from .prediction import Predictor

        return Predictor
    if name in __all__:
        raise ModuleNotFoundError(
            f"mvit_det.{name} needs Detectron2, which is not installed; "
            "run 'python tools/install_detectron2.py'",
            name="detectron2",
        )
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
