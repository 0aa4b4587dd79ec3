"""What may import what."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for folder in ("mvit_det", "configs", "tools") for path in (ROOT / folder).rglob("*.py")
)


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_needs_timm_fairscale_or_the_model_zoo_of_detectron2(path):
    for module in imported_modules(path):
        assert module.partition(".")[0] not in ("timm", "fairscale")
        assert not module.startswith("detectron2.model_zoo")


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.parent.name == "modeling"],
    ids=lambda path: path.name,
)
def test_the_model_imports_nothing_from_above(path):
    for module in imported_modules(path):
        assert module.partition(".")[0] not in ("detectron2", "mvit_det")
    source = path.read_text(encoding="utf-8")
    assert "from .." not in source


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.is_relative_to(ROOT / "mvit_det")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_package_imports_no_tools_or_configs(path):
    for module in imported_modules(path):
        assert module.partition(".")[0] not in ("tools", "configs")
