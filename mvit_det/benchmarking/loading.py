"""The training loader of classifiers against timm's, with the same transforms, on one core."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from ..config import load_config
from ..data.image_folder import ImageFolder
from ..errors import ConfigError
from ..model_zoo import configs_folder
from ..modeling.image_classifier import ImageClassifier
from .case import Case
from .comparison import Row, alternate

# The default of `RandAugment` in timm's notation, but strengths are clipped at 9: at full strength
# timm's posterizing raises an error.
RAND_AUGMENT = "rand-m9-n6-mstd0.5-mmax9-inc1"
NUM_CLASSES = 2  # no classifier uses them


class _NoClassifier(nn.Module):
    """Logits at no cost."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :NUM_CLASSES]


def compare_loaders(folder: str | Path, case: Case) -> Row:
    """Times passes over a folder of class folders, from files to normalised batches.

    Both sides crop, flip, apply RandAugment, normalise and erase as the ImageNet recipe does, with
    the same probabilities, in this process and in one thread.

    Args:
        folder: with at least a batch of images.
        case: its `image_size`, `batch`, `repeats` and `warmup` are used.

    Returns:
        Seconds per batch of both sides.

    Raises:
        ConfigError: there are fewer images than a batch has, or timm is missing.
        DatasetError: the folder has no images.
    """
    batches = len(ImageFolder(folder)) // case.batch
    if not batches:
        raise ConfigError(
            f"'{folder}' has fewer than {case.batch} images; choose a smaller --batch"
        )
    runs = {
        "candidate": _pass_of_ours(folder, case, batches),
        "baseline": _pass_of_timm(folder, case),
    }
    with _one_thread():
        passes = alternate(runs, case.repeats, case.warmup)
    seconds = {side: tuple(value / batches for value in values) for side, values in passes.items()}
    return Row("training loader, one core", "loader", replace(case, threads=1), "s", seconds)


def _pass_of_ours(folder: str | Path, case: Case, batches: int) -> Callable[[], None]:
    config = load_config(configs_folder() / "ImageNet" / "mvitv2_t.py")
    settings = config.dataloader.train
    settings.update(total_batch_size=case.batch, num_workers=0)
    settings.mapper.image_size = case.image_size[0]
    loader = instantiate({**settings, "dataset": ImageFolder(folder)})
    model = ImageClassifier(
        classifier=_NoClassifier(),
        num_classes=NUM_CLASSES,
        pixel_mean=config.model.pixel_mean,
        pixel_std=config.model.pixel_std,
        random_erasing=config.model.random_erasing,
    )
    seeds = itertools.count()

    def run() -> None:
        for batch in itertools.islice(loader.batches(seed=next(seeds)), batches):
            model([{**record, "label": 0} for record in batch])

    return run


def _pass_of_timm(folder: str | Path, case: Case) -> Callable[[], None]:
    try:
        from timm.data import ImageDataset, create_loader  # noqa: TID251
    except ModuleNotFoundError as error:
        raise ConfigError(
            "timm's loader needs timm, which is not installed: run 'pip install timm'"
        ) from error
    loader: Any = create_loader(
        ImageDataset(str(folder)),
        input_size=(3, *case.image_size),
        batch_size=case.batch,
        is_training=True,
        re_prob=0.25,
        re_mode="pixel",
        auto_augment=RAND_AUGMENT,
        interpolation="bicubic",
        num_workers=0,
        persistent_workers=False,
        use_prefetcher=False,
    )

    def run() -> None:
        for _ in loader:
            pass

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
