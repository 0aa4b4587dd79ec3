"""Time and memory against the size of the image, as far as memory goes."""

from collections.abc import Iterator, Sequence

import numpy as np

from .case import PASSES, SIDES, Case
from .comparison import compare
from .memory import available_memory
from .row import Row

# Sides of square images, in pixels.
SWEEP_SIDES = (256, 512, 768, 1024, 1536, 2048)
# Above so many pixels one repeat has to do: it takes long enough.
LARGE = 1024**2
# Predictions may be off by this much.
MARGIN = 1.15


def sweep(cases: Sequence[Case], what: Sequence[str], repeats: int, warmup: int) -> Iterator[Row]:
    """Measures a model on growing images; yields rows as they are done.

    Memory is always measured, as it decides what can be run at all: what a pass would need at the
    next size is predicted from the sizes before, and left out if there is not as much.

    Args:
        cases: the same but for the size of the image, in rising order.
        what: of `WHAT`.
        repeats: times that each pass is timed, on images of up to `LARGE` pixels.
        warmup: times that each pass runs before that.
    """
    passes = [name for name in PASSES if name in what] or ["train"]
    # Pixels and bytes of what was measured, by pass and side.
    peaks: dict[tuple[str, str], list[tuple[int, float]]] = {
        (name, side): [] for name in passes for side in SIDES
    }
    for case in cases:
        available = available_memory(case.device)
        skip = {}
        for key, known in peaks.items():
            needed = MARGIN * predict_peak(known, case.pixels)
            if needed > available:
                skip[key] = (
                    f"it would need about {needed / 2**30:.0f} GiB of memory, "
                    f"and {available / 2**30:.0f} GiB are free"
                )
        is_large = case.pixels > LARGE
        rows = compare(
            case,
            [*(name for name in what if name != "memory"), "memory"],
            repeats=1 if is_large else repeats,
            warmup=0 if is_large else warmup,
            skip=skip,
        )
        for row in rows:
            if row.unit == "bytes":
                for side, values in row.values.items():
                    peaks[row.pass_name, side].append((case.pixels, values[0]))
            yield row


def predict_peak(known: Sequence[tuple[int, float]], pixels: int) -> float:
    """Predicts peak memory of an image of so many pixels.

    Features take memory in proportion to the pixels, full maps of global attention in proportion
    to their square. The last two sizes tell how much of either; from fewer nothing is predicted.

    Args:
        known: pixels and bytes that were measured.
        pixels: of the image in question.
    """
    if len(known) < 2:
        return 0.0
    sizes, peaks = np.array(known[-2:], dtype=np.float64).T
    linear, square = np.linalg.solve(np.stack([sizes, sizes**2], axis=1), peaks)
    if square < 0:
        # What comes once, such as gradients, weighs most in small images.
        return peaks[-1] / sizes[-1] * pixels
    return max(linear, 0.0) * pixels + square * pixels**2
