"""save_pretrained, from_pretrained and the Hugging Face Hub, as a real server on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import LazyConfig, instantiate
from PIL import Image

import mvit_det
from mvit_det import Classifier, Predictor
from mvit_det.checkpoint import Checkpointer
from mvit_det.config import find_config
from mvit_det.errors import CheckpointError, ConfigError, OutputError

SERVER = Path(__file__).with_name("hub_server.py")
NAMES = {
    "shapes/mask_rcnn_mvitv2_pico": ["bolt", "nut", "washer", "gear", "pin"],
    "shapes/classifier_mvitv2_pico": None,
}


def train(name, folder):
    """The output folder of a training, without the training."""
    config, _ = find_config(name, [f"train.output_dir={folder}"])
    config.data.train_json = str(folder / "train.json")
    torch.manual_seed(0)
    names = NAMES[name] or [f"kind {number}" for number in range(config.model.num_classes)]
    metadata = {"category_ids": [10, 20, 30, 40, 70]} if NAMES[name] else {}
    model = instantiate(config.model)
    Checkpointer(model, folder, class_names=names, **metadata).save("model_final")
    LazyConfig.save(config, str(folder / "config.yaml"))
    entries = [{"iteration": 1, "bbox/AP": 12.5}, {"iteration": 2, "bbox/AP": 34.25}]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, entries)))
    (folder / "evaluation").mkdir()
    Image.fromarray(noise()).save(folder / "evaluation" / "predictions.png")
    return folder / "config.yaml", folder / "model_final.pth"


def noise():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)


@pytest.fixture(scope="module", params=NAMES, ids=["detector", "classifier"])
def saved(request, tmp_path_factory):
    """Config, weights, and the folder that save_pretrained made of them."""
    folder = tmp_path_factory.mktemp("trained")
    config, weights = train(request.param, folder)
    return config, weights, mvit_det.save_pretrained(config, weights, folder / "shared-model")


def results(model):
    if isinstance(model, Classifier):
        return [(each.name, each.score) for each in model(noise())]
    found = model(noise())
    return [*found.to_coco(), *found.class_names]


def test_there_and_back(saved):
    config, weights, folder = saved
    kind = Classifier if "classifier" in config.read_text() else Predictor
    before = kind(config, weights, device="cpu")
    after = mvit_det.from_pretrained(folder, device="cpu")
    assert type(after) is kind
    assert results(after) == results(before)
    assert len(results(after)) >= 5 + (kind is Predictor)
    # Nothing of this machine is in the files.
    assert str(config.parent) not in (folder / "config.yaml").read_text()
    card = (folder / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "mvit_det"
    assert "| bbox/AP | 34.25 |" in card
    assert after.class_names[0] in card
    assert "(predictions.png)" in card
    assert (folder / "predictions.png").is_file()


@pytest.mark.slow
def test_the_hub(saved, tmp_path):
    """Upload and download, each in a process whose hub is the server."""
    _, _, folder = saved
    server = subprocess.Popen(
        [sys.executable, SERVER, tmp_path / "hub"], stdout=subprocess.PIPE, text=True
    )
    try:
        address = server.stdout.readline().strip()
        environment = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": "hf_token",
        }
        program = f"""
import mvit_det
from mvit_det.errors import CheckpointError
from mvit_det.prediction import push_to_hub
print(push_to_hub({str(folder)!r}, "me/parts"))
model = mvit_det.from_pretrained("me/parts", device="cpu")
print(type(model).__name__, *model.class_names, sep=",")
try:
    mvit_det.from_pretrained("me/nothing")
except CheckpointError as error:
    print(error)
"""
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    finally:
        server.terminate()
        server.wait()
    assert done.returncode == 0, done.stderr
    url, model, missing = done.stdout.splitlines()
    assert url == f"{address}/me/parts"
    assert model.split(",")[1:] == list(mvit_det.from_pretrained(folder, device="cpu").class_names)
    assert "'me/nothing'" in missing


@pytest.fixture
def copy(tmp_path):
    config, weights = train("shapes/mask_rcnn_mvitv2_pico", tmp_path)
    return mvit_det.save_pretrained(config, weights, tmp_path / "copy")


@pytest.mark.parametrize(
    ("field", "target"),
    [
        ("model", "os.system"),
        ("dataloader", "mvit_det.modeling.kernels.dispatch.os.system"),
        ("model", "torch.load"),
    ],
)
def test_configs_that_call_other_functions_are_refused(field, target, copy):
    path = copy / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content[field]["hidden"] = {"_target_": target, "command": "touch hacked"}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=target):
        mvit_det.from_pretrained(copy, device="cpu")


def test_configs_that_run_code_when_read_are_refused(copy, tmp_path):
    marker = tmp_path / "hacked"
    path = copy / "config.yaml"
    path.write_text(path.read_text() + f"x: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        mvit_det.from_pretrained(copy, device="cpu")
    assert not marker.exists()


def test_missing_files_and_client(copy, monkeypatch):
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        mvit_det.from_pretrained(copy)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"mvit_det\[hub\]"):
        mvit_det.from_pretrained("me/parts")


@pytest.mark.parametrize(
    ("folder", "named"),
    [("s3://bucket/model", "'s3://bucket/model'"), ("", "''"), ("project", "'project/README.md'")],
)
def test_folders_that_are_not_for_models_are_refused(folder, named, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("of a project")
    with pytest.raises(OutputError, match=named):
        mvit_det.save_pretrained(tmp_path / "config.yaml", tmp_path / "model_final.pth", folder)
    assert (tmp_path / "project" / "README.md").read_text() == "of a project"
    assert not (tmp_path / "s3:").exists()
    # That of a model is replaced.
    assert mvit_det.save_pretrained(tmp_path / "config.yaml", tmp_path / "model_final.pth", copy)
