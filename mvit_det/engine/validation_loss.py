"""The loss of a detector on the test dataset."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn

from ..data.loading import EvaluationLoader
from ..data.sampling import derive_seed
from ..errors import ConfigError
from ..modeling import MultiScaleTransformer
from .parallel import unwrapped

logger = logging.getLogger(__name__)


class ValidationLoss:
    """The training's losses on the test dataset, as means over its images.

    It is the loss that the training minimises: the same sampling of proposals, on images with an
    object, which are read as in training but resized as in evaluation, without augmentation. The
    backbone and all norm and dropout layers are in evaluation mode. Each image is a batch, and the
    sampling is seeded alike for all of them, so that values depend on the weights alone, and not
    on `train.seed`, the batch size or the number of ranks.
    """

    def __init__(self, config: DictConfig) -> None:
        """Builds the loader.

        Raises:
            ConfigError: the config is that of a classifier.
            DatasetError: no image of the test dataset has an object.
        """
        check_validation_loss(config)
        train, test = config.dataloader.train, config.dataloader.test
        dataset = copy.deepcopy(train.dataset)
        dataset.names = test.dataset.names
        mapper = copy.deepcopy(train.mapper)
        mapper.augmentations = copy.deepcopy(test.mapper.augmentations)
        self.loader = EvaluationLoader(
            instantiate(dataset),
            mapper=instantiate(mapper),
            num_workers=test.num_workers,
            on_bad_image=test.on_bad_image,
        )

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Computes the losses; every rank calls it.

        Args:
            model: keeps its mode and its random state; shards have to be gathered.

        Returns:
            Mean over the images of each loss, and `total_loss`; NaN where the predictions are
            infinite or NaN, or no image could be used. {} in all ranks but the main process.
        """
        model = unwrapped(model)
        sums: dict[str, float] = {}
        images = 0
        # Detectron2's losses write statistics, which are not those of the training.
        with _losses_without_noise(model), EventStorage(), _random_state_kept():
            for batch in self.loader:
                torch.manual_seed(derive_seed("validation loss"))
                try:
                    losses = {name: float(loss) for name, loss in model(batch).items()}
                except FloatingPointError:
                    losses = {}
                losses["total_loss"] = sum(losses.values()) if losses else float("nan")
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0.0) + loss
                images += len(batch)
        gathered = comm.gather((sums, images))
        if not comm.is_main_process():
            return {}
        images = sum(count for _, count in gathered)
        names = dict.fromkeys(["total_loss", *(name for sums, _ in gathered for name in sums)])
        means = {
            name: sum(sums.get(name, 0.0) for sums, _ in gathered) / images
            if images
            else float("nan")
            for name in names
        }
        logger.info("Validation loss %.4g on %d images", means["total_loss"], images)
        return means


def check_validation_loss(config: DictConfig) -> None:
    """Checks that the losses of the model of a config can be computed without augmentation.

    Raises:
        ConfigError: the config is that of a classifier.
    """
    if "augmentations" not in config.dataloader.train.mapper:
        raise ConfigError(
            "train.validation_loss=True is for detectors: classifiers are trained on mixed images "
            "and smoothed labels; remove it, top-1 accuracy is computed in any case"
        )


@contextmanager
def _losses_without_noise(model: nn.Module) -> Iterator[None]:
    """Lets a detector return losses, with its backbone, norms and dropout in evaluation mode.

    Detectron2's detectors and heads choose between losses and predictions by `training`, which
    norm and dropout layers read as well. These have no children.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    backbone = {
        inner
        for module in model.modules()
        if isinstance(module, MultiScaleTransformer)
        for inner in module.modules()
    }
    try:
        for module in modes:
            module.training = module not in backbone and any(True for _ in module.children())
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restores the random state of PyTorch on the CPU and on this rank's GPU."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        yield
