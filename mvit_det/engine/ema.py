"""Exponential moving average of the weights."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import nn

from ..checkpoint.state import load_full_weights
from .parallel import unwrapped


class ModelEMA(HookBase):
    """Averages trainable parameters: average ← d · average + (1 − d) · parameter.

    In update t (from 1) d is `decay` · (1 − exp(−t / `warmup`)), so that the initial weights fade
    quickly. Buffers are not averaged. Unlike `torch.optim.swa_utils.AveragedModel` it works on the
    shards of a sharded model, copies neither buffers nor frozen parameters, and is evaluated in
    place.

    Attributes:
        average: by parameter name, sharded like the parameters.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: int) -> None:
        """Starts from the current weights.

        Args:
            model: plain, replicated or sharded.
            decay: in [0, 1); the average spans about 1 / (1 − decay) updates.
            warmup: number of updates over which the decay approaches its value; 0 for none.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, not {decay}")
        self.model = unwrapped(model)
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.average = {
            name: parameter.detach().clone() for name, parameter in self._trained().items()
        }

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def after_step(self) -> None:
        """Updates the average with the weights of this step."""
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Updates the average with the current weights."""
        self.updates += 1
        decay = self.decay
        if self.warmup:
            decay *= 1 - math.exp(-self.updates / self.warmup)
        for name, parameter in self._trained().items():
            self.average[name].lerp_(parameter, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Replaces the weights by the average within the context."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._trained().items():
            weights = parameter.clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(weights)

    def state_dict(self) -> dict[str, Any]:
        """The average and its number of updates; sharded tensors stay sharded."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the result of `state_dict`; every rank calls it.

        Args:
            state: with full tensors, in the main process only; or with the tensors of this object,
                which a sharded checkpoint was read into.
        """
        self.updates = state["updates"]
        average = state["average"]
        if all(average.get(name) is tensor for name, tensor in self.average.items()):
            return
        with self.applied():
            load_full_weights(self.model, average)
