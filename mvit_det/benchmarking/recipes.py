"""Measures memory and time of the training steps of configs, beside the estimate of their memory.

The steps are those of the trainer, with all micro-batches, the optimizer and EMA, on random images
and from random weights. Loading images and evaluations are not part of them.
"""

import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase
from omegaconf import DictConfig, OmegaConf

from ..config import build_model, load_config, resolve_device
from ..engine.ema import ModelEMA
from ..engine.trainer import Trainer
from .memory import peak_memory
from .memory_estimate import GIB, OBJECTS, MemoryEstimate, estimate_memory
from .report import format_seconds, format_table
from .workload import random_images

# The first step has no state of the optimizer yet; the second one shows the peak.
STEPS_FOR_MEMORY = 2
STEPS_FOR_TIME = 4
HEADER = (
    "config", "images × steps", "estimated (GiB)", "without reserve (GiB)",
    "allocated (GiB)", "reserved (GiB)", "in use (GiB)", "time per iteration", "iterations", "days",
)  # fmt: skip


@dataclass(frozen=True)
class RecipeRow:
    """Memory and time of a config's training.

    Attributes:
        name: of the config.
        estimate: of its memory.
        grad_accum_steps: micro-batches per iteration.
        iterations: of the whole training.
        allocated: peak of the memory of all tensors, in bytes.
        reserved: peak of the memory that PyTorch holds, with its cache; None on the CPU.
        in_use: memory of the GPU in use after the steps, by all processes, with the CUDA context;
            None on the CPU.
        seconds: of each timed iteration.
        reason: why it could not be measured.
    """

    name: str
    estimate: MemoryEstimate
    grad_accum_steps: int
    iterations: int
    allocated: int | None = None
    reserved: int | None = None
    in_use: int | None = None
    seconds: tuple[float, ...] = ()
    reason: str = ""


def measure_recipes(
    paths: Sequence[str | Path],
    device: str,
    memory_size: tuple[int, int],
    time_size: tuple[int, int],
) -> Iterator[RecipeRow]:
    """Measures the configs of detectors, one after the other.

    Args:
        paths: of the configs.
        device: "cpu" or "cuda".
        memory_size: height and width of the images for memory and its estimate, each with as many
            objects as an image has positive regions at most.
        time_size: the same for time, with a usual number of objects.

    Raises:
        ConfigError: a config is invalid.
    """
    estimates: dict[str, MemoryEstimate] = {}
    for path in paths:
        config = load_config(path)
        resolve_device(config, device)
        row = RecipeRow(
            Path(path).stem,
            _estimate(config, memory_size, estimates),
            config.train.grad_accum_steps,
            config.train.max_iter,
        )
        try:
            yield _measure(row, config, memory_size, time_size)
        except torch.cuda.OutOfMemoryError:
            yield replace(row, reason="does not fit into the memory of the GPU")


def format_recipes(rows: Sequence[RecipeRow]) -> str:
    """Formats a Markdown table."""
    lines = []
    for row in rows:
        gib = [
            "–" if size is None else f"{size / GIB:.1f}"
            for size in (row.estimate.total, row.estimate.counted)
            + (row.allocated, row.reserved, row.in_use)
        ]
        days = f"{median(row.seconds) * row.iterations / 86400:.1f}" if row.seconds else "–"
        lines.append(
            [
                row.name,
                f"{row.estimate.images} × {row.grad_accum_steps}",
                *gib,
                format_seconds(row.seconds) if row.seconds else row.reason,
                f"{row.iterations:,}",
                days,
            ]
        )
    return format_table(HEADER, lines)


class _Clock(HookBase):
    """Notes the time after each step."""

    def __init__(self, device: str) -> None:
        self.is_cuda = device.startswith("cuda")
        self.ends: list[float] = []

    def after_step(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def _estimate(
    config: DictConfig, size: tuple[int, int], known: dict[str, MemoryEstimate]
) -> MemoryEstimate:
    """The estimate; configs that differ in their micro-batches only share its forward passes."""
    alike = config.copy()
    alike.train.grad_accum_steps = 0
    key = OmegaConf.to_yaml(alike)
    images = config.dataloader.train.total_batch_size // config.train.grad_accum_steps
    if key not in known:
        known[key] = estimate_memory(config, size)
    return replace(known[key], images=images)


def _measure(
    row: RecipeRow, config: DictConfig, memory_size: tuple[int, int], time_size: tuple[int, int]
) -> RecipeRow:
    settings = config.train
    # Frees the model before.
    gc.collect()
    torch.manual_seed(0)
    is_cuda = settings.device.startswith("cuda")
    model = build_model(config).to(settings.device)
    config.optimizer.params.model = model
    trainer = Trainer(
        model,
        itertools.repeat(random_images(memory_size, row.estimate.images, OBJECTS)),
        instantiate(config.optimizer),
        device=settings.device,
        grad_accum_steps=settings.grad_accum_steps,
        amp_dtype=settings.amp.dtype if settings.amp.enabled else None,
        max_grad_norm=settings.max_grad_norm,
    )
    clock = _Clock(settings.device)
    ema = ModelEMA(model, settings.ema.decay, settings.ema.warmup) if settings.ema.enabled else None
    trainer.register_hooks([ema, clock])
    before = torch.cuda.memory_allocated() if is_cuda else 0
    peak = peak_memory(settings.device, lambda: trainer.train(0, STEPS_FOR_MEMORY))
    reserved = in_use = None
    if is_cuda:
        reserved = torch.cuda.max_memory_reserved()
        free, total = torch.cuda.mem_get_info()
        in_use = total - free
    trainer.data_loader = itertools.repeat(random_images(time_size, row.estimate.images))
    trainer.train(0, STEPS_FOR_TIME + 1)
    ends = clock.ends[STEPS_FOR_MEMORY:]
    seconds = tuple(end - start for start, end in itertools.pairwise(ends))
    return replace(row, allocated=before + peak, reserved=reserved, in_use=in_use, seconds=seconds)
