"""One line of a result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from .case import Case

UNITS = ("s", "bytes", "ratio")


@dataclass(frozen=True)
class Row:
    """What was measured on both sides.

    Attributes:
        name: of what was measured, in words.
        pass_name: one of `PASSES`.
        detail: the settings, in words.
        case: the settings.
        unit: "s", "bytes" or "ratio".
        values: measurements of each side, those of all repeats; a side that was skipped has none.
        skipped: why, by side.
        flops: floating-point operations of the backbone's forward pass; None where not counted.
        matmul_rate: median rate of square matrix products between the repeats, operations per
            second.
        floor: `flops` at that rate in seconds, three times as much for a training step.
        error: relative error of the candidate's features, the largest of all stages; None where
            not compared.
    """

    name: str
    pass_name: str
    detail: str
    case: Case
    unit: str
    values: Mapping[str, tuple[float, ...]]
    skipped: Mapping[str, str] = field(default_factory=dict)
    flops: float | None = None
    matmul_rate: float | None = None
    floor: float | None = None
    error: float | None = None

    def median(self, side: str) -> float | None:
        """Of the repeats of a side; None if it was skipped."""
        values = self.values.get(side)
        return median(values) if values else None

    @property
    def ratio(self) -> float | None:
        """Candidate over baseline: below 1 the candidate is faster, or smaller."""
        candidate, baseline = self.median("candidate"), self.median("baseline")
        return None if candidate is None or baseline is None else candidate / baseline

    @property
    def over_floor(self) -> float | None:
        """The candidate's time over the floor."""
        candidate = self.median("candidate")
        return None if candidate is None or self.floor is None else candidate / self.floor
