"""Measures both sides of a case."""

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from statistics import median

import torch

from ..errors import MViTDetError
from .case import PASSES, SIDES, Case
from .memory import DoesNotFitError, measure_peak
from .row import Row
from .timing import alternate, count_flops, floor_seconds
from .workload import Workload

# Largest relative error of features. Tests hold the model to less in fp32. This is only to make
# sure that both sides compute the same, each with its own rounding.
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-1, "fp16": 2e-2}
NAMES = {"forward": "forward", "train": "training step"}


class ParityError(MViTDetError):
    """Both sides do not compute the same."""


def compare(
    case: Case,
    what: Sequence[str],
    repeats: int,
    warmup: int = 1,
    skip: Mapping[tuple[str, str], str] | None = None,
) -> list[Row]:
    """Measures a case.

    Memory comes first: a pass that does not fit into it is not timed.

    Args:
        case: what to measure.
        what: of `WHAT`. "memory" is the peak memory of the passes named beside it, or of the
            training step if there is none.
        repeats: times that each pass is timed.
        warmup: times that each pass runs before that.
        skip: why not to run a pass on a side, by pass and side.

    Raises:
        ParityError: the features of both sides differ by more than rounding.
    """
    skipped = dict(skip or {})
    passes = [name for name in PASSES if name in what]
    rows = []
    if "memory" in what:
        rows = [_measure_memory(case, name, skipped) for name in passes or ["train"]]
    if passes:
        rows += _measure_time(case, passes, repeats, warmup, skipped)
    return rows


def _measure_memory(case: Case, name: str, skipped: dict[tuple[str, str], str]) -> Row:
    """The peak memory of a pass; adds to `skipped` what does not fit."""
    values: dict[str, tuple[float, ...]] = {}
    for side in SIDES:
        if (name, side) in skipped:
            continue
        try:
            values[side] = (measure_peak(case, side, name),)
        except DoesNotFitError as error:
            skipped[name, side] = str(error)
    return Row(
        name=f"{NAMES[name]}, peak memory",
        pass_name=name,
        detail=case.describe(),
        case=case,
        unit="bytes",
        values=values,
        skipped=_reasons(name, skipped),
    )


def _measure_time(
    case: Case,
    passes: Sequence[str],
    repeats: int,
    warmup: int,
    skipped: Mapping[tuple[str, str], str],
) -> list[Row]:
    sides = [side for side in SIDES if any((name, side) not in skipped for name in passes)]
    workloads = {side: Workload(case, side) for side in sides}
    error = None
    if len(sides) == len(SIDES) and case.same_features:
        error = check_parity(case, workloads)
    flops = count_flops(case)
    rows = []
    for name in passes:
        runs = {
            side: partial(workload.run, name)
            for side, workload in workloads.items()
            if (name, side) not in skipped
        }
        timing = alternate(runs, case, repeats, warmup) if runs else None
        for workload in workloads.values():
            workload.model.zero_grad(set_to_none=True)
        rates = timing.matmul_rates if timing else ()
        rows.append(
            Row(
                name=NAMES[name],
                pass_name=name,
                detail=case.describe(),
                case=case,
                unit="s",
                values=timing.seconds if timing else {},
                skipped=_reasons(name, skipped),
                flops=flops,
                matmul_rate=median(rates) if rates else None,
                floor=floor_seconds(flops, name, rates) if rates else None,
                error=error,
            )
        )
    del workloads, runs
    gc.collect()
    if case.device == "cuda":
        # The next case may measure in a process of its own.
        torch.cuda.empty_cache()
    return rows


def check_parity(case: Case, workloads: Mapping[str, Workload]) -> float:
    """Relative error of the candidate's features, the largest of all stages.

    Raises:
        ParityError: it is larger than rounding explains.
    """
    features, expected = (workloads[side].features() for side in SIDES)
    error = max(
        ((features[name].double() - expected[name].double()).norm() / expected[name].norm()).item()
        for name in expected
    )
    # Written so that it refuses NaN, too.
    if not error <= TOLERANCE[case.dtype]:
        raise ParityError(
            f"the features of both sides differ by {error:.1e} ({case.describe()}), which is more "
            f"than {TOLERANCE[case.dtype]:.0e} that rounding in {case.dtype} explains"
        )
    return error


def _reasons(name: str, skipped: Mapping[tuple[str, str], str]) -> dict[str, str]:
    return {side: skipped[name, side] for side in SIDES if (name, side) in skipped}


def time_per_pixel(rows: Iterable[Row]) -> list[Row]:
    """How time grows with the image: per pixel of the largest size over that of the smallest.

    One row for each pass and settings that were timed at several sizes; 1 is linear growth.
    """

    def settings(row: Row) -> str:
        return f"{row.pass_name} {replace(row.case, image_size=(32, 32))}"

    timed = sorted((row for row in rows if row.unit == "s"), key=settings)
    found = []
    for _, group in groupby(timed, settings):
        by_pixels = sorted(group, key=lambda row: row.case.pixels)
        small, large = by_pixels[0], by_pixels[-1]
        values = {}
        for side in SIDES:
            first, last = small.median(side), large.median(side)
            if first is not None and last is not None:
                values[side] = ((last / large.case.pixels) / (first / small.case.pixels),)
        if small.case.pixels < large.case.pixels and values:
            sizes = ["×".join(map(str, row.case.image_size)) for row in (large, small)]
            found.append(
                Row(
                    name=f"{large.name}, time per pixel over that of {sizes[1]}",
                    pass_name=large.pass_name,
                    detail=large.detail,
                    case=large.case,
                    unit="ratio",
                    values=values,
                    skipped={
                        side: "one of the two sizes was skipped"
                        for side in SIDES
                        if side not in values
                    },
                )
            )
    return found
