"""Metrics of a running training: speed, memory, log lines, files and a plot."""

import datetime
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import (
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from tqdm import tqdm

from .training_plot import save_training_plot

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"


class SpeedAndMemory(HookBase):
    """Records `images_per_second`, and `max_mem`, the peak memory of this process in MiB.

    On a GPU it is the memory that PyTorch allocated; on the CPU, the resident memory.
    """

    def __init__(self, images_per_step: int, device: str) -> None:
        """Creates the hook.

        Args:
            images_per_step: over all ranks.
            device: of the model.
        """
        self.images_per_step = images_per_step
        self.device = device
        self.start = 0.0

    def before_step(self) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def after_step(self) -> None:
        """Stops the clock, and records."""
        storage = self.trainer.storage
        seconds = time.perf_counter() - self.start
        storage.put_scalar("images_per_second", self.images_per_step / seconds)
        peak = _peak_memory(self.device)
        if peak is not None:
            storage.put_scalar("max_mem", peak, smoothing_hint=False)


class MetricPrinter(EventWriter):
    """Logs one line: time left, iteration, losses, learning rate, speed and memory.

    Adds to Detectron2's line the images per second, and memory on the CPU. Noisy values are medians
    of the last 20 iterations.
    """

    def __init__(self, max_iter: int) -> None:
        """Creates the writer of a training of `max_iter` iterations."""
        self.max_iter = max_iter
        self.last_write = -1

    def write(self) -> None:
        """Logs the line, once per iteration; also records `eta_seconds` for other writers."""
        storage = get_event_storage()
        # After the last step, the storage is one iteration ahead.
        _, iteration = storage.latest().get("total_loss", (0.0, self.last_write))
        if iteration == self.last_write:
            return
        self.last_write = iteration
        done = iteration + 1
        values = {name: value for name, (value, _) in storage.latest_with_smoothing_hint().items()}
        entries = []
        # Missing in the first few iterations, which take longer than others.
        if "time" in values:
            seconds = storage.history("time").median(1000) * (self.max_iter - done)
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            entries.append(f"eta: {datetime.timedelta(seconds=int(seconds))}")
        entries.append(f"iter: {done}/{self.max_iter}")
        entries += [f"{name}: {value:.4g}" for name, value in values.items() if _is_loss(name)]
        formats = {
            "lr": "lr: {:.4g}",
            "images_per_second": "images/s: {:.4g}",
            "time": "time: {:.4f}",
            "data_time": "data_time: {:.4f}",
            "max_mem": "max_mem: {:.0f}M",
        }
        entries += [text.format(values[name]) for name, text in formats.items() if name in values]
        logger.info("  ".join(entries))


class TolerantWriter(EventWriter):
    """Wraps a writer, so that a full disk does not end the training.

    Each call tries again, so that metrics are written as soon as there is room.
    """

    def __init__(self, writer: EventWriter) -> None:
        """Wraps a writer."""
        self.writer = writer
        self.is_failing = False

    def write(self) -> None:
        """Writes metrics, if the disk permits."""
        self._attempt(self.writer.write)

    def close(self) -> None:
        """Closes the files."""
        self._attempt(self.writer.close)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            if not self.is_failing:
                logger.error(
                    "The training continues without metrics of %s (%s); make room in "
                    "train.output_dir",
                    type(self.writer).__name__,
                    error.strerror or error,
                )
            self.is_failing = True
        else:
            self.is_failing = False


class ProgressBar(HookBase):
    """Shows progress and time left on standard error, if that is a terminal."""

    def before_train(self) -> None:
        """Shows the bar."""
        self.bar = tqdm(
            initial=self.trainer.start_iter,
            total=self.trainer.max_iter,
            desc="training",
            unit="it",
            # None is: off unless standard error is a terminal.
            disable=None,
            dynamic_ncols=True,
        )

    def after_step(self) -> None:
        """Moves the bar."""
        self.bar.update()

    def after_train(self) -> None:
        """Leaves the last state of the bar on the terminal."""
        self.bar.close()


class TrainingPlot(HookBase):
    """Draws `training.png` from `metrics.json`, at every evaluation and at the end.

    Register it after the hook that writes the metrics.
    """

    def __init__(self, output_dir: str | Path, period: int) -> None:
        """Creates the hook.

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
        """Draws, also after a training that failed."""
        self._draw()

    def _draw(self) -> None:
        if not (self.folder / METRICS_FILE).is_file():
            return
        try:
            save_training_plot(self.folder / METRICS_FILE, self.folder / "training.png")
        except OSError as error:
            logger.warning("The training continues without its plot: %s", error)


def metric_writers(
    output_dir: str | Path, max_iter: int, tensorboard: bool = True
) -> list[EventWriter]:
    """Creates writers of metrics to the log, to `metrics.json`, and for TensorBoard.

    Args:
        output_dir: folder for the files; it is created if it is missing.
        max_iter: iterations of the training.
        tensorboard: whether there is a file for TensorBoard.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    writers = [MetricPrinter(max_iter), TolerantWriter(JSONWriter(str(folder / METRICS_FILE)))]
    if tensorboard:
        writers.append(TolerantWriter(TensorboardXWriter(str(folder))))
    return writers


def _is_loss(name: str) -> bool:
    """Whether a metric is a loss of a step; names of evaluations' metrics have a slash."""
    return "loss" in name and "/" not in name


def _peak_memory(device: str) -> float | None:
    """In MiB; None on the CPU under Windows."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in KiB elsewhere.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
