"""Uses a process group as a training does, and prints the threads that outlive it.

Arguments: "succeeds" or "fails"; perhaps the number of ranks for Detectron2's launcher.
"""

import atexit
import sys
from pathlib import Path

import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mvit_det.engine import launch
from mvit_det.errors import TrainingError


def print_threads():
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    # In one piece, as two ranks print at a time.
    sys.stdout.write(f"gloo threads: {[name for name in threads if 'gloo' in name]}\n")
    sys.stdout.flush()


def main(ending):
    atexit.register(print_threads)
    model = DistributedDataParallel(nn.Linear(2, 2))
    model.itself = [model]
    model(torch.ones(1, 2)).sum().backward()
    comm.all_gather(comm.get_rank())
    comm.synchronize()
    if ending == "fails":
        raise TrainingError("failed on purpose")


if __name__ == "__main__":
    ending, *processes = sys.argv[1:]
    launch(main, (ending,), device="cpu", num_processes=int(*processes or [1]))
