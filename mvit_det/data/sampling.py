"""Which image is seen when: an endless sequence of batches that depends on the seed alone."""

import itertools
from collections.abc import Iterator, Sequence

import torch

from .seeding import derive_seed


class BatchSequence:
    """Endless shuffled batches of images that are all wide, or all not wide.

    Every pass over the data has an order of its own. Images of similar aspect ratio share a
    batch, because they then need less padding. Batch i is the same whatever number of processes
    share it, and wherever the iteration begins.
    """

    def __init__(
        self,
        wide: Sequence[bool],
        batch_size: int,
        *,
        seed: int,
        repeat_factors: torch.Tensor | None = None,
    ) -> None:
        """Describes the sequence.

        Args:
            wide: of each image, whether it is wider than high.
            batch_size: images of a batch.
            seed: at least 0.
            repeat_factors: (len(wide),), how often each image is seen in one pass, on average;
                None is once.
        """
        self.wide = list(wide)
        self.batch_size = batch_size
        self.seed = seed
        self.repeat_factors = repeat_factors

    def batches(self, start: int = 0) -> Iterator[list[tuple[int, int]]]:
        """Yields the batches from number `start` on, as pairs (image, position).

        The position counts images since the beginning and is never repeated; so it can seed what
        is random about an image.
        """
        # What comes before `start` is only counted, which takes a second for a million images.
        return itertools.islice(self._all(), start, None)

    def _all(self) -> Iterator[list[tuple[int, int]]]:
        unfinished: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        position = 0
        for epoch in itertools.count():
            for index in self._order(epoch):
                batch = unfinished[self.wide[index]]
                batch.append((index, position))
                position += 1
                if len(batch) == self.batch_size:
                    unfinished[self.wide[index]] = []
                    yield batch

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(derive_seed("order", self.seed, epoch))
        indices = torch.arange(len(self.wide))
        if self.repeat_factors is not None:
            whole = self.repeat_factors.floor()
            rounds_up = torch.rand(len(indices), generator=generator) < self.repeat_factors - whole
            indices = indices.repeat_interleave((whole + rounds_up).long())
        return indices[torch.randperm(len(indices), generator=generator)].tolist()
