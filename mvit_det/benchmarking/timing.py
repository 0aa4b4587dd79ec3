"""Time, measured on two things in turn, and the rate of matrix products in the same minutes."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from .case import DTYPES, Case
from .models import build

# Side of the square matrices: as fast as products get, in a fraction of a second.
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Timing:
    """What `alternate` measured.

    Attributes:
        seconds: of each repeat, by side.
        matmul_rates: floating-point operations per second of square products, of each repeat.
    """

    seconds: dict[str, tuple[float, ...]]
    matmul_rates: tuple[float, ...]


def alternate(
    runs: Mapping[str, Callable[[], None]], case: Case, repeats: int, warmup: int
) -> Timing:
    """Times runs in turn, so that whatever else the machine does meets all of them.

    Who goes first changes with each repeat. The rate of matrix products is taken in between.

    Args:
        runs: by side; each returns when its work is done.
        case: tells device and dtype of the matrix products.
        repeats: times that each run is measured.
        warmup: times that each run goes unmeasured before.
    """
    seconds: dict[str, list[float]] = {side: [] for side in runs}
    rates = []
    for index in range(-warmup, repeats):
        rate = matmul_rate(case)
        order = list(runs)[:: 1 if index % 2 == 0 else -1]
        for side in order:
            start = time.perf_counter()
            runs[side]()
            duration = time.perf_counter() - start
            if index >= 0:
                seconds[side].append(duration)
        if index >= 0:
            rates.append(rate)
    return Timing({side: tuple(values) for side, values in seconds.items()}, tuple(rates))


def matmul_rate(case: Case, tries: int = 3) -> float:
    """Floating-point operations per second of a square product, the best of a few tries."""
    side = MATMUL_SIDE[case.device]
    left, right = torch.randn(2, side, side, device=case.device, dtype=DTYPES[case.dtype])
    output = torch.empty_like(left)
    best = 0.0
    for _ in range(tries):
        if case.device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(left, right, out=output)
        if case.device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def count_flops(case: Case) -> float | None:
    """Floating-point operations of the backbone's forward pass; None for a detector.

    A multiplication and an addition are two operations. They are counted on Detectron2's model,
    without computing anything, so that neither side's way of doing things decides what is counted.
    What a detector computes depends on what it finds.
    """
    if case.detector:
        return None
    images = torch.empty(case.batch, 3, *case.image_size, device="meta")
    model = build(Case(size=case.size), "baseline").to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return float(counter.get_total_flops())


def floor_seconds(flops: float | None, name: str, matmul_rates: tuple[float, ...]) -> float | None:
    """Least time of a pass, if it were nothing but its products at the rate of square ones.

    A training step computes each product once and its two gradients.
    """
    if flops is None:
        return None
    return (3 if name == "train" else 1) * flops / median(matmul_rates)
