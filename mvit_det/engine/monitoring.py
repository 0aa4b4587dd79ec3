"""What a training tells of itself while it runs: speed, memory, time left, and an image."""

import datetime
import logging
import sys
import time
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import (
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from .training_plot import save_training_plot

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"


class SpeedAndMemory(HookBase):
    """Records `images_per_second`, and `max_mem`, the peak of memory so far in MiB.

    Memory is that of this process: what PyTorch allocated on the GPU, or, on the CPU, all that was
    resident, where the system tells.
    """

    def __init__(self, images_per_step: int, device: str) -> None:
        """Prepares for a training.

        Args:
            images_per_step: of all processes together.
            device: that the model is on.
        """
        self.images_per_step = images_per_step
        self.device = device
        self.start = 0.0

    def before_step(self) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def after_step(self) -> None:
        """Stops it."""
        storage = self.trainer.storage
        seconds = time.perf_counter() - self.start
        storage.put_scalar("images_per_second", self.images_per_step / seconds)
        peak = _peak_memory(self.device)
        if peak is not None:
            storage.put_scalar("max_mem", peak, smoothing_hint=False)


class MetricPrinter(EventWriter):
    """Logs one line: time left, iteration, losses, learning rate, speed and memory.

    It is like Detectron2's, whose names it uses, with speed in images per second, and memory also
    on the CPU. Noisy values are medians of the last 20 iterations.
    """

    def __init__(self, max_iter: int) -> None:
        """Prepares for a training of `max_iter` iterations."""
        self.max_iter = max_iter
        self.last_write = -1

    def write(self) -> None:
        """Logs the line, once per iteration; also records `eta_seconds` for other writers."""
        storage = get_event_storage()
        done = storage.iter + 1
        if storage.iter >= self.max_iter or storage.iter == self.last_write:
            return
        self.last_write = storage.iter
        values = {name: value for name, (value, _) in storage.latest_with_smoothing_hint().items()}
        entries = []
        # Unknown in the first few iterations, which take longer than others.
        if "time" in values:
            seconds = storage.history("time").median(1000) * (self.max_iter - done)
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            entries.append(f"eta: {datetime.timedelta(seconds=int(seconds))}")
        entries.append(f"iter: {done}/{self.max_iter}")
        entries += [f"{name}: {value:.4g}" for name, value in values.items() if "loss" in name]
        formats = {
            "lr": "lr: {:.4g}",
            "images_per_second": "images/s: {:.4g}",
            "time": "time: {:.4f}",
            "data_time": "data_time: {:.4f}",
            "max_mem": "max_mem: {:.0f}M",
        }
        entries += [text.format(values[name]) for name, text in formats.items() if name in values]
        logger.info("  ".join(entries))


class TrainingPlot(HookBase):
    """Draws `training.png` beside `metrics.json`, at every evaluation and at the end.

    It belongs behind the hook that writes the metrics.
    """

    def __init__(self, output_dir: str | Path, period: int) -> None:
        """Prepares for a training.

        Args:
            output_dir: folder of the metrics.
            period: in iterations; 0 draws at the end only.
        """
        self.folder = Path(output_dir)
        self.period = period

    def after_step(self) -> None:
        """Draws, if it is time."""
        if self.period and (self.trainer.iter + 1) % self.period == 0:
            self._draw()

    def after_train(self) -> None:
        """Draws, also what there is of a training that broke off."""
        self._draw()

    def _draw(self) -> None:
        if not (self.folder / METRICS_FILE).is_file():
            return
        try:
            save_training_plot(self.folder / METRICS_FILE, self.folder / "training.png")
        except OSError as error:
            logger.warning("The training goes on without its image: %s", error)


def metric_writers(output_dir: str | Path, max_iter: int) -> list[EventWriter]:
    """Writers of metrics to the log, to `metrics.json`, and for TensorBoard.

    Args:
        output_dir: folder for the files; it is made if it is missing.
        max_iter: iterations of the training.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        MetricPrinter(max_iter),
        JSONWriter(str(folder / METRICS_FILE)),
        TensorboardXWriter(str(folder)),
    ]


def _peak_memory(device: str) -> float | None:
    """In MiB; None on the CPU of a system that does not tell."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in KiB elsewhere.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
