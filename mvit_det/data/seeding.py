"""Randomness as a function of a seed and a position, and never of what was drawn before.

A training that is taken up again, or spread over other processes, so draws the same numbers
without any state of a generator having been kept.
"""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(purpose: str, *numbers: int) -> int:
    """A seed in [0, 2³²) for draws of their own.

    Args:
        purpose: what is drawn; a word, so that draws for different purposes share no seed.
        numbers: of at least 0, of which each combination gives another seed.
    """
    # NumPy takes (1,) and (1, 0) for the same; their length tells them apart.
    key = (zlib.crc32(purpose.encode()), len(numbers), *numbers)
    return int(np.random.SeedSequence(key).generate_state(1)[0])


@contextmanager
def seeded(purpose: str, *numbers: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and PyTorch's CPU generators for a while; then all are as before.

    Args:
        purpose, numbers: as for `derive_seed`.
    """
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = derive_seed(purpose, *numbers)
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
