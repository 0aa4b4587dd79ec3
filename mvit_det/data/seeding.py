"""Randomness as a function of a seed and a position, and never of what was drawn before.

A training that is taken up again, or spread over other processes, so draws the same numbers
without any state of a generator having been kept.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*key: int) -> int:
    """A seed in [0, 2³²) that depends on every number of the key, all of them at least 0."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and PyTorch's CPU generators for a while; then all are as before.

    Args:
        key: numbers of at least 0, of which each combination gives draws of its own.
    """
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = derive_seed(*key)
    random.seed(seed)
    np.random.seed(seed)
    # The generator of the CPU alone: the one of a GPU must not be touched in a worker process.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)
