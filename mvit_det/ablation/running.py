"""Trains variants alike and measures them.

Each training runs in a process of its own, so that none is affected by what ran before it. Small
models make little of more than one core, so there are several trainings at once where there is no
GPU. Time is measured when all are trained: by turns, image by image, so that whatever else the
machine does meets all of them.
"""

import gc
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..benchmarking.memory import peak_of_allocator, peak_of_process
from ..checkpoint import load_weights
from ..config import load_config, resolve_device
from ..data import check_datasets
from ..engine import train
from ..errors import ConfigError
from .tables import Table, Variant

# Largest share of a short training that its warm-up may take.
LONGEST_WARMUP = 0.2
MOST_JOBS = 4


@dataclass(frozen=True)
class Settings:
    """What all variants have in common.

    Attributes:
        output: folder for their outputs.
        iterations: of each training; 0 leaves them to the configs.
        seeds: one training of each variant for each of them.
        device: "cpu", "cuda", or "" for CUDA where there is any.
        overrides: changes to every config, `key.of.field=value`.
        timed_images: images that time per image is measured on.
        jobs: trainings at a time, which share the cores; 0 is one with CUDA, and up to
            `MOST_JOBS` on the CPU, one for each core.
    """

    output: Path
    iterations: int = 0
    seeds: tuple[int, ...] = (1,)
    device: str = ""
    overrides: tuple[str, ...] = ()
    timed_images: int = 20
    jobs: int = 0

    def __post_init__(self) -> None:
        """Refuses numbers out of range.

        Raises:
            ConfigError: names the number.
        """
        if self.iterations < 0:
            raise ConfigError(f"iterations must be at least 0, not {self.iterations}")
        if self.jobs < 0:
            raise ConfigError(f"jobs must be at least 0, not {self.jobs}")
        if self.timed_images < 1:
            raise ConfigError(f"timed_images must be positive, not {self.timed_images}")
        if not self.seeds or min(self.seeds) < 0:
            raise ConfigError(f"seeds must be some numbers from 0 on, not {self.seeds}")


@dataclass(frozen=True)
class Result:
    """What a variant gives and costs.

    Attributes:
        metrics: of the evaluation after each training, one for each seed: `{"bbox": {"AP": …}, …}`
            in percent.
        parameters: of the detector.
        flops: multiply-adds of the backbone, pyramid included, on one image.
        peak_memory: of the first training step, in bytes above what the process held before it.
        seconds_per_image: inference of the detector, for each timed image.
        iterations: of each training.
    """

    metrics: tuple[dict[str, Any], ...]
    parameters: int
    flops: float
    peak_memory: int
    iterations: int
    seconds_per_image: tuple[float, ...] = ()

    def average_precision(self, task: str = "bbox") -> tuple[float, ...]:
        """AP of a task in percent, by seed; NaN where it was not evaluated."""
        return tuple(metrics.get(task, {}).get("AP", float("nan")) for metrics in self.metrics)

    @property
    def time_per_image(self) -> float:
        """Median time of an image, in seconds."""
        return median(self.seconds_per_image)


def compare(
    tables: Sequence[Table],
    settings: Settings,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[Variant, Result]:
    """Trains and measures the variants of all tables; those with equal configs once.

    Args:
        tables: what to compare.
        settings: of all variants.
        announce: gets a line when a training has ended.

    Raises:
        ConfigError: a config cannot be read or changed so. All are read before anything is trained.
        DatasetError: a dataset is missing.
    """
    variants = [variant for table in tables for variant in table.variants]
    configs = {variant: _load(variant, settings, settings.seeds[0], Path()) for variant in variants}
    same: dict[str, list[Variant]] = {}
    for variant, config in configs.items():
        same.setdefault(OmegaConf.to_yaml(config, sort_keys=True), []).append(variant)

    different = [first for first, *_ in same.values()]
    # Generated data are so written once, and missing data found before anything is trained.
    for name in {
        configs[variant].dataloader[part].dataset.names
        for variant in different
        for part in ("train", "test")
    }:
        check_datasets(name)
        DatasetCatalog.get(name)
    folders = {v: settings.output / f"{number:02d}" for number, v in enumerate(different, start=1)}
    jobs = settings.jobs or _default_jobs(configs[different[0]].train.device)

    def run(variant: Variant) -> Result:
        start = time.perf_counter()
        runs = [
            _in_own_process(
                _train_and_measure, variant, settings, seed, folders[variant] / str(seed), jobs
            )
            for seed in settings.seeds
        ]
        result = replace(runs[0], metrics=tuple(run.metrics[0] for run in runs))
        box_ap = ", ".join(f"{ap:.1f}" for ap in result.average_precision())
        title = f"{variant.model} {variant.name}".strip()
        announce(f"{title}: box AP {box_ap} after {time.perf_counter() - start:.0f} s")
        return result

    announce(f"{len(different) * len(settings.seeds)} trainings, {jobs} at a time")
    with ThreadPoolExecutor(jobs) as pool:
        trained = dict(zip(different, pool.map(run, different), strict=True))
    seconds = _time_by_turns(
        {variant: configs[variant] for variant in different},
        {variant: folder / str(settings.seeds[0]) for variant, folder in folders.items()},
        settings.timed_images,
    )
    results = {}
    for first, *others in same.values():
        result = replace(trained[first], seconds_per_image=seconds[first])
        results.update(dict.fromkeys((first, *others), result))
    return results


def _load(variant: Variant, settings: Settings, seed: int, output: Path) -> DictConfig:
    """The config of one training."""
    config = load_config(variant.config, [*variant.overrides, *settings.overrides])
    if settings.iterations:
        schedule = config.lr_multiplier
        if "warmup_length" in schedule:
            warmup = schedule.warmup_length * config.train.max_iter / settings.iterations
            schedule.warmup_length = min(warmup, LONGEST_WARMUP)
        config.train.max_iter = settings.iterations
    config.train.update(seed=seed, eval_period=0, visualized_images=0, output_dir=str(output))
    resolve_device(config, settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return config


def _default_jobs(device: str) -> int:
    return 1 if device.startswith("cuda") else min(_cores(), MOST_JOBS)


def _cores() -> int:
    return len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count() or 1


def _in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    # Not forked: threads and the CUDA context of this process would not work over there.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _train_and_measure(
    variant: Variant, settings: Settings, seed: int, output: Path, jobs: int
) -> Result:
    # Detectron2's code is no longer adapted to what it is built on.
    warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
    torch.set_num_threads(max(_cores() // jobs, 1))
    config = _load(variant, settings, seed, output)
    output.mkdir(parents=True, exist_ok=True)
    # The first pass of a process is the one that shows what it needs.
    parameters, flops, peak_memory = _measure_model(config)
    seed_all_rng(seed)
    metrics = train(config)
    return Result((metrics,), parameters, flops, peak_memory, config.train.max_iter)


def _measure_model(config: DictConfig) -> tuple[int, float, int]:
    """Parameters, multiply-adds of the backbone and peak memory of a training step."""
    seed_all_rng(config.train.seed)
    model = instantiate(config.model).to(config.train.device)
    batch = next(iter(instantiate(config.dataloader.train)))
    measure = peak_of_allocator if config.train.device.startswith("cuda") else peak_of_process
    gc.collect()
    peak_memory = measure(lambda: _training_step(model, batch))
    image = model.eval().preprocess_image(batch[:1]).tensor
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.backbone(image)
    # The counter takes a multiplication and an addition for two operations.
    flops = counter.get_total_flops() / 2
    return sum(p.numel() for p in model.parameters()), flops, peak_memory


def _training_step(model: nn.Module, batch: list[dict[str, Any]]) -> None:
    with EventStorage():
        sum(model(batch).values()).backward()


def _time_by_turns(
    configs: dict[Variant, DictConfig], folders: dict[Variant, Path], images: int
) -> dict[Variant, tuple[float, ...]]:
    """Seconds that each trained model takes for each of some images, the first left out."""
    models: dict[Variant, nn.Module] = {}
    seconds: dict[Variant, list[float]] = {}
    for variant, config in configs.items():
        model = instantiate(config.model).to(config.train.device).eval()
        load_weights(model, folders[variant] / "model_final.pth")
        models[variant], seconds[variant] = model, []
    first = next(iter(configs.values()))
    records = list(islice(instantiate(first.dataloader.test), images + 1))
    for turn, batch in enumerate(records):
        order = list(models)[:: 1 if turn % 2 == 0 else -1]
        for variant in order:
            start = time.perf_counter()
            with torch.no_grad():
                models[variant](batch)
            if first.train.device.startswith("cuda"):
                torch.cuda.synchronize()
            # The first is for warming up.
            if turn:
                seconds[variant].append(time.perf_counter() - start)
    return {variant: tuple(values) for variant, values in seconds.items()}
