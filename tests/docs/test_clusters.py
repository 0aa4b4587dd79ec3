"""The commands and Slurm scripts of docs/clusters.md, on the CPU of one machine."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from mvit_det.checkpoint import Checkpointer
from mvit_det.config import load_config
from mvit_det.data.shapes import generate_shapes
from tests.docs.conftest import ROOT, prepare

PAGE = ROOT / "docs" / "clusters.md"
# Starts the tasks of two nodes on this machine, numbered as srun does, and waits for them.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
pids=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$((task / 2)) SLURM_STEP_NUM_TASKS=$SLURM_NTASKS "$@" &
    pids+=($!)
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit $code
"""
SCONTROL = "#!/bin/bash\necho 127.0.0.1\necho other-machine\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with few images, a detector, and the programs of the page."""
    generate_shapes(tmp_path / "datasets" / "shapes" / "train", 4, 64, 0)
    generate_shapes(tmp_path / "datasets" / "shapes" / "val", 2, 64, 1)
    generate_shapes(tmp_path / "more", 5, 64, 2)
    (tmp_path / "more" / "images").rename(tmp_path / "photos")
    config = load_config("shapes/mask_rcnn_mvitv2_pico")
    torch.manual_seed(0)
    model = instantiate(config.model)
    model.roi_heads.box_predictor.cls_score.weight.data *= 200
    Checkpointer(model, tmp_path / "output").save("model_final")
    LazyConfig.save(config, str(tmp_path / "output" / "config.yaml"))
    programs = tmp_path / ".programs"
    programs.mkdir()
    torchrun = f'#!/bin/sh\nexec "{sys.executable}" -m torch.distributed.run "$@"\n'
    for name, text in (("torchrun", torchrun), ("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return tmp_path


def run_script(name, folder, *arguments, tasks):
    """Runs a script of the page as Slurm would, on two nodes with a GPU each."""
    (script,) = re.findall(rf"Save as `{name}`:\n\n```sh\n(.*?)```", PAGE.read_text(), re.S)
    (folder / name).write_text(script)
    environment = {
        **prepare(folder),
        "DETECTRON2_DATASETS": str(folder / "datasets"),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_NTASKS": str(tasks),
        "SLURM_PROCID": "0",
    }
    done = subprocess.run(
        ["bash", name, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_the_commands(run_page, folder, capsys):
    sharded, predicted = run_page(PAGE.name, folder, DETECTRON2_DATASETS=str(folder / "datasets"))
    names = sharded.split()
    assert {"model_final", "model_final.pth", "last_checkpoint"} <= set(names)
    assert (folder / "output" / "sharded" / "model_final").is_dir()
    assert predicted.count("Found ") == 2
    assert len(list((folder / "found").glob("*.png"))) == 5
    results = json.loads((folder / "found" / "predictions.json").read_text())
    assert {each["image_id"] for each in results} <= {1, 2, 3, 4, 5}
    assert_table(capsys.readouterr().out)


def assert_table(printed):
    """The table of the page has the numbers that its block prints."""
    text = PAGE.read_text()
    for line in printed.splitlines():
        name, _, rest = line.partition(": ")
        numbers = re.findall(r"[\d,.]*\d", rest)
        if " images per hour" not in line:
            continue
        (row,) = re.findall(rf"^\| {name.replace(' ', ', ')}, .*$", text, re.M)
        per_gpu, ranks, _, hours, requests, bandwidth, cores = numbers
        expected = f"| {per_gpu} | {ranks} | {hours} h | {requests}/s, {bandwidth} GB/s | {cores} |"
        assert row.endswith(expected), (row, expected)
    assert printed.count("images per hour") == 3


@pytest.mark.slow
def test_the_script_of_a_training(folder):
    """Two nodes meet and train; an explicit `max_iter` wins over the images per step."""
    arguments = ("--config-file", "shapes/mask_rcnn_mvitv2_pico", "--device", "cpu")
    arguments += ("--batch-size", "2", "train.max_iter=2", "train.output_dir=shared/run")
    printed = run_script("train.sh", folder, *arguments, tasks=2)
    assert "Training from iteration 0 to 2" in printed
    assert (folder / "shared" / "run" / "model_final.pth").exists()
    assert (folder / "shared" / "run" / "log.txt.rank1").exists()
    assert not (folder / "shared" / "run" / "log.txt.rank2").exists()


@pytest.mark.slow
def test_the_script_of_a_prediction(folder):
    names = sorted(str(path) for path in (folder / "photos").iterdir())
    (folder / "inputs.txt").write_text("\n".join(names))
    arguments = ("--config-file", "output/config.yaml", "--weights", "output/model_final.pth")
    arguments += ("--input-list", "inputs.txt", "--output", "found", "--device", "cpu")
    printed = run_script("predict.sh", folder, *arguments, tasks=3)
    assert sorted(re.findall(r"Rank (\d) of 3: Found", printed)) == ["0", "1", "2"]
    assert [path.name for path in (folder / "found").iterdir()] == ["predictions.json"]
    results = json.loads((folder / "found" / "predictions.json").read_text())
    assert list(dict.fromkeys(each["file_name"] for each in results)) == names
