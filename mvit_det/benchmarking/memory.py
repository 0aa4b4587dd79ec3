"""Peak memory of one pass, in a process of its own.

How much a pass needs is its peak above what the process holds before it: model and input, without
gradients. It is the first pass of that process, as allocators keep memory for reuse and a second
one would so appear to need less; some tens of MiB that libraries set up once count on both sides.
(Compiled models run once before: compiling needs memory, too.)

On CUDA the allocator counts: `torch.cuda.max_memory_allocated` above `memory_allocated`. On the CPU
the kernel does: its high-water mark of the resident size, VmHWM in `/proc/self/status`, is set back
through `/proc/self/clear_refs`. Where that cannot be done, outside Linux for instance, a thread
looks at the resident size every millisecond, and may miss a shorter peak.
"""

import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch

from ..errors import MViTDetError
from .case import Case
from .workload import Workload

PROC = Path("/proc/self")


class DoesNotFitError(MViTDetError):
    """A pass that needs more memory than there is."""


def measure_peak(case: Case, side: str, name: str) -> int:
    """Peak memory of a pass in bytes, above that of the process before it.

    Args:
        case: what is measured.
        side: one of `SIDES`.
        name: one of `PASSES`.

    Raises:
        DoesNotFitError: there is not enough memory.
    """
    try:
        # Not forked: threads and the CUDA context of this process would not work over there.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_measure_here, case, side, name).result()
    except BrokenProcessPool:
        reason = "the process was killed, most likely for want of memory"
    except torch.cuda.OutOfMemoryError:
        reason = "the GPU has not enough memory"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        reason = "there is not enough memory"
    raise DoesNotFitError(reason)


def available_memory(device: str) -> int:
    """Bytes that a new process could use."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def _measure_here(case: Case, side: str, name: str) -> int:
    _offer_to_be_killed()
    if case.threads:
        torch.set_num_threads(case.threads)
    workload = Workload(case, side)
    if case.compile:
        workload.run(name)
        workload.model.zero_grad(set_to_none=True)
    gc.collect()
    measure = peak_of_allocator if case.device == "cuda" else peak_of_process
    return measure(lambda: workload.run(name))


def _offer_to_be_killed() -> None:
    """Should memory run out, this process shall go, and nobody else's."""
    if sys.platform == "linux":
        (PROC / "oom_score_adj").write_text("1000")


def peak_of_allocator(run: Callable[[], None]) -> int:
    """Peak of what CUDA tensors take while `run` runs, above what they took before."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    idle = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - idle


def peak_of_process(run: Callable[[], None]) -> int:
    """Peak of the resident size of this process while `run` runs, above that before."""
    _return_free_memory()
    idle = psutil.Process().memory_info().rss
    if _reset_high_water_mark(idle):
        run()
        return _high_water_mark() - idle
    return peak_by_sampling(run) - idle


def peak_by_sampling(run: Callable[[], None]) -> int:
    """Largest resident size of this process that a thread sees while `run` runs."""
    process = psutil.Process()
    peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(1e-3):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return peak


def _return_free_memory() -> None:
    """What building the model left free counts as used otherwise, and hides a part of the peak."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)


def _reset_high_water_mark(resident: int) -> bool:
    try:
        (PROC / "clear_refs").write_text("5")
        # Some sandboxes take the request and do nothing.
        return _high_water_mark() < resident + 2**24
    except (OSError, KeyError):
        return False


def _high_water_mark() -> int:
    """Largest resident size in bytes since it was reset."""
    lines = (PROC / "status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return 1024 * int(status["VmHWM"].split()[0])
