"""One run of everything that needs a GPU: tests, kernels, recipes and the benchmark.

Each step is a command in a process of its own, so that a failure, a lack of memory or a hang of one
leaves the others alone. A step gets the time that is left, up to its limit.
"""

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.folders import write_text
from .report import format_table, provenance

# Seconds for everything on a GPU; a rehearsal on the CPU may take longer.
TIME_LIMIT = 590
REHEARSAL_LIMIT = 3600
# Environment variable that the tests in tests/gpu read their device from.
DEVICE_VARIABLE = "MVIT_DET_GPU_TESTS_DEVICE"
TOOL = "tools/benchmark.py"
RECIPES = "configs/COCO/recipes"
# By the tag of a test's result in pytest's XML.
OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}


@dataclass(frozen=True)
class Step:
    """One part of the run.

    Attributes:
        name: also of its folder of results.
        title: over its table.
        arguments: of Python, relative to the checkout; the path of the folder is appended.
        limit: seconds that it may take.
    """

    name: str
    title: str
    arguments: Sequence[str]
    limit: float


@dataclass(frozen=True)
class Outcome:
    """Result of a step.

    Attributes:
        step: as planned.
        status: "passed", "failed", "timed out" or "skipped" for lack of time.
        seconds: that it took.
        tables: in Markdown.
        results: as JSON holds them.
        output: last lines that it printed.
    """

    step: Step
    status: str
    seconds: float = 0.0
    tables: str = ""
    results: Any = None
    output: str = field(default="", repr=False)


def plan(device: str, root: Path) -> list[Step]:
    """The steps; on the CPU at tiny sizes, a rehearsal of the same code.

    Args:
        device: "cuda" or "cpu".
        root: of the checkout.
    """
    on_gpu = device == "cuda"
    tool = [TOOL, "--device", device]
    tiny = [] if on_gpu else ["--size", "pico", "--image-size", "64", "96", "--repeats", "1"]
    passes = [] if on_gpu else ["--what", "forward,train"]
    recipes = (
        sorted(str(path.relative_to(root)) for path in (root / RECIPES).glob("*.py"))
        if on_gpu
        else ["configs/shapes/mask_rcnn_mvitv2_pico.py", "--image-size", "96", "128"]
    )
    kernels = [*tool, "--attention", *(["--dtype", "bf16"] if on_gpu else []), *tiny]
    limits = (150, 80, 150, 180, 240) if on_gpu else 5 * (REHEARSAL_LIMIT / 5,)
    pytest = ["-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider"]
    quick_start = "tests/gpu/test_quick_start.py"
    return [
        Step("tests", "Tests", [*pytest, "tests/gpu", f"--ignore={quick_start}"], limits[0]),
        Step("attention", "Attention kernels", [*kernels, "--output"], limits[1]),
        Step("benchmark", "Speed and memory", [*tool, *tiny, *passes, "--output"], limits[2]),
        Step("recipes", "Recipes", [*tool, "--recipes", *recipes, "--output"], limits[3]),
        Step("quick_start", "Quick start", [*pytest, quick_start], limits[4]),
    ]


def run(
    steps: Iterable[Step],
    root: Path,
    folder: Path,
    device: str,
    announce: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """Runs the steps one after the other and writes `gpu.json` and `gpu.md`.

    Args:
        steps: as planned.
        root: of the checkout, with `tests` and `tools`.
        folder: for the files; each step gets a folder inside.
        device: "cuda" or "cpu", for the tests.
        announce: receives a line for each step.
    """
    folder = folder.resolve()
    end = time.monotonic() + (TIME_LIMIT if device == "cuda" else REHEARSAL_LIMIT)
    outcomes: list[Outcome] = []
    for step in steps:
        announce(f"{step.title} …")
        limit = min(step.limit, end - time.monotonic())
        outcome = _run_step(step, root, folder / step.name, device, limit)
        announce(f"{step.title}: {outcome.status} after {outcome.seconds:.0f} s")
        outcomes.append(outcome)
        # After each step: a run that is stopped leaves what it had.
        _write(outcomes, folder)
    return outcomes


def _run_step(step: Step, root: Path, folder: Path, device: str, limit: float) -> Outcome:
    if limit < 1:
        return Outcome(step, "skipped")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    is_test = "pytest" in step.arguments
    report = folder / "junit.xml"
    target = (
        [f"--junitxml={report}", f"--basetemp={folder}-temporary"] if is_test else [str(folder)]
    )
    start = time.monotonic()
    with (folder / "output.txt").open("w", encoding="utf-8") as printed:
        process = subprocess.Popen(
            [sys.executable, *step.arguments, *target],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), DEVICE_VARIABLE: device},
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = "failed" if process.wait(limit) else "passed"
        except subprocess.TimeoutExpired:
            status = "timed out"
            # The processes that it has started, too.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.monotonic() - start
    tables, results = _read_tests(report) if is_test else _read_tables(folder)
    lines = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    return Outcome(step, status, seconds, tables, results, "\n".join(lines[-40:]))


def _read_tests(report: Path) -> tuple[str, Any]:
    """A table of tests, and their records."""
    if not report.exists():
        return "", None
    tests = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        problem = next((found for found in case if found.tag in OUTCOMES), None)
        message = "" if problem is None else problem.get("message") or ""
        tests.append(
            {
                "test": f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}",
                "outcome": "passed" if problem is None else OUTCOMES[problem.tag],
                "time": f"{float(case.get('time') or 0):.1f} s",
                "reason": message.partition("\n")[0],
            }
        )
    header = ("test", "outcome", "time", "reason")
    return format_table(header, [list(test.values()) for test in tests]), tests


def _read_tables(folder: Path) -> tuple[str, Any]:
    """The tables and figures that a step of the benchmark has written."""
    tables = "\n\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.md"))
    results = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return tables.strip(), results[0] if results else None


def _write(outcomes: Sequence[Outcome], folder: Path) -> None:
    content: dict[str, Any] = provenance(sys.argv)
    content["steps"] = {
        outcome.step.name: {
            "command": ["python", *outcome.step.arguments],
            "status": outcome.status,
            "seconds": outcome.seconds,
            "results": outcome.results,
            "output": outcome.output,
        }
        for outcome in outcomes
    }
    write_text(folder / "gpu.json", json.dumps(content, indent=2) + "\n")
    machine, versions = content["machine"], content["versions"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    paragraphs = [
        f"# {where}, PyTorch {versions['torch']}, CUDA {machine['cuda']}, {content['date']}"
    ]
    for outcome in outcomes:
        paragraphs.append(
            f"## {outcome.step.title}: {outcome.status} after {outcome.seconds:.0f} s"
        )
        paragraphs.append(outcome.tables)
        if outcome.status in ("failed", "timed out"):
            paragraphs.append(f"```text\n{outcome.output}\n```")
    write_text(folder / "gpu.md", "\n\n".join(filter(None, paragraphs)) + "\n")
