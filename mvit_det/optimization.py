"""Which parameters an optimizer trains, and how: weight decay and learning rate of each."""

from collections.abc import Callable
from typing import Any

from detectron2.solver.build import get_default_optimizer_params
from torch import nn

from .modeling import MViTv2


def parameter_groups(
    model: nn.Module, base_lr: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups of the parameters that are trained, for an optimizer of PyTorch.

    Norms, biases and position embeddings have no weight decay; everything else has the optimizer's.

    Args:
        model: perhaps replicated or sharded.
        base_lr: learning rate of the heads.
        layer_decay: in (0, 1]; each block of the backbone learns at this fraction of the rate of
            the block behind it, and the last one at this fraction of the heads' (Clark et al.,
            "ELECTRA", section 3.1; 1 is the same rate everywhere).

    Raises:
        ValueError: `layer_decay` is out of its range.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, not {layer_decay}")
    leaves = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    positions = {leaf for leaf in leaves if leaf.startswith(("pos_embed", "rel_pos"))}
    return get_default_optimizer_params(
        model,
        base_lr=base_lr,
        weight_decay_norm=0.0,
        weight_decay_bias=0.0,
        lr_factor_func=_layer_factor(model, layer_decay),
        overrides={leaf: {"weight_decay": 0.0} for leaf in positions},
    )


def _layer_factor(model: nn.Module, layer_decay: float) -> Callable[[str], float]:
    """From a parameter's name to its share of the learning rate."""
    backbones = {name: part for name, part in model.named_modules() if isinstance(part, MViTv2)}

    def factor(name: str) -> float:
        for prefix, backbone in backbones.items():
            inner = name.removeprefix(prefix).lstrip(".")
            if not name.startswith(prefix):
                continue
            blocks_behind = len(backbone.blocks)
            if inner.startswith(("patch_embed", "pos_embed")):
                return layer_decay ** (blocks_behind + 1)
            if inner.startswith("blocks."):
                return layer_decay ** (blocks_behind - int(inner.split(".")[1]))
        return 1.0

    return factor
