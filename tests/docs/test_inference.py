"""The page on inference: its fields exist, and its commands can be parsed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mvit_det.cli.predict import parse_arguments
from mvit_det.config import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    return [shlex.split(block.replace("\\\n", " ")) for block in blocks]


def test_overrides_are_accepted():
    evaluation = next(words for words in commands() if "--eval-only" in words)
    config = ROOT / evaluation[evaluation.index("--config-file") + 1]
    overrides = [word for word in evaluation if "=" in word]
    loaded = load_config(config, overrides)
    assert loaded.inference.tta.short_sides == list(range(400, 1300, 100))
    assert loaded.model.roi_heads.box_predictors[2].test_nms_method == "linear"


def test_commands_of_the_demo_can_be_parsed():
    demos = [words[2:] for words in commands() if words[1] == "tools/demo.py"]
    assert len(demos) == 2
    options = [parse_arguments(words, "demo") for words in demos]
    assert options[0].tta == [600, 800, 1000]
    assert options[1].tile_size == 1024
    for each in options:
        load_config(ROOT / "configs" / "COCO" / "mask_rcnn_mvitv2_t.py", each.opts)


def test_fields_exist():
    config = load_config(ROOT / "configs" / "COCO" / "mask_rcnn_mvitv2_t.py")
    for field in set(re.findall(r"`inference\.(\w+)\.(\w+)", PAGE)):
        group, name = field
        assert name in config.inference[group], field


@pytest.mark.slow
def test_real_images(coco_sample, tmp_path):
    """The commands of the table, with fewer steps."""
    block = next(block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) if "SIZE" in block)
    code = block.replace("max_iter=1400", "max_iter=2").replace("output/", f"{tmp_path}/")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DETECTRON2_DATASETS": str(coco_sample.absolute())}
    done = subprocess.run(
        ["bash", "-ec", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "slices" / "evaluation" / "metrics.json").read_text())
    assert metrics["bbox"]["objects"] > 700
    assert 0 <= metrics["segm"]["AP"] <= 100
