"""Running a function in every rank, started by Detectron2's launcher or by torchrun."""

import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from types import FrameType
from typing import Any

import detectron2.engine
import torch
import torch.distributed as dist
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from ..errors import DeviceError, MViTDetError
from .stopping import TrainingStopped

logger = logging.getLogger(__name__)

# Variables that torchrun sets.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launch(
    main: Callable[..., None],
    arguments: tuple[Any, ...],
    *,
    debug: bool = False,
    device: str | None = None,
    num_processes: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> None:
    """Runs a function in every rank, and turns its errors into exit codes.

    Under torchrun this process joins torchrun's process group, and the numbers below do not count.
    Otherwise Detectron2's launcher starts `num_processes` ranks on this machine; a single one runs
    in this process.

    An `MViTDetError` is printed as one line, with exit code 1; a training that was stopped exits
    with 128 + the number of the signal. If a rank dies, the others are stopped.

    Args:
        main: is called with `arguments`.
        arguments: can be pickled.
        debug: shows the traceback of an `MViTDetError` instead of one line.
        device: "cpu" or "cuda"; by default CUDA where it is available.
        num_processes, num_machines, machine_rank, dist_url: as for Detectron2's launcher.

    Raises:
        SystemExit: the function raised an error.
    """
    try:
        if all(name in os.environ for name in _TORCHRUN):
            with _torchrun_process_group(device):
                main(*arguments)
        elif num_processes * num_machines == 1:
            main(*arguments)
        else:
            _check_gpus(device, num_processes)
            with _signals_passed_on():
                detectron2.engine.launch(
                    _main_of_a_child,
                    num_processes,
                    num_machines=num_machines,
                    machine_rank=machine_rank,
                    dist_url=dist_url,
                    args=(main, arguments, debug),
                )
    except MViTDetError as error:
        if debug:
            raise
        sys.exit(f"error: {error}")
    except TrainingStopped as stopped:
        logger.warning("Training %s", stopped)
        sys.exit(128 + stopped.signal)
    except ProcessExitedException as exited:
        # A child with an exit code has printed its error.
        if exited.signal_name is None:
            sys.exit(exited.exit_code)
        sys.exit(
            f"error: process {exited.error_index} of {num_processes} was ended by "
            f"{exited.signal_name}, and the others were stopped; if it was SIGKILL, the machine "
            "may have run out of memory: see 'dmesg', use a smaller '--batch-size' or fewer "
            "dataloader.train.num_workers, and continue with '--resume'"
        )


def _check_gpus(device: str | None, num_processes: int) -> None:
    """Checks that there is a GPU per rank, and hides GPUs from a training on the CPU."""
    if device == "cpu":
        # Detectron2's launcher uses NCCL wherever it sees GPUs.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif torch.cuda.is_available() and num_processes > torch.cuda.device_count():
        raise DeviceError(
            f"--num-gpus {num_processes} was asked for, but PyTorch finds "
            f"{torch.cuda.device_count()} GPU(s) on this machine"
        )


def _main_of_a_child(main: Callable[..., None], arguments: tuple[Any, ...], debug: bool) -> None:
    """Runs the function in a rank that Detectron2's launcher started, and exits with its code.

    The launcher would wrap exceptions in its own.
    """
    # Its message needs the rank, which goes with the process group.
    rank = comm.get_rank()
    try:
        with _process_groups_destroyed():
            main(*arguments)
    except MViTDetError as error:
        if debug:
            raise
        where = f" (process {rank})" if rank else ""
        sys.exit(f"error{where}: {error}")
    except TrainingStopped as stopped:
        if rank == 0:
            logger.warning("Training %s", stopped)
        sys.exit(128 + stopped.signal)


@contextmanager
def _torchrun_process_group(device: str | None) -> Iterator[None]:
    """Joins and leaves the process group of torchrun."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if on_gpu:
        if local_size > torch.cuda.device_count():
            raise DeviceError(
                f"torchrun started {local_size} processes on a machine with "
                f"{torch.cuda.device_count()} GPU(s); use --nproc-per-node="
                f"{torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local_rank)
    # After a restart the store still holds the addresses of the former ranks.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, rank, world_size = next(dist.rendezvous("env://", timeout=DEFAULT_TIMEOUT))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=dist.PrefixStore(f"attempt_{attempt}_of_{world_size}", store),
        rank=rank,
        world_size=world_size,
        timeout=DEFAULT_TIMEOUT,
    )
    comm.create_local_process_group(local_size)
    with _process_groups_destroyed():
        yield


@contextmanager
def _process_groups_destroyed() -> Iterator[None]:
    """Destroys all process groups at the end, and with them the threads of gloo.

    A thread of gloo that outlives the process group frees the tensors of its last collective while
    Python shuts down, cannot get Python's lock any more, and aborts the process ("terminate called
    without an active exception"). The threads end with the last reference to their group:
    Detectron2 keeps some, without a function to drop them, and models in DistributedDataParallel
    have others, in reference cycles.
    """
    try:
        yield
    except BaseException as error:
        # Local variables in the traceback refer to the process group as well.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        comm._LOCAL_PROCESS_GROUP = None
        comm._get_global_gloo_group.cache_clear()
        comm.create_local_process_group.cache_clear()
        dist.destroy_process_group()
        gc.collect()


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """Passes SIGTERM and Ctrl-C on to the child processes, instead of ending this one."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in active_children():
            if child.pid is not None:
                os.kill(child.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
