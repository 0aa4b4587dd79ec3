"""Make ``import detectron2`` work where only a Python package index is reachable.

Detectron2 has no release on the package index, and its official build needs GitHub and a compiler.
The index does carry the ``labgym`` wheel, which contains an Apache-2.0 copy of Detectron2 as the
subpackage ``LabGym.detectron2``. This script downloads that one wheel, checks its hash, takes only
the Detectron2 part, gives it its own name back and installs it as an ordinary wheel, so that
``pip show detectron2`` and ``pip uninstall detectron2`` work as usual.

The copy has no compiled operators (``detectron2._C``). torch and torchvision are not installed
along with it, because which pair of builds fits (CPU, or which CUDA) is for you to choose.

Usage::

    python tools/install_detectron2.py                    # does nothing where detectron2 is present
    python tools/install_detectron2.py --force            # installs over what is present
    python tools/install_detectron2.py --wheel-dir DIR    # only builds the wheel
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

VERSION = "0.6"

SOURCE_REQUIREMENT = "labgym==3.1.2"
SOURCE_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
SOURCE_FOLDER = "LabGym/detectron2/"
SOURCE_MODULE = "LabGym.detectron2"

# What Detectron2's own setup.py names, plus numpy and PyYAML, which it imports without naming them.
# OpenCV is left out on purpose: it comes in four distributions that exclude each other.
# black is used by `LazyConfig.to_py` only, but that is a public function.
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

DESCRIPTION = """\
Detectron2 is Meta's platform for object detection and segmentation.

This wheel has no compiled operators (`detectron2._C`): rotated boxes and deformable convolution
are missing. It does not depend on torch and torchvision, so that you choose which builds of them
to install; the two have to match.
"""

NOTICE = f"""\
Detectron2
Copyright (c) Facebook, Inc. and its affiliates.
Licensed under the Apache License, Version 2.0. Documentation: https://detectron2.readthedocs.io

This copy was taken from the folder {SOURCE_FOLDER} of the wheel {SOURCE_REQUIREMENT}
(https://github.com/umyelab/LabGym). Nothing else of that wheel is included.

Changes made by tools/install_detectron2.py of the project mvit_det:
- The package name, which that wheel had changed to {SOURCE_MODULE}, is detectron2 again.
- detectron2/model_zoo/model_zoo.py finds its configs without pkg_resources, which setuptools no
  longer provides.
"""

# (file, text, replacement). Each text has to occur exactly once, so that none gets lost unnoticed.
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


class InstallError(Exception):
    """A failure the user can act on; its text is all that is shown."""


def find_installed() -> tuple[str, Path] | None:
    """Version and folder of the detectron2 on the import path, without importing it or torch."""
    spec = importlib.util.find_spec("detectron2")
    # A folder that merely has the name, such as a clone of the repository, has no origin.
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).read_text(encoding="utf-8")
    match = re.search(r"""^__version__\s*=\s*["'](.+?)["']""", text, flags=re.MULTILINE)
    if match:
        return match.group(1), Path(spec.origin).parent
    try:
        return importlib.metadata.version("detectron2"), Path(spec.origin).parent
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version", Path(spec.origin).parent


def run_pip(*arguments: str, shown: str = "") -> None:
    """Run pip, showing the lines that match the pattern ``shown``; raise with pip's own reason."""
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


def download_source(folder: Path) -> Path:
    """Download the wheel that carries Detectron2 into ``folder`` and check its hash."""
    if importlib.util.find_spec("pip") is None:
        raise InstallError(
            f"{sys.executable} has no pip: run '{sys.executable} -m ensurepip' and try again."
        )
    try:
        # The wheel asks for old Python versions because of its other parts, and is never installed.
        run_pip(
            "download",
            SOURCE_REQUIREMENT,
            "--no-deps",
            "--ignore-requires-python",
            "--only-binary=:all:",
            f"--dest={folder}",
        )
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
    """The Detectron2 files of the downloaded wheel, by their path in the wheel to be built."""
    with zipfile.ZipFile(source) as archive:
        return {
            name.removeprefix("LabGym/"): archive.read(name)
            for name in sorted(archive.namelist())
            if name.startswith(SOURCE_FOLDER) and not name.endswith("/")
        }


def restore_name(files: dict[str, bytes]) -> dict[str, bytes]:
    """Undo the renaming of detectron2 in imports, strings and documentation, and prove it.

    ``LabGym.detectron2`` is one dotted name wherever it stands, also in code such as
    ``LabGym.detectron2.__version__``, whose ``LabGym`` is bound by ``import LabGym.detectron2``;
    so replacing the whole dotted name keeps imports and uses in step.
    """
    restored = {}
    for name, content in files.items():
        content = re.sub(rb"\bLabGym\.detectron2\b", b"detectron2", content)
        if b"labgym" in content.lower() or "labgym" in name.lower():
            raise InstallError(
                f"{name} of {SOURCE_REQUIREMENT} mentions LabGym other than as {SOURCE_MODULE}: "
                "its name cannot be restored safely, so nothing was installed."
            )
        restored[name] = content
    return restored


def repair(files: dict[str, bytes]) -> dict[str, bytes]:
    """Apply ``REPAIRS`` and check that every Python file still parses."""
    repaired = dict(files)
    for name, text, replacement in REPAIRS:
        module = repaired.get(name, b"").decode("utf-8")
        if module.count(text) != 1:
            raise InstallError(
                f"{name} of {SOURCE_REQUIREMENT} does not hold the text to repair exactly once: "
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


def metadata_files() -> dict[str, bytes]:
    """What a wheel holds beside the code (METADATA, WHEEL, licence), except for RECORD."""
    license_file = Path(__file__).resolve().parents[1] / "LICENSE"
    if not license_file.is_file():
        raise InstallError(
            f"{license_file} is missing: its text (Apache-2.0) has to go into the wheel; "
            "run this script from a complete checkout."
        )
    metadata = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        "Summary: Platform for object detection and segmentation, without compiled operators",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "Author: FAIR",
        "License: Apache-2.0",
        "Classifier: License :: OSI Approved :: Apache Software License",
        "Requires-Python: >=3.7",
        *(f"Requires-Dist: {dependency}" for dependency in DEPENDENCIES),
        "License-File: LICENSE",
        "License-File: NOTICE",
        "Description-Content-Type: text/markdown",
        "",
        DESCRIPTION,
    ]
    wheel = [
        "Wheel-Version: 1.0",
        "Generator: mvit_det tools/install_detectron2.py",
        "Root-Is-Purelib: true",
        "Tag: py3-none-any",
        "",
    ]
    folder = f"detectron2-{VERSION}.dist-info"
    return {
        f"{folder}/licenses/LICENSE": license_file.read_bytes(),
        f"{folder}/licenses/NOTICE": NOTICE.encode(),
        f"{folder}/METADATA": "\n".join(metadata).encode(),
        f"{folder}/WHEEL": "\n".join(wheel).encode(),
    }


def record_file(files: dict[str, bytes]) -> dict[str, bytes]:
    """RECORD: the path, hash and size of every other file of the wheel."""
    name = f"detectron2-{VERSION}.dist-info/RECORD"
    lines = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}\n")
    return {name: "".join([*lines, f"{name},,\n"]).encode()}


def write_wheel(files: dict[str, bytes], folder: Path) -> Path:
    """Write ``files`` as a wheel into ``folder``; the same files always give the same bytes."""
    path = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16  # a plain file, rw-r--r--
            archive.writestr(entry, content)
    return path


def build_wheel(folder: Path) -> Path:
    """Download, convert and pack: from the package index to a detectron2 wheel in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="detectron2_source_") as temporary:
        print(f"Downloading the copy of Detectron2 in {SOURCE_REQUIREMENT} ...", flush=True)
        source = download_source(Path(temporary))
        files = repair(restore_name(read_detectron2(source)))
    files |= metadata_files()
    files |= record_file(files)
    return write_wheel(files, folder)


def check_writable() -> None:
    """Refuse a virtual environment of somebody else now, not after all the downloads."""
    folder = sysconfig.get_path("purelib")
    inside_environment = sys.prefix != sys.base_prefix  # elsewhere pip falls back to the user's own
    if inside_environment and not os.access(folder, os.W_OK):
        raise InstallError(
            f"Cannot write to {folder}: run this as the owner of that environment, or in one of "
            "your own ('python -m venv .venv')."
        )


def install(wheel: Path, force: bool) -> None:
    """Install the wheel and the dependencies it names; ``force`` replaces what is installed."""
    print(f"Installing {wheel.name} and what it needs ...", flush=True)
    progress = r"(Collecting|Building wheel|Installing|Successfully)"
    try:
        if force:
            run_pip("install", "--force-reinstall", "--no-deps", str(wheel))
        run_pip("install", str(wheel), shown=progress)
    except InstallError as error:
        raise InstallError(
            f"Cannot install {wheel.name} into {sys.prefix}: pip says '{error}'. To see all of "
            "pip's output, build the wheel with --wheel-dir and install it by hand."
        ) from error


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Install Detectron2 (without compiled operators) from a Python package index."
    )
    parser.add_argument(
        "--wheel-dir", type=Path, metavar="DIR", help="only build the wheel, into this folder"
    )
    parser.add_argument(
        "--force", action="store_true", help="install even if detectron2 is importable already"
    )
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    if arguments.wheel_dir is not None:
        print(f"Built {build_wheel(arguments.wheel_dir)}. {NO_COMPILED_OPERATORS}")
        return
    installed = find_installed()
    if installed is not None and not arguments.force:
        version, folder = installed
        print(f"detectron2 {version} is already there, in {folder}: nothing to do.")
        return
    check_writable()
    with tempfile.TemporaryDirectory(prefix="detectron2_wheel_") as temporary:
        install(build_wheel(Path(temporary)), arguments.force)
    print(f"Installed detectron2 {VERSION}. {NO_COMPILED_OPERATORS}")
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchvision") is None:
        print("It needs torch and torchvision too: python -m pip install torch torchvision")


def main() -> int:
    """Run the script; the exit code is 1 after a failure, which is told in one sentence."""
    arguments = parse_arguments()
    try:
        run(arguments)
    except InstallError as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        reason = error.strerror or error
        print(f"install_detectron2: Cannot use {error.filename}: {reason}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
