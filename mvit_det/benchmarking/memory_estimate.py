"""Estimates the GPU memory of a training without a GPU.

The estimate is the sum at the end of a forward pass, where a training needs most:

    parameters + gradients + optimizer + EMA         independent of the images
    + activations, once + images × each              kept for the backward pass
    + reserve                                         not countable on a CPU

Activations are the tensors that PyTorch keeps for the backward pass, each storage counted once, in
a forward pass on the CPU with the operators and types of CUDA. Checkpointed blocks keep only their
inputs; the recomputation of such a block counts where it needs more than everything kept at the
end of the forward pass. "Once" is independent of the number of images: mostly weights in half
precision.

Workspaces of kernels and losses of the allocator are in the reserve.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from ..config import build_model
from ..errors import ConfigError
from ..modeling import MultiScaleTransformer
from ..modeling.kernels import plain_operators
from .workload import random_images

GIB = 2**30
# CUDA's context and libraries, workspaces of convolutions, and the overlaps of all anchors with
# the many objects of an image.
RESERVE = 3 * GIB // 2
# Temporary tensors of the backward pass, and memory that the allocator rounds up or cannot reuse.
RESERVE_SHARE = 0.1
# The largest number of positive regions of an image, so that the heads have their full load.
OBJECTS = 128


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that one process needs in training, by purpose.

    Attributes:
        parameters: of the model, with its buffers.
        gradients: of the trained parameters.
        optimizer: its state.
        ema: the EMA of the weights, where the training has one.
        activations_once: kept for the backward pass, independent of the number of images.
        activations_each: kept for the backward pass of each image.
        images: images of a micro-batch.
    """

    parameters: int
    gradients: int
    optimizer: int
    ema: int
    activations_once: int
    activations_each: int
    images: int

    @property
    def activations(self) -> int:
        """Kept for the backward pass."""
        return self.activations_once + self.images * self.activations_each

    @property
    def counted(self) -> int:
        """Everything but the reserve."""
        state = self.parameters + self.gradients + self.optimizer + self.ema
        return state + self.activations

    @property
    def reserve(self) -> int:
        """`RESERVE`, and `RESERVE_SHARE` of what is counted."""
        return RESERVE + round(RESERVE_SHARE * self.counted)

    @property
    def total(self) -> int:
        """Memory that the GPU needs."""
        return self.counted + self.reserve


def estimate_memory(config: DictConfig, size: tuple[int, int]) -> MemoryEstimate:
    """Estimates the memory that the training of a detector needs on one GPU.

    Runs the whole detector on one and on two random images on the CPU.

    Args:
        config: `model`, `optimizer`, `dataloader.train.total_batch_size`, and of `train`
            `grad_accum_steps`, `amp` and `ema`. fp16 and bf16 count alike.
        size: height and width of the images in pixels.

    Raises:
        ConfigError: the batch cannot be split into `train.grad_accum_steps` micro-batches.
    """
    batch, steps = config.dataloader.train.total_batch_size, config.train.grad_accum_steps
    if batch % steps:
        raise ConfigError(
            f"a batch of {batch} images cannot be split into train.grad_accum_steps={steps} "
            "equal micro-batches; choose a divisor of the batch size"
        )
    torch.manual_seed(0)
    model = build_model(config).train()
    one, two = (
        activation_bytes(model, random_images(size, count, OBJECTS), config.train.amp.enabled)
        for count in (1, 2)
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return MemoryEstimate(
        parameters=total_bytes([*model.parameters(), *model.buffers()]),
        gradients=total_bytes(trained),
        optimizer=optimizer_bytes(config.optimizer, model),
        ema=total_bytes(trained) if config.train.ema.enabled else 0,
        activations_once=2 * one - two,
        activations_each=two - one,
        images=batch // steps,
    )


def activation_bytes(model: nn.Module, inputs: Any, mixed_precision: bool) -> int:
    """Bytes that a GPU keeps for the backward pass of a model in training mode, without weights.

    They are most at the beginning of the backward pass; or, with checkpointing, where a block is
    computed again and everything before it is still kept.

    Args:
        model: on the CPU.
        inputs: of the model, on the CPU.
        mixed_precision: whether to compute under autocast, in bf16.
    """
    weights = [*model.parameters(), *model.buffers()]
    kept = KeptTensors(weights)
    checkpointed: list[tuple[nn.Module, Any, int]] = []

    def enter(block: nn.Module, args: Any) -> None:
        checkpointed.append((block, args, kept.bytes))

    hooks = [block.register_forward_pre_hook(enter) for block in _checkpointed_blocks(model)]
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision)
    with autocast, plain_operators(), AsOnCuda(), EventStorage():
        with kept:
            model(inputs)
        for hook in hooks:
            hook.remove()
        most = kept.bytes
        for block, args, before in checkpointed:
            # The inputs of the block are among what was kept before.
            inputs_of_block = [value for value in args if isinstance(value, Tensor)]
            again = KeptTensors([*weights, *inputs_of_block])
            with again:
                block(*args)
            most = max(most, before + again.bytes)
    return most


class KeptTensors(saved_tensors_hooks):
    """Counts the tensors that PyTorch keeps for a backward pass, in a `with` block.

    The backward pass itself cannot follow. Tensors that share a storage count once, in full.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """Starts to count.

        Args:
            known: tensors that do not count.
        """
        super().__init__(self._pack, lambda packed: packed)
        # Unlike addresses, weak references are not reused by later storages.
        self._known = {StorageWeakRef(tensor.untyped_storage()) for tensor in known}
        self._sizes: dict[StorageWeakRef, int] = {}

    def _pack(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference not in self._known:
            self._sizes[reference] = storage.nbytes()

    @property
    def bytes(self) -> int:
        """Bytes so far."""
        return sum(self._sizes.values())


def optimizer_bytes(settings: DictConfig, model: nn.Module) -> int:
    """State of the optimizer of a config after a step; moves the model to the meta device."""
    # There, a step makes the state without the memory for it.
    model.to("meta")
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    settings = settings.copy()
    if "fused" in settings:
        settings.fused = False
    settings.params.model = model
    optimizer = instantiate(settings)
    optimizer.step()
    states: Iterable[Mapping[str, Any]] = optimizer.state.values()
    return total_bytes(
        value for state in states for value in state.values() if isinstance(value, Tensor)
    )


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class AsOnCuda(TorchFunctionMode):
    """Makes the CPU keep the tensors that CUDA keeps, where the two differ.

    Under autocast CUDA computes norms in fp32, and its fused attention keeps no logits.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **(kwargs or {}))
        if func in (F.layer_norm, F.group_norm) and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def _checkpointed_blocks(model: nn.Module) -> list[nn.Module]:
    return [
        block
        for part in model.modules()
        if isinstance(part, MultiScaleTransformer)
        for plan, block in zip(part.plan, part.blocks, strict=True)
        if plan.scale in part.checkpointed
    ]


class _FusedAttention(torch.autograd.Function):
    """Keeps the tensors that the memory-efficient kernel of CUDA keeps, without computing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Zeros in the shape of attention, (B, heads, queries, C of the values)."""
        output = query.new_zeros(*query.shape[:-1], value.shape[-1])
        log_sum = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, output, log_sum)
        return output


def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
) -> Tensor:
    return _FusedAttention.apply(query, key, value, attn_mask)
