"""Distributed models: replicated (DDP) or sharded (FSDP2), their gradients and optimizer states.

All functions also work on a plain model in one process.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ..checkpoint.state import from_main_process
from ..config.schema import STRATEGIES
from ..errors import CheckpointError, ConfigError
from ..modeling import MultiScaleTransformer


def parallelize(model: nn.Module, strategy: str, device: str, ddp: Mapping[str, Any]) -> nn.Module:
    """Distributes a model over the ranks; in a single process, moves it to its device.

    Args:
        model: with the same weights in every rank.
        strategy: "ddp" replicates the model on each rank. "fsdp" shards parameters, gradients and
            optimizer state across ranks, and gathers the parameters of one block at a time (FSDP2):
            for models that do not fit on one GPU.
        device: "cuda" or "cpu".
        ddp: arguments of `DistributedDataParallel`, and `fp16_compression`.

    Raises:
        ConfigError: `strategy` is neither.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(
            f"train.strategy must be one of {', '.join(STRATEGIES)}, not '{strategy}'"
        )
    if comm.get_world_size() == 1:
        return model.to(device)
    if strategy == "fsdp":
        mesh = init_device_mesh(torch.device(device).type, (comm.get_world_size(),))
        for module in model.modules():
            if isinstance(module, MultiScaleTransformer):
                for block in module.blocks:
                    fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    arguments = dict(ddp)
    compresses = arguments.pop("fp16_compression", False)
    local = None if device == "cpu" else [torch.cuda.current_device()]
    replicated = DistributedDataParallel(model.to(device), device_ids=local, **arguments)
    if compresses:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        replicated.register_comm_hook(state=None, hook=fp16_compress_hook)
    return replicated


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextlib.contextmanager
def synchronized(model: nn.Module, synchronizes: bool) -> Iterator[None]:
    """Synchronizes gradients across ranks in a backward pass, or accumulates them locally.

    Gradients of earlier passes are synchronized together with those of this one.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(synchronizes)
    if isinstance(model, DistributedDataParallel) and not synchronizes:
        with model.no_sync():
            yield
    else:
        yield


@contextlib.contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Gathers the weights of a sharded model for inference; every rank enters together.

    Ranks with different numbers of images can then compute independently.
    """
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for shard in shards:
        shard.set_reshard_after_forward(False, recurse=False)
        shard.unshard()
    try:
        yield
    finally:
        for shard in shards:
            shard.reshard()
            # The root is needed again as soon as the backward pass begins.
            shard.set_reshard_after_forward(shard is not model, recurse=False)


def gradient_norm(model: nn.Module) -> Tensor:
    """Total norm of all gradients, the same in every rank; () fp32."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def scale_gradients(model: nn.Module, limit: float, norm: Tensor) -> None:
    """Clips the total norm of all gradients, which is `norm`, to `limit`."""
    nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm, foreach=True)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State of an optimizer by parameter names; sharded tensors stay sharded.

    Before the first step it is created, as a template for a checkpoint that is loaded in place.
    """
    return dict(cast("dict[str, Any]", get_optimizer_state_dict(model, optimizer)["state"]))


def load_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Any]]
) -> None:
    """Restores the result of `optimizer_state`; every rank calls it.

    Hyperparameters, such as the learning rate, stay those of `optimizer`.

    Args:
        model: perhaps distributed in another way than before.
        optimizer: of the model, before its first step.
        state: with shards like the model's; or with full tensors, in the main process only.

    Raises:
        CheckpointError: there is no state of a parameter that is trained.
    """
    trained = [name for name, p in unwrapped(model).named_parameters() if p.requires_grad]
    is_sharded = any(isinstance(v, DTensor) for entry in state.values() for v in entry.values())

    def check() -> bool:
        missing = [name for name in trained if name not in state]
        if missing and state:
            raise CheckpointError(
                f"the checkpoint holds no state of the optimizer for {len(missing)} of "
                f"{len(trained)} parameters, '{missing[0]}' first: they were frozen; freeze the "
                "same parameters again, or start a new training from these weights with "
                "train.init_checkpoint"
            )
        return bool(state)

    if from_main_process(check):
        full: dict[str, Any] = dict(get_optimizer_state_dict(model, optimizer))
        full["state"] = {name: state[name] for name in trained if name in state}
        is_main = is_sharded or comm.is_main_process()
        options = StateDictOptions(
            full_state_dict=not is_sharded,
            broadcast_from_rank0=not is_sharded and comm.get_world_size() > 1,
        )
        set_optimizer_state_dict(model, optimizer, full if is_main else {}, options=options)
    else:
        optimizer.state.clear()
    for group in optimizer.param_groups:
        # Schedulers need it when they do not start at the beginning.
        group.setdefault("initial_lr", group["lr"])


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor; any other tensor unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
