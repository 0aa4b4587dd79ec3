"""Two thousand steps of a training whose memory and open files must not grow.

It takes minutes, so its name keeps it out of `make test`. `make soak` runs it, and prints a table.
"""

import re
import statistics
from dataclasses import dataclass

import psutil
import pytest
from tabulate import tabulate

from mvit_det.data import generate_shapes
from tests.engine.trainings import Run, children_of

ITERATIONS = 2000
EARLY, LATE = range(300, 601), range(1700, 2001)
WORKERS = 2
# Per process, from one window to the other. An image of 64 pixels that leaks in each step is 17 MB
# over the 1400 steps between; a file that leaks per evaluation or checkpoint is 5 or 14 files.
MOST_GROWTH = {"memory": 16.0, "files": 2}
# Freed memory goes back to the system at once, and does not count as in use (glibc).
GIVE_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
SIZES = (
    "dataloader.train.mapper.augmentations=[{_target_: detectron2.data.transforms."
    "ResizeShortestEdge, short_edge_length: [48, 56, 64, 72, 80], sample_style: choice},"
    "{_target_: detectron2.data.transforms.RandomFlip}]"
)


@dataclass(frozen=True)
class Sample:
    """Resources of a process after an iteration: resident memory in MB, and open files.

    Private memory would be misleading: it grows wherever the trainer writes to pages that it has
    shared with its DataLoader workers since they started.
    """

    iteration: int
    memory: float
    files: int


def measure(process, iteration):
    return Sample(iteration, process.memory_info().rss / 1e6, process.num_fds())


def in_use(samples, window, field):
    """In a window: the median memory, or the fewest files.

    Images in transit between processes are open files too, a few at a time.
    """
    values = [getattr(sample, field) for sample in samples if sample.iteration in window]
    return min(values) if field == "files" else statistics.median(values)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Samples of the trainer and its DataLoader workers, after every ten iterations."""
    datasets, output = tmp_path_factory.mktemp("datasets"), tmp_path_factory.mktemp("output")
    generate_shapes(datasets / "shapes" / "train", 200, 64, seed=0, max_shapes=3)
    generate_shapes(datasets / "shapes" / "val", 12, 64, seed=1, max_shapes=3)
    training = Run(datasets).start(
        output,
        f"train.max_iter={ITERATIONS}",
        "train.log_period=10",
        "train.checkpointer.period=100",
        "train.eval_period=250",
        "train.visualized_images=4",
        f"dataloader.train.num_workers={WORKERS}",
        f"dataloader.test.num_workers={WORKERS}",
        "model.backbone.bottom_up.embed_dim=16",
        "model.proposal_generator.post_nms_topk=[50,20]",
        "model.roi_heads.batch_size_per_image=16",
        "lr_multiplier.warmup_length=0.05",
        SIZES,
        **GIVE_BACK,
    )
    trainer = psutil.Process(training.pid)
    found = {"trainer": []}
    printed = []
    workers = []
    for line in training.stdout:
        printed.append(line)
        logged = re.search(r"\biter: (\d+)\b", line)
        if not logged:
            continue
        # Workers of evaluations start later, and end.
        workers = workers or children_of(training)
        processes = {"trainer": trainer, **{f"worker {n}": p for n, p in enumerate(workers)}}
        for name, process in processes.items():
            found.setdefault(name, []).append(measure(process, int(logged[1])))
    assert training.wait(timeout=60) == 0, "".join(printed[-50:])
    assert len(workers) == WORKERS
    assert not any(worker.is_running() for worker in workers)
    return found


def test_memory_and_open_files_do_not_grow(samples):
    rows = []
    for name, of_process in samples.items():
        for field, limit in MOST_GROWTH.items():
            early, late = (in_use(of_process, window, field) for window in (EARLY, LATE))
            rows.append((name, field, early, late, late - early, limit))
    windows = [f"{window[0]} to {window[-1]}" for window in (EARLY, LATE)]
    header = ["process", "MB, files", *windows, "growth", "at most"]
    print("\n" + tabulate(rows, header, floatfmt=".1f", tablefmt="github"))
    for name, field, _, _, growth, limit in rows:
        assert growth <= limit, f"{field} of the {name}"
