"""Say what is installed, what is wrong with it, and how to put it right.

Each component is imported in a process of its own, so that one that is missing, broken or even
crashes leaves the rest of the report intact. The exit code is 0 only if training can run: warnings
(no CUDA device, no compiled operators of Detectron2) do not count, issues do.

Usage::

    python tools/check_install.py
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

OLDEST_PYTHON = (3, 10)
PROBE_SECONDS = 300
RESULT_MARK = "check_install result: "
REPOSITORY = Path(__file__).resolve().parents[1]

INSTALL_TORCH = "python -m pip install torch torchvision"
REINSTALL_TORCH = "python -m pip install --force-reinstall torch torchvision"
INSTALL_DETECTRON2 = "python tools/install_detectron2.py"
INSTALL_PROJECT = f"python -m pip install -e {REPOSITORY}"


@dataclass
class Finding:
    """One row of the table: a component, and what to do where something is wrong with it.

    Attributes:
        component: name shown in the first column.
        status: "ok", "warning" (training can run all the same) or "problem" (it cannot).
        version: version, or "-" where unknown.
        detail: what was found.
        remedy: one sentence saying what to do; empty where nothing is wrong.
    """

    component: str
    status: str
    version: str
    detail: str
    remedy: str = ""


@dataclass
class Probe:
    """What a child process found out about one component.

    Attributes:
        facts: what the probe function returned; empty if it failed.
        error: the failure, as "ErrorType: text"; empty if there was none.
        missing: the top-level module whose absence made the import fail; empty if none.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    missing: str = ""


# ------------------------------------------------------------------ run in a process of their own


def probe_torch() -> dict[str, Any]:
    """Import torch, do a sum, and use every CUDA device it offers."""
    import torch

    assert torch.ones(2).sum().item() == 2.0
    facts: dict[str, Any] = {"version": torch.__version__, "cuda_build": torch.version.cuda}
    facts["devices"] = []
    facts["cuda_error"] = ""
    try:
        for index in range(torch.cuda.device_count()):
            torch.ones(2, device=f"cuda:{index}").sum().item()
            facts["devices"].append(torch.cuda.get_device_name(index))
    except Exception as error:  # whatever a driver or a build for other devices comes up with
        facts["cuda_error"] = first_line(error)
    return facts


def probe_torchvision() -> dict[str, Any]:
    """Import torchvision and run its compiled operators where training will run them."""
    import torch
    import torchvision

    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9]], device=device)
        kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8], device=device), 0.5)
        assert kept.tolist() == [0]
        features = torch.ones(1, 1, 4, 4, device=device)
        torchvision.ops.roi_align(features, [boxes], output_size=2)
    return {"version": torchvision.__version__}


def probe_detectron2() -> dict[str, Any]:
    """Import the parts of Detectron2 that training uses, and look for its compiled operators."""
    import detectron2
    import detectron2.engine
    import detectron2.evaluation
    import detectron2.modeling

    facts = {"version": detectron2.__version__, "folder": str(Path(detectron2.__file__).parent)}
    facts["compiled"] = "yes"
    try:
        importlib.import_module("detectron2._C")
    except ModuleNotFoundError:
        facts["compiled"] = "no"
    except ImportError as error:
        facts["compiled"] = first_line(error)
    return facts


def probe_pillow() -> dict[str, Any]:
    """Import Pillow with its compiled part."""
    import PIL
    from PIL import Image

    assert Image.new("RGB", (2, 2)).resize((4, 4)).size == (4, 4)
    return {"version": PIL.__version__}


def probe_opencv() -> dict[str, Any]:
    """Import OpenCV, which fails where a system library of its windows is missing."""
    import cv2

    return {"version": cv2.__version__}


def probe_pycocotools() -> dict[str, Any]:
    """Use the compiled part of pycocotools, which fails beside another numpy than its own."""
    import pycocotools.mask

    encoded = pycocotools.mask.frPyObjects([[0, 0, 4, 0, 4, 4, 0, 4]], 8, 8)
    assert pycocotools.mask.area(encoded).tolist() == [16]
    return {"version": importlib.metadata.version("pycocotools")}


def probe_faster_coco_eval() -> dict[str, Any]:
    """Import the COCO evaluation with its compiled part."""
    import faster_coco_eval

    assert faster_coco_eval.COCOeval_faster is not None
    return {"version": faster_coco_eval.__version__}


def probe_mvit_det() -> dict[str, Any]:
    """Import this project the way its tools do: installed, not from the current folder."""
    import mvit_det

    try:
        version = importlib.metadata.version("mvit_det")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    return {"version": version, "folder": str(Path(mvit_det.__file__).parent)}


# Import name of each component → (name in the table, probe).
PROBES: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "torch": ("torch", probe_torch),
    "torchvision": ("torchvision", probe_torchvision),
    "detectron2": ("detectron2", probe_detectron2),
    "PIL": ("Pillow", probe_pillow),
    "cv2": ("OpenCV", probe_opencv),
    "pycocotools": ("pycocotools", probe_pycocotools),
    "faster_coco_eval": ("faster-coco-eval", probe_faster_coco_eval),
    "mvit_det": ("mvit_det", probe_mvit_det),
}

# The names under which a component may be installed, to tell its version when it does not import.
DISTRIBUTIONS = {
    "PIL": ["pillow"],
    "cv2": [
        "opencv-python-headless",
        "opencv-python",
        "opencv-contrib-python-headless",
        "opencv-contrib-python",
    ],
    "faster_coco_eval": ["faster-coco-eval"],
}


# What has to work first: where it does not, the component fails too, for no fault of its own.
NEEDS = {
    "torchvision": ["torch", "PIL"],
    "detectron2": ["torch", "torchvision", "PIL", "pycocotools"],
    "mvit_det": [module for module in PROBES if module != "mvit_det"],
}


def first_line(error: BaseException) -> str:
    """The first line of an error's text, which is the part that tells."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def answer_probe(module: str) -> None:
    """In the child process: probe one component and print the result as JSON."""
    result: dict[str, Any] = {}
    try:
        result["facts"] = PROBES[module][1]()
    except BaseException as error:  # a broken installation may raise anything, SystemExit included
        result["error"] = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, ModuleNotFoundError) and error.name:
            result["missing"] = error.name.split(".")[0]
    print(RESULT_MARK + json.dumps(result), flush=True)


def ask_probe(module: str) -> Probe:
    """In the main process: run the probe of one component in a child process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--probe", module]
    try:
        child = subprocess.run(
            command,
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return Probe(error=f"importing it took more than {PROBE_SECONDS} seconds")
    for line in child.stdout.splitlines():
        if line.startswith(RESULT_MARK):
            return Probe(**json.loads(line[len(RESULT_MARK) :]))
    last_words = child.stderr.strip().splitlines()[-1:] or ["no message"]
    return Probe(error=f"importing it ended Python (exit code {child.returncode}): {last_words[0]}")


# -------------------------------------------------------------------------- from probes to issues


def installed_version(module: str) -> str:
    """Version in the metadata of a component that could not be imported, "-" if there is none."""
    for name in DISTRIBUTIONS.get(module, [module]):
        try:
            return importlib.metadata.version(name) or "-"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "-"


def check_python() -> Finding:
    """Python itself."""
    version = ".".join(str(number) for number in sys.version_info[:3])
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(str(number) for number in OLDEST_PYTHON)
        remedy = f"make a new environment with Python {oldest} or newer."
        return Finding("Python", "problem", version, sys.executable, remedy)
    return Finding("Python", "ok", version, sys.executable)


def check_cuda(torch: Probe) -> Finding:
    """CUDA as torch sees it: good to have, but the CPU will do for small models."""
    if torch.error:
        return Finding("CUDA", "warning", "-", "unknown, as torch does not import")
    build = torch.facts["cuda_build"] or "-"
    devices = torch.facts["devices"]
    if torch.facts["cuda_error"]:
        remedy = (
            "install builds of torch and torchvision that fit this device and its driver "
            "(see pytorch.org), or train on the CPU with --device cpu."
        )
        detail = f"a device is there but fails: {torch.facts['cuda_error']}"
        return Finding("CUDA", "problem", build, detail, remedy)
    if devices:
        return Finding("CUDA", "ok", build, f"{len(devices)} × {devices[0]}")
    remedy = "training runs on the CPU, which is enough for configs/shapes only; "
    if build == "-":
        remedy += "for a GPU, install CUDA builds of torch and torchvision (see pytorch.org)."
    else:
        remedy += "for a GPU, check that 'nvidia-smi' lists it and its driver is recent enough."
    return Finding("CUDA", "warning", build, "no device", remedy)


def check_detectron2(probe: Probe) -> Finding:
    """A Detectron2 that imports, with or without compiled operators."""
    version, folder = probe.facts["version"], probe.facts["folder"]
    compiled = probe.facts["compiled"]
    if compiled == "yes":
        return Finding("detectron2", "ok", version, f"{folder}, with compiled operators")
    if compiled == "no":
        detail = f"{folder}, no compiled operators (detectron2._C)"
        remedy = (
            "rotated boxes and deformable convolution are missing (this project uses neither); "
            "to have them, build Detectron2 from source following its INSTALL page."
        )
        return Finding("detectron2", "warning", version, detail, remedy)
    detail = f"{folder}, compiled operators (detectron2._C) do not load: {compiled}"
    remedy = "install a Detectron2 that was built for the torch that is installed."
    return Finding("detectron2", "warning", version, detail, remedy)


def check_mvit_det(probe: Probe) -> Finding:
    """An mvit_det that imports, installed or by way of PYTHONPATH."""
    version, folder = probe.facts["version"], probe.facts["folder"]
    if version == "not installed":
        remedy = f"it is found through PYTHONPATH only; to install it: {INSTALL_PROJECT}"
        return Finding("mvit_det", "warning", "-", folder, remedy)
    return Finding("mvit_det", "ok", version, folder)


def remedy_for(module: str, probe: Probe) -> str:
    """What to do about a component that is missing or does not import."""
    absent = probe.missing == module
    if module == "torch":
        return INSTALL_TORCH if absent else REINSTALL_TORCH
    if module == "torchvision":
        if absent:
            return INSTALL_TORCH
        versions = f"torch {installed_version('torch')} and torchvision {installed_version(module)}"
        return f"{versions} do not belong together; reinstall both at once: {REINSTALL_TORCH}"
    if module == "detectron2":
        if absent:
            return INSTALL_DETECTRON2
        if "PIL.Image" in probe.error:
            return f"it is too old for this Pillow: {INSTALL_DETECTRON2} --force"
        return f"{INSTALL_DETECTRON2} --force"
    if module == "cv2" and not absent:
        return (
            "a system library is missing or several OpenCV packages overwrite each other; the "
            "build without windows needs no such library: python -m pip uninstall -y opencv-python "
            "opencv-contrib-python opencv-python-headless && "
            "python -m pip install opencv-python-headless"
        )
    if module == "mvit_det":
        if absent and (REPOSITORY / "mvit_det" / "__init__.py").is_file():
            return f"the checkout is there but not installed: {INSTALL_PROJECT}"
        return INSTALL_PROJECT
    name = {"cv2": "opencv-python-headless"}.get(module, DISTRIBUTIONS.get(module, [module])[0])
    return f"python -m pip install {'' if absent else '--force-reinstall '}{name}"


def check_component(module: str, probes: dict[str, Probe]) -> Finding:
    """Turn the probe of one component into its row."""
    component, probe = PROBES[module][0], probes[module]
    if not probe.error:
        if module == "detectron2":
            return check_detectron2(probe)
        if module == "mvit_det":
            return check_mvit_det(probe)
        detail = {"torchvision": "its operators load and run"}.get(module, "")
        return Finding(component, "ok", probe.facts["version"], detail)
    if probe.missing == module:
        return Finding(component, "problem", "-", "not there", remedy_for(module, probe))
    version = installed_version(module)
    failed_needs = [PROBES[need][0] for need in NEEDS.get(module, []) if probes[need].error]
    if failed_needs:
        detail = f"not checked, as it needs {', '.join(failed_needs)}"
        return Finding(component, "problem", version, detail)
    return Finding(component, "problem", version, probe.error, remedy_for(module, probe))


def check_all() -> list[Finding]:
    """Check every component; the probes run side by side."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        probes = dict(zip(PROBES, pool.map(ask_probe, PROBES)))
    issues = [check_python()]
    for module in PROBES:
        issues.append(check_component(module, probes))
        if module == "torchvision":
            issues.append(check_cuda(probes["torch"]))
    return issues


# ------------------------------------------------------------------------------------------- report


def format_report(issues: list[Finding]) -> str:
    """The table, then one line per problem or warning, then the verdict."""
    columns = (
        max(len(finding.component) for finding in issues),
        max(len(finding.status) for finding in issues),
        max(len(finding.version) for finding in issues),
    )
    lines = []
    for finding in issues:
        cells = (finding.component, finding.status, finding.version)
        padded = [cell.ljust(width) for cell, width in zip(cells, columns)]
        lines.append("  ".join([*padded, finding.detail]).rstrip())
    remarks = [finding for finding in issues if finding.remedy]
    if remarks:
        lines.append("")
        lines += [f"{finding.status}: {finding.component}: {finding.remedy}" for finding in remarks]
    broken = [finding.component for finding in issues if finding.status == "problem"]
    verdict = f"cannot run, because of: {', '.join(broken)}." if broken else "can run."
    return "\n".join([*lines, "", f"Training {verdict}"])


def main() -> int:
    """Print the report; the exit code is 0 only if training can run."""
    parser = argparse.ArgumentParser(description="Check what is installed, and say what is wrong.")
    parser.add_argument("--probe", choices=PROBES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        answer_probe(arguments.probe)
        return 0
    issues = check_all()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    print(format_report(issues))
    return 1 if any(finding.status == "problem" for finding in issues) else 0


if __name__ == "__main__":
    sys.exit(main())
