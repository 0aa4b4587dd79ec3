"""Report what is installed, what is broken, and how to fix it.

Each component is tried in a process of its own, so that a missing, broken or crashing one leaves
the rest of the report intact. The exit code is 0 if training can run; warnings (no CUDA device, no
compiled operators of Detectron2) do not count.

This module runs by itself, so that `tools/check_install.py` works before anything is installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OLDEST_PYTHON = (3, 10)
PROBE_SECONDS = 300
INSTALL_SCRIPT = "python tools/install_detectron2.py"  # of the checkout, without mvit_det
RESULT_MARK = "check_install result: "
REPOSITORY = Path(__file__).resolve().parents[2]
IS_CHECKOUT = (REPOSITORY / "pyproject.toml").is_file()

PIP = "python -m pip install"
INSTALL_MVIT_DET = f"{PIP} -e {REPOSITORY}" if IS_CHECKOUT else f"{PIP} --force-reinstall mvit_det"

EXAMPLES = """\
examples:
  mvit-det doctor
  mvit-det doctor --env > environment.txt
  mvit-det doctor && mvit-det train --help"""


@dataclass
class Result:
    """The result of trying one component, in a child process.

    Attributes:
        detail: what was found.
        warning: what does not work although training can run, and how to fix it; '' if nothing.
        error: why training cannot run, as "ErrorType: text"; '' if it can.
        missing: the top-level module whose absence is the error; '' if none is.
    """

    detail: str = ""
    warning: str = ""
    error: str = ""
    missing: str = ""


@dataclass
class Finding:
    """One row of the report; `status` is "ok", "warning" or "problem"."""

    component: str
    status: str
    version: str
    detail: str
    remedy: str = ""


# ------------------------------------------------------------- probes, each in a child process


def probe_torch() -> Result:
    """Import torch and compute a sum."""
    import torch

    assert torch.ones(2).sum().item() == 2.0
    return Result()


def probe_torchvision() -> Result:
    """Import torchvision and run its compiled operators."""
    import torch
    import torchvision

    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9]], device=device)
        kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8], device=device), 0.5)
        assert kept.tolist() == [0]
        torchvision.ops.roi_align(torch.ones(1, 1, 4, 4, device=device), [boxes], output_size=2)
    return Result("its operators load and run")


def probe_cuda() -> Result:
    """Use every CUDA device."""
    import torch

    names = []
    for index in range(torch.cuda.device_count()):
        torch.ones(2, device=f"cuda:{index}").sum().item()
        names.append(torch.cuda.get_device_name(index))
    if names:
        return Result(f"{len(names)} × {names[0]}")
    remedy = "training runs on the CPU, which is enough for configs/shapes only; for a GPU, "
    if torch.version.cuda:
        remedy += "check that 'nvidia-smi' lists it and that its driver is recent enough"
    else:
        remedy += "install CUDA builds of torch and torchvision (see pytorch.org)"
    return Result(f"no device; torch is built for {torch.version.cuda or 'CPU only'}", remedy)


def probe_detectron2() -> Result:
    """Import what training uses of Detectron2, and look for its compiled operators."""
    import detectron2
    import detectron2.engine
    import detectron2.evaluation
    import detectron2.modeling

    folder = Path(detectron2.__file__).parent
    try:
        importlib.import_module("detectron2._C")
    except ModuleNotFoundError:
        return Result(
            f"{folder}, without compiled operators (detectron2._C)",
            "rotated boxes and deformable convolution are missing (mvit_det uses neither); for "
            "those, build Detectron2 from source following its INSTALL page",
        )
    except ImportError as error:
        return Result(
            f"{folder}, compiled operators (detectron2._C) do not load: {first_line(error)}",
            "install a Detectron2 that was built for the installed torch",
        )
    return Result(f"{folder}, with compiled operators")


def probe_pillow() -> Result:
    """Use the compiled part of Pillow."""
    from PIL import Image

    assert Image.new("RGB", (2, 2)).resize((4, 4)).size == (4, 4)
    return Result()


def probe_opencv() -> Result:
    """Import OpenCV, which fails if a system library of its GUI is missing."""
    import cv2

    return Result(cv2.__version__)


def probe_pycocotools() -> Result:
    """Use the compiled part of pycocotools, which fails with a numpy it was not built for."""
    import pycocotools.mask

    encoded = pycocotools.mask.frPyObjects([[0, 0, 4, 0, 4, 4, 0, 4]], 8, 8)
    assert pycocotools.mask.area(encoded).tolist() == [16]
    return Result()


def probe_faster_coco_eval() -> Result:
    """Import the COCO evaluation with its compiled part."""
    from faster_coco_eval import COCOeval_faster

    assert COCOeval_faster is not None
    return Result()


def probe_mvit_det() -> Result:
    """Import mvit_det as its tools do: installed, not from the current folder."""
    import mvit_det

    folder = str(Path(mvit_det.__file__).parent)
    if installed_version("mvit_det") == "-":
        return Result(folder, f"found through PYTHONPATH only; install it: {INSTALL_MVIT_DET}")
    return Result(folder)


# Name in the report → (module, distributions that may contain it, probe).
COMPONENTS: dict[str, tuple[str, tuple[str, ...], Callable[[], Result]]] = {
    "torch": ("torch", ("torch",), probe_torch),
    "torchvision": ("torchvision", ("torchvision",), probe_torchvision),
    "CUDA": ("torch", (), probe_cuda),
    "detectron2": ("detectron2", ("detectron2",), probe_detectron2),
    "Pillow": ("PIL", ("pillow",), probe_pillow),
    "OpenCV": (
        "cv2",
        tuple(f"opencv-{name}" for name in ("python-headless", "python", "contrib-python"))
        + ("opencv-contrib-python-headless",),
        probe_opencv,
    ),
    "pycocotools": ("pycocotools", ("pycocotools",), probe_pycocotools),
    "faster-coco-eval": ("faster_coco_eval", ("faster-coco-eval",), probe_faster_coco_eval),
    "mvit_det": ("mvit_det", ("mvit_det",), probe_mvit_det),
}

# A component whose needs do not work is not to blame for its own failure.
NEEDS = {
    "torchvision": ["torch", "Pillow"],
    "CUDA": ["torch"],
    "detectron2": ["torch", "torchvision", "Pillow", "pycocotools"],
    "mvit_det": [name for name in COMPONENTS if name not in ("mvit_det", "CUDA")],
}


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def run_probe(name: str) -> None:
    """In the child process: try one component and print the result as JSON."""
    # The folder of this script, where Python looks first, is not among those of an import.
    sys.path[:] = [path for path in sys.path if Path(path) != Path(__file__).resolve().parent]
    try:
        result = COMPONENTS[name][2]()
    except BaseException as error:  # a broken installation may raise anything, even SystemExit
        result = Result(error=f"{type(error).__name__}: {first_line(error)}")
        if isinstance(error, ModuleNotFoundError) and error.name:
            result.missing = error.name.split(".")[0]
    print(RESULT_MARK + json.dumps(vars(result)), flush=True)


def start_probe(name: str) -> Result:
    """In the main process: try one component in a child process."""
    try:
        child = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--probe", name],
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return Result(error=f"importing it took more than {PROBE_SECONDS} seconds")
    for line in child.stdout.splitlines():
        if line.startswith(RESULT_MARK):
            return Result(**json.loads(line[len(RESULT_MARK) :]))
    last_words = (child.stderr.strip().splitlines() or ["no message"])[-1]
    return Result(error=f"importing it crashed Python (exit code {child.returncode}): {last_words}")


# --------------------------------------------------------------------- from results to the report


def installed_version(name: str) -> str:
    """The version of a component according to its metadata; "-" without any."""
    for distribution in COMPONENTS[name][1]:
        try:
            return importlib.metadata.version(distribution) or "-"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "-"


def remedy_for(name: str, result: Result) -> str:
    """How to fix a component that is missing or does not work."""
    module, distributions, _ = COMPONENTS[name]
    absent = result.missing == module
    if name == "CUDA":
        return (
            "install builds of torch and torchvision that fit this device and its driver (see "
            "pytorch.org), or train with --device cpu"
        )
    if name == "mvit_det":
        return INSTALL_MVIT_DET
    if name == "detectron2":
        has_command = installed_version("mvit_det") != "-"
        script = "mvit-det install-detectron2" if has_command else INSTALL_SCRIPT
        return script if absent else f"{script} --force"
    if name in ("torch", "torchvision"):
        if absent:
            return f"{PIP} torch torchvision"
        reinstall = f"{PIP} --force-reinstall torch torchvision"
        versions = [f"{part} {installed_version(part)}" for part in ("torch", "torchvision")]
        mismatch = f"{' and '.join(versions)} do not match; reinstall both at once: "
        return mismatch * (name == "torchvision") + reinstall
    if name == "OpenCV" and not absent:
        return (
            "a system library is missing, or several OpenCV packages overwrite each other; the "
            "build without GUI needs no such library: python -m pip uninstall -y opencv-python "
            f"opencv-contrib-python opencv-python-headless && {PIP} opencv-python-headless"
        )
    return f"{PIP} {'' if absent else '--force-reinstall '}{distributions[0]}"


def assess(name: str, results: dict[str, Result]) -> Finding:
    """Turn the result of one component into its row."""
    result, version = results[name], installed_version(name)
    if not result.error:
        status = "warning" if result.warning else "ok"
        return Finding(name, status, version, result.detail, result.warning)
    failed = [need for need in NEEDS.get(name, []) if results[need].error]
    if result.missing == COMPONENTS[name][0] and name != "CUDA":
        return Finding(name, "problem", "-", "not installed", remedy_for(name, result))
    if failed:
        return Finding(name, "problem", version, f"not checked, as it needs {', '.join(failed)}")
    return Finding(name, "problem", version, result.error, remedy_for(name, result))


def check_all() -> list[Finding]:
    """Check Python and every component; the probes run in parallel."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        results = dict(zip(COMPONENTS, pool.map(start_probe, COMPONENTS)))
    version = ".".join(map(str, sys.version_info[:3]))
    python = Finding("Python", "ok", version, sys.executable)
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        remedy = f"create a new environment with Python {oldest} or newer"
        python = Finding("Python", "problem", version, sys.executable, remedy)
    return [python, *(assess(name, results) for name in COMPONENTS)]


def format_report(findings: list[Finding]) -> str:
    """The table, one line per problem or warning, and the verdict."""
    rows = [(row.component, row.status, row.version) for row in findings]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join([*map(str.ljust, row, widths), finding.detail]).rstrip()
        for row, finding in zip(rows, findings)
    ]
    remarks = [f"{row.status}: {row.component}: {row.remedy}" for row in findings if row.remedy]
    broken = [row.component for row in findings if row.status == "problem"]
    verdict = f"cannot run, because of: {', '.join(broken)}." if broken else "can run."
    return "\n".join([*lines, *([""] if remarks else []), *remarks, "", f"Training {verdict}"])


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Print the report; the exit code is 0 only if training can run."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Check the installation, and say how to fix it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", action="store_true", help="add Detectron2's environment report")
    parser.add_argument("--probe", choices=COMPONENTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.probe:
        run_probe(options.probe)
        return 0
    findings = check_all()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    print(format_report(findings), flush=True)
    if options.env:
        subprocess.run([sys.executable, "-m", "detectron2.utils.collect_env"], check=False)
    return 1 if any(finding.status == "problem" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
