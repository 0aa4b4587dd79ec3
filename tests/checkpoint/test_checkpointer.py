"""Checkpoints of a training run: whole or not there."""

import os

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from mvit_det.checkpoint import Checkpointer, read_weights
from mvit_det.checkpoint.writing import atomic_path
from mvit_det.errors import CheckpointError


class Trainer:
    """What a trainer keeps: an optimizer made from a config, and a counter."""

    def __init__(self, model):
        options = OmegaConf.create({"betas": [0.9, 0.98], "lr": 0.1})
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
        for group in self.optimizer.param_groups:
            group["betas"] = options.betas
        self.iteration = 0

    def state_dict(self):
        return {"iteration": self.iteration, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]
        self.optimizer.load_state_dict(state["optimizer"])


def train(model, trainer, steps):
    for _ in range(steps):
        trainer.optimizer.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        trainer.optimizer.step()
        trainer.iteration += 1


def test_training_goes_on_where_it_stopped(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    trainer = Trainer(model)
    train(model, trainer, 3)
    Checkpointer(model, tmp_path, trainer=trainer).save("model_0000002", iteration=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000002.pth",
    ]
    assert torch.load(tmp_path / "model_0000002.pth", weights_only=True)["iteration"] == 2
    train(model, trainer, 2)

    resumed = nn.Linear(3, 2)
    other = Trainer(resumed)
    checkpointer = Checkpointer(resumed, tmp_path, trainer=other, fresh_head=True)
    assert checkpointer.has_checkpoint()
    assert checkpointer.resume_or_load("nowhere.pth", resume=True) == {"iteration": 2}
    assert other.iteration == 3
    train(resumed, other, 2)
    assert torch.equal(resumed.weight, model.weight)


def test_starting_from_weights_leaves_the_trainer(tmp_path):
    model = nn.Linear(3, 2)
    trainer = Trainer(model)
    train(model, trainer, 3)
    Checkpointer(model, tmp_path, trainer=trainer).save("model_final")
    fresh = nn.Linear(3, 2)
    other = Trainer(fresh)
    checkpointer = Checkpointer(fresh, tmp_path / "new", trainer=other)
    checkpointer.resume_or_load(tmp_path / "model_final.pth", resume=True)
    assert other.iteration == 0
    assert torch.equal(fresh.weight, model.weight)
    assert checkpointer.resume_or_load("", resume=False) == {}


def test_class_names_are_in_every_checkpoint(tmp_path):
    names = OmegaConf.create(["oil can", "Schraube"])
    checkpointer = Checkpointer(nn.Linear(3, 2), tmp_path, class_names=names)
    for file in ("model_0000002", "model_final"):
        checkpointer.save(file, iteration=2)
        found = read_weights(tmp_path / f"{file}.pth").extras["class_names"]
        assert found == ["oil can", "Schraube"]
        assert type(found) is list
    Checkpointer(nn.Linear(3, 2), tmp_path).save("without")
    assert "class_names" not in read_weights(tmp_path / "without.pth").extras
    # Files from before there were names, and those with names, go into any checkpointer.
    for file in ("without", "model_final"):
        checkpointer.load(tmp_path / f"{file}.pth")


def test_weights_alone_cannot_be_resumed(tmp_path):
    model = nn.Linear(3, 2)
    Checkpointer(model, tmp_path).save("model_final")
    checkpointer = Checkpointer(nn.Linear(3, 2), tmp_path, trainer=Trainer(model))
    with pytest.raises(CheckpointError, match="has weights but no state of the trainer to go on"):
        checkpointer.resume_or_load("", resume=True)


def test_last_checkpoint_that_was_deleted(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(CheckpointError, match="there is no file '.*model_0000009.pth'"):
        Checkpointer(nn.Linear(3, 2), tmp_path).resume_or_load("", resume=True)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    checkpointer = Checkpointer(nn.Linear(3, 2), tmp_path)
    with pytest.raises(CheckpointError, match="'state.loader' of the checkpoint is a .*Linear"):
        checkpointer.save("model", state={"loader": nn.Linear(1, 1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["writing", "syncing", "renaming"])
def test_an_interruption_leaves_the_last_checkpoint(moment, tmp_path, monkeypatch):
    model = nn.Linear(3, 2)
    checkpointer = Checkpointer(model, tmp_path)
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()

    def interrupt(*arguments, **_):
        if moment == "writing":
            arguments[1].write_bytes(b"half")
        raise KeyboardInterrupt

    function = {"writing": "torch.save", "syncing": "os.fsync", "renaming": "os.replace"}[moment]
    monkeypatch.setattr(function, interrupt)
    nn.init.zeros_(model.weight)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model")
    monkeypatch.undo()
    assert (tmp_path / "model.pth").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(function, interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("later")
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"


def test_the_name_follows_the_whole_file(tmp_path, monkeypatch):
    """First the bytes reach the disk, then the file its name, then `last_checkpoint` names it."""
    events = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), sync(fd)))
    monkeypatch.setattr(
        os, "replace", lambda a, b: (events.append(os.path.basename(b)), replace(a, b))
    )
    Checkpointer(nn.Linear(3, 2), tmp_path).save("model")
    assert events == ["sync", "model.pth", "sync", "sync", "last_checkpoint", "sync"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match="cannot write '.*x.pth'"),
        atomic_path(tmp_path / "file" / "x.pth"),
    ):
        pass
    Checkpointer(nn.Linear(3, 2), "").save("model")
