import pytest

from mvit_det.engine import TrainingStopped, launch
from mvit_det.errors import ConfigError


def fail(error):
    raise error


def test_mistakes_are_said_in_one_line_unless_their_place_is_asked_for():
    error = ConfigError("train.max_iter is odd")
    with pytest.raises(SystemExit, match="^error: train.max_iter is odd$"):
        launch(fail, (error,))
    with pytest.raises(ConfigError):
        launch(fail, (error,), debug=True)


def test_errors_that_nobody_foresaw_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        launch(fail, (ZeroDivisionError(),))


def test_a_stopped_training_has_the_exit_code_of_the_signal():
    with pytest.raises(SystemExit) as raised:
        launch(fail, (TrainingStopped(15, 3),))
    assert raised.value.code == 143


@pytest.mark.parametrize("checkpoint", ["", "model_0000003.pth"])
def test_a_stopped_training_promises_to_resume_only_from_an_existing_checkpoint(checkpoint):
    text = str(TrainingStopped(15, 3, checkpoint))
    assert ("--resume" in text) == bool(checkpoint)
    assert checkpoint in text
