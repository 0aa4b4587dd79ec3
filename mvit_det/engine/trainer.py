"""The training loop and its step."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..data.loading import TrainingLoader
from ..data.seeding import derive_seed
from ..data.workers import deaths_of_workers_explained
from .nonfinite import NonFiniteSteps, Part
from .parallel import (
    gradient_norm,
    optimizer_state,
    restore_optimizer,
    scale_gradients,
    synchronized,
)

logger = logging.getLogger(__name__)

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer(TrainerBase):
    """Trains a detector, with Detectron2's hooks.

    What is random in a step, be it in the model or in the data, depends on the seed and the number
    of the step alone. With the state of `state_dict` a training so goes on as if it had not been
    interrupted, bit for bit where the arithmetic itself is deterministic, as it is on the CPU.

    A step sees one batch, in `grad_accum_steps` micro-batches one after the other. Its gradient is
    their mean, as it is the mean of the ranks' gradients in distributed training: so many
    micro-batches on one rank, or one on each of as many ranks, give the same.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        device: str,
        seed: int = 0,
        grad_accum_steps: int = 1,
        amp_dtype: str | None = None,
        max_grad_norm: float = 0.0,
        nonfinite: NonFiniteSteps | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepares a training.

        Args:
            model: returns a dict of losses for a batch, with the same keys in every process;
                perhaps in DistributedDataParallel, or sharded.
            data_loader: a `TrainingLoader`, or any other endless iterable of batches, which then
                begins anew when a training is taken up again.
            optimizer: updates the model's parameters.
            device: "cuda" or "cpu", where autocast applies.
            seed: at least 0.
            grad_accum_steps: micro-batches of each batch; of other iterables than a
                `TrainingLoader`, batches per step.
            amp_dtype: "bf16", "fp16", or None for fp32 throughout. Losses are scaled for fp16 only.
            max_grad_norm: largest norm that all gradients together may have; 0 does not clip.
            nonfinite: decides about steps whose loss or gradient is infinite or NaN, which never
                change the model; by default the first one ends the training.
            should_stop: asked at each step; once it is True in any process, the training ends
                after the step in all of them, and `stopped` is True.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.device = device
        self.seed = seed
        self.grad_accum_steps = grad_accum_steps
        self.max_grad_norm = max_grad_norm
        self.nonfinite = nonfinite or NonFiniteSteps(limit=0)
        self.should_stop = should_stop
        self.stopped = False
        self.autocast = torch.autocast(
            torch.device(device).type,
            dtype=AMP_DTYPES.get(amp_dtype or "bf16"),
            enabled=amp_dtype is not None,
        )
        self.grad_scaler = torch.amp.GradScaler(device, enabled=amp_dtype == "fp16")
        self._batches: Iterator[Any] = iter(())

    def train(self, start_iter: int, max_iter: int) -> None:
        """Runs the steps from `start_iter` up to `max_iter`, unless it is asked to stop before.

        Raises:
            TrainingError: too many steps had an infinite or NaN loss or gradient, or one had such
                predictions; or a process that loads images died.
        """
        logger.info("Training from iteration %d to %d", start_iter, max_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        if isinstance(self.data_loader, TrainingLoader):
            self._batches = self.data_loader.batches(
                seed=self.seed, start=start_iter, grad_accum_steps=self.grad_accum_steps
            )
        else:
            self._batches = iter(self.data_loader)
        with deaths_of_workers_explained(), EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self.stopped:
                        break
                else:
                    # Hooks tell by this that the training went through.
                    self.iter = max_iter
            finally:
                self.after_train()
                # Ends the processes that load images.
                self._batches = iter(())

    def run_step(self) -> None:
        """Updates the model once, on the next batch."""
        self.optimizer.zero_grad()
        data_time = 0.0
        parts: list[Part] = []
        for part in range(self.grad_accum_steps):
            start = time.perf_counter()
            batch = next(self._batches)
            data_time += time.perf_counter() - start
            # The generators of PyTorch; nothing in a model draws from another.
            number = part * comm.get_world_size() + comm.get_rank()
            torch.manual_seed(derive_seed("step", self.seed, self.iter, number))
            with synchronized(self.model, part == self.grad_accum_steps - 1):
                try:
                    with self.autocast:
                        losses = self.model(batch)
                except FloatingPointError:
                    # Detectron2's, of proposals. Other processes may be waiting for this one, so
                    # that it cannot leave the step out.
                    self.nonfinite.diverged(self, [*parts, (batch, {})])
                self.grad_scaler.scale(sum(losses.values()) / self.grad_accum_steps).backward()
            parts.append((batch, {name: loss.detach() for name, loss in losses.items()}))
        self.grad_scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.model)
        losses = self._mean_losses([losses for _, losses in parts])
        if all(map(torch.isfinite, (norm, *losses.values()))):
            self.nonfinite.passed()
            if self.max_grad_norm:
                scale_gradients(self.model, self.max_grad_norm, norm)
            self.grad_scaler.step(self.optimizer)
        else:
            self.nonfinite.failed(self, parts, norm)
        self.grad_scaler.update()
        self._write_metrics(losses, norm, data_time)

    def _mean_losses(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Losses of the whole batch; also agrees with the other processes on whether to stop."""
        names = sorted(parts[0])
        stop = torch.tensor(float(self.should_stop()), device=self.device)
        means = [torch.stack([part[name].float() for part in parts]).mean() for name in names]
        values = torch.stack([stop, *means])
        if comm.get_world_size() > 1:
            dist.all_reduce(values)
            values /= comm.get_world_size()
        stop, *means = values.cpu()
        self.stopped = bool(stop > 0)
        return dict(zip(names, means, strict=True))

    def _write_metrics(self, losses: Mapping[str, Tensor], norm: Tensor, data_time: float) -> None:
        values = {name: loss.item() for name, loss in losses.items()}
        self.storage.put_scalars(
            cur_iter=self.iter,
            total_loss=sum(values.values()),
            grad_norm=norm.item(),
            data_time=data_time,
        )
        if len(values) > 1:
            self.storage.put_scalars(cur_iter=self.iter, **values)

    def state_dict(self) -> dict[str, Any]:
        """What a training needs to go on; all processes have to ask for it together."""
        return {
            **super().state_dict(),
            "optimizer": optimizer_state(self.model, self.optimizer),
            "grad_scaler": self.grad_scaler.state_dict(),
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, whatever number of processes it was made by."""
        super().load_state_dict(state)
        restore_optimizer(self.model, self.optimizer, state["optimizer"])
        # A run without loss scaling has none to restore.
        if self.grad_scaler.is_enabled() and state["grad_scaler"]:
            self.grad_scaler.load_state_dict(state["grad_scaler"])
        self.seed = state["seed"]
