import subprocess
import sys
from functools import partial

import pytest
import torch
from detectron2.modeling import MViT
from torch import nn

import mvit_det
from mvit_det.modeling import MViTv2

NAMES = ("scale2", "scale3", "scale4", "scale5")
SIZES = {
    "t": dict(embed_dim=96, num_heads=1, depths=(1, 2, 5, 2)),
    "s": dict(embed_dim=96, num_heads=1, depths=(1, 2, 11, 2)),
    "b": dict(embed_dim=96, num_heads=1, depths=(2, 3, 16, 3)),
    "l": dict(embed_dim=144, num_heads=2, depths=(2, 6, 36, 4)),
    "h": dict(embed_dim=192, num_heads=3, depths=(4, 8, 60, 8)),
}
PICO = dict(depths=(1, 2, 3, 2), embed_dim=16, num_heads=1)


def last_blocks(depths):
    return tuple(sum(depths[: stage + 1]) - 1 for stage in range(len(depths)))


UPSTREAM_NAMES = {
    "key_stride": "adaptive_kv_stride",
    "window_size": "adaptive_window_size",
    "pretrain_class_token": "pretrain_use_cls_token",
}


def make_upstream(depths, embed_dim, num_heads, position="decomposed", **arguments):
    """Detectron2's MViT with the same plan."""
    arguments = {UPSTREAM_NAMES.get(key, key): value for key, value in arguments.items()}
    return MViT(
        embed_dim=embed_dim,
        num_heads=num_heads,
        depth=sum(depths),
        last_block_indexes=last_blocks(depths),
        use_abs_pos="absolute" in position,
        use_rel_pos="decomposed" in position,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        **arguments,
    )


def make_pair(seed=0, **arguments):
    """Two models with the same random weights, relative positions included, in training mode."""
    torch.manual_seed(seed)
    model = MViTv2(**arguments, rel_pos_std=0.2)
    upstream = make_upstream(**arguments)
    upstream.load_state_dict(model.state_dict(), strict=True)
    return model, upstream


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_the_names_and_shapes_of_detectron2(size, monkeypatch):
    # Detectron2 reads its drop path rates off a tensor, which has to have data.
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        upstream = make_upstream(**SIZES[size]).state_dict()
        model = getattr(mvit_det, f"mvitv2_{size}")().state_dict()
    assert {name: tensor.shape for name, tensor in model.items()} == {
        name: tensor.shape for name, tensor in upstream.items()
    }


@pytest.mark.parametrize(
    ("size", "thin"),
    [
        ("t", {}),
        ("l", dict(depths=(2, 3, 4, 2), embed_dim=32)),
        ("h", dict(depths=(2, 2, 4, 2), embed_dim=48)),
    ],
)
def test_sizes_equal_detectron2(size, thin):
    torch.manual_seed(0)
    upstream = make_upstream(**{**SIZES[size], **thin})
    for name, parameter in upstream.named_parameters():
        if "rel_pos" in name:
            nn.init.trunc_normal_(parameter, std=0.2)
    model = getattr(mvit_det, f"mvitv2_{size}")(drop_path_rate=0.0, **thin)
    model.load_state_dict(upstream.state_dict(), strict=True)
    images = torch.randn(1, 3, 70, 97)
    with torch.no_grad():
        features, expected = model(images), upstream(images)
    assert tuple(features) == NAMES
    for name in NAMES:
        assert features[name].shape == expected[name].shape
        assert relative_error(features[name], expected[name]) <= 1e-5, name


@pytest.mark.parametrize(
    "shape", [(1, 64, 64), (2, 96, 64), (1, 65, 131), (2, 224, 224), (1, 230, 333), (1, 480, 250)]
)
@pytest.mark.parametrize("position", ["decomposed", "absolute+decomposed"])
def test_features_and_gradients_equal_detectron2(shape, position):
    model, upstream = make_pair(**PICO, position=position)
    images = torch.randn(shape[0], 3, *shape[1:])
    features, expected = model(images), upstream(images)
    weights = {name: torch.randn_like(expected[name]) for name in NAMES}
    for name in NAMES:
        assert relative_error(features[name], expected[name]) <= 1e-5, name
        (features[name] * weights[name]).sum().backward(retain_graph=True)
        (expected[name] * weights[name]).sum().backward(retain_graph=True)
    parameters = dict(model.named_parameters())
    assert parameters.keys() == dict(upstream.named_parameters()).keys()
    expected_grads = {name: parameter.grad for name, parameter in upstream.named_parameters()}
    for name, expected_grad in expected_grads.items():
        # Softmax is blind to what all keys share, so that the gradient of this bias is next to
        # nothing and its error has to be seen in proportion to its neighbour.
        scale = expected_grads[name.replace("norm_k.bias", "norm_k.weight")].norm()
        assert (parameters[name].grad - expected_grad).norm() <= 1e-5 * scale, name


@pytest.mark.parametrize(
    "arguments",
    [
        dict(residual_pooling=False),
        dict(position="none"),
        dict(position="absolute"),
        dict(qkv_bias=False),
        dict(key_stride=2, window_size=32),
        dict(in_chans=5),
        dict(mlp_ratio=2.0),
        dict(position="absolute+decomposed", pretrain_class_token=False),
    ],
    ids=str,
)
def test_options_equal_detectron2(arguments):
    model, upstream = make_pair(**PICO, **arguments)
    images = torch.randn(2, model.in_chans, 150, 101)
    with torch.no_grad():
        features, expected = model(images), upstream(images)
    for name in NAMES:
        assert relative_error(features[name], expected[name]) <= 1e-5, name


def to_timm(state, depths):
    """Renames weights for timm, which numbers the blocks of each stage from 0."""
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "blocks":
            index = int(parts[1])
            stage = next(i for i, last in enumerate(last_blocks(depths)) if index <= last)
            first = sum(depths[:stage])
            rest = ".".join(parts[2:])
            if rest.startswith("proj."):
                rest = "shortcut_proj_attn." + rest.removeprefix("proj.")
            key = f"stages.{stage}.blocks.{index - first}.{rest}"
        elif key.startswith("scale5_norm"):
            key = key.replace("scale5_norm", "norm")
        elif key.startswith("scale"):
            continue
        renamed[key] = value
    return renamed


def test_equals_timm_at_224_pixels():
    """There the windows are as large as the grid, so Hwin and global attention are the same."""
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    depths = (1, 2, 3, 2)
    config = MultiScaleVitCfg(
        depths=depths, embed_dim=16, num_heads=1, expand_attn=True, rel_pos_type="spatial",
        residual_pooling=True, use_cls_token=False, use_abs_pos=False,
    )  # fmt: skip
    reference = MultiScaleVit(config, num_classes=0).eval()
    # In detection, keys are pooled twice as much in two blocks; timm has no such thing.
    torch.manual_seed(0)
    model = MViTv2(**PICO, rel_pos_std=0.2, norm_layer=partial(nn.LayerNorm, eps=1e-6)).eval()
    for block, plan in zip(model.blocks, model.plan):
        block.attn.key_stride = {"scale2": 4, "scale3": 2, "scale4": 1, "scale5": 1}[plan.scale]
        for pool in (block.attn.pool_k, block.attn.pool_v):
            pool.stride = (block.attn.key_stride,) * 2
    state = to_timm(model.state_dict(), depths)
    missing = reference.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert not missing.missing_keys
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = reference.forward_features(images)
        features = model(images)["scale5"].flatten(2).transpose(1, 2)
    assert relative_error(features, expected) <= 1e-5


@pytest.mark.parametrize("pixels", [64, 224])
@pytest.mark.parametrize("expand_attn", [True, False])
def test_plan_of_pretraining_equals_timm(expand_attn, pixels):
    """Every output, also where stages widen in the MLP before them."""
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    depths = (1, 2, 3, 2)
    config = MultiScaleVitCfg(depths=depths, embed_dim=16, num_heads=1, expand_attn=expand_attn)
    reference = MultiScaleVit(config, img_size=pixels, num_classes=0).eval()
    torch.manual_seed(0)
    model = MViTv2(
        **PICO,
        attention="global",
        expand_attn=expand_attn,
        rel_pos_std=0.2,
        pretrain_img_size=pixels,
    ).eval()
    skip = "shortcut_proj_attn" if expand_attn else "shortcut_proj_mlp"
    state = to_timm(model.state_dict(), depths)
    state = {key.replace("shortcut_proj_attn", skip): value for key, value in state.items()}
    reference.load_state_dict(state, strict=True)
    images = torch.randn(2, 3, pixels, pixels)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, intermediates_only=True)
        features = model(images)
    for name, theirs in zip(NAMES, expected, strict=True):
        theirs = nn.functional.layer_norm(theirs.permute(0, 2, 3, 1), theirs.shape[1:2], eps=1e-6)
        assert model.out_feature_channels[name] == features[name].shape[1]
        assert relative_error(features[name].permute(0, 2, 3, 1), theirs) <= 1e-5, name


def test_batch_equals_single_images():
    torch.manual_seed(0)
    model = MViTv2(**PICO, rel_pos_std=0.2).eval()
    images = torch.randn(3, 3, 90, 130)
    with torch.no_grad():
        batch = model(images)
        singles = [model(image[None]) for image in images]
    for name in NAMES:
        single = torch.cat([features[name] for features in singles])
        assert relative_error(batch[name], single) <= 1e-6


def test_only_what_outputs_need_is_built():
    model = MViTv2(**PICO, out_features=("scale3",))
    assert len(model.blocks) == 3
    assert not any("scale4" in name or "scale2" in name for name in model.state_dict())
    whole = MViTv2(**PICO)
    whole.load_state_dict({**whole.state_dict(), **model.state_dict()})
    images = torch.randn(1, 3, 64, 64)
    features = model(images)
    assert tuple(features) == ("scale3",)
    assert torch.equal(features["scale3"], whole(images)["scale3"])
    assert model.out_feature_channels == {"scale3": 32}
    assert model.out_feature_strides == {"scale3": 8}


@pytest.mark.parametrize("pixels", [(64, 64), (65, 66), (100, 37)])
def test_strides_and_channels_describe_the_outputs(pixels):
    model = MViTv2(**PICO)
    features = model(torch.randn(1, 3, *pixels))
    for name in NAMES:
        stride = model.out_feature_strides[name]
        grid = tuple(-(-side // stride) for side in pixels)
        assert features[name].shape == (1, model.out_feature_channels[name], *grid)


def test_drop_path_acts_in_training_only():
    torch.manual_seed(0)
    model = MViTv2(**PICO, drop_path_rate=0.9)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(images)["scale5"], model(images)["scale5"])
        model.train()
        assert not torch.equal(model(images)["scale5"], model(images)["scale5"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(out_features=("scale2", "res3")),
            r"out_features must name some of scale2, .* 'res3'",
        ),
        (dict(out_features=()), r"out_features must name some of scale2, scale3, .* not \(\)"),
        (dict(num_heads=5), "embed_dim 16 cannot be divided among num_heads 5"),
        (dict(pool_kernel=2), "pool_kernel must be odd and positive, not 2"),
        (dict(depths=()), "depths must be one positive integer a stage"),
        (dict(window_size=30), "which the key stride 4 does not divide"),
        (dict(in_chans=0), "in_chans must be positive, not 0"),
        (dict(pretrain_img_size=100), "pretrain_img_size 100 must be a multiple of .* 32"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MViTv2(**{**PICO, **arguments})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 64, 64), r"must have shape \(N, 3, H, W\), not \(1, 4, 64, 64\)"),
        ((3, 64, 64), r"must have shape \(N, 3, H, W\), not \(3, 64, 64\)"),
        ((1, 3, 64, 5), "at least 7 pixels high and wide, not 64 by 5"),
    ],
)
def test_wrong_images_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        MViTv2(**PICO)(torch.zeros(shape))


def test_works_without_detectron2():
    """In an interpreter where Detectron2 cannot be imported."""
    code = """
import sys
sys.modules["detectron2"] = None
import torch, mvit_det
model = mvit_det.mvitv2_t(depths=(1, 1), embed_dim=16, out_features=("scale3",))
print(tuple(model(torch.zeros(1, 3, 32, 64))["scale3"].shape))
try:
    mvit_det.MViTv2Backbone
except ModuleNotFoundError as error:
    print(error)
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert output == [
        "(1, 32, 4, 8)",
        "mvit_det.MViTv2Backbone needs Detectron2, which is not installed; "
        "run 'mvit-det install-detectron2'",
    ]


@pytest.mark.parametrize("std", [0.02, 0.08])
def test_linear_layers_start_with_the_standard_deviation_asked_for(std):
    torch.manual_seed(0)
    model = MViTv2(**PICO, init_std=std)
    weights = [m.weight.flatten() for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert torch.cat(weights).std().item() == pytest.approx(std, rel=0.02)
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, torch.nn.Linear))
