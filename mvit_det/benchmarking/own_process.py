"""A side of a case in a process of its own.

A detector that is accelerated on the CPU changes how its process allocates memory, from which the
other side must not gain.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch import Tensor

from .case import Case
from .workload import Workload

# The workload of this process, if it is such a one.
_workload: list[Workload] = []


class RemoteWorkload:
    """A `Workload` that runs in its own process; calls return when it is done."""

    def __init__(self, case: Case, side: str) -> None:
        """Starts the process and builds the workload there."""
        # Not forked: threads of this process would not work in the child.
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._pool.submit(_build, case, side, torch.get_num_threads()).result()

    def run(self, name: str) -> None:
        """Runs one of `PASSES` to its end."""
        self._pool.submit(_run, name).result()

    def features(self) -> dict[str, Tensor]:
        """Outputs of the backbone and its feature pyramid by name."""
        return self._pool.submit(_features).result()

    def release(self) -> None:
        """Frees the gradients."""
        self._pool.submit(_release).result()

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()


def _build(case: Case, side: str, threads: int) -> None:
    torch.set_num_threads(threads)
    _workload.append(Workload(case, side))


def _run(name: str) -> None:
    _workload[0].run(name)


def _features() -> dict[str, Tensor]:
    return _workload[0].features()


def _release() -> None:
    _workload[0].release()
