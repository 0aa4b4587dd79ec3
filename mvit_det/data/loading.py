"""Loaders of batches for training and evaluation, and how their workers end."""

import logging
import multiprocessing
import os
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetFromList
from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError, DatasetError, ImageError, MViTDetError, TrainingError
from .sampling import BatchSequence, seeded

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Mapper = Callable[[Record], Record]

BAD_IMAGE_POLICIES = ("raise", "skip")
# After so many unusable images in a row the dataset as a whole is taken to be unusable.
MAX_REPLACEMENTS = 20


class TrainingLoader:
    """Batches for training in an order that depends on the seed alone.

    Attributes:
        skipped: the errors of the images that this process has skipped so far.
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
        """Creates the loader.

        Args:
            dataset: records of any kind that the mapper takes. A list is serialised, so that the
                workers share its memory; any other sequence is indexed as it is. Where
                records have `width` and `height`, the images of a batch are all wide or all not
                wide, which saves padding.
            mapper: turns a record into what the model takes, and raises `ImageError` for an image
                that cannot be used. It may draw from the generators of Python, NumPy and PyTorch:
                they are seeded by the seed and the image's position in the training.
            total_batch_size: images per batch, over all ranks and gradient accumulation steps.
            num_workers: DataLoader workers per rank; 0 loads in the training process.
            on_bad_image: "raise" stops at an image that cannot be used; "skip" replaces it by
                another one, and logs and lists it. A server that fails always stops.
            repeat_threshold: images that show a class which less than this share of the images
                show are seen more often (LVIS, appendix B.2); 0 sees each once per epoch.

        Raises:
            DatasetError: there are no records.
            ConfigError: an argument is out of its range.
        """
        if not len(dataset):
            raise DatasetError(
                "there is no image to train on: the dataset is empty, or no image of it has "
                "an annotation other than a crowd"
            )
        if total_batch_size < 1:
            raise ConfigError(
                f"dataloader.train.total_batch_size must be positive, not {total_batch_size}"
            )
        _check_policy(on_bad_image)
        self.mapper = mapper
        self.total_batch_size = total_batch_size
        self.num_workers = num_workers
        self.on_bad_image = on_bad_image
        self.wide = np.zeros(len(dataset), dtype=bool)
        if {"width", "height"} <= set(dataset[0]):
            self.wide[:] = [record.get("width", 0) > record.get("height", 0) for record in dataset]
        self.repeat_factors = None
        if repeat_threshold:
            factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
            self.repeat_factors = factors(dataset, repeat_threshold)
        self.records = _shared(dataset)
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[list[Record]]:
        """The batches of seed 0 from the first one on."""
        return self.batches(seed=0)

    def batches(
        self, *, seed: int, start: int = 0, grad_accum_steps: int = 1
    ) -> Iterator[list[Record]]:
        """Yields this rank's micro-batches, `grad_accum_steps` per batch.

        With P ranks a batch consists of P · `grad_accum_steps` micro-batches of the same size, and
        micro-batch i goes to rank i mod P. So the same images with the same augmentations make up
        a batch, whatever P and `grad_accum_steps` are.

        Args:
            seed: at least 0.
            start: number of batches that were seen already.
            grad_accum_steps: micro-batches per batch and rank.

        Raises:
            ConfigError: the batch cannot be split evenly.
            ImageError: an image is unusable and `on_bad_image` is "raise".
            StorageError: the server that images are read from fails.
            DatasetError: too many images in a row are unusable.
        """
        processes, rank = comm.get_world_size(), comm.get_rank()
        count = processes * grad_accum_steps
        if self.total_batch_size % count:
            raise ConfigError(
                f"a batch of {self.total_batch_size} images cannot be split evenly among "
                f"{processes} process(es) with train.grad_accum_steps={grad_accum_steps}; "
                f"choose a multiple of {count} for '--batch-size' "
                "(dataloader.train.total_batch_size)"
            )
        size = self.total_batch_size // count
        sequence = BatchSequence(
            self.wide, self.total_batch_size, seed=seed, repeat_factors=self.repeat_factors
        )
        micro_batches = (
            batch[number * size : (number + 1) * size]
            for batch in sequence.batches(start)
            for number in range(rank, count, processes)
        )
        loader = DataLoader(
            _RandomlyMapped(self, seed),
            batch_sampler=micro_batches,
            num_workers=self.num_workers,
            collate_fn=_uncollated,
            worker_init_fn=_ignore_signals,
        )
        for samples in loader:
            yield [self._accept(sample) for sample in samples]

    def _accept(self, sample: "_Sample") -> Record:
        """The image of a sample, after the images that it replaces have been reported."""
        _report(sample, self.on_bad_image, self.skipped)
        if sample.record is None:
            raise DatasetError(
                f"{len(sample.errors)} images in a row cannot be used, so the dataset as a "
                f"whole seems to be unusable; the last: {sample.errors[-1]}"
            )
        return sample.record


class EvaluationLoader:
    """This rank's share of a dataset, each image once, in batches in the dataset's order.

    Attributes:
        records: the dataset; a list is serialised.
        skipped: the errors of the images that were skipped in the last pass.
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
        """Creates the loader.

        Args:
            dataset, mapper, num_workers: as for `TrainingLoader`.
            batch_size: images per batch and rank.
            on_bad_image: "raise" stops at an image that cannot be used; "skip" continues without
                it, so that its objects count as missed, and logs and lists it. A server that
                fails always stops.

        Raises:
            DatasetError: there are no records.
            ConfigError: `on_bad_image` is neither.
        """
        if not len(dataset):
            raise DatasetError("there is no image to evaluate on: the dataset is empty")
        _check_policy(on_bad_image)
        self.on_bad_image = on_bad_image
        self.skipped: list[str] = []
        self.records = _shared(dataset)
        self._loader = DataLoader(
            _Mapped(self.records, mapper),
            batch_size=batch_size,
            sampler=InferenceSampler(len(dataset)),
            num_workers=num_workers,
            collate_fn=_uncollated,
            worker_init_fn=_ignore_signals,
        )

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[list[Record]]:
        """Yields batches, without the images that were skipped."""
        self.skipped.clear()
        for samples in self._loader:
            for sample in samples:
                _report(sample, self.on_bad_image, self.skipped)
            batch = [sample.record for sample in samples if sample.record is not None]
            if batch:
                yield batch


@contextmanager
def explain_worker_deaths() -> Iterator[None]:
    """Turns PyTorch's error about a dead DataLoader worker into one sentence with a remedy.

    PyTorch raises it in the main thread wherever that happens to be, not only where it waits for
    images. So this belongs around all code that runs while there are workers.

    Raises:
        TrainingError: a worker died.
    """
    try:
        yield
    except RuntimeError as error:
        died = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(.*)", str(error), re.S)
        if not died:
            raise
        raise TrainingError(_death(died[1], died[2])) from error


@dataclass
class _Sample:
    """An image, None if there is no usable one, and the errors of the images that it replaces.

    Workers return errors instead of raising them, because PyTorch would bury them under a
    traceback.
    """

    record: Record | None
    errors: list[MViTDetError]


class _Mapped(Dataset[_Sample]):
    """Mapped records by index."""

    def __init__(self, records: Sequence[Record], mapper: Mapper) -> None:
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> _Sample:
        try:
            return _Sample(self.mapper(self.records[index]), [])
        except MViTDetError as error:
            return _Sample(None, [error])


class _RandomlyMapped(Dataset[_Sample]):
    """Mapped records by index and position, where the position seeds all randomness."""

    def __init__(self, loader: TrainingLoader, seed: int) -> None:
        self.images = _Mapped(loader.records, loader.mapper)
        self.seed = seed
        self.tries = 1 + (MAX_REPLACEMENTS if loader.on_bad_image == "skip" else 0)
        self.wide = loader.wide
        # A replacement must have the orientation of its batch.
        self.groups = {kind: np.flatnonzero(loader.wide == kind) for kind in (False, True)}

    def __getitem__(self, key: tuple[int, int]) -> _Sample:
        index, position = key
        errors: list[MViTDetError] = []
        for attempt in range(self.tries):
            with seeded("image", self.seed, position, attempt):
                if attempt:
                    index = int(random.choice(self.groups[bool(self.wide[index])]))
                sample = self.images[index]
            errors += sample.errors
            # Only an image is replaced; a server that fails is no fault of the image.
            if sample.record is not None or not isinstance(sample.errors[-1], ImageError):
                return _Sample(sample.record, errors)
        return _Sample(None, errors)


def _shared(dataset: Sequence[Record]) -> Sequence[Record]:
    """A list in serialised form, so that forked and spawned workers share its memory."""
    return DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset


def _uncollated(samples: list[_Sample]) -> list[_Sample]:
    """Images differ in size, so the model makes the batch."""
    return samples


def _check_policy(on_bad_image: str) -> None:
    if on_bad_image not in BAD_IMAGE_POLICIES:
        raise ConfigError(
            f"data.on_bad_image must be one of {', '.join(BAD_IMAGE_POLICIES)}, "
            f"not '{on_bad_image}'"
        )


def _report(sample: _Sample, on_bad_image: str, skipped: list[str]) -> None:
    """Raises the error of an image, or adds it to those that were skipped.

    Errors that are no fault of an image, such as those of a server, are always raised.
    """
    for error in sample.errors:
        if on_bad_image == "raise" or not isinstance(error, ImageError):
            raise error
        if str(error) not in skipped:
            skipped.append(str(error))
            logger.warning("Skipped %d so far: %s", len(skipped), error)


def _ignore_signals(worker: int) -> None:
    """Keeps a worker alive when a signal reaches all processes at once.

    Ctrl-C in a terminal does so, as does SIGTERM from Slurm or systemd. The training process then
    still needs images to finish its step; it ends the workers itself, if need be with a SIGTERM of
    its own, which is obeyed.

    Args:
        worker: its number, which PyTorch passes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Only Linux and similar systems tell who sent a signal.
    if hasattr(signal, "sigwaitinfo"):
        # Threads inherit this, so the signal waits for the thread that asks for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_signal_of_parent, daemon=True).start()


def _exit_on_signal_of_parent() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent.pid:
            os._exit(0)


def _death(pids: str, what: str) -> str:
    killed = re.match(r" is killed by signal: (.*?)\.", what)
    how = f"was killed by a signal ({killed[1]})" if killed else "exited unexpectedly"
    if killed and killed[1] == "Bus error":
        remedy = (
            "shared memory ran out: give the container more of it (docker run --shm-size=8g), or "
            "load images without workers (dataloader.train.num_workers=0 "
            "dataloader.test.num_workers=0)"
        )
    else:
        remedy = (
            "the machine may have run out of memory, see 'dmesg': use fewer workers "
            "(dataloader.train.num_workers and dataloader.test.num_workers; 0 uses none)"
        )
    return f"a DataLoader worker (pid {pids}) {how}; {remedy}, and continue with '--resume'"
