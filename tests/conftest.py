"""Fixtures for all tests."""

import os
import shutil
from pathlib import Path

import pytest

from mvit_det.data import register_shapes


@pytest.fixture(scope="session")
def coco_sample() -> Path:
    """Folder with COCO images and annotations in Detectron2's layout, or a skipped test."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    if not (root / "coco" / "annotations" / "instances_val2017.json").exists():
        pytest.skip(
            "set DETECTRON2_DATASETS to a folder with coco/annotations/instances_val2017.json"
        )
    return root


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Temporary folder from which ``shapes_train`` and ``shapes_val`` are registered."""
    root = tmp_path_factory.mktemp("datasets") / "shapes"
    register_shapes(root)
    return root


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window, driven by Playwright, or a skipped test."""
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()
