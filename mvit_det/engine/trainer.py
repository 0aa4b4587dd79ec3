"""The training step."""

import time
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn
from torch.utils.data import DataLoader

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer(SimpleTrainer):
    """Detectron2's trainer with mixed precision on any device, and gradient clipping.

    Args:
        model: returns a dict of losses for a batch.
        data_loader: yields batches.
        optimizer: updates the model's parameters.
        device: "cuda" or "cpu", where autocast applies.
        amp_dtype: "bf16", "fp16", or None for fp32 throughout. Losses are scaled for fp16 only.
        clip_gradient_norm: largest norm that all gradients together may have; 0 does not clip.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: DataLoader,
        optimizer: torch.optim.Optimizer,
        *,
        device: str,
        amp_dtype: str | None = None,
        clip_gradient_norm: float = 0.0,
    ) -> None:
        super().__init__(model, data_loader, optimizer, zero_grad_before_forward=True)
        self.clip_gradient_norm = clip_gradient_norm
        self.autocast = torch.autocast(
            torch.device(device).type,
            dtype=AMP_DTYPES.get(amp_dtype or "bf16"),
            enabled=amp_dtype is not None,
        )
        self.grad_scaler = torch.amp.GradScaler(device, enabled=amp_dtype == "fp16")

    def run_step(self) -> None:
        """Updates the model once, on the next batch."""
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad()
        with self.autocast:
            losses = self.model(data)
        self.grad_scaler.scale(sum(losses.values())).backward()
        if self.clip_gradient_norm:
            self.grad_scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_gradient_norm)
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """State of hooks, optimizer and loss scaling."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; a run without loss scaling has none to restore."""
        super().load_state_dict(state)
        if self.grad_scaler.is_enabled() and state["grad_scaler"]:
            self.grad_scaler.load_state_dict(state["grad_scaler"])
