"""Weights of each format, from the implementation they belong to."""

import pickle
from functools import partial

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from mvit_det.checkpoint import Checkpointer, KeyStatus, load_weights, read_weights
from mvit_det.checkpoint.formats import find_geometry, recognise, to_timm


def as_arrays(state):
    return {name: tensor.numpy() for name, tensor in state.items()}


@torch.no_grad()
def assert_same_features(first, second, size=64):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(7))
    expected, found = first(images), second(images)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)


@pytest.fixture
def detectron2_mvit():
    from detectron2.modeling import MViT

    return MViT(
        img_size=64,
        embed_dim=32,
        depth=6,
        last_block_indexes=(0, 2, 4, 5),
        adaptive_window_size=16,
        pretrain_img_size=64,
        rel_pos_zero_init=False,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_zoo_pickle(protocol, detector, tmp_path, same_state):
    source, target = detector(seed=1), detector(seed=2)
    content = {"model": as_arrays(source.state_dict()), "__author__": "the zoo"}
    # Older files hold what today comes from the config.
    content["model"]["pixel_mean"] = torch.zeros(3, 1, 1).numpy()
    content["model"]["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(
        3, 4
    ).numpy()
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    report = load_weights(target, path)
    same_state(source, target)
    assert report.keys(KeyStatus.DROPPED) == [
        "pixel_mean",
        "proposal_generator.anchor_generator.cell_anchors.0",
    ]
    assert len(report.keys(KeyStatus.LOADED)) == len(source.state_dict())
    assert "Detectron2's model zoo" in report.table()


def test_detectron2_detector_gives_the_features_of_detectron2(
    detectron2_mvit, backbone, detector, tmp_path
):
    state = {f"backbone.bottom_up.{k}": v for k, v in detectron2_mvit.state_dict().items()}
    state["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(81)
    torch.save({"model": state, "iteration": 3}, tmp_path / "model.pth")
    model = backbone(seed=3)
    report = load_weights(model, tmp_path / "model.pth")
    assert report.keys(KeyStatus.DROPPED) == ["roi_heads.box_predictor.cls_score.bias"]
    assert_same_features(detectron2_mvit, model)
    assert_same_features(detectron2_mvit, model, size=96)


@pytest.mark.parametrize("class_token", [False, True])
def test_imagenet_pyth(class_token, backbone, imagenet_state, tmp_path):
    source, target = backbone(seed=1), backbone(seed=2)
    for model in (source, target):
        for name in model.out_features:
            nn.init.ones_(model.get_submodule(f"{name}_norm").weight)
            nn.init.zeros_(model.get_submodule(f"{name}_norm").bias)
    path = tmp_path / "MViTv2.pyth"
    torch.save({"epoch": 300, "model_state": imagenet_state(source, class_token), "cfg": "…"}, path)
    report = load_weights(target, path, purpose="train")
    assert_same_features(source, target)
    assert "facebookresearch/mvit" in report.title
    dropped = ["norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"]
    assert report.keys(KeyStatus.DROPPED) == dropped + ["cls_token"] * class_token
    assert report.keys(KeyStatus.NEW) == [k for k in target.state_dict() if "_norm." in k]
    assert {e.reason for e in report.entries if e.status is KeyStatus.RESIZED} == {
        "time axis of length 1 removed"
    }


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_timm_gives_the_features_of_timm(suffix, backbone, timm_model, tmp_path):
    source = timm_model(seed=1)
    path = tmp_path / f"mvitv2{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(source.state_dict(), path)
    else:
        torch.save(source.state_dict(), path)
    model = backbone(seed=0)
    for name in model.out_features:
        model.get_submodule(f"{name}_norm").reset_parameters()
    report = load_weights(model, path, purpose="train")
    dropped = {"norm.weight", "norm.bias", "head.fc.weight", "head.fc.bias"}
    assert set(report.keys(KeyStatus.DROPPED)) == dropped
    assert not report.keys(KeyStatus.RESIZED)

    # Detection doubles the stride of keys in the last blocks of the second and third stage.
    for stage, stride in ((1, 4), (2, 2)):
        attention = source.stages[stage].blocks[-1].attn
        attention.pool_k.stride = attention.pool_v.stride = (stride, stride)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected = source.forward_intermediates(images, intermediates_only=True)
        found = list(model(images).values())
    for theirs, ours in zip(expected, found, strict=True):
        normed = F.layer_norm(theirs.permute(0, 2, 3, 1), theirs.shape[1:2], eps=1e-6)
        torch.testing.assert_close(ours, normed.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_timm_training_checkpoint(backbone, timm_model, tmp_path):
    source = timm_model(seed=1)
    torch.save({"state_dict": source.state_dict(), "arch": "mvitv2"}, tmp_path / "last.pth.tar")
    model = backbone()
    load_weights(model, tmp_path / "last.pth.tar", purpose="train")
    weight = model.state_dict()["blocks.3.proj.weight"]
    assert torch.equal(weight, source.state_dict()["stages.2.blocks.0.shortcut_proj_attn.weight"])


def test_names_of_timm_and_back(timm_model):
    for config in ({}, {"expand_attn": False}, {"use_cls_token": True, "use_abs_pos": True}):
        state = timm_model(**config).state_dict()
        weights = recognise(state, "a file")
        assert {name: weights.original_names[name] for name in weights.tensors} == to_timm(
            weights.tensors
        )
        geometry = find_geometry(weights.tensors, "")
        assert geometry.depths == (1, 2, 2, 1)
        assert geometry.embed_dim == 32
        assert geometry.expand_attn == config.get("expand_attn", True)


def test_own_files(backbone, detector, tmp_path, same_state):
    source = detector(seed=1)
    trained = source.backbone.bottom_up
    torch.save(trained.state_dict(), tmp_path / "backbone.pth")
    torch.save(source.state_dict(), tmp_path / "detector.pth")
    legacy = tmp_path / "legacy.pth"
    torch.save(source.state_dict(), legacy, _use_new_zipfile_serialization=False)
    Checkpointer(source, tmp_path).save("training", iteration=4)

    for name in ("detector", "legacy", "training"):
        target = detector(seed=2)
        load_weights(target, tmp_path / f"{name}.pth")
        same_state(source, target)
    for name in ("backbone", "detector", "training"):
        target = detector(seed=2).backbone.bottom_up
        load_weights(target, tmp_path / f"{name}.pth")
        same_state(trained, target)
    pyramid = detector(seed=2).backbone
    load_weights(pyramid, tmp_path / "detector.pth")
    same_state(source.backbone, pyramid)
    wrapped = nn.DataParallel(detector(seed=2))
    load_weights(wrapped, tmp_path / "detector.pth")
    same_state(source, wrapped.module)
    student = nn.ModuleDict({"student": detector(seed=2)})
    load_weights(student, tmp_path / "detector.pth")
    same_state(source, student["student"])
    wrapped_state = {f"module.{k}": v for k, v in source.state_dict().items()}
    torch.save(wrapped_state, tmp_path / "wrapped.pth")
    target = detector(seed=2)
    load_weights(target, tmp_path / "wrapped.pth")
    same_state(source, target)
    assert read_weights(tmp_path / "training.pth").metadata["iteration"] == 4


def test_cascade_with_norms_that_count_batches(detector, tmp_path, same_state):
    """Zoo files may lack the counters; nothing depends on them."""
    source, target = (detector(seed=seed, name="cascade_mask_rcnn") for seed in (1, 2))
    source.proposal_generator.norm = nn.BatchNorm2d(2)
    target.proposal_generator.norm = nn.BatchNorm2d(2)
    state = dict(source.state_dict())
    del state["proposal_generator.norm.num_batches_tracked"]
    torch.save(state, tmp_path / "model.pth")
    report = load_weights(target, tmp_path / "model.pth")
    same_state(source, target)
    assert report.keys(KeyStatus.NEW) == ["proposal_generator.norm.num_batches_tracked"]


def test_half_precision_and_a_model_without_mvit(tmp_path):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save({k: v.half() for k, v in source.state_dict().items()}, tmp_path / "linear.pth")
    load_weights(target, tmp_path / "linear.pth")
    assert target.weight.dtype is torch.float32
    assert torch.equal(target.weight, source.weight.half().float())
