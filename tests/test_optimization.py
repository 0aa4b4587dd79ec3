from collections import defaultdict

import pytest
import torch
from torch import nn

from mvit_det import MViTv2Backbone
from mvit_det.modeling import MViTv2Classifier, VideoMViT
from mvit_det.optimization import parameter_groups


class Detector(nn.Module):
    """A backbone of three blocks, and a head with a norm."""

    def __init__(self, **arguments):
        super().__init__()
        self.backbone = MViTv2Backbone(
            depths=[1, 2],
            embed_dim=8,
            window_size=8,
            pretrain_img_size=32,
            out_features=["scale2", "scale3"],
            **arguments,
        )
        self.head = nn.Sequential(nn.Linear(16, 4), nn.LayerNorm(4))


def settings(model, **arguments):
    """Of each parameter that is trained, by name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(
        parameter_groups(model, **arguments), lr=arguments["base_lr"], weight_decay=0.1
    )
    found = defaultdict(dict)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[names[parameter]] = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
    return found


def test_norms_biases_and_positions_do_not_decay():
    found = settings(Detector(position="absolute+decomposed"), base_lr=1.0)
    kept = {name for name, group in found.items() if group["weight_decay"] == 0.1}
    assert kept == {
        "backbone.patch_embed.proj.weight",
        "backbone.blocks.1.proj.weight",
        "head.0.weight",
        *(
            f"backbone.blocks.{block}.{name}.weight"
            for block in range(3)
            for name in (
                *("attn.qkv", "attn.proj", "attn.pool_q", "attn.pool_k", "attn.pool_v"),
                *("mlp.fc1", "mlp.fc2"),
            )
        ),
    }
    assert {group["weight_decay"] for group in found.values()} == {0.0, 0.1}
    assert {group["lr"] for group in found.values()} == {1.0}


def test_earlier_blocks_learn_slower():
    model = Detector(position="absolute+decomposed")
    groups = settings(model, base_lr=2.0, layer_decay=0.5)
    rates = {name: group["lr"] for name, group in groups.items()}
    expected = {
        "backbone.pos_embed": 2 / 16,
        "backbone.patch_embed": 2 / 16,
        "backbone.blocks.0": 2 / 8,
        "backbone.blocks.1": 2 / 4,
        "backbone.blocks.2": 2 / 2,
        "backbone.scale": 2.0,
        "head": 2.0,
    }
    for name, rate in rates.items():
        (prefix,) = [prefix for prefix in expected if name.startswith(prefix)]
        assert rate == expected[prefix], name
    assert len(rates) == len(list(model.parameters()))


def test_earlier_blocks_of_a_classifier_learn_slower():
    model = MViTv2Classifier(
        3,
        depths=[1, 2],
        embed_dim=8,
        pretrain_img_size=32,
        class_token=True,
        position="absolute+decomposed",
    )
    groups = settings(model, base_lr=2.0, layer_decay=0.5)
    rates = {name.partition(".")[0]: group["lr"] for name, group in groups.items()}
    assert rates.pop("blocks") == 2 / 2
    assert rates == {"patch_embed": 2 / 16, "pos_embed": 2 / 16, "cls_token": 2 / 16} | {
        "norm": 2.0,
        "head": 2.0,
    }
    assert groups["blocks.0.attn.qkv.weight"]["lr"] == 2 / 8
    assert groups["cls_token"]["weight_decay"] == 0.0


def test_layer_decay_without_an_mvit():
    with pytest.raises(ValueError, match="0.5"):
        parameter_groups(nn.Linear(2, 2), 1.0, layer_decay=0.5)


def test_layer_decay_out_of_range():
    with pytest.raises(ValueError, match="layer_decay must be above 0 and at most 1, not 1.5"):
        parameter_groups(Detector(), 1.0, layer_decay=1.5)


@pytest.mark.parametrize(
    ("freeze_at", "frozen"),
    [
        (0, ()),
        (1, ("backbone.patch_embed", "backbone.pos_embed")),
        (2, ("backbone.patch_embed", "backbone.pos_embed", "backbone.blocks.0")),
        (3, ("backbone.patch_embed", "backbone.pos_embed", "backbone.blocks")),
    ],
)
def test_frozen_stages_stay_as_they_are(freeze_at, frozen):
    torch.manual_seed(0)
    model = Detector(position="absolute+decomposed", freeze_at=freeze_at)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=0.1)
    for _ in range(3):
        features = model.backbone(torch.randn(2, 3, 64, 64))
        outputs = model.head(features["scale3"].permute(0, 2, 3, 1))
        (outputs.square().sum() + features["scale2"].square().sum()).backward()
        optimizer.step()
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed == {name for name in before if not (frozen and name.startswith(frozen))}


def test_frozen_stages_stay_in_evaluation_mode():
    torch.manual_seed(0)
    backbone = Detector(freeze_at=3, drop_path_rate=0.9).train().backbone
    image = torch.randn(1, 3, 32, 32)
    first, second = backbone(image), backbone(image)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert backbone.training
    assert not any(block.training for block in backbone.blocks)


@pytest.mark.parametrize(
    ("freeze_at", "trained"),
    [
        (1, {"blocks", "norm", "head"}),
        (2, {"blocks", "norm", "head"}),
        (3, {"head"}),
    ],
)
def test_a_classifier_freezes_as_a_backbone_does_but_for_its_norm(freeze_at, trained):
    torch.manual_seed(0)
    model = MViTv2Classifier(
        3,
        depths=[1, 1],
        embed_dim=8,
        pretrain_img_size=32,
        class_token=True,
        position="absolute+decomposed",
        drop_path_rate=0.9,
        freeze_at=freeze_at,
    ).train()
    groups = settings(model, base_lr=0.1, layer_decay=0.5)
    assert {name.partition(".")[0] for name in groups} == trained
    assert any(name.startswith("blocks.0.") for name in groups) == (freeze_at < 2)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(groups)
    # Only what is trained has stochastic depth.
    assert [block.training for block in model.blocks] == [freeze_at < 2, freeze_at < 3]


def test_more_stages_than_there_are():
    with pytest.raises(ValueError, match="freeze_at must be between 0 and 3, not 4"):
        Detector(freeze_at=4)


def test_a_video_model_freezes_all_but_its_head():
    model = VideoMViT(3, depths=[1, 1], embed_dim=8, frames=4, img_size=32, freeze_at=3).train()
    assert set(settings(model, base_lr=0.1)) == {"head.weight", "head.bias"}
    assert not model.norm.training
    assert model.dropout.training
