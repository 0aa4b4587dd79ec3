"""Measures both sides of a case, by turns, and returns rows of results."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ..errors import MViTDetError
from .case import BASELINES, DTYPES, SIDES, Case
from .memory import DoesNotFitError, available_memory, measure_peak
from .own_process import RemoteWorkload
from .workload import Workload, build

NAMES = {"forward": "forward", "train": "training step"}
# Largest relative error of features. Tests hold the model to less in fp32; here it only makes sure
# that both sides compute the same, each with its own rounding.
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-1, "fp16": 2e-2}
# Side of the square matrices that give the rate of matrix products: as fast as they get.
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
# Above this number of pixels one repeat has to do in a sweep: it takes long enough.
LARGE = 1024**2
# Predictions of memory may be off by this factor.
MARGIN = 1.15

# Why not to run a pass on a side, by pass and side.
Skipped = dict[tuple[str, str], str]
Name = TypeVar("Name")


class ParityError(MViTDetError):
    """Both sides do not compute the same."""


@dataclass(frozen=True)
class Row:
    """One measurement of both sides.

    Attributes:
        name: of the measurement, in words.
        pass_name: one of `PASSES`.
        case: the settings.
        unit: "s", "bytes" or "ratio".
        values: measurements of all repeats, by side; none of a side that was skipped.
        skipped: the reasons, by side.
        flops: floating-point operations of the backbone's forward pass; None where not counted.
        matmul_rate: median rate of square matrix products between the repeats, operations per
            second.
        error: relative error of the candidate's features, the largest of all stages; None where
            not compared.
    """

    name: str
    pass_name: str
    case: Case
    unit: str
    values: Mapping[str, tuple[float, ...]]
    skipped: Mapping[str, str] = field(default_factory=dict)
    flops: float | None = None
    matmul_rate: float | None = None
    error: float | None = None

    def median(self, side: str) -> float | None:
        """Median of the repeats of a side; None if it was skipped."""
        values = self.values.get(side)
        return median(values) if values else None

    def images_per_second(self, side: str) -> float | None:
        """Images of the batch over the median time; None where there is no time."""
        middle = self.median(side)
        return self.case.batch / middle if self.unit == "s" and middle else None

    @property
    def ratio(self) -> float | None:
        """Candidate over baseline: below 1 the candidate is faster, or smaller."""
        candidate, baseline = map(self.median, SIDES)
        return None if candidate is None or baseline is None else candidate / baseline

    @property
    def floor(self) -> float | None:
        """Seconds that the matrix products alone would take at the rate of square ones.

        A training step computes each product once, and its two gradients.
        """
        if self.flops is None or self.matmul_rate is None:
            return None
        return (3 if self.pass_name == "train" else 1) * self.flops / self.matmul_rate

    @property
    def over_floor(self) -> float | None:
        """The candidate's time over the floor."""
        candidate = self.median("candidate")
        return None if candidate is None or self.floor is None else candidate / self.floor


def compare(case: Case, skip: Skipped | None = None) -> list[Row]:
    """Measures a case: memory first, since a pass that does not fit is not timed.

    Args:
        case: what to measure.
        skip: passes not to run.

    Raises:
        ParityError: the features of both sides differ by more than rounding.
    """
    skipped = dict(skip or {})
    rows = []
    if "memory" in case.what:
        rows = [_measure_memory(case, name, skipped) for name in case.passes or ["train"]]
    if case.passes:
        rows += _measure_time(case, skipped)
    return rows


def sweep(cases: Iterable[Case]) -> Iterator[Row]:
    """Measures a model on growing images or clips; yields rows as they are done.

    Memory is always measured. It decides which passes can run at all: the need of each at the next
    size is predicted from the sizes before, and a pass for which there is not enough is skipped.

    Args:
        cases: equal except for the size of the image or clip, in rising order.
    """
    # Pixels and bytes of all measurements so far, by pass and side.
    peaks: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for case in cases:
        available = available_memory(case.device)
        skip: Skipped = {}
        for key, known in peaks.items():
            needed = MARGIN * predict_peak(known, case.pixels)
            if needed > available:
                skip[key] = (
                    f"it would need about {needed / 2**30:.0f} GiB of memory, "
                    f"and {available / 2**30:.0f} GiB are free"
                )
        case = replace(case, what=(*case.passes, "memory"))
        if case.pixels > LARGE:
            case = replace(case, repeats=1, warmup=0)
        for row in compare(case, skip):
            if row.unit == "bytes":
                for side, values in row.values.items():
                    peaks.setdefault((row.pass_name, side), []).append((case.pixels, values[0]))
            yield row


def time_per_pixel(rows: Iterable[Row]) -> list[Row]:
    """Shows how time grows with the image: per pixel of the largest size over the smallest.

    There is a row for each pass and settings that were timed at several sizes; 1 is linear growth.
    """

    def settings(row: Row) -> str:
        case = replace(row.case, image_size=(32, 32), frames=2, what=(), repeats=1, warmup=0)
        return f"{row.pass_name} {case}"

    found = []
    for _, group in groupby(sorted((r for r in rows if r.unit == "s"), key=settings), settings):
        by_pixels = sorted(group, key=lambda row: row.case.pixels)
        small, large = by_pixels[0], by_pixels[-1]
        growth = large.case.pixels / small.case.pixels
        values = {
            side: (last / first / growth,)
            for side in SIDES
            if (first := small.median(side)) and (last := large.median(side))
        }
        if growth > 1 and values:
            size = "×".join(map(str, small.case.input_size))
            found.append(
                Row(
                    name=f"{large.name}, time per pixel over that of {size}",
                    pass_name=large.pass_name,
                    case=large.case,
                    unit="ratio",
                    values=values,
                    skipped={
                        s: "one of the two sizes was skipped" for s in SIDES if s not in values
                    },
                )
            )
    return found


def check_parity(case: Case, workloads: Mapping[str, Workload | RemoteWorkload]) -> float:
    """Relative error of the candidate's features, the largest of all stages.

    Raises:
        ParityError: it is larger than rounding explains.
    """
    features, expected = (workloads[side].features() for side in SIDES)
    error = max(
        ((features[name].double() - expected[name].double()).norm() / expected[name].norm()).item()
        for name in expected
    )
    # Refuses NaN, too.
    if not error <= TOLERANCE[case.dtype]:
        raise ParityError(
            f"the features of both sides differ by {error:.1e} ({case.describe()}), which is more "
            f"than {TOLERANCE[case.dtype]:.0e} that rounding in {case.dtype} explains"
        )
    return error


def alternate(
    runs: Mapping[Name, Callable[[], None]],
    repeats: int,
    warmup: int,
    between: Callable[[], None] = lambda: None,
) -> dict[Name, tuple[float, ...]]:
    """Times functions by turns, so that other load on the machine affects all of them alike.

    Their order changes with each repeat.

    Args:
        runs: by name; each returns when its work is done.
        repeats: timed runs of each.
        warmup: untimed runs before them.
        between: runs before each turn.

    Returns:
        Seconds of each repeat, by name.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    for turn in range(-warmup, repeats):
        between()
        for name in list(runs)[:: 1 if turn % 2 == 0 else -1]:
            start = time.perf_counter()
            runs[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: tuple(values) for name, values in seconds.items()}


def count_flops(case: Case) -> float | None:
    """Floating-point operations of the backbone's forward pass; None for a detector.

    A multiplication and an addition are two operations. They are counted as the CPU computes them,
    without padding masks, on tensors without data. Those of a detector depend on its detections.
    """
    if case.detector:
        return None
    if case.task == "detection":
        plain = Case(size=case.size)
    else:
        baseline = BASELINES[case.task][0]
        plain = replace(case, device="cpu", baseline=baseline, checkpoint=())
    model = build(plain, "candidate").eval()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), fake, FlopCounterMode(display=False) as counter:
        model(torch.empty(case.input_shape))
    return float(counter.get_total_flops())


def predict_peak(known: Sequence[tuple[int, float]], pixels: int) -> float:
    """Predicts the peak memory for an image of so many pixels.

    Features take memory in proportion to the pixels, full maps of global attention in proportion
    to their square. The last two sizes give both factors; fewer predict nothing.

    Args:
        known: pixels and bytes of measurements.
        pixels: of the image in question.
    """
    if len(known) < 2:
        return 0.0
    sizes, peaks = np.array(known[-2:], dtype=np.float64).T
    linear, square = np.linalg.solve(np.stack([sizes, sizes**2], axis=1), peaks)
    if square < 0:
        # Constant memory, such as gradients, weighs most in small images.
        return peaks[-1] / sizes[-1] * pixels
    return max(linear, 0.0) * pixels + square * pixels**2


def _measure_memory(case: Case, name: str, skipped: Skipped) -> Row:
    """The peak memory of a pass; adds to `skipped` where it does not fit."""
    values: dict[str, tuple[float, ...]] = {}
    for side in SIDES:
        if (name, side) in skipped:
            continue
        try:
            values[side] = (measure_peak(case, side, name),)
        except DoesNotFitError as error:
            skipped[name, side] = str(error)
    reasons = _reasons(name, skipped)
    return Row(f"{NAMES[name]}, peak memory", name, case, "bytes", values, reasons)


def _measure_time(case: Case, skipped: Skipped) -> list[Row]:
    sides = [side for side in SIDES if any((name, side) not in skipped for name in case.passes)]
    with contextlib.ExitStack() as stack:
        workloads: dict[str, Workload | RemoteWorkload] = {}
        for side in sides:
            if case.detector and case.device == "cpu":
                remote = workloads[side] = RemoteWorkload(case, side)
                stack.callback(remote.close)
            else:
                workloads[side] = Workload(case, side)
        rows = _time_workloads(case, skipped, workloads)
    del workloads
    gc.collect()
    if case.device == "cuda":
        # For the processes that measure the memory of the next case.
        torch.cuda.empty_cache()
    return rows


def _time_workloads(
    case: Case, skipped: Skipped, workloads: Mapping[str, Workload | RemoteWorkload]
) -> list[Row]:
    # Masked padding changes features by design.
    comparable = len(workloads) == len(SIDES) and not case.mask_padding
    error = check_parity(case, workloads) if comparable else None
    flops = count_flops(case)
    rows = []
    for name in case.passes:
        runs = {
            side: partial(workload.run, name)
            for side, workload in workloads.items()
            if (name, side) not in skipped
        }
        rates: list[float] = []
        measure_rate = partial(_append_matmul_rate, rates, case)
        seconds = alternate(runs, case.repeats, case.warmup, measure_rate) if runs else {}
        for workload in workloads.values():
            workload.release()
        rate = median(rates[case.warmup :]) if runs else None
        reasons = _reasons(name, skipped)
        rows.append(Row(NAMES[name], name, case, "s", seconds, reasons, flops, rate, error))
    return rows


def _append_matmul_rate(rates: list[float], case: Case) -> None:
    """Measures a square product: operations per second, the best of three tries."""
    side = MATMUL_SIDE[case.device]
    left, right = torch.randn(2, side, side, device=case.device, dtype=DTYPES[case.dtype])
    output = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=output)
        if case.device == "cuda":
            torch.cuda.synchronize()

    rates.append(2 * side**3 / min(alternate({"": multiply}, repeats=3, warmup=0)[""]))


def _reasons(name: str, skipped: Skipped) -> dict[str, str]:
    return {side: skipped[name, side] for side in SIDES if (name, side) in skipped}
