"""Metrics and logs of a training."""

import io
import json
import logging

import pytest
import torch
from detectron2.engine import hooks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from mvit_det.engine.monitoring import ProgressBar, SpeedAndMemory, TrainingPlot, metric_writers
from mvit_det.engine.trainer import Trainer


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, batch):
        output = self.layer(batch)
        return {"loss_mean": output.mean().abs(), "loss_square": output.square().mean()}


@pytest.fixture
def run(tmp_path):
    """Runs a small training with all of monitoring, and returns its output folder."""

    def run(iterations=10, start=0, log_period=5, **options):
        torch.manual_seed(0)
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = [torch.randn(3, 4)] * iterations
        trainer = Trainer(model, batches, optimizer, device="cpu", **options)
        trainer.register_hooks(
            [
                hooks.IterationTimer(),
                SpeedAndMemory(3, "cpu"),
                hooks.LRScheduler(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, float)),
                hooks.PeriodicWriter(metric_writers(tmp_path, iterations), log_period),
                TrainingPlot(tmp_path, period=4),
                ProgressBar(),
            ]
        )
        trainer.train(start, iterations)
        return tmp_path

    return run


def test_speed_and_memory_are_recorded_everywhere(run, caplog):
    caplog.set_level(logging.INFO)
    output = run()
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [4, 9]
    for row in rows:
        assert 0.01 < row["images_per_second"] < 1e6
        # Python with PyTorch, in MiB.
        assert 50 < row["max_mem"] < 1e5
        assert row["eta_seconds"] >= 0
    (file,) = output.glob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    for name in ("images_per_second", "max_mem", "total_loss", "lr"):
        assert [event.step for event in events.Scalars(name)] == [4, 9]

    lines = [record.getMessage() for record in caplog.records if "iter: " in record.getMessage()]
    assert len(lines) == 2
    for line, done in zip(lines, (5, 10)):
        names = [entry.partition(":")[0] for entry in line.split("  ")]
        assert names == [
            *("eta", "iter", "total_loss", "loss_mean", "loss_square", "lr", "images/s"),
            *("time", "data_time", "max_mem"),
        ]
        assert f"iter: {done}/10  " in line
        assert line.endswith("M")
    assert lines[1].startswith("eta: 0:00:00  ")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_shows_progress_and_a_file_does_not(run, monkeypatch, is_terminal):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    monkeypatch.setattr("sys.stderr", stream)
    run(iterations=4)
    assert ("training: 100%" in stream.getvalue()) == is_terminal
    assert ("4/4" in stream.getvalue()) == is_terminal
    assert is_terminal or not stream.getvalue()


def test_a_image_is_drawn_at_every_evaluation_and_at_the_end(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "mvit_det.engine.monitoring.save_training_plot",
        lambda metrics, output: drawn.append((len(metrics.read_text().splitlines()), output.name)),
    )
    run(log_period=1)
    assert drawn == [(4, "training.png"), (8, "training.png"), (10, "training.png")]


def test_the_image_of_a_training_that_broke_off_is_drawn(run, monkeypatch, tmp_path):
    def fail(self, batch):
        if self.calls == 3:
            raise RuntimeError("broke off")
        self.calls += 1
        return forward(self, batch)

    forward = Line.forward
    monkeypatch.setattr(Line, "calls", 0, raising=False)
    monkeypatch.setattr(Line, "forward", fail)
    with pytest.raises(RuntimeError, match="broke off"):
        run(log_period=1)
    assert (tmp_path / "training.png").stat().st_size > 10_000


def test_a_image_that_cannot_be_written_ends_no_training(run, tmp_path, caplog):
    (tmp_path / "training.png").mkdir()
    run(iterations=4, log_period=1)
    assert "The training continues without its plot: " in caplog.text
