"""Parameter groups of an optimizer: weight decay and learning rate of each parameter."""

from collections.abc import Callable
from typing import Any

from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch import nn

from .modeling import MultiScaleTransformer


def parameter_groups(
    model: nn.Module, base_lr: float, layer_decay: float = 1.0, decay_positions: bool = False
) -> list[dict[str, Any]]:
    """Groups the trainable parameters for an optimizer of PyTorch.

    Norms and biases have no weight decay, position embeddings and class tokens only if asked for;
    all other parameters have the optimizer's.

    Args:
        model: plain, replicated or sharded.
        base_lr: learning rate of the heads.
        layer_decay: in (0, 1]; the learning rate falls by this factor from each block of an MViTv2
            to the block before it, and from the heads to the last block (Clark et al., "ELECTRA",
            section 3.1; 1 is the same rate everywhere).
        decay_positions: whether position embeddings and class tokens have weight decay, as in
            MViTv2's ImageNet recipe, but not in its detectors'.

    Raises:
        ValueError: `layer_decay` is out of range, or below 1 for a model without an MViTv2.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, not {layer_decay}")
    leaves = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    positions = {leaf for leaf in leaves if leaf.startswith(("pos_embed", "rel_pos", "cls_token"))}
    undecayed = set() if decay_positions else positions
    return get_default_optimizer_params(
        model,
        base_lr=base_lr,
        weight_decay_norm=0.0,
        weight_decay_bias=0.0,
        lr_factor_func=_layer_factor(model, layer_decay),
        overrides={leaf: {"weight_decay": 0.0} for leaf in undecayed},
    )


def warmup_then_cosine(
    warmup_length: float, start_value: float, end_value: float
) -> ParamScheduler:
    """Schedule that rises linearly to 1, and then falls along half a cosine.

    Unlike fvcore's `WarmupParamScheduler` around a cosine, which starts its cosine at the beginning
    of the warm-up, this one reaches 1 at the end of the warm-up (MViTv2, appendix B.2).

    Args:
        warmup_length: share of the training, in [0, 1).
        start_value, end_value: factor of the learning rate at the beginning and at the end.

    Raises:
        ValueError: `warmup_length` is out of range.
    """
    if not 0 <= warmup_length < 1:
        raise ValueError(f"warmup_length must be at least 0 and below 1, not {warmup_length}")
    cosine = CosineParamScheduler(1.0, end_value)
    if not warmup_length:
        return cosine
    return CompositeParamScheduler(
        [LinearParamScheduler(start_value, 1.0), cosine],
        lengths=[warmup_length, 1 - warmup_length],
        interval_scaling=["rescaled", "rescaled"],
    )


def _layer_factor(model: nn.Module, layer_decay: float) -> Callable[[str], float]:
    """Maps a parameter's name to the factor of its learning rate."""
    transformers = {
        f"{name}." if name else "": module
        for name, module in model.named_modules()
        if isinstance(module, MultiScaleTransformer)
    }
    if layer_decay < 1 and not transformers:
        raise ValueError(f"layer_decay={layer_decay} needs a model that contains an MViTv2")

    def factor(name: str) -> float:
        # Detectron2 puts a dot before the names of the outermost module's own parameters.
        name = name.lstrip(".")
        for prefix, transformer in transformers.items():
            if not name.startswith(prefix):
                continue
            inner = name.removeprefix(prefix)
            depth = len(transformer.blocks)
            if inner.startswith("blocks."):
                return layer_decay ** (depth - int(inner.split(".")[1]))
            # The patch embedding, and parameters of the module itself: positions, a class token.
            if inner.startswith("patch_embed.") or "." not in inner:
                return layer_decay ** (depth + 1)
        return 1.0

    return factor
