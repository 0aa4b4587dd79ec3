"""Conversions there and back, and the tool around them."""

import pickle
import runpy
from pathlib import Path

import pytest
import safetensors.torch
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

from mvit_det import MViTv2, Predictor
from mvit_det.checkpoint import Checkpointer, KeyStatus, read_weights
from mvit_det.checkpoint.converting import convert
from mvit_det.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
PICO = ROOT / "configs/shapes/mask_rcnn_mvitv2_pico.py"
SUFFIXES = {
    "mvit_det": ".pth",
    "detectron2": ".pkl",
    "timm": ".pth",
    "safetensors": ".safetensors",
}


def make_timm(**config):
    torch.manual_seed(0)
    cfg = MultiScaleVitCfg(depths=(1, 2, 2, 1), embed_dim=(16, 32, 64, 128), **config)
    return MultiScaleVit(cfg, img_size=64, num_classes=10)


def make_detector(seed):
    torch.manual_seed(seed)
    config = LazyConfig.load(str(PICO))
    return instantiate(config.model)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert first[key].dtype == second[key].dtype
        assert torch.equal(first[key], second[key]), key


@pytest.fixture
def tool(capsys):
    main = runpy.run_path(str(ROOT / "tools/convert_checkpoint.py"))["main"]

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.mark.parametrize("config", [{}, {"expand_attn": False}, {"use_cls_token": True}])
# The other formats hold models for clips only.
@pytest.mark.parametrize("between", SUFFIXES)
def test_timm_there_and_back(between, config, tmp_path):
    model = make_timm(**config)
    first = tmp_path / "timm.pth"
    second = tmp_path / f"between{SUFFIXES[between]}"
    third = tmp_path / "back.safetensors"
    torch.save(model.state_dict(), first)
    convert(first, second, between)
    convert(second, third, "timm")
    back = safetensors.torch.load_file(third)
    assert_same(back, dict(model.state_dict()))
    model.load_state_dict(back, strict=True)


@pytest.mark.parametrize("between", ["mvit_det", "safetensors", "detectron2"])
def test_detector_there_and_back(between, tmp_path):
    state = make_detector(seed=1).state_dict()
    content = {"model": {k: v.numpy() for k, v in state.items()}, "__author__": "the zoo"}
    first, third = tmp_path / "zoo.pkl", tmp_path / "back.pkl"
    second = tmp_path / f"between{SUFFIXES[between]}"
    first.write_bytes(pickle.dumps(content))
    convert(first, second, between)
    convert(second, third, "detectron2")
    assert_same(read_weights(third).tensors, dict(state))
    model = make_detector(seed=2)
    DetectionCheckpointer(model).load(str(third))
    assert_same(dict(model.state_dict()), dict(state))


def test_detectron2_finds_a_backbone_in_a_detector(tmp_path):
    source = make_detector(seed=1).backbone.bottom_up
    torch.save(source.state_dict(), tmp_path / "backbone.pth")
    convert(tmp_path / "backbone.pth", tmp_path / "backbone.pkl", "detectron2")
    model = make_detector(seed=2)
    DetectionCheckpointer(model).load(str(tmp_path / "backbone.pkl"))
    assert_same(dict(model.backbone.bottom_up.state_dict()), dict(source.state_dict()))


def test_timm_takes_the_backbone_of_a_detector(tmp_path):
    model = MViTv2(depths=(1, 2, 2, 1), embed_dim=16, window_size=16, pretrain_img_size=64)
    state = {f"backbone.bottom_up.{k}": v for k, v in model.state_dict().items()}
    state["backbone.fpn_lateral2.weight"] = torch.zeros(3)
    torch.save({"model": state, "iteration": 3}, tmp_path / "detector.pth")
    report = convert(tmp_path / "detector.pth", tmp_path / "timm.pth", "timm")
    converted = torch.load(tmp_path / "timm.pth", weights_only=True)
    theirs = make_timm()
    theirs.reset_classifier(0)
    theirs.load_state_dict(converted, strict=True)
    assert torch.equal(converted["norm.weight"], model.scale5_norm.weight)
    table = report.table()
    assert "7  not in timm's models" in table
    assert "1  not weights" in table


CLASSES = {"class_names": ["a", "b", "ç", "d", "e"], "category_ids": [1, 2, 30, 4, 5]}


@pytest.fixture
def trained(tmp_path):
    """A model, and the checkpoint of its training."""
    model = make_detector(seed=1)
    Checkpointer(model, tmp_path, **CLASSES).save("model", iteration=7)
    return model, tmp_path / "model.pth"


@pytest.mark.parametrize("to", ["mvit_det", "safetensors"])
def test_own_formats_keep_the_classes_of_a_training(to, trained, tmp_path):
    model, source = trained
    output, back = tmp_path / f"converted{SUFFIXES[to]}", tmp_path / "back.pth"
    report = convert(source, output, to)
    assert set(report.keys(KeyStatus.DROPPED)) == {"iteration", "run"}
    convert(output, back, "mvit_det")
    for path in (output, back):
        weights = read_weights(path)
        assert_same(weights.tensors, dict(model.state_dict()))
        assert weights.metadata == CLASSES
    # Rather than those of the dataset of the config.
    predictor = Predictor(PICO, output, device="cpu")
    assert list(predictor.class_names) == CLASSES["class_names"]
    assert list(predictor.category_ids) == CLASSES["category_ids"]


@pytest.mark.parametrize("to", ["detectron2", "timm"])
def test_formats_of_other_libraries_hold_weights_alone(to, trained, tmp_path):
    output = tmp_path / f"converted{SUFFIXES[to]}"
    report = convert(trained[1], output, to)
    assert {"class_names", "category_ids", "iteration"} < set(report.keys(KeyStatus.DROPPED))
    assert CLASSES.keys().isdisjoint(read_weights(output).metadata)


@pytest.mark.parametrize("text", ["{", "3", "[1]", "[" * 100_000])
def test_corrupt_metadata_of_safetensors(text, tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path, {"mvit_det": text})
    with pytest.raises(CheckpointError, match="a.safetensors' is corrupt"):
        read_weights(path)


def test_shards_become_a_file(tool, trained, tmp_path):
    model, _ = trained
    Checkpointer(model, tmp_path, sharded=True, **CLASSES).save("model_0000003", trainer={})
    shards, output = tmp_path / "model_0000003", tmp_path / "model_0000003.pth"
    command = ("convert-weights", str(shards), str(output), "--to", "mvit_det")
    code, _, err = tool(*command[1:])
    assert code == 2
    assert " ".join((*command, "--trust-checkpoint")) in err
    assert tool(*command[1:], "--trust-checkpoint")[0] == 0
    weights = read_weights(output)
    assert_same(weights.tensors, dict(model.state_dict()))
    assert weights.metadata == CLASSES


def test_the_tool_prints_the_accounting(tool, tmp_path):
    torch.save(make_timm().state_dict(), tmp_path / "timm.pth")
    output = tmp_path / "ours.safetensors"
    code, out, err = tool(tmp_path / "timm.pth", output, "--to", "safetensors")
    assert (code, err) == (0, "")
    assert f"'{tmp_path / 'timm.pth'}' (timm) to safetensors" in out
    assert "renamed" in out
    assert out.endswith(f"Wrote '{output}'\n")
    before = output.read_bytes()

    code, out, err = tool(tmp_path / "timm.pth", output, "--to", "safetensors")
    assert (code, out) == (2, "")
    assert err.endswith(
        ": '" + f"{output}' exists already; name another file or use '--overwrite'\n"
    )
    assert output.read_bytes() == before
    output.write_bytes(b"something")
    assert tool(tmp_path / "timm.pth", output, "--to", "safetensors", "--overwrite")[0] == 0
    assert output.read_bytes() == before
    assert "blocks.0.norm1.weight" in safetensors.torch.load_file(output)


def test_mistakes(tool, tmp_path):
    code, _, err = tool(tmp_path / "nowhere.pth", tmp_path / "x.pth", "--to", "timm")
    assert code == 2
    assert "there is no file" in err
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    code, _, err = tool(tmp_path / "other.pth", tmp_path / "x.pth", "--to", "timm")
    assert "holds no MViTv2, so there is nothing to convert" in err
    torch.save({"model": make_timm()}, tmp_path / "code.pth")
    code, _, err = tool(tmp_path / "code.pth", tmp_path / "x.pth", "--to", "timm")
    assert "imports 'timm.models.mvitv2.MultiScaleVit'" in err
    with pytest.raises(CheckpointError, match="no format 'onnx'; there are mvit_det, detectron2"):
        convert(tmp_path / "other.pth", tmp_path / "x.pth", "onnx")
    code, _, err = tool(tmp_path / "code.pth", tmp_path / "x.pth", "--to", "detectron2")
    assert "should end in .pkl, the extension of detectron2 files" in err
    assert not (tmp_path / "x.pth").exists()


def test_weights_that_no_model_can_use_are_refused(tool, tmp_path):
    state = make_timm().state_dict()
    name = next(iter(state))
    broken = {
        "infinite or NaN": state[name] * float("nan"),
        "complex": state[name].to(torch.complex64),
        "meta device": state[name].to("meta"),
        "sparse": state[name].to_sparse(),
    }
    for problem, tensor in broken.items():
        torch.save({**state, name: tensor}, tmp_path / "broken.pth")
        code, _, err = tool(tmp_path / "broken.pth", tmp_path / "x.pth", "--to", "mvit_det")
        assert code == 2
        assert problem in err
    torch.save({**state, 1: state[name]}, tmp_path / "broken.pth")
    assert tool(tmp_path / "broken.pth", tmp_path / "x.pth", "--to", "mvit_det")[0] == 2
    assert not (tmp_path / "x.pth").exists()


def test_paths_that_cannot_be_opened(tool, tmp_path, monkeypatch):
    torch.save(make_timm().state_dict(), tmp_path / "timm.pth")
    too_long = tmp_path / ("x" * 300 + ".pth")
    for source, output in ((too_long, "x.pth"), (tmp_path / "timm.pth", too_long), ("", "x.pth")):
        code, _, err = tool(source, output, "--to", "mvit_det")
        assert code == 2
        assert len(err.splitlines()) == 1
    # '~' stands for the home directory, also where no shell has replaced it.
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tool("~/timm.pth", "~/ours.pth", "--to", "mvit_det")[0] == 0
    assert (tmp_path / "ours.pth").exists()


def test_an_interruption_leaves_nothing(tool, tmp_path, monkeypatch):
    torch.save(make_timm().state_dict(), tmp_path / "timm.pth")

    def interrupt(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    code, _, err = tool(tmp_path / "timm.pth", tmp_path / "x.pth", "--to", "mvit_det")
    assert code == 130
    assert err.startswith("interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["timm.pth"]


def test_half_precision(tmp_path):
    state = {k: v.to(torch.bfloat16) for k, v in make_timm().state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    report = convert(tmp_path / "half.pth", tmp_path / "half.pkl", "detectron2")
    assert "bfloat16 to float32, as NumPy lacks it" in report.table()
    convert(tmp_path / "half.pth", tmp_path / "half.safetensors", "safetensors")
    convert(tmp_path / "half.safetensors", tmp_path / "back.pth", "timm")
    assert_same(torch.load(tmp_path / "back.pth", weights_only=True), state)
