"""Experiment trackers: Weights & Biases and MLflow beside TensorBoard."""

import difflib
import importlib.util
import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError

logger = logging.getLogger(__name__)

LOGGERS = ("tensorboard", "wandb", "mlflow")
# Ids of the trackers' runs, so that a resumed training continues them.
RUNS_FILE = "trackers.json"
_PROJECT = "mvit_det"
_MAX_PARAMS = 100  # of one request to MLflow


def check_loggers(names: Sequence[str]) -> None:
    """Checks the names in `train.loggers`, and that their packages are installed.

    Raises:
        ConfigError: a logger is unknown or its package is missing.
    """
    for name in names:
        if name not in LOGGERS:
            near = difflib.get_close_matches(name, LOGGERS, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(LOGGERS)}"
            raise ConfigError(f"unknown logger '{name}' in train.loggers; {hint}")
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"train.loggers has '{name}', which is not installed; "
                f"pip install 'mvit_det[{name}]'"
            )


class Tracker(ABC):
    """A run of an experiment tracker; any method may raise any exception."""

    @abstractmethod
    def start(self, config: Mapping[str, Any], folder: Path, run_id: str) -> str:
        """Starts a run with a config, or continues the one of `run_id`; returns its id."""

    @abstractmethod
    def log(self, metrics: Mapping[str, float], iteration: int) -> None:
        """Adds metrics of an iteration."""

    @abstractmethod
    def add_image(self, name: str, path: Path, iteration: int) -> None:
        """Adds an image file."""

    @abstractmethod
    def set_checkpoint(self, name: str) -> None:
        """Notes the file name of the last checkpoint."""

    @abstractmethod
    def close(self) -> None:
        """Ends the run; it can be continued."""


class WandbTracker(Tracker):
    """A run of Weights & Biases, in the project `WANDB_PROJECT` or "mvit_det"."""

    def start(self, config: Mapping[str, Any], folder: Path, run_id: str) -> str:
        """See `Tracker`; offline runs are in `folder`/wandb."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=folder.resolve().name,
            dir=str(folder),
            config=dict(config),
            id=run_id or None,
            resume="allow" if run_id else None,
        )
        # Evaluations come later than the iterations around them, which wandb's own steps forbid.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        return self._run.id

    def log(self, metrics: Mapping[str, float], iteration: int) -> None:
        """See `Tracker`."""
        self._run.log({**metrics, "iteration": iteration})

    def add_image(self, name: str, path: Path, iteration: int) -> None:
        """See `Tracker`."""
        import wandb

        self._run.log({name: wandb.Image(str(path)), "iteration": iteration})

    def set_checkpoint(self, name: str) -> None:
        """See `Tracker`."""
        self._run.summary["checkpoint"] = name

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class MlflowTracker(Tracker):
    """A run of MLflow, in the experiment `MLFLOW_EXPERIMENT_NAME` or "mvit_det".

    The server or store is `MLFLOW_TRACKING_URI`, or else the folder `mlruns` of the output folder.
    """

    def start(self, config: Mapping[str, Any], folder: Path, run_id: str) -> str:
        """See `Tracker`."""
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            # Otherwise MLflow raises an exception about stores in files.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.tracking import MlflowClient

        local = (folder / "mlruns").resolve().as_uri()
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or local)
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            known = experiment and experiment.experiment_id
            run = self._client.create_run(
                known or self._client.create_experiment(name), run_name=folder.resolve().name
            )
            run_id = run.info.run_id
        self._run_id = run_id
        self._log_config(config)
        return run_id

    def _log_config(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self._client.log_dict(self._run_id, dict(config), "config.json")
        known = self._client.get_run(self._run_id).data.params
        # Parameters cannot be changed, as a resumed training may do; the file has all of them.
        params = [
            Param(name, str(value)[:500])
            for entry in ("train", "optimizer")
            for name, value in _flattened(config.get(entry, {}), entry)
            if name not in known
        ]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + _MAX_PARAMS])

    def log(self, metrics: Mapping[str, float], iteration: int) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        entries = [Metric(_allowed(k), value, now, iteration) for k, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=entries)

    def add_image(self, name: str, path: Path, iteration: int) -> None:
        """See `Tracker`; the images of an iteration are in the artifact folder of its number."""
        self._client.log_artifact(self._run_id, str(path), f"{name}/{iteration:07d}")

    def set_checkpoint(self, name: str) -> None:
        """See `Tracker`."""
        self._client.set_tag(self._run_id, "checkpoint", name)

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._run_id)


class TrackerWriter(EventWriter):
    """Writes metrics, image grids of evaluations and the last checkpoint's name to a tracker.

    Images and checkpoints are found in the output folder. An exception of the tracker is reported
    once, as a warning; a tracker that cannot start is not asked again.
    """

    def __init__(
        self, name: str, tracker: Tracker, config: DictConfig, *, resumed: bool = False
    ) -> None:
        """Starts the tracker's run, or continues it in a resumed training."""
        self.name = name
        self.tracker = tracker
        self.folder = Path(config.train.output_dir)
        self.is_failing = False
        self.is_started = False
        self._last_write = -1
        self._image_times: dict[Path, int] = {}
        self._checkpoint = ""
        for path in self._image_paths() if resumed else ():
            self._image_times[path] = path.stat().st_mtime_ns
        self._attempt(lambda: self._start(config, resumed))

    def _start(self, config: DictConfig, resumed: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / RUNS_FILE
        runs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        known = runs.get(self.name, "") if resumed else ""
        runs[self.name] = self.tracker.start(plain_config(config), self.folder, known)
        self.is_started = True
        path.write_text(json.dumps(runs), encoding="utf-8")

    def write(self) -> None:
        """Writes all that is new."""
        if self.is_started:
            self._attempt(self._write_metrics)
            self._attempt(self._write_files)

    def close(self) -> None:
        """Ends the tracker's run."""
        if self.is_started:
            self._attempt(self.tracker.close)

    def _write_metrics(self) -> None:
        new: dict[int, dict[str, float]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(20)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                new[iteration][name] = float(value)
        # Metrics that cannot be written are lost, rather than sent again each time.
        self._last_write = max([self._last_write, *new])
        for iteration in sorted(new):
            self.tracker.log(new[iteration], iteration)

    def _write_files(self) -> None:
        iteration = get_event_storage().iter
        for path in self._image_paths():
            changed = path.stat().st_mtime_ns
            if self._image_times.get(path) != changed:
                self._image_times[path] = changed
                self.tracker.add_image(f"{path.parent.name}/{path.stem}", path, iteration)
        path = self.folder / "last_checkpoint"
        name = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        if name and name != self._checkpoint:
            self._checkpoint = name
            self.tracker.set_checkpoint(name)

    def _image_paths(self) -> list[Path]:
        return sorted(self.folder.glob("evaluation*/predictions.png"))

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if not self.is_failing:
                logger.warning(
                    "The training continues, perhaps without metrics in %s: %s: %s",
                    *(self.name, type(error).__name__, error),
                )
            self.is_failing = True


_TRACKERS: Mapping[str, type[Tracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker}


def tracker_writers(config: DictConfig, resumed: bool) -> list[EventWriter]:
    """Starts the trackers in `train.loggers`; for the main process."""
    return [
        TrackerWriter(name, _TRACKERS[name](), config, resumed=resumed)
        for name in dict.fromkeys(config.train.loggers)
        if name in _TRACKERS
    ]


def plain_config(config: DictConfig) -> dict[str, Any]:
    """The config as JSON has it, with the names of functions and classes."""

    def name_of(value: Any) -> str:
        name = getattr(value, "__qualname__", None)
        return f"{value.__module__}.{name}" if name else str(value)

    tree = OmegaConf.to_container(config, resolve=False)
    return json.loads(json.dumps(tree, default=name_of))


def _flattened(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield path, node
        return
    for name, inner in node.items():
        yield from _flattened(inner, f"{path}.{name}")


def _allowed(name: str) -> str:
    """A metric's name without characters that MLflow refuses, such as brackets."""
    return "".join(char if char.isalnum() or char in "_-./ :" else "_" for char in name)
