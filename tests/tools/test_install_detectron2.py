"""The installer of Detectron2, with the real file from the package index."""

import os
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from mvit_det.cli import install_detectron2

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "tools" / "install_detectron2.py"
WHEEL_NAME = "detectron2-0.6-py3-none-any.whl"
METADATA_FOLDER = "detectron2-0.6.dist-info"

pytestmark = pytest.mark.slow


def run_python(
    *arguments: str | Path, python: str | Path = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [str(python), *map(str, arguments)]
    variables = {**os.environ, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as the script builds it from the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    result = run_python(SCRIPT, "--wheel-dir", folder, PIP_RETRIES="1")
    if "Cannot download" in result.stderr:
        pytest.skip(f"the package index is out of reach: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    assert f"Built detectron2 0.6 in {folder}." in result.stdout
    assert "no compiled operators (detectron2._C)" in result.stdout
    return folder / WHEEL_NAME


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without pip and without any package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def test_nothing_of_the_source_is_left(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        code = {name: archive.read(name) for name in names if name.startswith("detectron2/")}
    assert len(code) == 306
    assert (
        "detectron2/model_zoo/configs/LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
        in code
    )
    assert [name for name, content in code.items() if b"labgym" in content.lower()] == []
    assert set(names) - set(code) == {
        f"{METADATA_FOLDER}/{name}"
        for name in (
            "METADATA",
            "RECORD",
            "WHEEL",
            "licenses/LICENSE",
            "licenses/NOTICE",
            "top_level.txt",
        )
    }


def test_renaming_reaches_uses_and_strings(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        collect_env = archive.read("detectron2/utils/collect_env.py").decode()
        train_loop = archive.read("detectron2/engine/train_loop.py").decode()
        logger = archive.read("detectron2/utils/logger.py").decode()
    assert '("detectron2", detectron2.__version__ + " @" + os.path.dirname(' in collect_env
    assert 'importlib.util.find_spec("detectron2._C")' in collect_env
    assert "import detectron2.utils.comm as comm" in train_loop
    assert 'name="detectron2"' in logger


def test_metadata_names_licence_origin_and_dependencies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{METADATA_FOLDER}/METADATA").decode())
        licence = archive.read(f"{METADATA_FOLDER}/licenses/LICENSE").decode()
        notice = archive.read(f"{METADATA_FOLDER}/licenses/NOTICE").decode()
    assert (metadata["Name"], metadata["Version"]) == ("detectron2", "0.6")
    assert metadata["License-Expression"] == "Apache-2.0"
    requirements = metadata.get_all("Requires-Dist")
    assert {"fvcore<0.1.6,>=0.1.5", "iopath<0.1.10,>=0.1.7", "omegaconf<2.4,>=2.1"} < set(
        requirements
    )
    assert not [requirement for requirement in requirements if requirement.startswith("torch")]
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "Copyright (c) Facebook, Inc. and its affiliates." in notice
    assert "labgym==3.1.2" in notice


def test_installed_wheel_imports_and_finds_its_configs(wheel: Path, tmp_path: Path) -> None:
    options = ["install", "--no-deps", "--no-index", "--target", tmp_path]
    result = run_python("-m", "pip", *options, wheel)
    assert result.returncode == 0, result.stderr
    program = """
import importlib.metadata
import detectron2, detectron2.engine, detectron2.evaluation, detectron2.model_zoo
from detectron2.utils.collect_env import collect_env_info
config = detectron2.model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
print(detectron2.__file__)
print(importlib.metadata.version("detectron2"))
print(config.MODEL.META_ARCHITECTURE)
print([line for line in collect_env_info().splitlines() if line.startswith("detectron2 ")][0])
"""
    result = run_python("-c", program, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    location, version, architecture, environment = result.stdout.splitlines()
    assert location == str(tmp_path / "detectron2" / "__init__.py")
    assert version == "0.6"
    assert architecture == "GeneralizedRCNN"
    assert environment.split() == ["detectron2", "0.6", f"@{tmp_path / 'detectron2'}"]


def test_installation_shows_up_in_pip_and_can_be_undone(
    wheel: Path, bare_python: Path, tmp_path: Path
) -> None:
    # The pip of this environment works on the bare one, which saves installing pip there.
    pip = ["-m", "pip", f"--python={bare_python}"]
    result = run_python(*pip, "install", "--no-deps", "--no-index", wheel)
    assert result.returncode == 0, result.stderr

    shown = run_python(*pip, "show", "detectron2").stdout.splitlines()
    assert "Version: 0.6" in shown

    result = run_python(SCRIPT, python=bare_python)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("detectron2 0.6 is already installed in ")
    assert result.stdout.endswith(": nothing to do.\n")

    assert run_python(*pip, "uninstall", "--yes", "detectron2").returncode == 0
    program = "import importlib.util; print(importlib.util.find_spec('detectron2'))"
    assert run_python("-c", program, python=bare_python).stdout == "None\n"


def test_present_detectron2_is_left_alone_without_importing_it(
    bare_python: Path, tmp_path: Path
) -> None:
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text('raise ImportError("no torch")\n__version__ = "0.7"\n')
    result = run_python(SCRIPT, python=bare_python, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"detectron2 0.7 is already installed in {package}: nothing to do.\n"


def test_folder_of_the_same_name_is_not_taken_for_detectron2(
    bare_python: Path, tmp_path: Path
) -> None:
    (tmp_path / "detectron2").mkdir()
    result = run_python(SCRIPT, python=bare_python, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert f"run '{bare_python} -m ensurepip'" in result.stderr


def test_index_out_of_reach_is_one_sentence(tmp_path: Path) -> None:
    result = run_python(
        SCRIPT,
        "--wheel-dir",
        tmp_path,
        PIP_CONFIG_FILE=os.devnull,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",  # a port nobody listens on
        PIP_EXTRA_INDEX_URL="",
        PIP_FIND_LINKS="",
        PIP_NO_CACHE_DIR="1",
        PIP_RETRIES="0",
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(
        "install_detectron2: Cannot download labgym==3.1.2: pip says 'No matching distribution"
    )
    assert list(tmp_path.iterdir()) == []


def test_other_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "index", tmp_path / "wheel"
    source.mkdir()
    with zipfile.ZipFile(source / "labgym-3.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr("LabGym/detectron2/__init__.py", '__version__ = "0.6"\n')
        archive.writestr(
            "labgym-3.1.2.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: labgym\nVersion: 3.1.2\n",
        )
        archive.writestr(
            "labgym-3.1.2.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("labgym-3.1.2.dist-info/RECORD", "")
    result = run_python(
        SCRIPT,
        "--wheel-dir",
        target,
        PIP_CONFIG_FILE=os.devnull,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(source),
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "labgym-3.1.2-py3-none-any.whl from the package index has the sha256" in result.stderr
    assert "not a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b" in result.stderr
    assert list(target.iterdir()) == []


def test_unusable_wheel_folder_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    result = run_python(SCRIPT, "--wheel-dir", file / "folder")
    assert result.returncode == 1
    assert result.stderr == f"install_detectron2: Cannot use {file / 'folder'}: Not a directory.\n"
    assert result.stdout == ""


def test_leftover_of_the_source_name_is_refused() -> None:
    restored = install_detectron2.restore_name({"a.py": b"import LabGym.detectron2.x as x\n"})
    assert restored == {"a.py": b"import detectron2.x as x\n"}
    message = r"b\.py of labgym==3\.1\.2 mentions LabGym other than as LabGym\.detectron2"
    with pytest.raises(install_detectron2.InstallError, match=message):
        install_detectron2.restore_name({"b.py": b"from LabGym import detectron2\n"})
    with pytest.raises(install_detectron2.InstallError, match="text to repair exactly once"):
        install_detectron2.repair({"detectron2/model_zoo/model_zoo.py": b"import os\n"})
