"""The processes that load images: what they do about signals, and what is said when one dies."""

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import TrainingError


def leave_signals_to_the_parent(worker: int) -> None:
    """Lets a process that loads images live on when a signal goes to all processes at once.

    Ctrl-C in a terminal does so, and SIGTERM from Slurm or systemd. The process that trains then
    still needs images to end its step. It ends those that load them itself, with a SIGTERM too
    if need be, which is obeyed.

    Args:
        worker: its number, which PyTorch passes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Only Linux and its like tell who sent a signal.
    if hasattr(signal, "sigwaitinfo"):
        # Threads inherit this; so the signal waits for the thread that asks for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_asks, daemon=True).start()


def _end_when_the_parent_asks() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent.pid:
            os._exit(0)


@contextmanager
def deaths_of_workers_explained() -> Iterator[None]:
    """Says in one sentence that a process that loads images died, and what to do.

    PyTorch raises that in the main thread wherever it happens to be, and not only where it waits
    for images. So this belongs around all that goes on while there are such processes.

    Raises:
        TrainingError: one died.
    """
    try:
        yield
    except RuntimeError as error:
        died = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(.*)", str(error), re.S)
        if not died:
            raise
        raise TrainingError(_sentence(died[1], died[2])) from error


def _sentence(pids: str, what: str) -> str:
    killed = re.match(r" is killed by signal: (.*?)\.", what)
    how = f"was ended by a signal ({killed[1]})" if killed else "ended unexpectedly"
    if killed and killed[1] == "Bus error":
        advice = (
            "shared memory ran out: give the container more of it (docker run --shm-size=8g), or "
            "load images without processes of their own (dataloader.train.num_workers=0 "
            "dataloader.test.num_workers=0)"
        )
    else:
        advice = (
            "the machine may have run out of memory, see 'dmesg': use fewer such processes "
            "(dataloader.train.num_workers and dataloader.test.num_workers; 0 does without)"
        )
    return f"a process that loads images (pid {pids}) {how}; {advice}, and go on with '--resume'"
