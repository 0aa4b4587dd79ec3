"""Speed and memory of mvit_det against Detectron2's own MViT with equal weights.

`memory_estimate` predicts the GPU memory of a training, `recipes` measures it.
"""

from .case import PRESETS, SIZES, SWEEP_SIDES, WHAT, Case, check_device, preset
from .comparison import Row, compare, sweep, time_per_pixel
from .report import as_json, draw, format_rows, provenance

__all__ = [
    "PRESETS",
    "SIZES",
    "SWEEP_SIDES",
    "WHAT",
    "Case",
    "Row",
    "as_json",
    "check_device",
    "compare",
    "draw",
    "format_rows",
    "preset",
    "provenance",
    "sweep",
    "time_per_pixel",
]
