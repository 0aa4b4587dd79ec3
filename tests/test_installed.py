"""The wheel in an environment with nothing but its dependencies: every tool of the README runs.

The environment sees exactly the distributions that the README's plain installation brings: those
that mvit_det and Detectron2 require, directly or not, without extras. They are linked from the
environment of the tests, which saves gigabytes of downloads.
"""

import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mvit_det.data import generate_shapes

ROOT = Path(__file__).resolve().parents[1]
PICO = ROOT / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py"
DATA = [
    *("--train-json", "shapes/annotations.json", "--train-images", "shapes/images"),
    *("--val-json", "shapes/annotations.json", "--val-images", "shapes/images"),
]
# One real call of each tool.
CALLS = {
    "check_install": [],
    "install_detectron2": [],
    "analyze_model": [PICO, "--size", "64", "64"],
    "make_shapes": ["--output", "shapes", "--images", "4"],
    "inspect_dataset": ["shapes/annotations.json", "--images", "shapes/images"],
    "lazyconfig_train_net": [
        *("--config-file", PICO, "--device", "cpu", *DATA),
        *("train.max_iter=1", "train.output_dir=output", "dataloader.train.total_batch_size=2"),
    ],
    "convert_checkpoint": ["output/model_final.pth", "model.safetensors", "--to", "safetensors"],
    "demo": [
        *("--config-file", "output/config.yaml", "--weights", "output/model_final.pth"),
        *("--input", "shapes/images", "--output", "found", "--device", "cpu"),
    ],
    "benchmark": [
        *("--image-size", "64", "64", "--what", "forward", "--repeats", "1"),
        *("--against", "mvit_det", "--mask-padding"),
    ],
    "compare": [
        *("--variant", "pico", PICO, "--variant", "window", PICO, "--iterations", "1"),
        *("--device", "cpu", "--opts", "dataloader.train.total_batch_size=2"),
    ],
}

# They make the input of the others.
FIRST = ("make_shapes", "lazyconfig_train_net")
TRAINED = ("--config-file", "output/config.yaml", "--weights", "output/model_final.pth")
COMMAND_CALLS = [
    ["doctor"],
    ["install-detectron2"],
    ["models"],
    ["check-data", "shapes"],
    ["convert-data", "shapes", "--output", "converted", "--val-fraction", "0.5"],
    [
        *("train", "--config-file", "shapes/mask_rcnn_mvitv2_pico", "--device", "cpu"),
        *("--data", "shapes"),
        *("train.max_iter=1", "train.output_dir=output", "dataloader.train.total_batch_size=2"),
    ],
    ["eval", *TRAINED, "--device", "cpu"],
    ["predict", *TRAINED, "--input", "shapes/images", "--output", "found", "--device", "cpu"],
    [
        *("export", *TRAINED, "--format", "torch", "--size", "64x64", "--output", "backbone.pt2"),
        *("--part", "backbone"),
    ],
    ["convert-weights", "output/model_final.pth", "model.safetensors", "--to", "safetensors"],
]

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]

pytestmark = pytest.mark.slow


def required_distributions(*names):
    """Those names and all that they require without extras, as far as this platform needs them."""
    found, queue = {}, [(name, frozenset()) for name in names]
    while queue:
        name, extras = queue.pop()
        key = canonicalize_name(name)
        if extras <= found.get(key, frozenset({"-"})) and key in found:
            continue
        found[key] = found.get(key, frozenset()) | extras
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            environments = [{"extra": extra} for extra in ("", *extras)]
            marker = requirement.marker
            if marker is None or any(marker.evaluate(each) for each in environments):
                queue.append((requirement.name, frozenset(requirement.extras)))
    return found


def link_distributions(names, target):
    """Links the packages of distributions, and their metadata, into a folder."""
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or []:
            first = file.parts[0]
            source = Path(distribution.locate_file(first))
            link = target / first
            if first not in ("..", "__pycache__", "bin") and not link.exists():
                link.symlink_to(source, target_is_directory=source.is_dir())


def build_wheel(folder):
    build = subprocess.run(
        [*PIP, "wheel", "--no-deps", f"--wheel-dir={folder}", str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    (wheel,) = folder.glob("mvit_det-*.whl")
    return wheel


def make_environment(folder, *libraries, without=()):
    """Python of a new environment with the dependencies of mvit_det and of further libraries.

    Distributions in `without` are missing in it.
    """
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    site_packages = Path(sysconfig.get_path("purelib", vars=paths))
    names = required_distributions("mvit_det", "detectron2", *libraries)
    absent = {"mvit-det", *without}
    link_distributions([name for name in names if name not in absent], site_packages)
    return python


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Python of an environment with the wheel and its dependencies only."""
    folder = tmp_path_factory.mktemp("installed")
    wheel, python = build_wheel(folder), make_environment(folder)
    install = [*PIP, f"--python={python}", "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return python


@pytest.fixture(scope="module")
def workplace(python, tmp_path_factory):
    """Folder with a dataset and a trained model."""
    folder = tmp_path_factory.mktemp("workplace")
    for tool in FIRST:
        run(python, folder, ROOT / "tools" / f"{tool}.py", *CALLS[tool])
    return folder


def run(python, workplace, *arguments):
    result = subprocess.run(
        [str(python), *map(str, arguments)],
        cwd=workplace,
        env={"PATH": "/usr/bin:/bin", "HOME": str(workplace), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, f"{arguments}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_nothing_else_is_there(python, tmp_path):
    program = """
import importlib.util, mvit_det
unwanted = ("pytest", "timm", "mypy", "ruff", "lvis")
print([name for name in unwanted if importlib.util.find_spec(name)])
print(mvit_det.__file__)
from mvit_det import model_zoo
print(model_zoo.get_config("mask_rcnn_mvitv2_t").train.max_iter > 0)
"""
    found, file, loads = run(python, tmp_path, "-c", program).splitlines()
    assert found == "[]"
    assert Path(file).is_relative_to(python.parents[1])
    assert loads == "True"
    assert (
        torch.__version__
        == run(python, tmp_path, "-c", "import torch; print(torch.__version__)").strip()
    )


def test_every_tool_of_the_readme_has_a_call():
    pages = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"tools/(\w+)\.py", pages)) <= set(CALLS)


def test_the_console_command_in_an_empty_folder(python, tmp_path):
    """Configs by name, without the checkout."""
    generate_shapes(tmp_path / "shapes", 4, (64, 64), seed=0)
    command = python.with_name("mvit-det")
    for arguments in COMMAND_CALLS:
        run(command, tmp_path, *arguments)
    assert (tmp_path / "found" / "predictions.json").exists()
    assert not list(tmp_path.glob("*.py"))


@pytest.mark.parametrize("tool", CALLS)
def test_tool(tool, python, workplace):
    script = ROOT / "tools" / f"{tool}.py"
    assert "usage" in run(python, workplace, script, "--help")
    if tool not in FIRST:
        run(python, workplace, script, *CALLS[tool])
