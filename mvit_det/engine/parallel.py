"""One model over many processes: replicated (DDP) or sharded (FSDP2), and what depends on that.

With neither, everything here works on the plain model.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ..config.schema import STRATEGIES
from ..errors import CheckpointError, ConfigError
from ..modeling import MultiScaleTransformer


def parallelize(model: nn.Module, strategy: str, device: str, ddp: Mapping[str, Any]) -> nn.Module:
    """Spreads a model over the processes; with a single one it only goes to its device.

    Args:
        model: with its weights, the same in every process.
        strategy: "ddp" has a copy of the model in each process. "fsdp" keeps in each process a
            share of parameters, gradients and the state of the optimizer, and puts the parameters
            of a block together while it is computed (FSDP2): for models that one GPU does not hold.
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
        for part in model.modules():
            if isinstance(part, MultiScaleTransformer):
                for block in part.blocks:
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
    """The model itself, without what replicates it."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextlib.contextmanager
def synchronized(model: nn.Module, synchronizes: bool) -> Iterator[None]:
    """Forward and backward pass in which processes exchange gradients only if told so.

    What the passes before left in the gradients is exchanged along.
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
    """Keeps the weights of a sharded model together for a while, for inference.

    Processes that see different numbers of images can then compute without each other. All have
    to enter together.
    """
    shards = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for shard in shards:
        shard.set_reshard_after_forward(False, recurse=False)
        shard.unshard()
    try:
        yield
    finally:
        for shard in shards:
            shard.reshard()
            # The outermost part is needed again at once when the backward pass begins.
            shard.set_reshard_after_forward(shard is not model, recurse=False)


def gradient_norm(model: nn.Module) -> Tensor:
    """Euclidean norm of all gradients together, the same in every process; () fp32."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def scale_gradients(model: nn.Module, limit: float, norm: Tensor) -> None:
    """Scales all gradients down so that their norm, which is `norm`, is at most `limit`."""
    nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm, foreach=True)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State of an optimizer by names of parameters, whole however the model is spread.

    All processes have to call it together.
    """
    return {
        name: {key: full_tensor(value) for key, value in optimizer.state[parameter].items()}
        for name, parameter in unwrapped(model).named_parameters()
        if parameter in optimizer.state
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Any]]
) -> None:
    """Gives an optimizer the state that `optimizer_state` returned, however it was spread then.

    Its settings, such as the learning rate, stay its own.

    Raises:
        CheckpointError: there is no state of a parameter that is trained.
    """
    trained = {name: p for name, p in unwrapped(model).named_parameters() if p.requires_grad}
    missing = [name for name in trained if name not in state]
    if missing and state:
        raise CheckpointError(
            f"the checkpoint holds no state of the optimizer for {len(missing)} of {len(trained)} "
            f"parameters, '{missing[0]}' first: they were not trained then; keep what is frozen as "
            "it was, or start a new training from these weights with train.init_checkpoint"
        )
    for name, parameter in trained.items():
        optimizer.state[parameter] = {
            key: _restored(value, parameter) for key, value in state.get(name, {}).items()
        }
    for group in optimizer.param_groups:
        # What schedules of the learning rate start from when they do not start at the beginning.
        group.setdefault("initial_lr", group["lr"])


def _restored(value: Any, parameter: nn.Parameter) -> Any:
    """A part of the optimizer's state: one value for each of a parameter, or a count of steps."""
    if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
        return distribute_like(value, parameter)
    return value


def local_tensor(tensor: Tensor) -> Tensor:
    """This process's share of a tensor that is sharded; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, on the CPU; any other as it is.

    All processes have to call it together.
    """
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def distribute_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of another, and sharded as that one is."""
    tensor = tensor.to(like.device)
    if isinstance(like, DTensor):
        # Each process has the whole tensor, and takes its share without asking the others.
        return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return tensor
