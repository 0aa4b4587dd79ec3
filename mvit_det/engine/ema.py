"""An exponential moving average of the weights, which is often a better model than the last one."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from .parallel import distribute_like, full_tensor, unwrapped


class ModelEMA(HookBase):
    """Averages parameters over the training, as average ← d · average + (1 − d) · parameter.

    In update t (from 1) d is `decay` · (1 − exp(−t / `warmup`)), so that the average leaves the
    start behind quickly. Buffers are taken as they are.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: int) -> None:
        """Starts from the weights as they are.

        Args:
            model: perhaps replicated or sharded.
            decay: in [0, 1); the average looks back over about 1 / (1 − decay) updates.
            warmup: updates over which the decay approaches its value; 0 has it at once.
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
        """Takes the weights that the step left into the average."""
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Takes the current weights into the average."""
        self.updates += 1
        decay = self.decay
        if self.warmup:
            decay *= 1 - math.exp(-self.updates / self.warmup)
        for name, parameter in self._trained().items():
            self.average[name].lerp_(parameter, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the average in the place of the weights for a while."""
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
        """The average, whole, and how many updates it has seen; for all processes together."""
        average: dict[str, Tensor] = {
            name: full_tensor(tensor) for name, tensor in self.average.items()
        }
        return {"updates": self.updates, "average": average}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.updates = state["updates"]
        for name, tensor in self.average.items():
            tensor.copy_(distribute_like(state["average"][name], tensor))
