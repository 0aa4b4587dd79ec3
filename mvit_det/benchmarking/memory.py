"""Peak memory of one pass, in a process of its own.

It is the peak during the pass above the memory in use before it, with model and input in place and
without gradients. The pass is the first of its process, as allocators keep memory for reuse; some
tens of MiB that libraries allocate once count on both sides. (Compiled models run once before,
since compiling needs memory, too.)

On CUDA the allocator counts. On Linux the kernel does: the high-water mark of the resident size,
VmHWM in `/proc/self/status`, is reset through `/proc/self/clear_refs`. Elsewhere it is the growth
of the process's largest resident size, which misses as much as building the model had needed.
"""

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from ..errors import MViTDetError
from .case import Case
from .workload import Workload


class DoesNotFitError(MViTDetError):
    """A pass needs more memory than there is."""


def measure_peak(case: Case, side: str, name: str) -> int:
    """Measures the peak memory of a pass, in bytes above the memory in use before it.

    Args:
        case: what is measured.
        side: one of `SIDES`.
        name: one of `PASSES`.

    Raises:
        DoesNotFitError: there is not enough memory.
    """
    try:
        return in_own_process(_measure_here, case, side, name)
    except BrokenProcessPool:
        reason = "the process was killed, most likely for lack of memory"
    except torch.cuda.OutOfMemoryError:
        reason = "the GPU does not have enough memory"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        reason = "there is not enough memory"
    raise DoesNotFitError(reason)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a new process, which has nothing in memory yet."""
    # Not forked: threads and the CUDA context of this process would not work in the child.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def available_memory(device: str) -> int:
    """Bytes that a new process could use."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        return _read_proc("/proc/meminfo", "MemAvailable")
    except (OSError, KeyError):
        return physical_memory()


def physical_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def peak_memory(device: str, run: Callable[[], None]) -> int:
    """Peak memory while `run` runs, in bytes above the memory in use before it."""
    return (_peak_of_allocator if device.startswith("cuda") else _peak_of_process)(run)


def _measure_here(case: Case, side: str, name: str) -> int:
    if sys.platform == "linux":
        # Should memory run out, the kernel kills this process and no other.
        Path("/proc/self/oom_score_adj").write_text("1000")
    if case.threads:
        torch.set_num_threads(case.threads)
    workload = Workload(case, side)
    if case.compile:
        workload.run(name)
        workload.model.zero_grad(set_to_none=True)
    gc.collect()
    return peak_memory(case.device, lambda: workload.run(name))


def _peak_of_allocator(run: Callable[[], None]) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def _peak_of_process(run: Callable[[], None]) -> int:
    if sys.platform == "linux":
        # Memory that building the model has freed would count as in use, and hide some of the peak.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _largest_resident_size()
    run()
    return _largest_resident_size() - before


def _largest_resident_size() -> int:
    """Bytes; since the last reset, where there was one."""
    try:
        return _read_proc("/proc/self/status", "VmHWM")
    except (OSError, KeyError):
        import resource  # not on Windows

        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else 1024 * largest


def _read_proc(path: str, field: str) -> int:
    """A field of a file in /proc, in bytes."""
    lines = Path(path).read_text().splitlines()
    return 1024 * int(dict(line.split(":", 1) for line in lines)[field].split()[0])
