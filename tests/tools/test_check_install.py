"""The doctor, in environments that are whole, bare and broken in the ways users meet."""

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "tools" / "check_install.py"


class Report:
    """The doctor's output: rows by component, remarks by component, verdict and exit code."""

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
    """The script as a module, for what takes hardware or builds that are not at hand."""
    return import_script("check_install", SCRIPT)


def import_script(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the module they are defined in
    spec.loader.exec_module(module)
    return module


def write_package(folder: Path, name: str, code: str) -> Path:
    """A package that stands in the way of the real one."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    return folder


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
    assert report.detail("torch") == "not there"
    assert report.detail("torchvision") == "not checked, as it needs torch, Pillow"
    assert report.remark("torch") == "problem: torch: python -m pip install torch torchvision"
    assert report.remark("detectron2") == (
        "problem: detectron2: python tools/install_detectron2.py"
    )
    assert report.remark("OpenCV") == (
        "problem: OpenCV: python -m pip install opencv-python-headless"
    )
    assert report.remark("mvit_det") == (
        "problem: mvit_det: the checkout is there but not installed: "
        f"python -m pip install -e {REPOSITORY}"
    )
    assert report.verdict == (
        "Training cannot run, because of: torch, torchvision, detectron2, Pillow, OpenCV, "
        "pycocotools, faster-coco-eval, mvit_det."
    )


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
    assert remark.endswith(
        "do not belong together; reinstall both at once: "
        "python -m pip install --force-reinstall torch torchvision"
    )
    # What fails only because of it is no problem of its own.
    assert [line for line in report.remarks if line.startswith("problem: detectron2")] == []


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
    assert report.detail("pycocotools").startswith("importing it ended Python (exit code -6)")
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
    ("module", "error", "missing", "remark"),
    [
        (
            "detectron2",
            "AttributeError: module 'PIL.Image' has no attribute 'LINEAR'",
            "",
            "it is too old for this Pillow: python tools/install_detectron2.py --force",
        ),
        (
            "detectron2",
            "ModuleNotFoundError: No module named 'fvcore'",
            "fvcore",
            "python tools/install_detectron2.py --force",
        ),
        (
            "pycocotools",
            "ValueError: numpy.dtype size changed, may indicate binary incompatibility",
            "",
            "python -m pip install --force-reinstall pycocotools",
        ),
        (
            "faster_coco_eval",
            "ModuleNotFoundError: No module named 'faster_coco_eval'",
            "faster_coco_eval",
            "python -m pip install faster-coco-eval",
        ),
    ],
)
def test_remedy_fits_the_failure(
    doctor: ModuleType, module: str, error: str, missing: str, remark: str
) -> None:
    probes = {name: doctor.Probe(facts={"version": "1"}) for name in doctor.PROBES}
    probes[module] = doctor.Probe(error=error, missing=missing)
    finding = doctor.check_component(module, probes)
    assert finding.status == "problem"
    assert finding.detail == ("not there" if missing == module else error)
    assert finding.remedy == remark


@pytest.mark.parametrize(
    ("build", "devices", "error", "status", "text"),
    [
        ("13.0", ["NVIDIA H200", "NVIDIA H200"], "", "ok", "2 × NVIDIA H200"),
        ("13.0", [], "", "warning", "check that 'nvidia-smi' lists it"),
        (None, [], "", "warning", "install CUDA builds of torch and torchvision"),
        ("13.0", [], "no kernel image is available", "problem", "that fit this device"),
    ],
)
def test_cuda(
    doctor: ModuleType, build: str | None, devices: list[str], error: str, status: str, text: str
) -> None:
    facts = {"version": "2.9", "cuda_build": build, "devices": devices, "cuda_error": error}
    finding = doctor.check_cuda(doctor.Probe(facts=facts))
    assert finding.status == status
    assert text in finding.detail + finding.remedy


@pytest.mark.parametrize(
    ("compiled", "status", "text"),
    [
        ("yes", "ok", "with compiled operators"),
        ("no", "warning", "build Detectron2 from source"),
        ("undefined symbol: _ZN2at", "warning", "built for the torch that is installed"),
    ],
)
def test_compiled_operators(doctor: ModuleType, compiled: str, status: str, text: str) -> None:
    facts = {"version": "0.6", "folder": "/there", "compiled": compiled}
    finding = doctor.check_detectron2(doctor.Probe(facts=facts))
    assert finding.status == status
    assert text in finding.detail + finding.remedy
