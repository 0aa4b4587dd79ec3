"""Compares the attention kernels on the shapes of a model's blocks."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from ..modeling.kernels import ATTENTION_KERNELS, attention_kernel
from ..modeling.plan import BlockPlan
from ..modeling.window import Grid, windows_to_cover
from .case import DTYPES, Case
from .comparison import alternate
from .memory import peak_memory
from .report import format_seconds, format_table
from .workload import BUILDERS

# Runs per measurement on CUDA, where one run is too short to be timed.
RUNS_ON_CUDA = 10
PATCH_STRIDE = 4
# Queries whose outputs are compared with those of the plain formula in fp64.
CHECKED_QUERIES = 64
HEADER = ("attention of", "kernel", "forward", "forward and backward", "peak memory", "error")


@dataclass(frozen=True)
class AttentionShape:
    """Inputs of attention in a block.

    Attributes:
        name: of the block, in words.
        batch: images, times windows per image.
        heads: attention heads.
        channels: of each head.
        queries, keys: grids of tokens, rows and columns.
    """

    name: str
    batch: int
    heads: int
    channels: int
    queries: Grid
    keys: Grid

    def describe(self) -> str:
        """The shape in a few words."""
        queries, keys = ("×".join(map(str, grid)) for grid in (self.queries, self.keys))
        return f"{self.name}: batch {self.batch}, heads {self.heads}, Q {queries}, K {keys}"


@dataclass(frozen=True)
class KernelRow:
    """One kernel on one shape.

    Attributes:
        shape: of the inputs; None sums up all blocks of the model.
        blocks: number of blocks with this shape.
        kernel: its name.
        is_default: whether models use this kernel on this device.
        forward, train: seconds of each repeat, of a forward pass and of both passes; empty where
            the kernel does not run.
        peak_memory: of both passes, or of the forward pass where there is no other, in bytes.
        error: relative error of the output.
        reason: why it does not run, or only forward.
    """

    shape: AttentionShape | None
    blocks: int
    kernel: str
    is_default: bool
    forward: tuple[float, ...] = ()
    train: tuple[float, ...] = ()
    peak_memory: int | None = None
    error: float | None = None
    reason: str = ""


def compare_kernels(case: Case) -> Iterator[KernelRow]:
    """Measures all kernels by turns, on each shape that the model of a case has.

    Args:
        case: size of the model and of the image, batch, dtype, device, repeats and warm-up.
    """
    rows = []
    with torch.device("meta"):
        model = BUILDERS[case.size]()
    for shape, blocks in attention_shapes(model.plan, case).items():
        for row in _compare_on(shape, blocks, case):
            rows.append(row)
            yield row
    yield from _sums(rows)


def attention_shapes(plan: Sequence[BlockPlan], case: Case) -> Counter[AttentionShape]:
    """Counts the blocks of each shape of attention, in the order of the model."""
    found: Counter[AttentionShape] = Counter()
    grid = windows_to_cover(case.image_size, (PATCH_STRIDE, PATCH_STRIDE))
    for block in plan:
        strides = (block.query_stride, block.key_stride)
        queries, keys = (windows_to_cover(grid, (stride, stride)) for stride in strides)
        grid = queries
        batch = case.batch
        if block.window_size:
            side, key_side = (block.window_size // stride for stride in strides)
            batch *= math.prod(windows_to_cover(queries, (side, side)))
            queries, keys = (side, side), (key_side, key_side)
        name = f"{block.scale}, {'windows' if block.window_size else 'global'}"
        channels = block.attention_dim // block.num_heads
        found[AttentionShape(name, batch, block.num_heads, channels, queries, keys)] += 1
    return found


def format_kernels(rows: Sequence[KernelRow]) -> str:
    """Formats a Markdown table; times as median and, in brackets, minimum and maximum.

    Below it are the kernels that do not run, or only forward, with the reasons.
    """
    lines = [
        [
            f"{row.blocks} × {row.shape.describe()}" if row.shape else f"all {row.blocks} blocks",
            f"{row.kernel} (default)" if row.is_default else row.kernel,
            format_seconds(row.forward),
            format_seconds(row.train) if row.train else "–",
            "–" if row.peak_memory is None else f"{row.peak_memory / 2**20:.0f} MiB",
            "–" if row.error is None else f"{row.error:.0e}",
        ]
        for row in rows
        if row.forward
    ]
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.reason and row.shape:
            what = "backward pass of " if row.forward else ""
            notes.setdefault(f"Skipped: {what}{row.kernel}: {row.reason}", []).append(
                row.shape.name
            )
    shapes = dict.fromkeys(row.shape.name for row in rows if row.shape)
    paragraphs = [
        f"{note}." if set(names) == set(shapes) else f"{note} ({', '.join(dict.fromkeys(names))})."
        for note, names in notes.items()
    ]
    return "\n\n".join([format_table(HEADER, lines), *paragraphs])


class _Inputs:
    """Random inputs of attention, and the passes of a kernel on them."""

    def __init__(self, shape: AttentionShape, case: Case) -> None:
        torch.manual_seed(0)
        self.is_cuda = case.device == "cuda"
        self.scale = shape.channels**-0.5
        queries, keys = math.prod(shape.queries), math.prod(shape.keys)
        sizes = [(queries, shape.channels), (keys, shape.channels), (keys, shape.channels),
                 (queries, shape.keys[0]), (queries, shape.keys[1])]  # fmt: skip
        dtype = DTYPES[case.dtype]
        self.tensors = [
            torch.randn(shape.batch, shape.heads, *size, device=case.device).to(dtype)
            for size in sizes
        ]
        self.grad = torch.randn_like(self.tensors[0])

    def forward(self, kernel: str, tensors: Sequence[Tensor]) -> Tensor:
        query, key, value, *terms = tensors
        return ATTENTION_KERNELS[kernel](query, key, value, terms, self.scale)

    def run(self, kernel: str, trains: bool, times: int = 1) -> None:
        for _ in range(times):
            tensors = [tensor.detach().requires_grad_(trains) for tensor in self.tensors]
            output = self.forward(kernel, tensors)
            if trains:
                torch.autograd.grad(output, tensors, self.grad)
        if self.is_cuda:
            torch.cuda.synchronize()

    def error(self, kernel: str) -> float:
        """Relative error of the first outputs."""
        query, key, value, height, width = (tensor.double() for tensor in self.tensors)
        first = slice(CHECKED_QUERIES)
        terms = (height[..., first, :, None] + width[..., first, None, :]).flatten(-2)
        logits = query[..., first, :] @ key.transpose(-1, -2) * self.scale + terms
        expected = logits.softmax(-1) @ value
        output = self.forward(kernel, self.tensors)[..., first, :].double()
        return ((output - expected).norm() / expected.norm()).item()


def _compare_on(shape: AttentionShape, blocks: int, case: Case) -> Iterator[KernelRow]:
    inputs = _Inputs(shape, case)
    times = RUNS_ON_CUDA if case.device == "cuda" else 1
    runs: dict[tuple[str, bool], Callable[[], None]] = {}
    reasons: dict[str, str] = {}
    errors: dict[str, float] = {}
    peaks: dict[str, int] = {}
    for kernel in ATTENTION_KERNELS:
        for trains in (False, True):
            run = partial(inputs.run, kernel, trains)
            try:
                with warnings.catch_warnings():
                    # PyTorch warns of the reasons why a kernel does not fit, and of slow ones.
                    warnings.simplefilter("ignore")
                    run()
                    errors[kernel] = inputs.error(kernel)
                    peaks[kernel] = peak_memory(case.device, run)
            except (RuntimeError, NotImplementedError, ValueError) as error:
                reasons[kernel] = _reason(error, case.device)
                break
            runs[kernel, trains] = partial(inputs.run, kernel, trains, times)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds = alternate(runs, case.repeats, case.warmup)
    default = attention_kernel(inputs.tensors[0])
    for kernel in ATTENTION_KERNELS:
        forward, train = (
            tuple(value / times for value in seconds.get((kernel, trains), ()))
            for trains in (False, True)
        )
        yield KernelRow(
            shape,
            blocks,
            kernel,
            kernel == default,
            forward,
            train,
            peaks.get(kernel),
            errors.get(kernel),
            reasons.get(kernel, ""),
        )


def _reason(error: Exception, device: str) -> str:
    if device == "cpu":
        return "needs CUDA"
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "does not fit into the memory of the GPU"
    return " ".join(str(error).split(".")[0].split())[:100] or type(error).__name__


def _sums(rows: Sequence[KernelRow]) -> Iterator[KernelRow]:
    """Median times of all blocks together, for kernels that run in each of them."""

    def total(passes: Iterable[tuple[int, tuple[float, ...]]]) -> tuple[float, ...]:
        each = [(blocks, values) for blocks, values in passes]
        if not all(values for _, values in each):
            return ()
        return (sum(blocks * median(values) for blocks, values in each),)

    for kernel in ATTENTION_KERNELS:
        own = [row for row in rows if row.kernel == kernel]
        forward = total((row.blocks, row.forward) for row in own)
        train = total((row.blocks, row.train) for row in own)
        if forward:
            blocks = sum(row.blocks for row in own)
            yield KernelRow(None, blocks, kernel, own[0].is_default, forward, train)
