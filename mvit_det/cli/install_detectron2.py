"""Install Detectron2 from a Python package index.

Detectron2 has no release on the package index, and its official build needs GitHub and a compiler.
The index does have the `labgym` wheel, which contains an Apache-2.0 copy of Detectron2 as the
subpackage `LabGym.detectron2`. This script downloads that wheel, checks its hash, takes only the
Detectron2 files, restores their package name and installs them with pip, so that `pip show
detectron2` and `pip uninstall detectron2` work as usual.

The copy has no compiled operators (`detectron2._C`). torch and torchvision are not installed along
with it, because only you know which pair of builds fits your machine (CPU, or which CUDA).

Usage::

    mvit-det install-detectron2                    # does nothing if detectron2 is installed
    mvit-det install-detectron2 --force            # replaces an installed detectron2
    mvit-det install-detectron2 --wheel-dir DIR    # only builds the wheel

This module runs by itself: `tools/install_detectron2.py` works before anything is installed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "0.6"

SOURCE_REQUIREMENT = "labgym==3.1.2"
SOURCE_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
SOURCE_FOLDER = "LabGym/detectron2/"

# The dependencies in Detectron2's setup.py, plus numpy and PyYAML, which it imports without naming
# them. Not OpenCV, which comes in four distributions that exclude each other.
DEPENDENCIES = (
    "black",
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7,<0.1.10",
    "matplotlib",
    "numpy",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "pillow>=7.1",
    "pycocotools>=2.0.2",
    "PyYAML",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "yacs>=0.1.8",
)

PYPROJECT = f"""\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "detectron2"
version = "{VERSION}"
description = "Platform for object detection and segmentation, without compiled operators"
authors = [{{ name = "FAIR" }}]
license = "Apache-2.0"
license-files = ["LICENSE", "NOTICE"]
requires-python = ">=3.7"
dependencies = {json.dumps(DEPENDENCIES)}

[project.urls]
Homepage = "https://github.com/facebookresearch/detectron2"

[tool.setuptools]
package-data = {{ "*" = ["**"] }}

[tool.setuptools.packages.find]
include = ["detectron2*"]
"""

NOTICE = f"""\
Detectron2
Copyright (c) Facebook, Inc. and its affiliates.
Licensed under the Apache License, Version 2.0. Documentation: https://detectron2.readthedocs.io

This copy was taken from the folder {SOURCE_FOLDER} of the wheel {SOURCE_REQUIREMENT}
(https://github.com/umyelab/LabGym). Nothing else of that wheel is included.

Changes made by mvit_det/cli/install_detectron2.py of the project mvit_det:
- The package name, which that wheel had changed to LabGym.detectron2, is detectron2 again.
- detectron2/model_zoo/model_zoo.py finds its configs without pkg_resources, which setuptools no
  longer provides.
"""

# (file, text, replacement). Each text must occur exactly once, so that a change is noticed.
REPAIRS = (
    (
        "detectron2/model_zoo/model_zoo.py",
        "import pkg_resources\n",
        "",
    ),
    (
        "detectron2/model_zoo/model_zoo.py",
        "    cfg_file = pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
        "    )\n",
        "    # Changed by mvit_det: setuptools no longer provides pkg_resources.\n"
        '    cfg_file = os.path.join(os.path.dirname(__file__), "configs", config_path)\n',
    ),
)

NO_COMPILED_OPERATORS = (
    "It has no compiled operators (detectron2._C): rotated boxes and deformable convolution are "
    "missing, everything else works."
)

EXAMPLES = """\
examples:
  mvit-det install-detectron2
  mvit-det install-detectron2 --force
  mvit-det install-detectron2 --wheel-dir wheels/"""


class InstallError(Exception):
    """A failure that the user can fix; only its text is shown."""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; the exit code is 1 after a failure, which is one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Install Detectron2 (without compiled operators) from a Python package index.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--wheel-dir", type=Path, metavar="DIR", help="only build the wheel, into this folder"
    )
    parser.add_argument(
        "--force", action="store_true", help="install even if detectron2 is importable already"
    )
    options = parser.parse_args(arguments)
    try:
        run(options.wheel_dir, options.force)
    except InstallError as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        reason = error.strerror or error
        print(f"install_detectron2: Cannot use {error.filename}: {reason}.", file=sys.stderr)
        return 1
    return 0


def run(wheel_dir: Path | None, force: bool) -> None:
    """Build a wheel into a folder, or install Detectron2."""
    if wheel_dir is None and not force and (installed := find_installed()):
        version, folder = installed
        print(f"detectron2 {version} is already installed in {folder}: nothing to do.")
        return
    if wheel_dir is None:
        check_writable()
    else:
        wheel_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="detectron2_") as temporary:
        print(f"Downloading the copy of Detectron2 in {SOURCE_REQUIREMENT} ...", flush=True)
        source = download_source(Path(temporary))
        project = write_project(repair(restore_name(read_detectron2(source))), Path(temporary))
        if wheel_dir is not None:
            run_pip("wheel", "--no-deps", f"--wheel-dir={wheel_dir}", str(project))
            print(f"Built detectron2 {VERSION} in {wheel_dir}.", end=" ")
        else:
            install(project, force)
            print(f"Installed detectron2 {VERSION}.", end=" ")
    print(NO_COMPILED_OPERATORS)
    if wheel_dir is None and not all(map(importlib.util.find_spec, ("torch", "torchvision"))):
        print("It needs torch and torchvision too: python -m pip install torch torchvision")


def find_installed() -> tuple[str, Path] | None:
    """Version and folder of the detectron2 on the import path, without importing it or torch."""
    spec = importlib.util.find_spec("detectron2")
    # A folder with just this name, such as a clone of the repository, has no origin.
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).read_text(encoding="utf-8")
    match = re.search(r"""^__version__\s*=\s*["'](.+?)["']""", text, flags=re.MULTILINE)
    return match[1] if match else "of unknown version", Path(spec.origin).parent


def check_writable() -> None:
    """Refuse an environment of another user before any download."""
    folder = sysconfig.get_path("purelib")
    inside_environment = sys.prefix != sys.base_prefix  # elsewhere pip falls back to the user's own
    if inside_environment and not os.access(folder, os.W_OK):
        raise InstallError(
            f"Cannot write to {folder}: run this as the owner of that environment, or create "
            "another one ('python -m venv .venv')."
        )


def download_source(folder: Path) -> Path:
    """Download the wheel that contains Detectron2, and check its hash."""
    if importlib.util.find_spec("pip") is None:
        raise InstallError(
            f"{sys.executable} has no pip: run '{sys.executable} -m ensurepip' and try again."
        )
    try:
        # The wheel names old Python versions because of its other modules; it is never installed.
        options = ["--no-deps", "--ignore-requires-python", "--only-binary=:all:"]
        run_pip("download", SOURCE_REQUIREMENT, *options, f"--dest={folder}")
    except InstallError as error:
        raise InstallError(
            f"Cannot download {SOURCE_REQUIREMENT}: pip says '{error}'. Check that this machine "
            f"reaches a package index ('{sys.executable} -m pip config list' shows which)."
        ) from error
    (wheel,) = folder.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SOURCE_SHA256:
        raise InstallError(
            f"{wheel.name} from the package index has the sha256 {found}, not {SOURCE_SHA256}: "
            "it is not the file this script was written for, so nothing was installed. "
            "Clear pip's cache ('python -m pip cache purge') or use another index."
        )
    return wheel


def read_detectron2(source: Path) -> dict[str, bytes]:
    """The Detectron2 files of the downloaded wheel, by their path in the new project."""
    with zipfile.ZipFile(source) as archive:
        return {
            name.removeprefix("LabGym/"): archive.read(name)
            for name in sorted(archive.namelist())
            if name.startswith(SOURCE_FOLDER) and not name.endswith("/")
        }


def restore_name(files: dict[str, bytes]) -> dict[str, bytes]:
    """Undo the renaming of detectron2 in imports, strings and documentation, and prove it.

    `LabGym.detectron2` is one dotted name everywhere, also in uses like
    `LabGym.detectron2.__version__` after `import LabGym.detectron2`; replacing the whole dotted
    name therefore keeps imports and uses in step.
    """
    restored = {}
    for name, content in files.items():
        content = re.sub(rb"\bLabGym\.detectron2\b", b"detectron2", content)
        if b"labgym" in content.lower() or "labgym" in name.lower():
            raise InstallError(
                f"{name} of {SOURCE_REQUIREMENT} mentions LabGym other than as LabGym.detectron2: "
                "its name cannot be restored safely, so nothing was installed."
            )
        restored[name] = content
    return restored


def repair(files: dict[str, bytes]) -> dict[str, bytes]:
    """Apply `REPAIRS`, and check that every Python file still parses."""
    repaired = dict(files)
    for name, text, replacement in REPAIRS:
        module = repaired.get(name, b"").decode("utf-8")
        if module.count(text) != 1:
            raise InstallError(
                f"{name} of {SOURCE_REQUIREMENT} does not contain the text to repair exactly once: "
                "nothing was installed."
            )
        repaired[name] = module.replace(text, replacement).encode("utf-8")
    for name, content in repaired.items():
        if name.endswith(".py"):
            try:
                ast.parse(content, filename=name)
            except SyntaxError as error:
                raise InstallError(f"{name} is not valid Python: {error}.") from error
    return repaired


def write_project(files: dict[str, bytes], folder: Path) -> Path:
    """Write the files and their metadata as a project that pip can build."""
    licence = find_licence()
    project = folder / "detectron2"
    metadata = {"pyproject.toml": PYPROJECT.encode(), "NOTICE": NOTICE.encode()}
    for name, content in {**files, **metadata, "LICENSE": licence.read_bytes()}.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(content)
    return project


def find_licence() -> Path:
    """The text of Apache-2.0, which goes into the wheel: in the checkout, or installed."""
    checkout = Path(__file__).resolve().parents[2] / "LICENSE"
    if checkout.is_file():
        return checkout
    try:
        installed = importlib.metadata.files("mvit_det") or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == "LICENSE":
            return Path(str(file.locate()))
    raise InstallError(
        f"{checkout} is missing: its text (Apache-2.0) has to go into the wheel; "
        "use a complete checkout, or install mvit_det again."
    )


def install(project: Path, force: bool) -> None:
    """Install the project and its dependencies; `force` replaces what is installed."""
    print("Installing detectron2 and its dependencies ...", flush=True)
    try:
        if force:
            run_pip("install", "--force-reinstall", "--no-deps", str(project))
        shown = r"(Collecting|Building wheel|Installing|Successfully)"
        run_pip("install", str(project), shown=shown)
    except InstallError as error:
        raise InstallError(
            f"Cannot install detectron2 into {sys.prefix}: pip says '{error}'. To see all of pip's "
            "output, build the wheel with --wheel-dir and install it by hand."
        ) from error


def run_pip(*arguments: str, shown: str = "") -> None:
    """Run pip, showing the lines that match the pattern `shown`; raise with pip's reason."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    reason = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if shown and re.match(shown, line):
                print(line.rstrip(), flush=True)
            if line.lower().startswith("error: "):
                reason = line[len("error: ") :].strip().rstrip(".")
    if process.returncode != 0:
        raise InstallError(reason or f"nothing, and ended with exit code {process.returncode}")


if __name__ == "__main__":
    sys.exit(main())
