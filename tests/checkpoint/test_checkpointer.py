"""Checkpoints of a training run: whole or not there."""

import os

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from mvit_det.checkpoint import Checkpointer
from mvit_det.checkpoint.writing import atomic_path
from mvit_det.errors import CheckpointError


def make_state(steps):
    """What a trainer keeps: an optimizer made from a config, and a counter."""
    options = OmegaConf.create({"betas": [0.9, 0.98], "lr": 0.1})
    return {"iteration": steps, "betas": options.betas, "state": {"weight": torch.ones(3) * steps}}


def save_run(folder, *steps):
    """A checkpoint after each number of steps, with weights that tell them apart."""
    model = nn.Linear(3, 2)
    checkpointer = Checkpointer(model, folder)
    for step in steps:
        nn.init.constant_(model.weight, step)
        checkpointer.save(f"model_{step:07d}", trainer=make_state(step))
    return checkpointer


def resumed_weight(folder):
    model = nn.Linear(3, 2)
    saved = Checkpointer(model, folder).resume_or_load("nowhere.pth")
    return model.weight.unique().tolist(), saved


def test_a_checkpoint_holds_what_it_was_given(tmp_path):
    model = nn.Linear(3, 2)
    Checkpointer(model, tmp_path, class_names=["cat", "dog"]).save("model_0000002", trainer={})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000002.pth",
    ]
    content = torch.load(tmp_path / "model_0000002.pth", weights_only=True)
    assert list(content) == ["model", "trainer", "class_names"]
    assert content["class_names"] == ["cat", "dog"]
    assert torch.equal(content["model"]["weight"], model.weight)


def test_training_goes_on_from_the_last_checkpoint(tmp_path):
    save_run(tmp_path, 2, 4)
    weight, saved = resumed_weight(tmp_path)
    assert weight == [4]
    assert saved["trainer"]["iteration"] == 4
    assert saved["trainer"]["betas"] == [0.9, 0.98]
    assert saved["trainer"]["state"]["weight"].tolist() == [4, 4, 4]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    where = content.index(torch.full((2, 3), 4.0).numpy().tobytes())
    content[where] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, tmp_path, caplog):
    save_run(tmp_path, 2, 4)
    damage(tmp_path / "model_0000004.pth")
    weight, saved = resumed_weight(tmp_path)
    assert weight == [2]
    assert saved["trainer"]["iteration"] == 2
    assert "Cannot go on from this checkpoint: '" in caplog.text


def test_a_last_checkpoint_that_was_deleted_gives_way_to_the_one_before(tmp_path, caplog):
    save_run(tmp_path, 2, 4)
    (tmp_path / "model_0000004.pth").unlink()
    assert resumed_weight(tmp_path)[0] == [2]
    assert "names 'model_0000004.pth', which is not there" in caplog.text


def test_a_note_that_was_not_written_any_more(tmp_path):
    """A process may die between a checkpoint and `last_checkpoint`."""
    save_run(tmp_path, 2, 4)
    (tmp_path / "last_checkpoint").unlink()
    assert resumed_weight(tmp_path)[0] == [4]


def test_nothing_whole_to_go_on_from(tmp_path):
    save_run(tmp_path, 2, 4)
    for path in tmp_path.glob("*.pth"):
        truncate(path)
    with pytest.raises(CheckpointError, match="no checkpoint in '.*' can be read .*cut short"):
        resumed_weight(tmp_path)


def test_numbered_checkpoints_are_kept_up_to_a_number(tmp_path):
    checkpointer = save_run(tmp_path, 2, 4, 6)
    checkpointer.save("model_final", trainer=make_state(8))
    checkpointer.save("model_best", resumable=False)
    checkpointer.keep_last(2)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
        "model_0000004.pth",
        "model_0000006.pth",
        "model_best.pth",
        "model_final.pth",
    ]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_files_of_processes_that_were_killed_are_deleted(tmp_path):
    checkpointer = save_run(tmp_path, 2)
    (tmp_path / ".model_0000004.pth.123.tmp").write_bytes(b"half")
    checkpointer.remove_unfinished()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000002.pth",
    ]


def test_starting_from_weights_brings_no_state(tmp_path):
    save_run(tmp_path, 3)
    fresh = nn.Linear(3, 2)
    checkpointer = Checkpointer(fresh, tmp_path / "new")
    assert checkpointer.resume_or_load(tmp_path / "model_0000003.pth", resume=True) == {}
    assert fresh.weight.unique().tolist() == [3]
    assert checkpointer.resume_or_load("", resume=False) == {}


def test_weights_alone_cannot_be_resumed(tmp_path):
    Checkpointer(nn.Linear(3, 2), tmp_path).save("model_final")
    with pytest.raises(CheckpointError, match="has weights but no state of the trainer to go on"):
        resumed_weight(tmp_path)


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
            arguments[1].write(b"half")
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
