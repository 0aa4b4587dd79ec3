"""A trained model that works in threads, forks and inference mode: the base of all predictors."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig

from ..checkpoint import fill_model, read_weights
from ..config import build_model, choose_device
from ..errors import DeviceError

logger = logging.getLogger(__name__)


class TrainedModel:
    """A model with its weights.

    Several threads can share it, inside and outside of a caller's inference mode. After a fork it
    runs on one CPU thread, and not on CUDA: processes that need more build their own.

    Attributes:
        model: in evaluation mode.
        device: of the model.
        metadata: what the checkpoint has beside the weights.
    """

    def __init__(
        self,
        config: DictConfig,
        weights: str | Path,
        device: str | torch.device | None,
        trust_checkpoint: bool,
    ) -> None:
        """Builds the model of a config and loads its weights.

        Raises:
            ConfigError: the model of the config cannot be built.
            CheckpointError: the weights cannot be found or read, or do not fit the config.
            DeviceError: the device does not exist on this machine.
        """
        self.device = torch.device(choose_device(str(device or "")))
        # Parameters made in a caller's inference mode could not be used outside of it.
        with torch.inference_mode(False):
            content = read_weights(weights, trust=trust_checkpoint)
            self.model = build_model(config)
            fill_model(self.model, content, weights)
            self.model.to(self.device).eval()
        self.metadata = content.metadata
        self._process = os.getpid()

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Lets the model run in this process and thread, without gradients.

        Results are ordinary tensors, even if the caller is in inference mode.

        Raises:
            DeviceError: the model is on CUDA since before this process was forked.
        """
        self._check_process()
        with torch.inference_mode(False), torch.no_grad():
            yield

    def _check_process(self) -> None:
        """Makes a model that was built before a fork work in the forked process."""
        if os.getpid() == self._process:
            return
        name = type(self).__name__
        if self.device.type == "cuda":
            raise DeviceError(
                f"this {name} was built on CUDA before the process was forked; build it in each "
                "process, or start processes with multiprocessing.set_start_method('spawn')"
            )
        # The threads of the parent do not exist here, and PyTorch would wait for them forever.
        torch.set_num_threads(1)
        self._process = os.getpid()
        logger.warning(
            "This %s was built before the process was forked and now runs on one thread; build it "
            "in each process to use more", name
        )  # fmt: skip
