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

from ..data.loading import TrainingLoader, explain_worker_deaths
from ..data.sampling import derive_seed
from .nonfinite import MicroBatch, NonFiniteSteps, Step
from .parallel import (
    gradient_norm,
    load_optimizer_state,
    optimizer_state,
    scale_gradients,
    synchronized,
)

logger = logging.getLogger(__name__)

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer(TrainerBase):
    """Trains a model that returns a dict of losses, with Detectron2's hooks.

    All randomness, in the model and in the data, is a function of (seed, iteration, micro-batch). A
    training that is resumed from `state_dict` equals an uninterrupted one, bit for bit where the
    arithmetic is deterministic, as on the CPU.

    A step sees one batch, as `grad_accum_steps` micro-batches one after the other. Its gradient is
    their mean, as it is the mean over the ranks in distributed training: n micro-batches on one
    rank, or one on each of n ranks, give the same.
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
        """Creates a trainer.

        Args:
            model: returns a dict of losses for a batch, with the same keys in every rank; plain,
                replicated or sharded.
            data_loader: a `TrainingLoader`, or any other endless iterable of batches, which starts
                from its beginning when a training is resumed.
            optimizer: of the model's parameters.
            device: "cuda" or "cpu", for autocast.
            seed: at least 0.
            grad_accum_steps: micro-batches of each batch; of other iterables than a
                `TrainingLoader`, batches per step.
            amp_dtype: "bf16", "fp16", or None for fp32 throughout. Losses are scaled for fp16 only.
            max_grad_norm: clips the total norm of the gradients; 0 does not clip.
            nonfinite: policy for steps with an infinite or NaN loss or gradient, which never change
                the model; by default the first one ends the training.
            should_stop: called in each step; once it is True in any rank, the training ends after
                the step in all of them, and `stopped` is True.
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
        """Runs the steps from `start_iter` up to `max_iter`, or until it is asked to stop.

        Hooks may lower the attribute `max_iter`, which ends the training early.

        Raises:
            TrainingError: too many steps had an infinite or NaN loss or gradient, or one had such
                predictions; or a DataLoader worker died.
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
        with explain_worker_deaths(), EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                # In a complete training, `iter` is `max_iter` in the end; by this, hooks know it.
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self.stopped:
                        break
                    self.iter += 1
            finally:
                self.after_train()
                # Ends the DataLoader workers.
                self._batches = iter(())

    def run_step(self) -> None:
        """Updates the model once, on the next batch."""
        self.optimizer.zero_grad()
        data_time = 0.0
        micro_batches: list[MicroBatch] = []
        for index in range(self.grad_accum_steps):
            start = time.perf_counter()
            batch = next(self._batches)
            data_time += time.perf_counter() - start
            # Models draw from PyTorch's generators only.
            number = index * comm.get_world_size() + comm.get_rank()
            torch.manual_seed(derive_seed("step", self.seed, self.iter, number))
            with synchronized(self.model, index == self.grad_accum_steps - 1):
                try:
                    with self.autocast:
                        losses = self.model(batch)
                except FloatingPointError:
                    # Raised by Detectron2 about proposals. The step cannot be skipped, as other
                    # ranks may be waiting for this one.
                    nan = torch.tensor(float("nan"))
                    self.nonfinite.diverged(self._step([*micro_batches, (batch, {})], nan))
                self.grad_scaler.scale(sum(losses.values()) / self.grad_accum_steps).backward()
            micro_batches.append((batch, {name: loss.detach() for name, loss in losses.items()}))
        self.grad_scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.model)
        losses = self._mean_losses([losses for _, losses in micro_batches])
        if all(map(torch.isfinite, (norm, *losses.values()))):
            self.nonfinite.passed()
            if self.max_grad_norm:
                scale_gradients(self.model, self.max_grad_norm, norm)
            self.grad_scaler.step(self.optimizer)
        else:
            self.nonfinite.failed(self._step(micro_batches, norm))
        self.grad_scaler.update()
        self._write_metrics(losses, norm, data_time)

    def _step(self, micro_batches: Sequence[MicroBatch], norm: Tensor) -> Step:
        return Step(
            iteration=self.iter,
            model=self.model,
            micro_batches=micro_batches,
            grad_norm=norm,
            learning_rate=max(group["lr"] for group in self.optimizer.param_groups),
            loss_scale=self.grad_scaler.get_scale(),
            scales_loss=self.grad_scaler.is_enabled(),
        )

    def _mean_losses(self, micro_batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Averages losses over micro-batches and ranks; also lets all ranks agree to stop."""
        names = sorted(micro_batches[0])
        stop = torch.tensor(float(self.should_stop()), device=self.device)
        means = [
            torch.stack([losses[name].float() for losses in micro_batches]).mean() for name in names
        ]
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
        """State to resume from; every rank calls it, and sharded tensors stay sharded."""
        return {
            **super().state_dict(),
            "optimizer": optimizer_state(self.model, self.optimizer),
            "grad_scaler": self.grad_scaler.state_dict(),
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the result of `state_dict`, of any number of ranks; every rank calls it.

        Args:
            state: tensors are sharded as in `state_dict`, or full and in the main process only.
        """
        super().load_state_dict(state)
        load_optimizer_state(self.model, self.optimizer, state["optimizer"])
        # A run without loss scaling has none to restore.
        if self.grad_scaler.is_enabled() and state["grad_scaler"]:
            self.grad_scaler.load_state_dict(state["grad_scaler"])
        self.seed = state["seed"]
