"""Matrix products in fp32 on AMD's processors, at twice the speed of MKL's.

PyTorch's fp32 products on x86 are MKL's, whose AVX-512 kernels run on Intel's processors only.
oneDNN, with which PyTorch computes convolutions and bf16, has such kernels for all processors.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .execution import custom_operators_enabled, product_dtype

# Smaller products are faster in MKL, in one call for the whole batch.
LEAST_OUTPUT = 2**14


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `torch.nn.functional.linear`, with gradients."""
    is_plain = x.ndim > 1 and product_dtype(x) == x.dtype
    if is_plain and custom_operators_enabled() and _uses_onednn(x, weight):
        return onednn_linear(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])
    return F.linear(x, weight, bias)


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes abᵀ, as `torch.nn.functional.linear` does; without gradients, for use in operators.

    Args:
        a: (M, K).
        b: (N, K).
        bias: (N,), added to each row.

    Returns:
        (M, N).
    """
    return _onednn(a, b, bias) if _uses_onednn(a, b) else F.linear(a, b, bias)


def add_product(
    output: Tensor, a: Tensor, b: Tensor, scale: float = 1, *, overwrite: bool = False
) -> None:
    """Adds scale · abᵀ in place; without gradients, for use in operators.

    Args:
        output: (M, N), or (B, M, N) for a product of each matrix of a batch.
        a: (M, K) or (B, M, K).
        b: (N, K) or (B, N, K).
        scale: of the product.
        overwrite: whether the product replaces the output, instead of being added to it.
    """
    if output.ndim == 3 and (a.shape[1] * b.shape[1] < LEAST_OUTPUT or not _uses_onednn(a, b)):
        output.baddbmm_(a, b.mT, beta=0 if overwrite else 1, alpha=scale)
    elif output.ndim == 3:
        for matrices in zip(output, a, b, strict=True):
            add_product(*matrices, scale, overwrite=overwrite)
    elif not _uses_onednn(a, b):
        output.addmm_(a, b.mT, beta=0 if overwrite else 1, alpha=scale)
    elif overwrite:
        torch.mul(_onednn(a, b), scale, out=output)
    else:
        output.add_(_onednn(a, b), alpha=scale)


@torch.library.custom_op("mvit_det::onednn_linear", mutates_args=())
def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer in fp32 on the CPU, by oneDNN.

    Args:
        x: (N, channels in).
        weight: (channels out, channels in).
        bias: (channels out,).

    Returns:
        (N, channels out).
    """
    return _onednn(x, weight, bias).contiguous()


@onednn_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(len(x), len(weight))


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad
    return (
        onednn_linear(grad, weight.t(), None) if needs_x else None,
        onednn_linear(grad.t(), x.t(), None) if needs_weight else None,
        grad.sum(0) if needs_bias else None,
    )


onednn_linear.register_autograd(_backward, setup_context=_save_inputs)


@register_flop_formula(torch.ops.mvit_det.onednn_linear)
def _count_operations(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    """For PyTorch's counter: as many multiplications as additions."""
    return 2 * x.numel() * weight[0]


def _onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    # The operator copies its first argument if it is not contiguous. The second may be transposed,
    # but takes a hundred times as long if it has gaps.
    if not b.is_contiguous() and not b.mT.is_contiguous():
        b = b.contiguous()
    swaps = not a.is_contiguous() and a.mT.is_contiguous() and bias is None
    if swaps and (b.is_contiguous() or a.numel() > b.numel()):
        return _onednn(b, a).mT
    # PyTorch has no public name for the operator, which torch.compile calls for linear layers.
    output: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return output


def _uses_onednn(a: Tensor, b: Tensor) -> bool:
    is_fp32 = a.dtype == b.dtype == torch.float32
    is_on_cpu = a.device.type == b.device.type == "cpu"
    return MKL_LACKS_AVX512 and is_fp32 and is_on_cpu and a.numel() > 0 and b.numel() > 0


def _mkl_lacks_avx512() -> bool:
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    if not has_both or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return False


# Whether this processor has AVX-512, and PyTorch an MKL that does not use it there.
MKL_LACKS_AVX512 = _mkl_lacks_avx512()
