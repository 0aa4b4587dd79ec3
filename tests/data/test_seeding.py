import random

import numpy as np
import torch

from mvit_det.data.seeding import derive_seed, seeded


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
