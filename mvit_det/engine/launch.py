"""Starting the processes of a training: with Detectron2's launcher, or as torchrun started them."""

import logging
import os
import signal
import sys
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

# What torchrun tells each process that it starts.
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
    """Runs a function in each process of a training, and ends the program by its status.

    A process that torchrun started takes part in what torchrun started, whatever the numbers say.
    Otherwise Detectron2's launcher starts `num_processes` processes on this machine, or runs the
    function here if one is all there is.

    What the function raises becomes the program's exit: an `MViTDetError` is printed as one line
    and gives exit code 1; a training that was stopped gives 128 and the number of the signal. If
    a process dies, the others are stopped.

    Args:
        main: is called with `arguments`.
        arguments: can be pickled.
        debug: shows the traceback of an `MViTDetError` instead of one line.
        device: "cpu" or "cuda", on which the processes work; by default CUDA where there is any.
        num_processes, num_machines, machine_rank, dist_url: as Detectron2's launcher takes them.

    Raises:
        SystemExit: the function did not come to its end.
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
        # A child that ended in an orderly way has said why.
        if exited.signal_name is None:
            sys.exit(exited.exit_code)
        sys.exit(
            f"error: process {exited.error_index} of {num_processes} was ended by "
            f"{exited.signal_name}, and the others were stopped; if it was SIGKILL, the machine "
            "may have run out of memory: see 'dmesg', use a smaller '--batch-size' or fewer "
            "dataloader.train.num_workers, and go on with '--resume'"
        )


def _check_gpus(device: str | None, num_processes: int) -> None:
    """Refuses more processes than GPUs, and hides GPUs from processes that shall not use them."""
    if device == "cpu":
        # Detectron2's launcher lets processes talk over GPUs wherever it sees some.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif torch.cuda.is_available() and num_processes > torch.cuda.device_count():
        raise DeviceError(
            f"--num-gpus {num_processes} was asked for, but PyTorch finds "
            f"{torch.cuda.device_count()} GPU(s) on this machine"
        )


def _main_of_a_child(main: Callable[..., None], arguments: tuple[Any, ...], debug: bool) -> None:
    """Runs the function in a process that Detectron2's launcher started, and exits by its status.

    Only exit codes get from here to the launcher; it would wrap exceptions in its own.
    """
    try:
        main(*arguments)
    except MViTDetError as error:
        if debug:
            raise
        where = f" (process {comm.get_rank()})" if comm.get_rank() else ""
        sys.exit(f"error{where}: {error}")
    except TrainingStopped as stopped:
        if comm.is_main_process():
            logger.warning("Training %s", stopped)
        sys.exit(128 + stopped.signal)


@contextmanager
def _torchrun_process_group(device: str | None) -> Iterator[None]:
    """The process group of the processes that torchrun started."""
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
    # Processes that torchrun starts again must not take addresses for theirs that the processes
    # before them have left in the store.
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
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """Lets the processes that this one started decide about SIGTERM and Ctrl-C."""

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
