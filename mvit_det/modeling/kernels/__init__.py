"""How the arithmetic runs: kernels for the CPU's cache, for GPUs and for `torch.compile`.

Nothing here belongs to the model: `attention.py`, `position.py`, `window.py` and `layers.py` say
what is computed, and can be read without this package.
"""

from .compiled import relative_positions, window_partition, window_unpartition
from .depthwise import depthwise_conv3d
from .dispatch import ATTENTION_KERNELS, attention, attention_kernel, use_attention_kernel
from .execution import (
    custom_operators_enabled,
    in_autocast_dtype,
    plain_operators,
    product_dtype,
)
from .mlp import blocked_mlp
from .position_terms import position_terms
from .products import linear

__all__ = [
    "ATTENTION_KERNELS",
    "attention",
    "attention_kernel",
    "blocked_mlp",
    "custom_operators_enabled",
    "depthwise_conv3d",
    "in_autocast_dtype",
    "linear",
    "plain_operators",
    "position_terms",
    "product_dtype",
    "relative_positions",
    "use_attention_kernel",
    "window_partition",
    "window_unpartition",
]
