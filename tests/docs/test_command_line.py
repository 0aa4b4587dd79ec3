"""The commands of docs/command-line.md, and its list of commands."""

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from mvit_det.cli.main import COMMANDS
from mvit_det.data.shapes import generate_shapes
from tests.browser import Visit
from tests.data.conftest import write_yolo
from tests.test_installed import PIP, build_wheel, make_environment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"


def test_all_commands_are_listed():
    assert re.findall(r"^\| `([\w-]+)` \|", PAGE.read_text(encoding="utf-8"), re.M) == list(
        COMMANDS
    )


def write_parts(folder):
    content = generate_shapes(folder / "shapes", 10, (64, 64), seed=0, crowd_fraction=0)
    write_yolo(content, folder / "shapes" / "images", folder / "parts")


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="needs Gradio")
def test_five_commands_from_a_yolo_folder_to_the_browser(tmp_path, browser):
    """In an environment with nothing but dependencies, and a folder with the wheel and dataset.

    Pillow alone comes from the package index: Gradio wants an older one than that of the tests.
    """
    write_parts(tmp_path)
    wheel = build_wheel(tmp_path)
    programs = make_environment(tmp_path / "new", "gradio", without=["pillow"]).parent
    # Of the environment of the tests, for the new one.
    pip = " ".join([*PIP, f"--python={programs / 'python'}", '"$@"'])
    (programs / "pip").write_text(f"#!/bin/sh\nexport HOME={Path.home()}\nexec {pip}\n")
    (programs / "pip").chmod(0o755)

    text = PAGE.read_text(encoding="utf-8").split("## Five commands", 1)[1]
    *commands, app = re.search(r"```text\n(.*?)```", text, re.S)[1].strip().splitlines()
    assert len(commands) == 4
    assert wheel.name in commands[0]
    environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment.update(PATH=f"{programs}:/usr/bin:/bin", HOME=str(tmp_path))
    options = {"cwd": tmp_path, "env": {**environment, "OMP_NUM_THREADS": "1"}, "text": True}
    for command in commands:
        done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=300, **options)
        if "No matching distribution found for pillow" in done.stderr:
            pytest.skip("needs a package index")
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    # An untrained model is sure of nothing; the port may be taken here.
    app += f" --confidence-threshold 0.05 --port {7000 + os.getpid() % 1000}"
    with subprocess.Popen(["bash", "-c", f"exec {app}"], stdout=subprocess.PIPE, **options) as page:
        try:
            url = re.search(r"http://127\.0\.0\.1:\d+", page.stdout.readline())[0]
            visit = Visit(browser.new_page(), url, tmp_path / "parts" / "images" / "train")
            image = next(visit.folder.iterdir())
            assert re.match(r"[1-9]\d* objects?: ", visit.upload(image.name))
            assert visit.image().endswith(f"{image.stem}_drawn.png")
        finally:
            page.terminate()
        assert page.wait(30) == 0


@pytest.mark.slow
def test_from_a_yolo_folder_to_predictions(run_page, tmp_path):
    write_parts(tmp_path)
    printed, models = run_page("command-line.md", tmp_path)
    assert "YOLO: train" in printed
    assert "1 of 10 images were set aside" in printed
    assert "Evaluation results for segm" in printed
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    rows = (tmp_path / "found" / "predictions.csv").read_text().splitlines()
    assert len(rows) == len(results) + 1
    # The classes of YOLO, from 0.
    config = (tmp_path / "output" / "parts" / "config.yaml").read_text()
    assert re.search(r"category_ids: *\n? *\[?(- )?0", config)
    assert len(list((tmp_path / "found").glob("*.png"))) == 10
    assert "shapes/mask_rcnn_mvitv2_pico" in models
