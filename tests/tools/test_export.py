"""tools/export.py: the command line; what it writes is tested in tests/export."""

import runpy

import pytest
import torch
from PIL import Image

from mvit_det.export import comparison
from tests.export.detectors import CONFIGS, make_detector

main = runpy.run_path(str(CONFIGS.parents[1] / "tools" / "export.py"))["main"]


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--format", "onnx", "--size", "800"], "HEIGHTxWIDTH"),
        (["--format", "tflite", "--size", "64x64"], "tflite"),
        (["--format", "onnx", "--size", "64x64", "--int8", "photos"], "--int8"),
        (["--format", "onnx", "--size", "64x64", "--part", "backbone", "--evaluate"], "--evaluate"),
    ],
)
def test_bad_arguments_are_named(arguments, named, capsys):
    with pytest.raises(SystemExit):
        run("--config-file", "c.py", "--output", "d.onnx", *arguments)
    assert named in capsys.readouterr().err


def test_errors_are_one_line(tmp_path, capsys):
    pytest.importorskip("onnxscript")
    _, weights = make_detector("faster_rcnn", tmp_path)
    common = ["--config-file", CONFIGS / "faster_rcnn_mvitv2_pico.py", "--weights", weights]
    onnx = [*common, "--format", "onnx", "--output", tmp_path / "d.onnx"]
    assert run(*onnx, "--size", "70x64") == 2
    assert run(*onnx, "--size", "64x64", "--opset", "9") == 2
    assert run(*onnx, "--size", "64x64", "--check", tmp_path / "absent.jpg") == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert ["70x64" in lines[0], "opset is 9" in lines[1], "absent.jpg" in lines[2]] == [True] * 3


def test_images_and_videos_are_not_confused(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    (tmp_path / "clip.mp4").touch()
    for config, option, name in (
        ("video_mvitv2_pico", "--check", "photo.png"),
        ("classifier_mvitv2_pico", "--int8", "clip.mp4"),
        ("mask_rcnn_mvitv2_pico", "--check", "clip.mp4"),
    ):
        arguments = ["--config-file", CONFIGS / f"{config}.py", "--weights", "w.pth"]
        arguments += ["--format", "openvino", "--output", tmp_path / "m.xml"]
        assert run(*arguments, option, tmp_path / name) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line


@pytest.mark.slow
def test_differences_beyond_the_limits_are_found(tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, weights = make_detector("faster_rcnn", tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(torch.randint(0, 256, (64, 64, 3)).byte().numpy()).save(images / "1.png")
    monkeypatch.setattr(comparison, "MAX_SCORE", -1.0)
    arguments = ["--config-file", CONFIGS / "faster_rcnn_mvitv2_pico.py", "--weights", weights]
    arguments += ["--format", "onnx", "--size", "64x64", "--output", tmp_path / "d.onnx"]
    assert run(*arguments, "--check", images) == 1
    printed = capsys.readouterr()
    assert "1 images, " in printed.out
    assert "d.onnx" in printed.err
