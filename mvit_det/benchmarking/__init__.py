"""Speed and memory of mvit_det, measured against Detectron2's own MViT with equal weights.

And what a training needs of a GPU's memory, estimated.
"""

from .case import PASSES, SIZES, WHAT, Case
from .comparison import compare, time_per_pixel
from .memory_estimate import MemoryEstimate, estimate_memory
from .plot import draw
from .presets import PRESETS, preset
from .report import as_json, format_rows
from .row import Row
from .sweep import SWEEP_SIDES, sweep

__all__ = [
    "PASSES",
    "PRESETS",
    "SIZES",
    "SWEEP_SIDES",
    "WHAT",
    "Case",
    "MemoryEstimate",
    "Row",
    "as_json",
    "compare",
    "draw",
    "estimate_memory",
    "format_rows",
    "preset",
    "sweep",
    "time_per_pixel",
]
