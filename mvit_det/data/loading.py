"""Loaders of batches for training and evaluation."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetFromList
from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError, DatasetError, ImageError
from .sampling import BatchSequence
from .seeding import seeded
from .workers import leave_signals_to_the_parent

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Mapper = Callable[[Record], Record]

BAD_IMAGE_POLICIES = ("raise", "skip")
# After so many broken images in a row the dataset is taken to be broken, and not an image.
MOST_REPLACEMENTS = 20


class TrainingLoader:
    """Batches for training in an order that depends on the seed alone.

    Attributes:
        skipped: what is wrong with the images that this process left out so far.
    """

    def __init__(
        self,
        dataset: Sequence[Record],
        *,
        mapper: Mapper,
        total_batch_size: int,
        num_workers: int = 0,
        on_bad_image: str = "raise",
        repeat_threshold: float = 0.0,
    ) -> None:
        """Builds the loader of a training.

        Args:
            dataset: records in Detectron2's format, as `load_records` returns them.
            mapper: makes of a record what the model takes, and raises `ImageError` for an image
                that cannot be used. What it draws from the generators of Python, NumPy and PyTorch
                depends on the seed and the image's position in the training alone.
            total_batch_size: images of a batch, over all processes.
            num_workers: processes that each process has load images; 0 loads them itself.
            on_bad_image: "raise" stops at an image that cannot be used; "skip" takes another one
                in its place, and counts and lists it.
            repeat_threshold: images with a class that is on less than this share of them are
                seen more often (LVIS, appendix B.2); 0 sees each once per pass.

        Raises:
            DatasetError: there are no records.
            ConfigError: an argument is out of its range.
        """
        if not dataset:
            raise DatasetError(
                "there is no image to train on: the dataset is empty, or no image of it has "
                "an annotation other than a crowd"
            )
        if total_batch_size < 1:
            raise ConfigError(
                f"dataloader.train.total_batch_size must be positive, not {total_batch_size}"
            )
        _check_policy(on_bad_image)
        self.records = dataset
        self.mapper = mapper
        self.total_batch_size = total_batch_size
        self.num_workers = num_workers
        self.on_bad_image = on_bad_image
        self.wide = [record.get("width", 0) > record.get("height", 0) for record in dataset]
        self.repeat_factors = None
        if repeat_threshold:
            factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
            self.repeat_factors = factors(dataset, repeat_threshold)
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[list[Record]]:
        """The batches of seed 0 from the first one on."""
        return self.batches(seed=0)

    def batches(
        self, *, seed: int, start: int = 0, grad_accum_steps: int = 1
    ) -> Iterator[list[Record]]:
        """Yields this process's share of each batch, in `grad_accum_steps` parts of the same size.

        With P processes a batch falls into P · `grad_accum_steps` parts. Part i goes to process
        i mod P.
        So the same images, changed in the same ways, make up a batch whatever P and
        `grad_accum_steps`.

        Args:
            seed: at least 0.
            start: batches that were seen already.
            grad_accum_steps: parts that each process gets of a batch, one after the other.

        Raises:
            ConfigError: the batch cannot be split so.
            ImageError: an image is broken, unless those are to be skipped.
            DatasetError: too many images in a row are broken.
        """
        processes, rank = comm.get_world_size(), comm.get_rank()
        parts = processes * grad_accum_steps
        if self.total_batch_size % parts:
            raise ConfigError(
                f"a batch of {self.total_batch_size} images cannot be split evenly among "
                f"{processes} process(es) with train.grad_accum_steps={grad_accum_steps}; "
                "choose a multiple of "
                f"{parts} for '--batch-size' (dataloader.train.total_batch_size)"
            )
        size = self.total_batch_size // parts
        sequence = BatchSequence(
            self.wide, self.total_batch_size, seed=seed, repeat_factors=self.repeat_factors
        )
        shares = (
            batch[part * size : (part + 1) * size]
            for batch in sequence.batches(start)
            for part in range(rank, parts, processes)
        )
        loader = DataLoader(
            _RandomlyMapped(self, seed),
            batch_sampler=shares,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            worker_init_fn=leave_signals_to_the_parent,
        )
        for samples in loader:
            yield [self._accept(sample) for sample in samples]

    def _accept(self, sample: "_Sample") -> Record:
        """The image of a sample, once those that it replaces have been written down."""
        _report(sample, self.on_bad_image, self.skipped)
        if sample.record is None:
            raise DatasetError(
                f"{len(sample.errors)} images in a row cannot be used, so the dataset as a "
                f"whole seems to be broken; the last: {sample.errors[-1]}"
            )
        return sample.record


class EvaluationLoader:
    """This process's share of a dataset, each image once, in batches in the dataset's order.

    Attributes:
        skipped: what is wrong with the images that were left out in the last pass.
    """

    def __init__(
        self,
        dataset: Sequence[Record],
        *,
        mapper: Mapper,
        batch_size: int = 1,
        num_workers: int = 0,
        on_bad_image: str = "raise",
    ) -> None:
        """Builds the loader of an evaluation.

        Args:
            dataset, mapper, num_workers: as for `TrainingLoader`.
            batch_size: images of a batch in each process.
            on_bad_image: "raise" stops at an image that cannot be used; "skip" leaves it out, so
                that its objects count as missed, and counts and lists it.

        Raises:
            DatasetError: there are no records.
            ConfigError: `on_bad_image` is neither.
        """
        if not dataset:
            raise DatasetError("there is no image to evaluate on: the dataset is empty")
        _check_policy(on_bad_image)
        self.on_bad_image = on_bad_image
        self.skipped: list[str] = []
        self._loader = DataLoader(
            _Mapped(DatasetFromList(list(dataset), copy=False), mapper),
            batch_size=batch_size,
            sampler=InferenceSampler(len(dataset)),
            num_workers=num_workers,
            collate_fn=_as_it_is,
            worker_init_fn=leave_signals_to_the_parent,
        )

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[list[Record]]:
        """Yields batches, from which images that cannot be used are left out if they may be."""
        self.skipped.clear()
        for samples in self._loader:
            for sample in samples:
                _report(sample, self.on_bad_image, self.skipped)
            batch = [sample.record for sample in samples if sample.record is not None]
            if batch:
                yield batch


@dataclass
class _Sample:
    """An image, and what was wrong with those that it replaces; None if no replacement was found.

    Errors travel from the processes that load images like this, and not by being raised, because
    PyTorch would bury them under a traceback.
    """

    record: Record | None
    errors: list[ImageError]


class _Mapped(Dataset[_Sample]):
    """Images by index, as the mapper makes them."""

    def __init__(self, records: "Dataset[Record]", mapper: Mapper) -> None:
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> _Sample:
        try:
            return _Sample(self.mapper(self.records[index]), [])
        except ImageError as error:
            return _Sample(None, [error])


class _RandomlyMapped(Dataset[_Sample]):
    """Images by index and position, changed at random as the position asks for."""

    def __init__(self, loader: TrainingLoader, seed: int) -> None:
        # Serialized once, so that processes share the memory of the records.
        self.images = _Mapped(DatasetFromList(list(loader.records), copy=False), loader.mapper)
        self.seed = seed
        self.tries = 1 + (MOST_REPLACEMENTS if loader.on_bad_image == "skip" else 0)
        self.groups = {
            kind: [index for index, wide in enumerate(loader.wide) if wide == kind]
            for kind in (False, True)
        }
        self.wide = loader.wide

    def __getitem__(self, key: tuple[int, int]) -> _Sample:
        index, position = key
        errors: list[ImageError] = []
        for attempt in range(self.tries):
            with seeded("image", self.seed, position, attempt):
                if attempt:
                    index = random.choice(self.groups[self.wide[index]])
                sample = self.images[index]
            errors += sample.errors
            if sample.record is not None:
                return _Sample(sample.record, errors)
        return _Sample(None, errors)


def _as_it_is(samples: list[_Sample]) -> list[_Sample]:
    """Collates nothing: images differ in size."""
    return samples


def _check_policy(on_bad_image: str) -> None:
    if on_bad_image not in BAD_IMAGE_POLICIES:
        raise ConfigError(
            f"data.on_bad_image must be one of {', '.join(BAD_IMAGE_POLICIES)}, "
            f"not '{on_bad_image}'"
        )


def _report(sample: _Sample, on_bad_image: str, skipped: list[str]) -> None:
    """Raises what is wrong with an image, or adds it to those that were skipped."""
    for error in sample.errors:
        if on_bad_image == "raise":
            raise error
        if str(error) not in skipped:
            skipped.append(str(error))
            logger.warning("Skipped %d so far: %s", len(skipped), error)
