import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch

from mvit_det.data.sampling import BatchSequence, derive_seed, seeded

WIDE = [True] * 7 + [False] * 5


def take(sequence, number, start=0):
    return list(itertools.islice(sequence.batches(start), number))


def test_batches_hold_images_of_one_orientation():
    for batch in take(BatchSequence(WIDE, 4, seed=0), 30):
        assert len(batch) == 4
        assert len({WIDE[index] for index, _ in batch}) == 1


def test_each_pass_sees_each_image_once_in_an_order_of_its_own():
    drawn = sorted(((p, i) for batch in take(BatchSequence(WIDE, 2, seed=0), 60) for i, p in batch))
    # Unfinished batches hold at most one image of either kind back.
    orders = [[i for p, i in drawn if p // 12 == epoch] for epoch in range(9)]
    for order in orders[:8]:
        assert sorted(order) == list(range(12))
    assert len({tuple(order) for order in orders[:8]}) == 8


def test_positions_are_never_repeated():
    batches = take(BatchSequence(WIDE, 3, seed=1), 50)
    positions = [position for batch in batches for _, position in batch]
    assert len(set(positions)) == len(positions)


def test_a_later_start_continues_the_sequence():
    sequence = BatchSequence(WIDE, 3, seed=5)
    assert take(sequence, 10, start=13) == take(sequence, 23)[13:]


def test_the_seed_decides():
    assert take(BatchSequence(WIDE, 3, seed=5), 9) == take(BatchSequence(WIDE, 3, seed=5), 9)
    assert take(BatchSequence(WIDE, 3, seed=5), 9) != take(BatchSequence(WIDE, 3, seed=6), 9)


def test_repeat_factors_are_met_on_average():
    factors = torch.tensor([1.0, 2.5, 1.0, 4.0])
    sequence = BatchSequence([False] * 4, 1, seed=0, repeat_factors=factors)
    counts = Counter(index for ((index, _),) in take(sequence, 850))
    # 8.5 images a pass, so 100 passes.
    assert [counts[index] / 100 for index in range(4)] == pytest.approx([1, 2.5, 1, 4], abs=0.1)


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_a_key_gives_the_same_draws_and_another_key_others():
    with seeded("a", 3, 7):
        first = draw()
    with seeded("a", 3, 7):
        assert draw() == first
    for key in (("a", 7, 3), ("a", 3, 8), ("a", 3), ("a", 3, 7, 0), ("b", 3, 7)):
        with seeded(*key):
            other = draw()
        assert not set(other) & set(first)


def test_generators_are_as_before_afterwards():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = draw()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    with seeded("a", 0):
        draw()
    assert draw() == expected


def test_seeds_of_neighbouring_positions_differ():
    seeds = {derive_seed("a", seed, position) for seed in range(20) for position in range(500)}
    assert len(seeds) == 20 * 500
    assert all(0 <= seed < 2**32 for seed in seeds)
