"""The command lines of the benchmark, and a whole run of it."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from mvit_det.benchmarking import Case

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "benchmark.py"


@pytest.fixture
def run_tool(monkeypatch):
    def run(*arguments):
        """Runs the tool and returns its exit code."""
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(TOOL), run_name="__main__")
        return stopped.value.code

    return run


@pytest.fixture
def cases_of(monkeypatch):
    def parse(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
        tool = runpy.run_path(str(TOOL))
        return tool["make_cases"](tool["parse_arguments"]())

    return parse


@pytest.mark.slow
def test_a_whole_run(run_tool, tmp_path, capsys):
    """A table, a plot, and all figures with machine and versions."""
    code = run_tool(
        *("--sweep", "--size", "pico", "--image-size", 64, 96, "--what", "train"),
        *("--repeats", 2, "--output", tmp_path),
    )
    assert code == 0
    header, _, memory, time, *_, last = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        "what",
        "of",
        "mvit_det",
        "detectron2",
        "mvit_det over detectron2",
        "over the floor",
        "features' error",
    ]
    assert memory.startswith("| training step, peak memory | MViTv2-pico, 64×96, batch 1, fp32 |")
    assert "× the memory" in memory
    assert time.startswith("| training step ")
    assert "× as fast" in time
    assert last.startswith("Wrote ")
    assert time in (tmp_path / "benchmark.md").read_text()

    content = json.loads((tmp_path / "benchmark.json").read_text())
    for row, unit, repeats in zip(content["rows"], ("bytes", "s"), (1, 2), strict=True):
        assert row["pass_name"] == "train"
        assert row["unit"] == unit
        assert row["case"]["image_size"] == [64, 96]
        assert row["skipped"] == {}
        assert all(len(values) == repeats for values in row["values"].values())
        medians = row["medians"]
        ratio = medians["candidate"] / medians["baseline"]
        assert row["candidate_over_baseline"] == pytest.approx(ratio)
    assert 0 < row["error"] < 1e-5
    floor = 3 * row["flops"] / row["matmul_rate"]
    assert row["floor"] == pytest.approx(floor)
    assert row["candidate_over_floor"] == pytest.approx(medians["candidate"] / floor)
    assert row["images_per_second"]["candidate"] == pytest.approx(1 / medians["candidate"])
    assert content["versions"]["torch"] == torch.__version__
    assert set(content["versions"]) == {"python", "torch", "torchvision", "detectron2", "mvit_det"}
    assert content["machine"]["cpu"]
    assert content["machine"]["cores"] >= 1
    assert content["machine"]["memory_bytes"] > 2**28
    assert "--sweep" in content["command"]

    # Both sides are drawn in both panels.
    image = cv2.imread(str(tmp_path / "benchmark.png"))
    for half in (image[:, :800], image[:, 800:]):
        for blue, green, red in ((178, 114, 0), (0, 94, 213)):
            is_line = (abs(half.astype(int) - (blue, green, red)).max(axis=2) < 8).sum()
            assert is_line > 50


def test_a_run_of_runtimes(run_tool, tmp_path, capsys):
    code = run_tool(
        *("--runtime", "pytorch,pytorch bf16", "--detector", "--size", "pico"),
        *("--image-size", 64, 96, "--repeats", 2, "--threads", 1, "--output", tmp_path),
    )
    assert code == 0
    table = capsys.readouterr().out
    assert "| detector | pytorch bf16 |" in table
    content = json.loads((tmp_path / "runtimes.json").read_text())
    rows = [(row["part"], row["runtime"], len(row["latencies"])) for row in content["rows"]]
    assert rows == [("detector", "pytorch", 2), ("detector", "pytorch bf16", 2)]
    assert (tmp_path / "runtimes.md").read_text().strip() in table


@pytest.mark.slow
def test_clip_lengths_make_a_plot(run_tool, tmp_path, capsys):
    code = run_tool(
        *("--task", "video", "--size", "pico", "--image-size", 32, 32, "--clip-lengths", 2, 4),
        *("--what", "forward,memory", "--repeats", 1, "--output", tmp_path),
    )
    assert code == 0
    table = capsys.readouterr().out
    assert "MViTv2-pico video model, 2×32×32" in table
    assert "time per pixel over that of 2×32×32" in table
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert [row["case"]["frames"] for row in rows] == [2, 2, 4, 4, 4]
    assert cv2.imread(str(tmp_path / "benchmark.png")).shape[1] > 1000


def test_an_error_is_one_sentence_without_a_traceback(run_tool, capsys):
    assert run_tool("--dtype", "fp16") == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: dtype fp16 needs CUDA")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "full", "--batch", "2"], "--batch: not allowed with argument --preset"),
        (["--what", "speed"], "'speed' is none of forward, train, memory"),
        (["--checkpoint", "scale9"], "'scale9' is none of scale2, scale3, scale4, scale5, all"),
        (["--runtime", "tensorrt"], "'tensorrt' is none of pytorch, "),
        (
            ["--runtime", "--task", "classification"],
            "--task: --runtime measures detection or video",
        ),
        (["--runtime", "--batch", "2"], "--batch: not allowed with argument --runtime"),
        (["--repeats", "0"], "--repeats: must be positive, not 0"),
        (["--clip-lengths", "8"], "--clip-lengths: needs --task video"),
    ],
)
def test_invalid_options_are_refused(run_tool, arguments, message, capsys):
    assert run_tool(*arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--batch", "2"], [Case(batch=2)]),
        (
            ["--image-size", "96", "64", "--image-size", "32", "64", "--detector", "--size", "s"],
            [
                Case(size="s", image_size=(32, 64), detector=True),
                Case(size="s", image_size=(96, 64), detector=True),
            ],
        ),
        (["--mask-padding"], [Case(mask_padding=True, baseline="mvit_det")]),
        (
            ["--checkpoint", "scale2,scale3", "--against", "detectron2", "--repeats", "2"],
            [Case(checkpoint=("scale2", "scale3"), repeats=2)],
        ),
        (
            ["--task", "classification", "--size", "s"],
            [Case("s", "classification", (224, 224), batch=8, baseline="timm")],
        ),
        (
            ["--loader", "flowers", "--image-size", "64", "64", "--batch", "2"],
            [Case("t", "classification", (64, 64), batch=2, baseline="timm")],
        ),
        (["--task", "video"], [Case("s", "video", (224, 224), baseline="torchvision")]),
        (
            ["--task", "video", "--size", "b", "--clip-lengths", "32", "8"],
            [Case("b", "video", (224, 224), frames=n, baseline="torchvision") for n in (8, 32)],
        ),
        (["--sweep"], [Case(image_size=(n, n)) for n in (256, 512, 768, 1024, 1536, 2048)]),
    ],
)
def test_options_become_cases(cases_of, arguments, expected):
    assert cases_of(*arguments) == expected


def test_the_quick_preset_is_the_default(cases_of):
    assert cases_of() == cases_of("--preset", "quick")
    assert len(cases_of()) < len(cases_of("--preset", "full"))


@pytest.mark.slow
def test_tools_run_without_psutil():
    """It is in the extra `dev` only, and these tools are for every installation."""
    config = "configs/shapes/mask_rcnn_mvitv2_pico.py"
    calls = [
        ["tools/benchmark.py", "--help"],
        ["tools/analyze_model.py", "--help"],
        ["tools/compare.py", "--help"],
        ["tools/analyze_model.py", config, "--size", "64", "96"],
        ["tools/benchmark.py", "--size", "pico", "--image-size", "64", "96", "--what", "forward"]
        + ["--repeats", "1", "--threads", "1"],
    ]
    code = f"""
import contextlib, runpy, sys, tempfile
sys.modules["psutil"] = None
for number, arguments in enumerate({calls!r}):
    if number == 4:
        arguments += ["--output", tempfile.mkdtemp()]
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "| mask_rcnn_mvitv2_pico " in done.stdout
    assert "× as fast" in done.stdout
