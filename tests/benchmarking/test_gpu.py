"""The run for GPUs: its plan, its failures, and a rehearsal of it on the CPU."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mvit_det.benchmarking.gpu import TIME_LIMIT, Step, plan, run

ROOT = Path(__file__).resolve().parents[2]


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--gpu", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "tools" / "benchmark.py"), run_name="__main__")
    if stopped.value.code:
        raise stopped.value


def test_the_plan_names_files_that_exist_and_every_recipe():
    steps = {step.name: step for step in plan("cuda", ROOT)}
    recipes = {path.relative_to(ROOT) for path in ROOT.glob("configs/COCO/recipes/*.py")}
    named = {Path(name) for step in steps.values() for name in step.arguments if "/" in name}
    assert recipes <= {Path(name) for name in steps["recipes"].arguments}
    for path in named:
        assert (ROOT / str(path).removeprefix("--ignore=")).exists(), path
    assert TIME_LIMIT < 600
    assert steps.keys() == {step.name for step in plan("cpu", ROOT)}


def test_without_cuda_it_says_so_and_ends_well(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run_tool(monkeypatch, "--output", tmp_path / "gpu")
    assert capsys.readouterr().out == "Skipped: PyTorch finds no CUDA device on this machine.\n"
    assert not (tmp_path / "gpu").exists()


def test_a_step_that_fails_or_hangs_leaves_the_others_alone(tmp_path):
    writes = "import sys, pathlib; folder = pathlib.Path(sys.argv[1]);"
    writes += "(folder / 'benchmark.md').write_text('| table |');"
    writes += "(folder / 'benchmark.json').write_text('[1, 2]')"
    steps = [
        Step("broken", "Broken", ["-c", "raise SystemExit('out of order')"], 60),
        Step(
            "hangs", "Hangs", ["-c", "import time; print('here', flush=True); time.sleep(600)"], 3
        ),
        Step("writes", "Writes", ["-c", writes], 60),
    ]
    lines = []
    outcomes = run(steps, ROOT, tmp_path, "cpu", lines.append)
    assert [outcome.status for outcome in outcomes] == ["failed", "timed out", "passed"]
    assert len(lines) == 6
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["steps"]["broken"]["output"] == "out of order"
    assert content["steps"]["hangs"]["output"] == "here"
    assert content["steps"]["writes"]["results"] == [1, 2]
    assert content["versions"]["torch"] == torch.__version__
    text = (tmp_path / "gpu.md").read_text()
    assert "## Writes: passed after" in text
    assert "| table |" in text
    assert "out of order" in text


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu(monkeypatch, tmp_path):
    """Everything that `make gpu` does, on the CPU at tiny sizes."""
    run_tool(monkeypatch, "--device", "cpu", "--output", tmp_path)
    content = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert {step["status"] for step in content.values()} == {"passed"}
    outcomes = [test["outcome"] for test in content["tests"]["results"]]
    assert outcomes.count("passed") >= 10
    assert "failed" not in outcomes
    (quick_start,) = content["quick_start"]["results"]
    assert quick_start["outcome"] == "passed"
    (recipe,) = content["recipes"]["results"]["rows"]
    assert recipe["allocated"] > 0
    assert len(recipe["seconds"]) == 4
    assert {row["kernel"] for row in content["attention"]["results"]["rows"]} >= {"blocked", "sdpa"}
    assert all(row["values"]["baseline"] for row in content["benchmark"]["results"]["rows"])
    text = (tmp_path / "gpu.md").read_text()
    assert "| mask_rcnn_mvitv2_pico " in text
    assert "× as fast" in text
