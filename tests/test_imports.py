"""The layers of the package: an import only ever points down."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mvit_det"
# From the bottom up; modules of one layer may import one another.
LAYERS = (
    {"errors"},
    {"drawing", "plugin"},
    {"modeling"},
    {"backbone", "checkpoint", "data", "evaluation", "model_zoo", "optimization", "plotting"}
    | {"acceleration", "detection", "visualization"},
    {"config"},
    {"prediction", "runtime"},
    {"engine", "export"},
    {"ablation", "benchmarking"},
    {"cli"},
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
NEED_NO_DETECTRON2 = {"checkpoint", "errors", "modeling"}


def imported_modules(path):
    """Names of all modules that a file of `mvit_det` imports, split at the dots."""
    package = ("mvit_det", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = [*base, *(node.module.split(".") if node.module else [])]
            yield from ([*module, alias.name] for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)


def test_imports_point_down():
    upward = []
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in LAYER_OF, f"give {own} a place in LAYERS"
        for library, part, *_ in (names for names in imported_modules(path) if len(names) > 1):
            if library == "mvit_det" and LAYER_OF.get(part, 0) > LAYER_OF[own]:
                upward.append(f"{path.relative_to(PACKAGE)} imports {part}")
            if library == "detectron2" and own in NEED_NO_DETECTRON2:
                upward.append(f"{path.relative_to(PACKAGE)} imports detectron2")
    assert upward == []


@pytest.mark.slow
def test_prediction_needs_no_training_code():
    program = "import sys, mvit_det.prediction; print('mvit_det.engine' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout == "False\n"
