"""The status of each key, and weights that are refused, which leaves the model unchanged."""

import re

import pytest
import torch

from mvit_det.checkpoint import Checkpointer, fill_model, load_weights
from mvit_det.checkpoint.formats import Weights
from mvit_det.checkpoint.matching import KeyStatus, LoadReport
from mvit_det.checkpoint.resizing import resize_joint_table, resize_relative_table
from mvit_det.errors import CheckpointError


@pytest.fixture
def refuses(tmp_path):
    """Asserts that a model refuses a state with a message and keeps its weights."""

    def check(model, state, message, **options):
        path = tmp_path / "refused.pth"
        torch.save(state, path)
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
            load_weights(model, path, **options)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        after = model.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)

    return check


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: torch.full_like(tensor, float("nan")), "infinite or NaN"),
        (lambda tensor: tensor.int(), "int32"),
    ],
)
def test_weights_that_are_no_numbers(change, message, backbone, refuses):
    model = backbone()
    state = dict(model.state_dict())
    state["patch_embed.proj.bias"] = change(state["patch_embed.proj.bias"])
    refuses(model, {"model": state}, "'patch_embed.proj.bias'")
    refuses(model, {"model": state}, message, purpose="train")


def test_training_from_a_backbone_leaves_the_rest_as_it_is(
    backbone, detector, imagenet_state, tmp_path
):
    model = detector(seed=2)
    source = detector(seed=1).backbone.bottom_up
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    torch.save({"model_state": imagenet_state(source, class_token=True)}, tmp_path / "x.pyth")
    report = load_weights(model, tmp_path / "x.pyth", purpose="train")
    new = set(report.keys(KeyStatus.NEW))
    for key, tensor in model.state_dict().items():
        name = key.removeprefix("backbone.bottom_up.")
        assert (key in new) == ("_norm." in name or not key.startswith("backbone.bottom_up."))
        expected = before[key] if key in new else source.state_dict()[name]
        assert torch.equal(tensor, expected)
    assert {e.reason for e in report.entries if e.status is KeyStatus.NEW} == {
        "FPN and heads",
        "norms of the outputs",
    }
    outcomes = sum(
        len(report.keys(o)) for o in (KeyStatus.LOADED, KeyStatus.RESIZED, KeyStatus.NEW)
    )
    assert outcomes == len(model.state_dict())


def test_table_has_a_line_for_each_kind(backbone, imagenet_state, tmp_path, caplog):
    torch.save({"model_state": imagenet_state(backbone())}, tmp_path / "x.pyth")
    with caplog.at_level("INFO", logger="mvit_det.checkpoint.loading"):
        report = load_weights(backbone(), tmp_path / "x.pyth", purpose="train")
    lines = [" ".join(line.split()) for line in report.table().splitlines()]
    assert lines[0] == f"'{tmp_path / 'x.pyth'}' (facebookresearch/mvit, expand_attn=True)"
    assert lines[1] == "status keys why such as"
    assert "dropped on purpose 4 classifier norm.weight, …" in lines
    assert "new on purpose 8 norms of the outputs scale2_norm.weight, …" in lines
    assert "loaded" in lines[3]
    assert report.table() in caplog.text


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_missing_and_left_over_keys(purpose, backbone, refuses):
    state = backbone(seed=1).state_dict()
    lacking = {key: tensor for key, tensor in state.items() if key != "blocks.2.norm1.bias"}
    message = "does not fit the model: 'blocks.2.norm1.bias' of the model is not in the file; take"
    refuses(backbone(), lacking, message, purpose=purpose)
    lacking = {key: tensor for key, tensor in state.items() if not key.startswith("blocks.2.")}
    refuses(backbone(), lacking, "of the model is not in the file (and 22 more)", purpose=purpose)
    extra = {**state, "blocks.2.gamma": torch.zeros(3)}
    message = "'blocks.2.gamma' of the file has no place in the model"
    refuses(backbone(), extra, message, purpose=purpose)
    refuses(backbone(position="none"), state, "rel_pos_h' of the file has no place")
    refuses(
        backbone(position="absolute+decomposed"),
        state,
        "'pos_embed' of the model is not in the file",
    )


def test_other_shapes_name_both(backbone, refuses):
    message = "'blocks.0.attn.pool_q.weight' has shape (32, 1, 3, 3) in the file and (32, 1, 5, 5)"
    refuses(backbone(pool_kernel=5), backbone().state_dict(), message, purpose="train")


def test_another_size_of_mvit_names_both(backbone, refuses):
    state = backbone().state_dict()
    message = (
        "embed_dim 32 and depths (1, 2, 2, 1), and the model has embed_dim 32 and depths (1, 1"
    )
    refuses(backbone(depths=(1, 1, 3, 1)), state, message)
    message = "the model has embed_dim 48 and depths (1, 2, 2, 1); take the config"
    refuses(backbone(embed_dim=48), state, message)


def test_a_model_may_stop_earlier(backbone, tmp_path):
    source, target = backbone(seed=1), backbone(seed=2, out_features=["scale3", "scale4"])
    torch.save(source.state_dict(), tmp_path / "x.pth")
    report = load_weights(target, tmp_path / "x.pth")
    assert {e.reason for e in report.entries if e.status is KeyStatus.DROPPED} == {
        "stage that the model does not have",
        "output that the model does not have",
    }
    for key, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key])


def test_evaluation_wants_a_detector(backbone, detector, refuses):
    state = detector().backbone.bottom_up.state_dict()
    refuses(detector(), state, "holds a backbone without a detector's heads")
    lacking = detector().state_dict()
    del lacking["backbone.fpn_lateral2.weight"]
    for purpose in ("train", "evaluate"):
        message = "'backbone.fpn_lateral2.weight' of the model is not in the file"
        refuses(detector(), lacking, message, purpose=purpose)


def test_evaluation_of_an_imagenet_model_lacks_norms(backbone, imagenet_state, refuses):
    state = {"model_state": imagenet_state(backbone())}
    refuses(backbone(), state, "'scale2_norm.weight' of the model is not in the file (and 7 more)")


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn"])
def test_other_classes(name, detector, refuses, tmp_path):
    source = detector(seed=1, name=name, num_classes=1203)
    for purpose in ("train", "evaluate"):
        message = (
            "file has 1203 classes, config has 5; take the config that the weights were made with, "
            "or train a new head for the config's classes with train.reset_head=True"
        )
        refuses(detector(name=name), source.state_dict(), message, purpose=purpose)

    target = detector(seed=2, name=name)
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    torch.save(source.state_dict(), tmp_path / "lvis.pth")
    report = load_weights(target, tmp_path / "lvis.pth", purpose="train", reset_head=True)
    fresh = report.keys(KeyStatus.NEW)
    layers = {".".join(key.split(".")[1:-1]) for key in fresh}
    if name == "mask_rcnn":
        expected = {"box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor"}
    else:  # boxes are the same for all classes in a cascade
        expected = {f"box_predictor.{stage}.cls_score" for stage in range(3)}
        expected.add("mask_head.predictor")
    assert layers == expected
    for key, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[key] if key in fresh else source.state_dict()[key])


def test_reset_head_for_as_many_classes(detector, tmp_path):
    source, target = detector(seed=1), detector(seed=2)
    torch.save(source.state_dict(), tmp_path / "x.pth")
    report = load_weights(target, tmp_path / "x.pth", purpose="train", reset_head=True)
    assert len(report.keys(KeyStatus.NEW)) == 6
    with pytest.raises(ValueError, match="goes with purpose 'train'"):
        load_weights(target, tmp_path / "x.pth", reset_head=True)


def test_widening_in_the_mlp_names_the_argument(backbone, timm_model, refuses):
    state = timm_model(expand_attn=False).state_dict()
    message = (
        "holds an MViTv2 that widens in the MLP (expand_attn=False, as MViTv2-L of ImageNet-1K "
        "has), and the model widens in the attention; build it with expand_attn=False"
    )
    refuses(backbone(), state, message, purpose="train")
    message = "as most have), and the model widens in the MLP; build it with expand_attn=True"
    state = timm_model().state_dict()
    refuses(backbone(expand_attn=False), state, message, purpose="train")


def test_widening_in_the_mlp_is_recognised(backbone, timm_model, tmp_path):
    source, target = timm_model(expand_attn=False), backbone(expand_attn=False)
    torch.save(source.state_dict(), tmp_path / "x.pth")
    report = load_weights(target, tmp_path / "x.pth", purpose="train")
    assert report.title == f"'{tmp_path / 'x.pth'}' (timm, expand_attn=False)"
    weight = source.state_dict()["stages.1.blocks.1.shortcut_proj_mlp.weight"]
    assert torch.equal(target.blocks[2].proj.weight, weight)
    loaded = [key for key in target.state_dict() if "_norm." not in key]
    assert set(report.keys(KeyStatus.LOADED)) == set(loaded)


def test_not_an_mvit(backbone, refuses):
    vit = {
        "patch_embed.proj.weight": torch.zeros(32, 3, 16, 16),
        "blocks.0.norm1.bias": torch.zeros(3),
    }
    refuses(backbone(), vit, "holds no MViTv2")
    resnet = {"stem.conv1.weight": torch.zeros(3)}
    refuses(backbone(), resnet, "but, for example, 'stem.conv1.weight'")
    refuses(backbone(), {}, "holds no weights")
    refuses(backbone(), [1, 2], "holds a list and no weights")
    nested = {"net": {"stem": torch.zeros(3)}, "epoch": 3}
    refuses(backbone(), nested, "but there is 'net', 'epoch'")
    refuses(backbone(), {"model": {"stem": "text"}}, "'stem' in '")


def test_tables_of_other_sizes_are_resized(backbone, imagenet_state, tmp_path):
    source = backbone(seed=1, pretrain_img_size=128)
    torch.save({"model_state": imagenet_state(source)}, tmp_path / "x.pyth")
    target = backbone(seed=2)
    report = load_weights(target, tmp_path / "x.pyth", purpose="train")
    resized = [e for e in report.entries if e.reason == "relative positions, linear"]
    assert len(resized) == 12
    assert all(entry.status is KeyStatus.RESIZED for entry in resized)
    table = source.state_dict()["blocks.0.attn.rel_pos_h"]
    assert torch.equal(
        target.state_dict()["blocks.0.attn.rel_pos_h"], resize_relative_table(table, 31)
    )


def test_joint_tables_of_other_sizes_are_resized(backbone, tmp_path):
    source = backbone(seed=1, position="joint", pretrain_img_size=128)
    torch.save(source.state_dict(), tmp_path / "x.pth")
    target = backbone(seed=2, position="joint")
    report = load_weights(target, tmp_path / "x.pth")
    reasons = [e.reason for e in report.entries if e.status is KeyStatus.RESIZED]
    assert reasons == ["relative positions, bilinear"] * 6
    table = source.blocks[0].attn.rel_pos_joint
    resized = resize_joint_table(table, 31, 31)
    assert torch.equal(target.blocks[0].attn.rel_pos_joint, resized)


def test_variants_load_what_they_have_parameters_for(backbone, refuses, tmp_path):
    """Weights know nothing of windows; other poolings and positions are other parameters."""
    state = backbone(seed=1).state_dict()
    torch.save(state, tmp_path / "x.pth")
    for attention in ("window", "shifted_window", "global"):
        load_weights(backbone(attention=attention), tmp_path / "x.pth")
    refuses(backbone(position="joint"), state, "rel_pos_h' of the file has no place")
    refuses(backbone(full_query_pooling=False), state, "pool_q.weight' of the file has no place")


def test_weights_of_a_vit(backbone, tmp_path):
    """Without pooling, parameters are those of ViT."""
    vit = dict(
        depths=(2,), patch_kernel=16, patch_stride=16, patch_padding=0, position="absolute",
        key_stride=1, full_query_pooling=False, full_key_pooling=False, residual_pooling=False,
        out_features=["scale4"],
    )  # fmt: skip
    source, target = backbone(seed=1, **vit), backbone(seed=2, **vit)
    names = {name for name in source.state_dict() if not name.startswith("scale4_norm")}
    state = {name: source.state_dict()[name] for name in names}
    torch.save({**state, "cls_token": torch.zeros(1, 1, 32)}, tmp_path / "x.pth")
    report = load_weights(target, tmp_path / "x.pth", purpose="train")
    assert set(report.keys(KeyStatus.LOADED)) == names
    assert report.keys(KeyStatus.DROPPED) == ["cls_token"]


def test_a_detector_is_evaluated_as_it_was_trained(detector, refuses, tmp_path):
    state = detector(pretrain_img_size=64).state_dict()
    refuses(
        detector(), state, "rel_pos_h' has shape (31, 32) in the file and (63, 32) in the model"
    )
    torch.save(state, tmp_path / "x.pth")
    assert load_weights(detector(), tmp_path / "x.pth", purpose="train").keys(KeyStatus.RESIZED)


def test_absolute_positions_and_channels(backbone, tmp_path):
    source = backbone(seed=1, position="absolute+decomposed", pretrain_img_size=128)
    torch.save(source.state_dict(), tmp_path / "x.pth")
    target = backbone(
        seed=2, position="absolute+decomposed", in_chans=4, pretrain_class_token=False
    )
    report = load_weights(target, tmp_path / "x.pth")
    reasons = [e.reason for e in report.entries if e.status is KeyStatus.RESIZED]
    assert reasons.count("absolute positions, bicubic") == 1
    assert reasons.count("channels of the image, 3 to 4") == 1
    assert target.pos_embed.shape == (1, 256, 32)


def test_weights_that_are_no_file(backbone, same_state):
    source, target = backbone(seed=1), backbone(seed=2)
    weights = Weights("memory", dict(source.state_dict()))
    assert isinstance(fill_model(target, weights, "memory"), LoadReport)
    same_state(source, target)


def test_checkpointer_loads_through_the_same(detector, refuses, tmp_path):
    torch.save(detector(num_classes=7).state_dict(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="file has 7 classes, config has 5"):
        Checkpointer(detector(), tmp_path).resume_or_load(tmp_path / "x.pth")
    Checkpointer(detector(), tmp_path, reset_head=True).resume_or_load(tmp_path / "x.pth")


def test_no_such_file(backbone, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file '.*nowhere\.pth'"):
        load_weights(backbone(), tmp_path / "nowhere.pth")
