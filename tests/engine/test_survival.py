"""Trainings that are killed, stopped, or run out of disk, and resume without a difference."""

import signal

import pytest

from tests.engine.trainings import differences, load


@pytest.mark.parametrize(
    "moment", ["model_0000002.pth", pytest.param("model_0000004.pth", marks=pytest.mark.slow)]
)
def test_a_killed_training_goes_on_bit_for_bit(moment, run, unbroken, tmp_path):
    code, _ = run.signal_at(signal.SIGKILL, moment, tmp_path)
    assert code == -signal.SIGKILL
    run(tmp_path, "--resume")
    assert differences(load(tmp_path), unbroken) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_training_goes_on_bit_for_bit(number, run, unbroken, tmp_path):
    # At any moment from the first step on.
    code, printed = run.signal_at(number, "Training from iteration 0", tmp_path)
    assert code == 128 + number
    assert "Traceback" not in printed
    assert f"Training stopped by {number.name} after iteration" in printed
    last = load(tmp_path, (tmp_path / "last_checkpoint").read_text().removesuffix(".pth"))
    assert f"after iteration {last['iteration'] + 1}; resume from 'model_" in printed
    assert last["iteration"] < 5
    run(tmp_path, "--resume")
    assert differences(load(tmp_path), unbroken) == []


@pytest.mark.slow
def test_a_full_disk_ends_no_training_before_its_last_checkpoint(run, tmp_path):
    """Files may grow to two megabytes here, and a checkpoint would be larger."""
    code, printed = run(
        tmp_path, check=False, launcher=("-m", "tests.engine.limit_file_size", "2000000")
    )
    assert code == 1
    assert "Traceback" not in printed
    for number in (2, 4):
        assert "The training continues without this checkpoint: cannot write" in printed
        assert f"model_000000{number}.pth' (File too large)" in printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith("error: cannot write ")
    assert last.endswith(
        "model_final.pth' (File too large); make room there, or choose another folder"
    )
    assert list(tmp_path.glob("*.pth")) + list(tmp_path.glob(".*.tmp")) == []
