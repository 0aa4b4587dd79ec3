import itertools
import pickle
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from detectron2.data import DatasetFromList
from detectron2.utils import comm

from mvit_det.data.loading import EvaluationLoader, TrainingLoader, explain_worker_deaths
from mvit_det.errors import ConfigError, DatasetError, ImageError, TrainingError

RECORDS = [
    {"file_name": f"{number}.png", "width": 4 + number % 2, "height": 4, "number": number}
    for number in range(10)
]


def draw(record):
    """A mapper that only draws, from all the generators that augmentations use."""
    return {**record, "drawn": (np.random.rand(), torch.rand(()).item())}


def refuse(*broken):
    def mapper(record):
        if record["number"] in broken:
            raise ImageError(f"'{record['file_name']}' is broken")
        return draw(record)

    return mapper


def take(loader, number, **arguments):
    return list(itertools.islice(loader.batches(seed=3, **arguments), number))


@pytest.fixture
def as_process(monkeypatch):
    """Makes a loader believe that it is in one of several processes."""

    def pretend(rank, size):
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: size)

    return pretend


def test_images_and_their_changes_depend_on_the_position_alone():
    loader = TrainingLoader(RECORDS, mapper=draw, total_batch_size=4)
    batches = take(loader, 8)
    assert len({sample["drawn"] for batch in batches for sample in batch}) == 32
    np.random.seed(0)
    torch.manual_seed(0)
    assert take(loader, 3, start=5) == batches[5:]
    in_workers = TrainingLoader(RECORDS, mapper=draw, total_batch_size=4, num_workers=2)
    assert take(in_workers, 8) == batches


def test_processes_and_parts_share_the_same_batches(as_process):
    loader = TrainingLoader(RECORDS, mapper=draw, total_batch_size=4)
    whole = take(loader, 5)
    parts = take(loader, 10, grad_accum_steps=2)
    assert [first + second for first, second in zip(parts[::2], parts[1::2])] == whole
    shares = []
    for rank in range(2):
        as_process(rank, 2)
        shares.append(take(loader, 5))
    assert [first + second for first, second in zip(*shares)] == whole
    as_process(1, 2)
    assert [part for (part,) in take(loader, 10, grad_accum_steps=2)] == [
        sample for batch in whole for sample in (batch[1], batch[3])
    ]


def test_a_batch_that_cannot_be_shared_evenly(as_process):
    loader = TrainingLoader(RECORDS, mapper=draw, total_batch_size=6)
    as_process(0, 2)
    with pytest.raises(ConfigError, match="a batch of 6 images cannot .* among 2 process.*of 4 "):
        take(loader, 1, grad_accum_steps=2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_image_stops_the_loader_with_its_own_words(num_workers):
    loader = TrainingLoader(RECORDS, mapper=refuse(3), total_batch_size=5, num_workers=num_workers)
    with pytest.raises(ImageError) as error:
        take(loader, 4)
    assert str(error.value) == "'3.png' is broken"
    loader = EvaluationLoader(RECORDS, mapper=refuse(3), num_workers=num_workers)
    with pytest.raises(ImageError) as error:
        list(loader)
    assert str(error.value) == "'3.png' is broken"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_images_are_replaced_and_listed(num_workers, caplog):
    def loader():
        return TrainingLoader(
            RECORDS,
            mapper=refuse(3, 5, 6),
            total_batch_size=2,
            num_workers=num_workers,
            on_bad_image="skip",
        )

    first, again = loader(), loader()
    batches = take(first, 20)
    assert all(len(batch) == 2 for batch in batches)
    assert not {3, 5, 6} & {sample["number"] for batch in batches for sample in batch}
    # A replacement is as wide or as high as what it replaces.
    assert all(len({sample["width"] for sample in batch}) == 1 for batch in batches)
    assert sorted(first.skipped) == [f"'{number}.png' is broken" for number in (3, 5, 6)]
    assert "Skipped 3 so far: '" in caplog.text
    assert take(again, 10, start=10) == batches[10:]


def test_a_dataset_of_broken_images_is_not_searched_forever():
    loader = TrainingLoader(
        RECORDS, mapper=refuse(*range(10)), total_batch_size=2, on_bad_image="skip"
    )
    with pytest.raises(DatasetError, match="21 images in a row .* the last: '.*png' is broken"):
        take(loader, 1)


def test_evaluation_sees_each_image_once_and_skips_broken_ones():
    loader = EvaluationLoader(
        RECORDS, mapper=refuse(0, 1, 7), batch_size=2, on_bad_image="skip", num_workers=2
    )
    assert len(loader) == 5
    for _ in range(2):
        numbers = [[sample["number"] for sample in batch] for batch in loader]
        assert numbers == [[2, 3], [4, 5], [6], [8, 9]]
        assert loader.skipped == [f"'{number}.png' is broken" for number in (0, 1, 7)]


class Numbers(Sequence):
    """Records without a size, made when they are asked for."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {"number": index}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_sequence_of_records_without_sizes_is_loaded(num_workers):
    loader = TrainingLoader(Numbers(6), mapper=draw, total_batch_size=2, num_workers=num_workers)
    numbers = [sample["number"] for batch in take(loader, 3) for sample in batch]
    assert sorted(numbers) == list(range(6))
    evaluation = EvaluationLoader(Numbers(3), mapper=draw, num_workers=num_workers)
    assert [sample["number"] for (sample,) in evaluation] == [0, 1, 2]


def test_a_million_records_start_in_seconds_and_are_shared():
    """A list of dicts takes 300 bytes per record here; workers would copy it when they read it."""
    loader = TrainingLoader(Numbers(1_000_000), mapper=dict, total_batch_size=8)
    start = time.perf_counter()
    assert len(next(loader.batches(seed=0, start=100_000))) == 8
    assert time.perf_counter() - start < 20
    records = [{"file_name": f"{number}.jpg", "class": number % 9} for number in range(50_000)]
    loader = TrainingLoader(records, mapper=dict, total_batch_size=8)
    assert isinstance(loader.records, DatasetFromList)
    assert loader.records[7] == records[7]
    assert len(pickle.dumps(loader.records)) < 60 * len(records)


def test_impossible_arguments_are_refused():
    with pytest.raises(DatasetError, match="there is no image to train on"):
        TrainingLoader([], mapper=draw, total_batch_size=1)
    with pytest.raises(ConfigError, match="total_batch_size must be positive, not 0"):
        TrainingLoader(RECORDS, mapper=draw, total_batch_size=0)
    with pytest.raises(ConfigError, match="data.on_bad_image must be one of raise, skip, not 'ig"):
        EvaluationLoader(RECORDS, mapper=draw, on_bad_image="ignore")
    with pytest.raises(DatasetError, match="there is no image to evaluate on"):
        EvaluationLoader([], mapper=draw)


def test_rare_classes_are_seen_more_often():
    records = [
        {**record, "annotations": [{"category_id": int(record["number"] == 1)}]}
        for record in RECORDS
    ]
    loader = TrainingLoader(records, mapper=draw, total_batch_size=1, repeat_threshold=0.4)
    # One image in ten has the class, so it is repeated sqrt(0.4 / 0.1) = 2 times.
    assert loader.repeat_factors.tolist() == [1, 2] + 8 * [1]
    counts = [sample["number"] for (sample,) in take(loader, 110)].count(1)
    assert counts == 20


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("(pid 7) is killed by signal: Killed. ", r"pid 7\) .*\(Killed\); .* run out of memory"),
        ("(pid 7) is killed by signal: Bus error. It", r"pid 7\) .*Bus error.* shared memory"),
        ("(pid(s) 7, 8) exited unexpectedly", r"pid 7, 8\) .*run out of memory"),
    ],
)
def test_the_death_of_a_worker_is_one_sentence(text, says):
    with pytest.raises(TrainingError, match=says) as raised, explain_worker_deaths():
        raise RuntimeError(f"DataLoader worker {text}")
    assert "--resume" in str(raised.value)


def test_other_errors_stay_as_they_are():
    error = RuntimeError("in a DataLoader worker")
    with pytest.raises(RuntimeError) as raised, explain_worker_deaths():
        raise error
    assert raised.value is error
