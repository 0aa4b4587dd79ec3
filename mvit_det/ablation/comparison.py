"""Trains variants under the same conditions and measures them.

Each training runs in a process of its own, unaffected by earlier ones. Small models make little use
of more than one core, so several trainings run at once where there is no GPU. Time is measured when
all are trained: by turns, image by image, so that other load on the machine affects all alike.
"""

import gc
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..benchmarking.comparison import alternate
from ..benchmarking.memory import cores, in_own_process, peak_memory
from ..checkpoint import load_weights
from ..config import build_model, load_config, resolve_device
from ..data import check_datasets
from ..engine import train
from ..errors import ConfigError
from .tables import Result, Table, Variant

# Largest share of a short training that its warm-up may take.
LONGEST_WARMUP = 0.2
MOST_JOBS = 4


@dataclass(frozen=True)
class Settings:
    """Settings that all variants share.

    Attributes:
        output: folder for their outputs.
        iterations: of each training; 0 keeps those of the configs.
        seeds: one training of each variant per seed.
        device: "cpu", "cuda", or "" for CUDA where available.
        overrides: of every config, `key.of.field=value`.
        timed_images: number of images that time per image is measured on.
        jobs: trainings at a time, which share the cores; 0 is one with CUDA, and one per core up to
            `MOST_JOBS` on the CPU.
    """

    output: Path
    iterations: int = 0
    seeds: tuple[int, ...] = (1,)
    device: str = ""
    overrides: tuple[str, ...] = ()
    timed_images: int = 20
    jobs: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges of all numbers.

        Raises:
            ConfigError: names the number.
        """
        for name, number, least in (
            ("iterations", self.iterations, 0),
            ("jobs", self.jobs, 0),
            ("timed_images", self.timed_images, 1),
        ):
            if number < least:
                raise ConfigError(f"{name} must be at least {least}, not {number}")
        if not self.seeds or min(self.seeds) < 0:
            raise ConfigError(f"seeds must be one or more integers from 0 on, not {self.seeds}")


def compare(
    tables: Sequence[Table],
    settings: Settings,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[Variant, Result]:
    """Trains and measures the variants of all tables; those with equal configs once.

    Args:
        tables: of the variants.
        settings: of all variants.
        announce: receives a line when a training has ended.

    Raises:
        ConfigError: a config or an override is invalid. All are read before anything is trained.
        DatasetError: a dataset is missing.
    """
    variants = [variant for table in tables for variant in table.variants]
    configs = {variant: _load(variant, settings, settings.seeds[0], Path()) for variant in variants}
    same: dict[str, list[Variant]] = {}
    for variant, config in configs.items():
        same.setdefault(OmegaConf.to_yaml(config, sort_keys=True), []).append(variant)
    different = {first: configs[first] for first, *_ in same.values()}
    _prepare_datasets(different.values())
    folders = {v: settings.output / f"{number:02d}" for number, v in enumerate(different, start=1)}
    uses_cuda = next(iter(different.values())).train.device.startswith("cuda")
    jobs = settings.jobs or (1 if uses_cuda else min(cores(), MOST_JOBS))

    def run(variant: Variant) -> Result:
        start = time.perf_counter()
        arguments = [(variant, settings, seed, folders[variant] / str(seed), jobs)
                     for seed in settings.seeds]  # fmt: skip
        runs = [in_own_process(_train_and_measure, *each) for each in arguments]
        result = replace(runs[0], metrics=tuple(run.metrics[0] for run in runs))
        box_ap = ", ".join(f"{ap:.1f}" for ap in result.average_precision())
        title = f"{variant.model} {variant.name}".strip()
        announce(f"{title}: box AP {box_ap} after {time.perf_counter() - start:.0f} s")
        return result

    announce(f"{len(different) * len(settings.seeds)} trainings, {jobs} at a time")
    with ThreadPoolExecutor(jobs) as pool:
        trained = dict(zip(different, pool.map(run, different), strict=True))
    weights = {
        v: folder / str(settings.seeds[0]) / "model_final.pth" for v, folder in folders.items()
    }
    seconds = _time_by_turns(different, weights, settings.timed_images)
    return {
        variant: replace(trained[first], seconds_per_image=seconds[first])
        for first, *others in same.values()
        for variant in (first, *others)
    }


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


def _prepare_datasets(configs: Iterable[DictConfig]) -> None:
    """Finds missing datasets before anything is trained, and generates those that are generated."""
    for name in {c.dataloader[split].dataset.names for c in configs for split in ("train", "test")}:
        check_datasets(name)
        DatasetCatalog.get(name)


def _train_and_measure(
    variant: Variant, settings: Settings, seed: int, output: Path, jobs: int
) -> Result:
    # Detectron2's code predates the change that this announces.
    warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
    torch.set_num_threads(max(cores() // jobs, 1))
    config = _load(variant, settings, seed, output)
    output.mkdir(parents=True, exist_ok=True)
    # Memory is measured in the first pass of a process.
    costs = _measure_model(config)
    seed_all_rng(seed)
    return Result((train(config),), **costs, iterations=config.train.max_iter)


def _measure_model(config: DictConfig) -> dict[str, Any]:
    """Parameters, multiply-adds of the backbone and peak memory of a training step."""
    seed_all_rng(config.train.seed)
    model: Any = build_model(config).to(config.train.device)
    batch = next(iter(instantiate(config.dataloader.train)))

    def training_step() -> None:
        with EventStorage():
            sum(model(batch).values()).backward()

    gc.collect()
    peak = peak_memory(config.train.device, training_step)
    image = model.eval().preprocess_image(batch[:1]).tensor
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.backbone(image)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        # The counter takes a multiplication and an addition for two operations.
        "multiply_adds": counter.get_total_flops() / 2,
        "peak_memory": peak,
    }


def _time_by_turns(
    configs: dict[Variant, DictConfig], weights: dict[Variant, Path], images: int
) -> dict[Variant, tuple[float, ...]]:
    """Seconds that each trained model takes for each of some images, after one to warm up."""
    first = next(iter(configs.values()))
    batches = list(islice(instantiate(first.dataloader.test), images + 1))

    def infer(model: nn.Module, batches: Iterator[Any]) -> None:
        with torch.no_grad():
            model(next(batches))
        if first.train.device.startswith("cuda"):
            torch.cuda.synchronize()

    runs = {}
    for variant, config in configs.items():
        model = build_model(config).to(config.train.device).eval()
        load_weights(model, weights[variant])
        runs[variant] = partial(infer, model, iter(batches))
    return alternate(runs, repeats=len(batches) - 1, warmup=1)
