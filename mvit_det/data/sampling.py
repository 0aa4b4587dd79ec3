"""The order of images and the seeds of all randomness: functions of a seed and a position.

Nothing depends on what was drawn before. A resumed training, or one that is spread over other
ranks, draws the same numbers without a generator's state having been saved.
"""

import itertools
import random
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(purpose: str, *numbers: int) -> int:
    """Returns a seed in [0, 2³²).

    Args:
        purpose: a word for what is drawn; different purposes share no seed.
        numbers: each at least 0; each combination gives another seed.
    """
    # NumPy treats (1,) and (1, 0) alike; their length tells them apart.
    key = (zlib.crc32(purpose.encode()), len(numbers), *numbers)
    return int(np.random.SeedSequence(key).generate_state(1)[0])


@contextmanager
def seeded(purpose: str, *numbers: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and PyTorch's CPU generators, and restores their states afterwards.

    Args:
        purpose, numbers: as for `derive_seed`.
    """
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = derive_seed(purpose, *numbers)
    random.seed(seed)
    np.random.seed(seed)
    # The CPU's generator only: a GPU's must not be touched in a worker.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)


class BatchSequence:
    """Endless shuffled batches of images that are all wide, or all not wide.

    Every epoch has another order. Images of one orientation share a batch, which saves padding.
    Batch i is the same for any number of ranks, and wherever the iteration begins.
    """

    def __init__(
        self,
        wide: Sequence[bool] | np.ndarray,
        batch_size: int,
        *,
        seed: int,
        repeat_factors: torch.Tensor | None = None,
    ) -> None:
        """Creates the sequence.

        Args:
            wide: for each image, whether it is wider than high.
            batch_size: images per batch.
            seed: at least 0.
            repeat_factors: (len(wide),), average number of times that each image is seen in an
                epoch; None sees each once.
        """
        self.wide = wide
        self.batch_size = batch_size
        self.seed = seed
        self.repeat_factors = repeat_factors

    def batches(self, start: int = 0) -> Iterator[list[tuple[int, int]]]:
        """Yields the batches from number `start` on, as pairs (image, position).

        The position counts images from the beginning and never repeats, so it can seed the
        augmentations of an image.
        """
        # Earlier batches are only counted, which takes a second for a million images.
        return itertools.islice(self._all(), start, None)

    def _all(self) -> Iterator[list[tuple[int, int]]]:
        unfinished: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        position = 0
        for epoch in itertools.count():
            for index in self._order(epoch):
                wide = bool(self.wide[index])
                batch = unfinished[wide]
                batch.append((index, position))
                position += 1
                if len(batch) == self.batch_size:
                    unfinished[wide] = []
                    yield batch

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(derive_seed("order", self.seed, epoch))
        indices = torch.arange(len(self.wide))
        if self.repeat_factors is not None:
            whole = self.repeat_factors.floor()
            rounds_up = torch.rand(len(indices), generator=generator) < self.repeat_factors - whole
            indices = indices.repeat_interleave((whole + rounds_up).long())
        return indices[torch.randperm(len(indices), generator=generator)].tolist()
