"""Checkpoints of a training run: all or nothing, and only those of the run."""

import errno
import multiprocessing
import os

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from mvit_det.checkpoint import Checkpointer
from mvit_det.checkpoint.files import atomic_path
from mvit_det.checkpoint.run_folder import RunFolder
from mvit_det.errors import CheckpointError, TrainingError


class Trainer:
    """Keeps an optimizer made from a config, and a counter."""

    def __init__(self, steps=0):
        self.state = {"iteration": steps, "weight": torch.ones(3) * steps}

    def state_dict(self):
        options = OmegaConf.create({"betas": [0.9, 0.98]})
        return {**self.state, "betas": options.betas}

    def load_state_dict(self, state):
        self.state = state


def save_run(folder, *steps, resume=False, **arguments):
    """Saves a checkpoint after each number of steps, with that number as its weights."""
    model = nn.Linear(3, 2)
    checkpointer = Checkpointer(model, folder, **arguments)
    checkpointer.resume_or_load("", resume=resume)
    for step in steps:
        save(checkpointer, f"model_{step:07d}", step)
    return checkpointer


def save(checkpointer, name, step):
    nn.init.constant_(checkpointer.model.weight, step)
    checkpointer.save(name, trainer=Trainer(step).state_dict())


def resume(folder, **arguments):
    """The weight and the state of the trainer that a resumed training has; None for a new one."""
    model, trainer = nn.Linear(3, 2), Trainer()
    resumed = Checkpointer(model, folder, **arguments).resume_or_load("", resume=True)
    if resumed is None:
        return None
    resumed.restore(trainer)
    (weight,) = model.weight.unique().tolist()
    return weight, trainer.state


def names(folder, pattern="model_*"):
    return sorted(path.name for path in folder.glob(pattern))


def test_a_checkpoint_holds_what_it_was_given(tmp_path):
    checkpointer = save_run(tmp_path, 2, class_names=["cat", "dog"])
    content = torch.load(tmp_path / "model_0000002.pth", weights_only=True)
    assert list(content) == ["model", "trainer", "class_names", "run"]
    assert content["class_names"] == ["cat", "dog"]
    assert torch.equal(content["model"]["weight"], checkpointer.model.weight)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_training_resumes_from_the_last_checkpoint(sharded, tmp_path):
    checkpointer = save_run(tmp_path, 2, 4, sharded=sharded)
    weight, state = resume(tmp_path)
    assert weight == 4
    assert state["iteration"] == 4
    assert state["betas"] == [0.9, 0.98]
    assert state["weight"].tolist() == [4, 4, 4]
    save(checkpointer, "model_final", 6)
    assert resume(tmp_path)[0] == 6
    # The weights alone are in a file in any case.
    assert torch.load(tmp_path / "model_final.pth")["model"]["weight"].unique() == 6
    assert (tmp_path / "model_0000004").is_dir() == sharded


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    where = content.index(torch.full((2, 3), 4.0).numpy().tobytes())
    content[where] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lambda path: path.write_bytes(b"")])
def test_a_corrupt_checkpoint_gives_way_to_the_one_before(damage, tmp_path, caplog):
    save_run(tmp_path, 2, 4)
    damage(tmp_path / "model_0000004.pth")
    weight, state = resume(tmp_path)
    assert weight == 2
    assert state["iteration"] == 2
    assert "model_0000004.pth' is " in caplog.text


def test_a_last_checkpoint_that_was_deleted_gives_way_to_the_one_before(tmp_path, caplog):
    save_run(tmp_path, 2, 4)
    (tmp_path / "model_0000004.pth").unlink()
    assert resume(tmp_path)[0] == 2
    assert "model_0000004.pth" in caplog.text


@pytest.mark.parametrize("sharded", [False, True])
def test_the_name_to_resume_from_is_that_of_the_checkpoint_that_is_resumed(sharded, tmp_path):
    """A stopped training promises it, see `TrainingStopped`."""
    checkpointer = save_run(tmp_path, 2, 4, sharded=sharded)
    suffix = "" if sharded else ".pth"
    for step in (4, 2):
        assert checkpointer.last_name() == f"model_{step:07d}{suffix}"
        assert resume(tmp_path)[0] == step
        (tmp_path / checkpointer.last_name()).rename(tmp_path / f"deleted_{step}")
    assert checkpointer.last_name() == ""
    # Nor is that of an earlier run, where the first checkpoint of this one could not be written.
    (tmp_path / "deleted_4").rename(tmp_path / f"model_0000004{suffix}")
    assert save_run(tmp_path, sharded=sharded).last_name() == ""


def test_a_process_that_died_between_a_checkpoint_and_its_note(tmp_path):
    save_run(tmp_path, 2, 4)
    (tmp_path / "last_checkpoint").unlink()
    assert resume(tmp_path)[0] == 4


@pytest.mark.parametrize("content", [b"", bytes(32), b"\xff\xfe"])
@pytest.mark.parametrize("name", ["last_checkpoint", "run_id"])
def test_a_note_that_a_power_failure_corrupted_counts_as_missing(name, content, tmp_path):
    save_run(tmp_path, 2, 4)
    (tmp_path / name).write_bytes(content)
    assert resume(tmp_path)[0] == 4


def test_no_checkpoint_can_be_read(tmp_path):
    save_run(tmp_path, 2, 4)
    for path in tmp_path.glob("*.pth"):
        truncate(path)
    with pytest.raises(CheckpointError, match="0000004.pth' is truncated.*0000002.pth' is trunc"):
        resume(tmp_path)


def test_the_oldest_checkpoints_are_deleted(tmp_path):
    checkpointer = save_run(tmp_path, 2, 4, 6, 8)
    checkpointer.keep_last(2)
    assert names(tmp_path) == ["model_0000006.pth", "model_0000008.pth"]
    # In order of iterations, and never the last one.
    save(checkpointer, "model_10000000", 10_000_000)
    checkpointer.keep_last(2)
    assert names(tmp_path) == ["model_0000008.pth", "model_10000000.pth"]
    checkpointer.keep_last(0)
    assert names(tmp_path) == ["model_10000000.pth"]
    save(checkpointer, "model_final", 11_000_000)
    checkpointer.save("model_best", resumable=False)
    checkpointer.keep_last(1)
    assert names(tmp_path) == ["model_10000000.pth", "model_best.pth", "model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.parametrize("sharded", [False, True])
def test_a_resumed_run_deletes_its_earlier_checkpoints(sharded, tmp_path):
    save_run(tmp_path, 2, 4, sharded=sharded)
    save_run(tmp_path, 6, resume=True, sharded=sharded).keep_last(2)
    assert [name.removesuffix(".pth") for name in names(tmp_path)] == [
        "model_0000004",
        "model_0000006",
    ]


def test_files_of_the_user_stay(tmp_path):
    kept = ["model_0000001_keep.pth", "model_0000003.pth", "model_0000004.old", "notes.pth"]
    for name in kept:
        torch.save({"model": {}}, tmp_path / name)
    checkpointer = save_run(tmp_path, 4, 6)
    # The user replaces a checkpoint by another file.
    torch.save({"model": {}}, tmp_path / "model_0000004.pth")
    checkpointer.keep_last(1)
    assert set(names(tmp_path, "*.*")) - {".lock"} == {
        *kept,
        "model_0000004.pth",
        "model_0000006.pth",
    }


def test_checkpoints_of_an_earlier_run_stay_and_are_not_resumed(tmp_path, caplog):
    save_run(tmp_path, 4, 500)
    checkpointer = save_run(tmp_path, 2, 4)
    assert "model_0000500.pth" in caplog.text
    checkpointer.keep_last(1)
    assert names(tmp_path) == [
        "model_0000004.earlier-1.pth",
        "model_0000004.pth",
        "model_0000500.pth",
    ]
    weight = torch.load(tmp_path / "model_0000004.earlier-1.pth")["model"]["weight"]
    assert weight.unique() == 4
    (tmp_path / "last_checkpoint").unlink()
    assert resume(tmp_path)[1]["iteration"] == 4


def test_a_run_without_checkpoints_does_not_adopt_those_of_an_earlier_run(tmp_path, caplog):
    save_run(tmp_path, 2)
    save_run(tmp_path)
    assert resume(tmp_path) is None
    assert "model_0000002.pth" in caplog.text
    assert names(tmp_path) == ["model_0000002.pth"]


def test_checkpoints_of_earlier_versions_are_resumed_and_stay(tmp_path):
    """They have no id of their run, and nothing else in their folder has one."""
    model = {"weight": torch.full((2, 3), 4.0), "bias": torch.zeros(2)}
    for name in ("model_0000002.pth", "model_0000004.pth"):
        state = {"model": model, "trainer": Trainer(4).state, "iteration": 3}
        torch.save(state, tmp_path / name)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    assert resume(tmp_path)[1]["iteration"] == 4
    # Resumed once more before the first new checkpoint.
    save_run(tmp_path, 6, 8, resume=True).keep_last(1)
    assert names(tmp_path) == ["model_0000002.pth", "model_0000004.pth", "model_0000008.pth"]
    assert resume(tmp_path)[0] == 8


def _hold(folder, locked, end):
    with RunFolder(folder).locked():
        locked.set()
        end.wait(60)


def test_a_second_training_in_a_folder_is_refused(tmp_path):
    context = multiprocessing.get_context("spawn")
    locked, end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, locked, end))
    other.start()
    assert locked.wait(60)
    with (
        pytest.raises(TrainingError, match=f"process {other.pid} .*{tmp_path}"),
        RunFolder(tmp_path).locked(),
    ):
        pass
    end.set()
    other.join()
    with RunFolder(tmp_path).locked():
        pass


def test_a_killed_training_leaves_no_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    locked, end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, locked, end))
    other.start()
    assert locked.wait(60)
    other.kill()
    other.join()
    assert str(other.pid) in (tmp_path / ".lock").read_text()
    with RunFolder(tmp_path).locked():
        assert str(other.pid) not in (tmp_path / ".lock").read_text()


def test_file_systems_without_locks(tmp_path, monkeypatch, caplog):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with RunFolder(tmp_path).locked():
        assert "cannot be locked" in caplog.text


def test_files_of_killed_processes_are_deleted(tmp_path):
    checkpointer = save_run(tmp_path, 2)
    (tmp_path / ".model_0000004.pth.123.tmp").write_bytes(b"half")
    (tmp_path / ".model_0000006.tmp").mkdir()
    checkpointer.folder.remove_unfinished()
    assert set(names(tmp_path, "*")) == {"last_checkpoint", "model_0000002.pth", "run_id"}


def test_starting_from_weights_brings_no_state(tmp_path):
    save_run(tmp_path, 3)
    model = nn.Linear(3, 2)
    checkpointer = Checkpointer(model, tmp_path / "new")
    assert checkpointer.resume_or_load(tmp_path / "model_0000003.pth", resume=True) is None
    assert model.weight.unique().tolist() == [3]


def test_weights_alone_cannot_be_resumed(tmp_path):
    Checkpointer(nn.Linear(3, 2), tmp_path).save("model_final")
    with pytest.raises(CheckpointError, match="model_final.pth"):
        resume(tmp_path)


def test_other_classes_are_not_resumed(tmp_path):
    save_run(tmp_path, 2, class_names=["cat", "dog"])
    with pytest.raises(CheckpointError, match=r"cat, dog.*dog, cat.*train\.reset_head"):
        resume(tmp_path, class_names=["dog", "cat"])
    assert resume(tmp_path, class_names=["cat", "dog"])[0] == 2
    assert resume(tmp_path)[0] == 2


NUMBERED = [f"class{number}" for number in range(30)]


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ([*NUMBERED[:29], "cat"], r"checkpoint has 'class29' and only the config has 'cat'"),
        (NUMBERED[:29], r"30 in all.*29 in all.*only the checkpoint has 'class29';"),
        ([*NUMBERED[:28], "class29", "class28"], r"class 28 is 'class28' .* and 'class29' in"),
        ([*NUMBERED, "class0"], r"class 30 is missing in the checkpoint and 'class0' in"),
        ([f"{name} " for name in NUMBERED], r"only the config has 'class0 ', .*30 in all;"),
    ],
)
def test_differences_of_long_lists_of_classes_are_shown(wanted, shown, tmp_path):
    save_run(tmp_path, 2, class_names=NUMBERED)
    with pytest.raises(CheckpointError, match=shown):
        resume(tmp_path, class_names=wanted)


def test_objects_that_could_not_be_read_again_are_not_written(tmp_path):
    checkpointer = Checkpointer(nn.Linear(3, 2), tmp_path)
    with pytest.raises(CheckpointError, match=r"'state.loader' .*Linear"):
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
    for name in ("model", "later"):
        nn.init.zeros_(model.weight)
        with monkeypatch.context() as patch:
            patch.setattr(function, interrupt)
            with pytest.raises(KeyboardInterrupt):
                checkpointer.save(name)
        assert (tmp_path / "model.pth").read_bytes() == before
        assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
        assert names(tmp_path, "*") == ["last_checkpoint", "model.pth", "run_id"]


def test_a_name_follows_its_complete_file(tmp_path, monkeypatch):
    """First the bytes reach the disk, then the file gets its name, then `last_checkpoint`."""
    events = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), sync(fd)))
    monkeypatch.setattr(
        os, "replace", lambda a, b: (events.append(os.path.basename(b)), replace(a, b))
    )
    Checkpointer(nn.Linear(3, 2), tmp_path).save("model")
    assert events == [
        *("sync", "model.pth", "sync"),
        *("sync", "run_id", "sync"),
        *("sync", "last_checkpoint", "sync"),
    ]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match="cannot write '.*x.pth'"),
        atomic_path(tmp_path / "file" / "x.pth"),
    ):
        pass
    Checkpointer(nn.Linear(3, 2), "").save("model")
