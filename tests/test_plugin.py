"""Modules that `import mvit_det` loads, and when it registers with Detectron2."""

import subprocess
import sys

import pytest


def run(program):
    return subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


def test_importing_the_package_loads_neither_torch_nor_detectron2():
    assert run("import sys, mvit_det; print({'torch', 'detectron2'} & {*sys.modules})") == "set()\n"


@pytest.mark.parametrize(
    "imports",
    [
        "import mvit_det; from detectron2.modeling import BACKBONE_REGISTRY",
        "import warnings; warnings.simplefilter('ignore')\n"
        "from detectron2.modeling import BACKBONE_REGISTRY; import mvit_det",
        pytest.param(
            "import mvit_det.data.lvis; from detectron2.modeling import BACKBONE_REGISTRY",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "import mvit_det.backbone; from detectron2.modeling import BACKBONE_REGISTRY",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["mvit_det first", "detectron2 first", "datasets first", "backbone first"],
)
def test_registries_know_backbones_and_datasets(imports):
    program = f"""{imports}
from detectron2.data import DatasetCatalog
print("build_mvitv2_fpn_backbone" in BACKBONE_REGISTRY, "shapes_val" in DatasetCatalog)"""
    assert run(program) == "True True\n"


@pytest.mark.slow
def test_datasets_of_classifiers_are_known_without_their_configs():
    names = ["moving_shapes_val", "shape_classes_val", "kinetics400_val"]
    program = f"from mvit_det.data.catalog import check_datasets; print(check_datasets({names}))"
    assert run(program).endswith("None\n")
