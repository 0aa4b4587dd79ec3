import pytest

from mvit_det.data.workers import deaths_of_workers_explained
from mvit_det.errors import TrainingError


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Killed. ",
            r"pid 7\) was ended by a signal \(Killed\); the machine may have run out of memory",
        ),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that",
            r"pid 7\) was ended by a signal \(Bus error\); shared memory ran out: give the ",
        ),
        (
            "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
            r"pid 7, 8\) ended unexpectedly; the machine may have run out of memory",
        ),
    ],
)
def test_pytorchs_words_become_a_sentence(text, says):
    with pytest.raises(TrainingError, match=says) as raised, deaths_of_workers_explained():
        raise RuntimeError(text)
    assert str(raised.value).endswith(", and go on with '--resume'")


def test_other_errors_stay_as_they_are():
    error = RuntimeError("in a DataLoader worker")
    with pytest.raises(RuntimeError) as raised, deaths_of_workers_explained():
        raise error
    assert raised.value is error
