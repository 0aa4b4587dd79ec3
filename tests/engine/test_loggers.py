"""Experiment trackers, each with its own local store."""

import json
import logging
import struct
import time
from datetime import datetime

import pytest
import torch
from detectron2.engine import hooks
from detectron2.evaluation.testing import flatten_results_dict
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from mvit_det.engine.loggers import (
    RUNS_FILE,
    MlflowTracker,
    Tracker,
    TrackerWriter,
    WandbTracker,
    check_loggers,
)
from mvit_det.engine.trainer import Trainer
from mvit_det.errors import ConfigError


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, batch):
        return {"loss": self.layer(batch).square().mean()}


class Evaluate(hooks.HookBase):
    """Leaves behind all that an evaluation does."""

    def __init__(self, folder):
        self.folder = folder

    def after_train(self):
        path = self.folder / "evaluation" / "predictions.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path)
        (self.folder / "last_checkpoint").write_text("model_final.pth")
        results = flatten_results_dict({"bbox": {"AP": 12.5, "AP-a[b": 3.0}})
        self.trainer.storage.put_scalars(**results, smoothing_hint=False)


def run(folder, tracker, name, start=0, end=4):
    """Trains with a tracker; returns the writer."""
    config = OmegaConf.create(
        {
            "model": {"_target_": "a.Model", "depths": [1, 2]},
            "train": {"output_dir": str(folder), "max_iter": 4},
            "optimizer": {"lr": 0.25},
        }
    )
    model = Line()
    batches = [torch.ones(3, 4)] * end
    trainer = Trainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), device="cpu")
    writer = TrackerWriter(name, tracker, config, resumed=start > 0)
    trainer.register_hooks([Evaluate(folder), hooks.PeriodicWriter([writer], period=1)])
    trainer.train(start, end)
    assert trainer.iter == end
    return writer


class Failing(Tracker):
    """Fails in one of its methods, and notes all calls."""

    def __init__(self, method, error):
        self.method, self.error, self.calls = method, error, []

    def _call(self, name):
        self.calls.append(name)
        if name == self.method:
            raise self.error

    def start(self, config, folder, run_id):
        self._call("start")
        return "id"

    def log(self, metrics, iteration):
        self._call("log")

    def add_image(self, name, path, iteration):
        self._call("add_image")

    def set_checkpoint(self, name):
        self._call("set_checkpoint")

    def close(self):
        self._call("close")


@pytest.mark.parametrize("method", ["start", "log", "add_image", "set_checkpoint", "close"])
def test_a_tracker_that_fails_is_reported_once_and_stops_nothing(tmp_path, caplog, method):
    error = OSError(28, "No space left on device") if method == "log" else RuntimeError("is gone")
    tracker = Failing(method, error)
    run(tmp_path, tracker, "wandb")
    (record,) = [r for r in caplog.records if "The training continues" in r.getMessage()]
    assert record.levelno == logging.WARNING
    assert "wandb" in record.getMessage()
    assert str(error) in record.getMessage()
    assert (tracker.calls == ["start"]) == (method == "start")


def test_unknown_loggers_and_missing_packages_are_errors(monkeypatch):
    check_loggers(["tensorboard"])
    with pytest.raises(ConfigError, match="'wandbb'.*'wandb'"):
        check_loggers(["wandbb"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mvit_det\[mlflow\]'"):
        check_loggers(["tensorboard", "mlflow"])


@pytest.mark.parametrize("store", ["files", "sqlite"])
def test_mlflow_stores_everything_and_a_resumed_training_continues_its_run(
    store, tmp_path, monkeypatch
):
    pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    if store == "sqlite":
        pytest.importorskip("sqlalchemy", reason="MLflow needs it for databases")
        pytest.importorskip("alembic", reason="MLflow needs it for databases")
        uri = f"sqlite:///{tmp_path / 'store.db'}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert not run(tmp_path, MlflowTracker(), "mlflow").is_failing
    assert not run(tmp_path, MlflowTracker(), "mlflow", start=4, end=6).is_failing

    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "mvit_det"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.metrics["bbox/AP"] == 12.5
    assert found.data.metrics["bbox/AP-a_b"] == 3.0
    losses = client.get_metric_history(found.info.run_id, "total_loss")
    assert [metric.step for metric in losses] == [0, 1, 2, 3, 4, 5]
    assert found.data.params["optimizer.lr"] == "0.25"
    assert found.data.tags["checkpoint"] == "model_final.pth"
    path = client.download_artifacts(found.info.run_id, "config.json", str(tmp_path))
    assert OmegaConf.load(path).model.depths == [1, 2]
    images = client.list_artifacts(found.info.run_id, "evaluation/predictions")
    assert len(images) == 2


def wandb_records(data):
    """The records of a .wandb file: in blocks of 32 KiB, as in LevelDB's logs."""
    position, record = 7, b""
    while position + 7 <= len(data):
        left = 2**15 - position % 2**15
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        position += 7
        record += data[position : position + length]
        position += length
        # Complete, or the last of several fragments.
        if kind in (1, 4):
            yield record
            record = b""


def read_wandb(folder):
    """Rows of the history, config and summary of an offline run."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    rows, config, summary = [], {}, {}
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        values = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
        rows.append(values)
        config.update({item.key: item.value_json for item in record.run.config.update})
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = item.value_json
    return rows, config, summary


def test_wandb_writes_a_run_offline_and_a_resumed_training_continues_it(tmp_path, monkeypatch):
    """In a second folder with the same id, as W&B does offline; a sync joins them."""
    wandb = pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert not run(tmp_path, WandbTracker(), "wandb").is_failing
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    run_id = json.loads((tmp_path / RUNS_FILE).read_text())["wandb"]
    assert folder.name.endswith(f"-{run_id}")
    rows, config, summary = read_wandb(folder)
    assert [r["iteration"] for r in rows if "total_loss" in r] == ["0", "1", "2", "3"]
    assert [r["bbox/AP"] for r in rows if "bbox/AP" in r] == ["12.5"]
    assert any(key.startswith("evaluation/predictions") for row in rows for key in row)
    assert config["optimizer"] == '{"lr":0.25}'
    assert summary["checkpoint"] == '"model_final.pth"'
    assert list((folder / "files" / "media").rglob("*.png"))
    assert wandb.run is None

    # The names of folders have seconds.
    while datetime.now().strftime("%Y%m%d_%H%M%S") in folder.name:
        time.sleep(0.1)
    assert not run(tmp_path, WandbTracker(), "wandb", start=4, end=6).is_failing
    first, second = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert first == folder
    assert second.name.endswith(f"-{run_id}")
    rows, _, _ = read_wandb(second)
    assert [r["iteration"] for r in rows if "total_loss" in r] == ["4", "5"]
