import logging
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from mvit_det.config import load_config, prepare_output_dir, resolve_device
from mvit_det.errors import ConfigError, DeviceError

PICO = Path(__file__).resolve().parents[2] / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py"


def make_config(device="", enabled=True, dtype="auto"):
    amp = {"enabled": enabled, "dtype": dtype}
    return OmegaConf.create({"train": {"device": device, "amp": amp}})


def test_overrides_reach_the_config():
    config = load_config(PICO, ["train.max_iter=7", "model.backbone.bottom_up.depths=[1,2]"])
    assert config.train.max_iter == 7
    assert list(config.model.backbone.bottom_up.depths) == [1, 2]
    assert config.optimizer.lr == 1e-3


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("config", [make_config(), make_config(device="cuda:0")])
def test_asking_for_cuda_without_any_is_refused(config):
    with pytest.raises(DeviceError, match="PyTorch finds no CUDA device on this machine; use"):
        resolve_device(config, None if config.train.device else "cuda")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (make_config(dtype="fp16"), "train.amp.dtype=fp16 needs CUDA"),
        (make_config(dtype="half"), "must be 'auto', 'bf16' or 'fp16', not 'half'"),
    ],
)
def test_unknown_precision_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        resolve_device(config, "cpu")


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        ("nowhere.py", [], "there is no config file 'nowhere.py'"),
        (PICO.parents[2] / "README.md", [], "cannot read the config file .*README.md'"),
        (PICO, ["train.max_iter=[1"], r"cannot apply train.max_iter=\[1: no viable alternative"),
        (PICO, ["train.max_iter.x=3"], "cannot apply train.max_iter.x=3: .* is not a config"),
        (PICO, ["train.max_iter"], "cannot read the option 'train.max_iter': changes to the"),
    ],
)
def test_configs_that_cannot_be_read_are_refused(path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(path, overrides)


def test_a_config_that_is_no_python_is_refused(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("model = (")
    with pytest.raises(ConfigError, match="cannot read the config file .*broken.py' *: .* syntax"):
        load_config(path)


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
    assert str(error.value) == (
        f"cannot write to the output folder '{folder}' ({reason}); choose another one with "
        "train.output_dir=…"
    )
