"""Results as tables to read and as JSON to keep."""

import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

import detectron2
import psutil
import torch
import torchvision
from tabulate import tabulate

import mvit_det

from .case import SIDES
from .row import Row

MODULES = (torch, torchvision, detectron2, mvit_det)
HEADERS = {
    "detectron2": ("mvit_det", "detectron2", "mvit_det over detectron2"),
    "mvit_det": ("with", "without", "with over without"),
}


def format_rows(rows: Iterable[Row]) -> str:
    """One table for each thing that is compared with, and what was skipped, and why.

    Cells show the median and, in brackets, the least and the most of all repeats.
    """
    tables = []
    notes = []
    for baseline, group in groupby(
        sorted(rows, key=lambda row: row.case.baseline), lambda row: row.case.baseline
    ):
        lines = []
        for row in group:
            lines.append(
                [
                    row.name,
                    row.detail,
                    *(_format_side(row, side) for side in SIDES),
                    _format_ratio(row),
                    "" if row.over_floor is None else f"{row.over_floor:.2f}×",
                    "" if row.error is None else f"{row.error:.0e}",
                ]
            )
            names = dict(zip(SIDES, HEADERS[baseline]))
            notes += [
                f"Skipped: {row.name}, {row.detail}, {names[side]}: {reason}."
                for side, reason in row.skipped.items()
            ]
        header = ["what", "of", *HEADERS[baseline], "over the floor", "features' error"]
        tables.append(tabulate(lines, header, tablefmt="github", disable_numparse=True))
    return "\n\n".join([*tables, *(["\n".join(notes)] if notes else [])])


def _format_side(row: Row, side: str) -> str:
    middle = row.median(side)
    if middle is None:
        return "skipped"
    if row.unit == "bytes":
        return f"{middle / 2**20:.0f} MiB"
    if row.unit == "ratio":
        return f"{middle:.2f}×"
    # Three digits are more than the spread is worth.
    factor, unit = (1, "s") if middle >= 1 else (1e3, "ms")
    least, most = min(row.values[side]), max(row.values[side])
    digits = [
        f"{value * factor:.3g}" if value * factor < 1000 else f"{value * factor:.0f}"
        for value in (middle, least, most)
    ]
    text = f"{digits[0]} {unit} ({digits[1]}–{digits[2]})"
    if row.case.detector:
        text += f", {images_per_second(row, side):.3g} images/s"
    return text


def _format_ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    if row.unit == "s" and row.case.baseline == "detectron2":
        return f"{1 / row.ratio:.2f}× as fast"
    words = {"s": " the time", "bytes": " the memory", "ratio": ""}
    return f"{row.ratio:.2f}×{words[row.unit]}"


def images_per_second(row: Row, side: str) -> float | None:
    """Images of the batch over the median time; None where there is no time."""
    middle = row.median(side)
    return row.case.batch / middle if row.unit == "s" and middle else None


def as_json(rows: Sequence[Row], command: Sequence[str]) -> dict[str, Any]:
    """Results with all repeats, and the machine and versions that gave them."""
    return {**provenance(command), "rows": [_row_as_json(row) for row in rows]}


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """Where figures come from: when, by which command and commit, on which machine and versions."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": list(command),
        "commit": _commit(),
        "machine": _machine(),
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in MODULES},
        },
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    sides = {
        side: {
            "median": row.median(side),
            "min": min(values),
            "max": max(values),
            "values": list(values),
            "images_per_second": images_per_second(row, side),
        }
        for side, values in row.values.items()
    }
    return {
        "name": row.name,
        "pass": row.pass_name,
        "unit": row.unit,
        "case": asdict(row.case),
        "candidate": sides.get("candidate"),
        "baseline": sides.get("baseline"),
        "candidate_over_baseline": row.ratio,
        "skipped": dict(row.skipped),
        "forward_flops": row.flops,
        "matmul_flops_per_second": row.matmul_rate,
        "floor": row.floor,
        "candidate_over_floor": row.over_floor,
        "relative_error": row.error,
    }


def _machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_model(),
        "cores": len(psutil.Process().cpu_affinity())
        if sys.platform == "linux"
        else psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": gpu and gpu.name,
        "gpu_memory_bytes": gpu and gpu.total_memory,
        "cuda": torch.version.cuda if gpu else None,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout, with "-dirty" if files differ from it; None outside of one."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
