"""The script that writes generated shapes for use elsewhere."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "make_shapes.py"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("make_shapes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_runs_as_a_script(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--output", tmp_path / "set", "--images", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Wrote 2 images of 128x128 pixels")
    assert len(list((tmp_path / "set" / "images").iterdir())) == 2


def test_writes_a_dataset_and_says_so(tmp_path, main, capsys):
    output = tmp_path / "my shapes"
    assert main("--output", output, "--images", 4, "--size", "64x96", "--seed", 5) == 0
    dataset = json.loads((output / "annotations.json").read_text())
    crowds = sum(annotation["iscrowd"] for annotation in dataset["annotations"])
    shapes = len(dataset["annotations"]) - crowds
    printed = capsys.readouterr().out
    assert f"Wrote 4 images of 64x96 pixels with {shapes} shapes and {crowds}" in printed
    assert str(output) in printed
    for image in dataset["images"]:
        assert cv2.imread(str(output / "images" / image["file_name"])).shape == (64, 96, 3)


def test_overwrites_only_when_told_to(tmp_path, main, capsys):
    arguments = ["--output", tmp_path / "set", "--size", 64, "--images"]
    assert main(*arguments, 3) == 0
    assert main(*arguments, 2) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "already holds a generated dataset" in message
    assert main(*arguments, 2, "--overwrite") == 0
    assert len(list((tmp_path / "set" / "images").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", 0], "num_images is 0; it must be between 1 and 999999"),
        (["--size", 10], "height is 10; it must be between 64 and 2048"),
        (["--max-shapes", 51], "max_shapes is 51; it must be between 1 and 50"),
    ],
)
def test_wrong_arguments_are_one_sentence(tmp_path, main, capsys, arguments, message):
    assert main("--output", tmp_path / "set", *arguments) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_size_that_is_no_number_shows_the_usage(tmp_path, main, capsys):
    with pytest.raises(SystemExit):
        main("--output", tmp_path / "set", "--size", "big")
    assert "'big' is neither a number nor HEIGHTxWIDTH" in capsys.readouterr().err
