"""Uses a process group as a training does, and prints the threads that outlive it."""

import sys
from pathlib import Path

import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mvit_det.engine import launch
from mvit_det.errors import TrainingError


def main(fails):
    model = DistributedDataParallel(nn.Linear(2, 2))
    model.itself = [model]
    model(torch.ones(1, 2)).sum().backward()
    comm.all_gather(comm.get_rank())
    comm.synchronize()
    if fails:
        raise TrainingError("failed on purpose")


if __name__ == "__main__":
    try:
        launch(main, (sys.argv[1] == "fails",), device="cpu")
    finally:
        threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        print("gloo threads:", [name for name in threads if "gloo" in name], flush=True)
