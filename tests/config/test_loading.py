import builtins
import logging
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from mvit_det.config import (
    build_model,
    choose_device,
    config_file,
    find_config,
    load_config,
    prepare_output_dir,
    resolve_device,
)
from mvit_det.errors import ConfigError, DeviceError
from mvit_det.model_zoo import MODELS, configs_folder, list_configs

PICO = Path(__file__).resolve().parents[2] / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py"


def make_config(device="", enabled=True, dtype="auto"):
    amp = {"enabled": enabled, "dtype": dtype}
    return OmegaConf.create({"train": {"device": device, "amp": amp}})


def test_overrides_reach_the_config():
    config = load_config(PICO, ["train.max_iter=7", "model.backbone.bottom_up.depths=[1,2]"])
    assert config.train.max_iter == 7
    assert list(config.model.backbone.bottom_up.depths) == [1, 2]
    assert config.optimizer.lr == 2e-3


def test_mixed_precision_is_off_on_the_cpu_unless_asked_for():
    config = make_config()
    resolve_device(config, "cpu")
    assert (config.train.device, config.train.amp.enabled) == ("cpu", False)
    config = make_config(device="cpu", dtype="bf16")
    resolve_device(config)
    assert (config.train.amp.enabled, config.train.amp.dtype) == (True, "bf16")
    config = make_config(device="cpu", dtype="bf16", enabled=False)
    resolve_device(config)
    assert not config.train.amp.enabled


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_cuda_the_cpu_is_taken_with_a_warning(caplog):
    config = make_config()
    with caplog.at_level(logging.WARNING):
        resolve_device(config)
    assert config.train.device == "cpu"
    assert "No CUDA device found: running on the CPU" in caplog.text


@pytest.mark.parametrize("device", ["cuda:99", "mps", "gpu"])
def test_other_devices_than_those_of_the_machine_are_refused(device):
    with pytest.raises(DeviceError, match=device):
        choose_device(device)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="'cuda'"):
            resolve_device(make_config(device="cuda"))
    assert choose_device(torch.device("cpu")) == "cpu"


def test_fp16_needs_cuda():
    with pytest.raises(ConfigError, match="fp16"):
        resolve_device(make_config(dtype="fp16"), "cpu")


@pytest.mark.parametrize(
    ("name", "content", "values"),
    [
        ("a.txt", "", ["a.txt"]),
        ("a.py", "", ["a.py", "model, dataloader"]),
        ("a.py", "x = 1\nmodel = (", ["line 2"]),
        ("a.py", "from .b import model", ["ImportError", "line 1 of '{folder}/a.py'", "b.py"]),
        ("a.py", "\nimport torch.nowhere", ["ModuleNotFoundError", "line 2", "torch.nowhere"]),
        ("a.py", "x = 1\ny = 1 / 0", ["ZeroDivisionError", "line 2 of '{folder}/a.py'"]),
        ("a.py", "from .bad import x", ["ZeroDivisionError", "line 3 of '{folder}/bad.py'"]),
        ("a.py", "from .broken import x", ["broken.py", "line 2"]),
        ("a.yaml", "", ["a.yaml", "model, dataloader"]),
        ("a.yaml", "- model\n- train", ["a.yaml", "model, dataloader"]),
        ("a.yaml", "model", ["a.yaml", "model, dataloader"]),
        ("a.yaml", "3", ["a.yaml"]),
        ("a.yaml", "train:\n  lr: [1\nmodel: 3", ["a.yaml", "line 3"]),
        ("a.yaml", "model: !!python/name:nowhere.x", ["a.yaml", "line 1", "nowhere"]),
        ("a.yaml", "train:\n  seed: \x00", ["a.yaml", "line 2", r"'\x00'"]),
        ("a.yaml", "train:\n\n  seed: \x07", ["a.yaml", "line 3", r"'\x07'"]),
        ("a.yaml", "train:\n  output_dir: \udcfc", ["a.yaml", "line 2", "UTF-8"]),
        ("a.py", "x = 1\ny = '\x00'", ["a.py", "line 2", r"'\x00'"]),
        ("a.py", "x = 1\ny = '\udcfc'", ["a.py", "line 2", "UTF-8"]),
        ("a.py", "\nfrom .nul import x", ["nul.py", "null bytes"]),
        ("a.py", "\nfrom .latin import x", ["'{folder}/latin.py'", "utf-8"]),
        ("a.py", "import sys\n\nsys.exit(3)", ["SystemExit", "line 3 of '{folder}/a.py'", ": 3"]),
    ],
)
def test_files_that_are_no_configs_are_refused(name, content, values, tmp_path):
    (tmp_path / "bad.py").write_text("\n\nx = 1 / 0")
    (tmp_path / "broken.py").write_text("x = 1\ny = )")
    (tmp_path / "nul.py").write_text("x = '\x00'")
    (tmp_path / "latin.py").write_bytes(b"x = '\xfc'")
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    imports = builtins.__import__
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / name)
    message = str(raised.value)
    assert [v for v in values if v.format(folder=tmp_path) not in message] == []
    assert "\n" not in message
    assert "None" not in message
    assert builtins.__import__ is imports


def test_missing_entries_are_listed_with_the_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("train: {seed: 3}")
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    lines = str(raised.value).splitlines()[1:]
    entries = ("model", "dataloader", "optimizer", "lr_multiplier")
    assert lines == [f"  '{path}' has no '{entry}'" for entry in entries]


@pytest.mark.parametrize("name", ["nowhere.py", "nowhere", "mvitv2_t_IN1K", "configs"])
def test_names_of_no_config_are_refused(name):
    with pytest.raises(ConfigError, match=name):
        find_config(name)


def test_published_detectors_are_configs():
    config, weights = find_config("mask_rcnn_mvitv2_t", ["train.max_iter=3"])
    assert config.train.max_iter == 3
    assert weights == MODELS["mask_rcnn_mvitv2_t"].url
    assert find_config(PICO)[1] is None


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("shapes/mask_rcnn_mvitv2_pico", "shapes/mask_rcnn_mvitv2_pico.py"),
        ("configs/shapes/mask_rcnn_mvitv2_pico.py", "shapes/mask_rcnn_mvitv2_pico.py"),
        ("retinanet_mvitv2_t", "COCO/retinanet_mvitv2_t.py"),
        ("mask_rcnn_mvitv2_t", "COCO/mask_rcnn_mvitv2_t.py"),
        ("LVIS/mask_rcnn_mvitv2_t", "LVIS/mask_rcnn_mvitv2_t.py"),
    ],
)
def test_names_of_configs_in_any_folder(name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_file(name) == configs_folder() / file


def test_every_listed_name_is_a_config():
    names = list_configs()
    assert "shapes/mask_rcnn_mvitv2_pico" in names
    assert not [name for name in names if name.startswith("common")]
    assert [config_file(name).is_file() for name in names] == [True] * len(names)


def test_a_misspelt_name_gets_the_closest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="'retinanet_mvitv2_t'"):
        config_file("retinanet_mvit2_t")


def test_the_output_folder_is_made_and_left_empty(tmp_path):
    folder = tmp_path / "new" / "folder"
    prepare_output_dir(OmegaConf.create({"train": {"output_dir": str(folder)}}))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("", "it has no name"),
        ("{file}", "a file has this name"),
        ("{file}/folder", "Not a directory"),
        ("{file}" + 300 * "x", "File name too long"),
    ],
)
def test_an_output_folder_that_cannot_be_written_is_refused(folder, reason, tmp_path):
    (tmp_path / "file").touch()
    folder = folder.format(file=tmp_path / "file")
    with pytest.raises(ConfigError) as error:
        prepare_output_dir(OmegaConf.create({"train": {"output_dir": folder}}))
    assert f"'{folder}' ({reason})" in str(error.value)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model.backbone.bottom_up.num_heads=5", "5"),
        ("model.backbone.bottom_up.depths=[1,1]", "scale4"),
        ("model.backbone.bottom_up.position=abc", "abc"),
        ("model.backbone.bottom_up.norm_layer=abc", "str"),
        ("model.pixel_mean=[1]", "tensor"),
        ("model=5", "5"),
    ],
)
def test_models_that_cannot_be_built(override, value):
    with pytest.raises(ConfigError) as raised:
        build_model(load_config(PICO, [override]))
    assert value in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "quoted"),
    [
        ("model.proposal_generator.in_features=[]", "proposal_generator.in_features"),
        ("model.proposal_generator.in_features=[p2,p9]", "p9"),
        ("model.roi_heads.box_in_features=[scale2]", "roi_heads.box_in_features"),
        ("model.proposal_generator.head.in_channels=-1", "negative dimension"),
    ],
)
def test_models_that_cannot_run_are_refused(override, quoted):
    with pytest.raises(ConfigError, match=quoted):
        build_model(load_config(PICO, [override]))
