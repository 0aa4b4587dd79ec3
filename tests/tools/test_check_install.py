"""The report in complete, empty and broken environments."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "tools" / "check_install.py"


class Report:
    """The output: rows and remarks by component, verdict and exit code."""

    def __init__(self, python: str | Path, *import_path: Path) -> None:
        folders = [str(folder) for folder in import_path]
        if os.environ.get("PYTHONPATH"):
            folders.append(os.environ["PYTHONPATH"])
        result = subprocess.run(
            [str(python), str(SCRIPT)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.exit_code = result.returncode
        self.errors = result.stderr
        table, *remarks, verdict = result.stdout.strip().split("\n\n")
        self.rows = {line.split()[0]: line.split(maxsplit=3) for line in table.splitlines()}
        self.remarks = remarks[0].splitlines() if remarks else []
        self.verdict = verdict

    def status(self, component: str) -> str:
        return self.rows[component][1]

    def detail(self, component: str) -> str:
        return self.rows[component][3]

    def remark(self, component: str) -> str:
        (line,) = [line for line in self.remarks if line.split(": ")[1] == component]
        return line


@pytest.fixture(scope="module")
def doctor() -> ModuleType:
    """The script as a module, to simulate hardware and builds."""
    return import_script("doctor", REPOSITORY / "mvit_det" / "cli" / "doctor.py")


def import_script(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the module they are defined in
    spec.loader.exec_module(module)
    return module


def write_package(folder: Path, name: str, code: str) -> Path:
    """A package that hides the real one."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    return folder


@pytest.mark.slow
def test_whole_environment_passes() -> None:
    report = Report(sys.executable, REPOSITORY)
    assert report.errors == ""
    assert list(report.rows) == [
        "Python",
        "torch",
        "torchvision",
        "CUDA",
        "detectron2",
        "Pillow",
        "OpenCV",
        "pycocotools",
        "faster-coco-eval",
        "mvit_det",
    ]
    assert [name for name in report.rows if report.status(name) == "problem"] == []
    assert report.detail("torchvision") == "its operators load and run"
    assert report.verdict == "Training can run."
    assert report.exit_code == 0


def test_bare_python_names_everything_that_is_missing(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    report = Report(tmp_path / "bare" / "bin" / "python")
    assert report.exit_code == 1
    assert report.errors == ""
    assert report.status("Python") == "ok"
    assert report.detail("torch") == "not installed"
    assert report.detail("torchvision") == "not checked, as it needs torch, Pillow"
    assert report.remark("torch") == "problem: torch: python -m pip install torch torchvision"
    assert report.remark("detectron2") == (
        "problem: detectron2: python tools/install_detectron2.py"
    )
    assert report.remark("OpenCV") == (
        "problem: OpenCV: python -m pip install opencv-python-headless"
    )
    assert report.remark("mvit_det").endswith(f": python -m pip install -e {REPOSITORY}")
    assert report.verdict == (
        "Training cannot run, because of: torch, torchvision, CUDA, detectron2, Pillow, OpenCV, "
        "pycocotools, faster-coco-eval, mvit_det."
    )


@pytest.mark.slow
def test_torch_and_torchvision_that_do_not_match(tmp_path: Path) -> None:
    code = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
    report = Report(sys.executable, write_package(tmp_path, "torchvision", code), REPOSITORY)
    assert report.exit_code == 1
    assert report.status("torch") == "ok"
    assert report.detail("torchvision") == (
        "RuntimeError: operator torchvision::nms does not exist"
    )
    remark = report.remark("torchvision")
    assert remark.startswith("problem: torchvision: torch ")
    assert "do not match" in remark
    assert remark.endswith("python -m pip install --force-reinstall torch torchvision")
    # Components that fail only because of it get no remedy.
    assert [line for line in report.remarks if line.startswith("problem: detectron2")] == []


@pytest.mark.slow
def test_one_run_survives_every_kind_of_breakage(tmp_path: Path) -> None:
    missing_library = "libGL.so.1: cannot open shared object file: No such file or directory"
    write_package(tmp_path, "cv2", f'raise ImportError("{missing_library}")\n')
    write_package(tmp_path, "pycocotools", "import os\nos.abort()\n")
    write_package(tmp_path, "faster_coco_eval", "raise SystemExit(0)\n")
    write_package(tmp_path, "PIL", "def broken(:\n")
    old = "raise AttributeError(\"module 'PIL.Image' has no attribute 'LINEAR'\")\n"
    write_package(tmp_path, "detectron2", old)
    report = Report(sys.executable, tmp_path)
    assert report.exit_code == 1
    assert report.errors == ""
    assert report.status("torch") == "ok"
    assert report.detail("OpenCV") == f"ImportError: {missing_library}"
    assert report.remark("OpenCV").endswith("python -m pip install opencv-python-headless")
    assert report.detail("pycocotools").startswith("importing it crashed Python (exit code -6)")
    assert report.detail("faster-coco-eval") == "SystemExit: 0"
    assert report.detail("torchvision") == "not checked, as it needs Pillow"
    assert report.detail("Pillow").startswith("SyntaxError: ")
    assert report.remark("Pillow") == (
        "problem: Pillow: python -m pip install --force-reinstall pillow"
    )
    assert report.detail("detectron2") == (
        "not checked, as it needs torchvision, Pillow, pycocotools"
    )


@pytest.mark.parametrize(
    ("component", "error", "missing", "remark"),
    [
        (
            "detectron2",
            "AttributeError: module 'PIL.Image' has no attribute 'LINEAR'",
            "",
            "mvit-det install-detectron2 --force",
        ),
        (
            "detectron2",
            "ModuleNotFoundError: No module named 'fvcore'",
            "fvcore",
            "mvit-det install-detectron2 --force",
        ),
        (
            "pycocotools",
            "ValueError: numpy.dtype size changed, may indicate binary incompatibility",
            "",
            "python -m pip install --force-reinstall pycocotools",
        ),
        (
            "faster-coco-eval",
            "ModuleNotFoundError: No module named 'faster_coco_eval'",
            "faster_coco_eval",
            "python -m pip install faster-coco-eval",
        ),
    ],
)
def test_remedy_fits_the_failure(
    doctor: ModuleType, component: str, error: str, missing: str, remark: str
) -> None:
    results = {name: doctor.Result() for name in doctor.COMPONENTS}
    results[component] = doctor.Result(error=error, missing=missing)
    finding = doctor.assess(component, results)
    assert finding.status == "problem"
    assert finding.detail == ("not installed" if component == "faster-coco-eval" else error)
    assert finding.remedy == remark


@pytest.mark.parametrize(
    ("build", "devices", "error", "status", "text"),
    [
        ("13.0", ["NVIDIA H200", "NVIDIA H200"], None, "ok", "2 × NVIDIA H200"),
        ("13.0", [], None, "warning", "check that 'nvidia-smi' lists it"),
        (None, [], None, "warning", "install CUDA builds of torch and torchvision"),
        ("13.0", ["NVIDIA H200"], "no kernel image is available", "problem", "fit this device"),
    ],
)
def test_cuda(
    doctor: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    build: str | None,
    devices: list[str],
    error: str | None,
    status: str,
    text: str,
) -> None:
    def ones(*_: object, device: str) -> torch.Tensor:
        if error:
            raise RuntimeError(error)
        return torch.zeros(2)

    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(devices))
    monkeypatch.setattr(torch.cuda, "get_device_name", devices.__getitem__)
    monkeypatch.setattr(torch, "ones", ones)
    doctor.run_probe("CUDA")
    answer = json.loads(capsys.readouterr().out.removeprefix(doctor.RESULT_MARK))
    results = {name: doctor.Result() for name in doctor.COMPONENTS}
    finding = doctor.assess("CUDA", {**results, "CUDA": doctor.Result(**answer)})
    assert finding.status == status
    assert text in finding.detail + finding.remedy


@pytest.mark.parametrize(
    ("error", "warning"),
    [
        (None, ""),
        (ModuleNotFoundError("no module"), "build Detectron2 from source"),
        (ImportError("undefined symbol: _ZN2at"), "built for the installed torch"),
    ],
)
def test_compiled_operators(
    doctor: ModuleType, monkeypatch: pytest.MonkeyPatch, error: Exception | None, warning: str
) -> None:
    import_module = importlib.import_module

    def fake(name: str, package: str | None = None) -> ModuleType:
        if name != "detectron2._C":
            return import_module(name, package)
        if error:
            raise error
        return ModuleType(name)

    monkeypatch.setattr(importlib, "import_module", fake)
    result = doctor.probe_detectron2()
    assert warning in result.warning
    assert bool(result.warning) == bool(warning)


@pytest.mark.slow
def test_environment_report_for_issues() -> None:
    command = [sys.executable, str(SCRIPT), "--env"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "Training can run." in result.stdout
    assert "detectron2._C" in result.stdout.partition("Training can run.")[2]
