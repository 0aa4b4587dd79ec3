"""Saves and resumes a sharded training, and measures the memory that each rank needs for that.

Writes the growth of the peak of resident memory in MB to `OUTPUT/rank_N.json`; Linux only.
"""

import ctypes
import gc
import json
import sys
from pathlib import Path

import torch
from detectron2.utils import comm
from torch import nn

from mvit_det.checkpoint import Checkpointer
from mvit_det.engine import launch
from mvit_det.engine.ema import ModelEMA
from mvit_det.engine.parallel import parallelize
from mvit_det.engine.trainer import Trainer

WIDTH, LAYERS = 1024, 12
MODEL_MB = WIDTH**2 * LAYERS * 4 / 1e6


class Model(nn.Module):
    """A stack of large layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))

    def forward(self, batch):
        return {"loss": self.layers(batch).square().mean()}


def make_trainer(seed):
    torch.manual_seed(seed)
    model = parallelize(Model(), "fsdp", "cpu", {})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trainer = Trainer(model, [torch.ones(1, WIDTH)] * 2, optimizer, device="cpu")
    trainer.register_hooks([ModelEMA(model, 0.9, 0)])
    return trainer


def memory(name):
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if name in x]
    return int(line.split()[1]) / 1e3


def measure(function):
    """Calls a function, and returns by how much its peak is above the memory before it."""
    gc.collect()
    # Freed memory that glibc keeps would hide a new peak.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    result = function()
    return memory("VmHWM") - before, result


def flat(value):
    """All local tensors of a state, in order."""
    if isinstance(value, dict):
        return [tensor for key in sorted(value) for tensor in flat(value[key])]
    if isinstance(value, torch.Tensor):
        return [value.to_local() if hasattr(value, "to_local") else value]
    return []


def state_of(trainer):
    return flat({"model": trainer.model.state_dict(), "trainer": trainer.state_dict()})


def save_and_resume(folder, sharded):
    """Growth of memory while saving, loading the model, and restoring the rest of the state."""
    trainer = make_trainer(seed=0)
    trainer.train(0, 2)
    writer = Checkpointer(trainer.model, folder, sharded=sharded)
    saving, _ = measure(lambda: writer.save("model_0000002", trainer=trainer.state_dict()))
    again = make_trainer(seed=1)
    loading, resumed = measure(lambda: Checkpointer(again.model, folder).resume_or_load(""))
    restoring, _ = measure(lambda: resumed.restore(again))
    pairs = zip(state_of(trainer), state_of(again), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)
    comm.synchronize()
    return {"save": saving, "load": loading, "restore": restoring}


def main(output):
    growth = {
        kind: save_and_resume(Path(output) / kind, sharded=kind == "shards")
        for kind in ("file", "shards")
    }
    path = Path(output) / f"rank_{comm.get_rank()}.json"
    path.write_text(json.dumps(growth))


if __name__ == "__main__":
    launch(main, (sys.argv[1],), device="cpu")
