"""Classifiers against timm's, with weights that go through the loader."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from timm.models.mvitv2 import MultiScaleAttention, MultiScaleVit, model_cfgs

import mvit_det
from mvit_det import MViTv2Classifier, model_zoo
from mvit_det.checkpoint import KeyStatus, load_weights
from mvit_det.checkpoint.formats import recognise, to_timm
from mvit_det.errors import CheckpointError
from mvit_det.modeling.position import relative_positions

# timm's name, ours, and what differs from the size in the published weights.
MODELS = {
    "mvitv2_tiny": ("t", {}),
    "mvitv2_small": ("s", {}),
    "mvitv2_base": ("b", {}),
    "mvitv2_large": ("l", dict(expand_attn=False)),
    "mvitv2_small_cls": ("s", dict(class_token=True)),
    "mvitv2_base_cls": ("b", dict(class_token=True)),
    "mvitv2_large_cls": ("l", dict(class_token=True)),
    "mvitv2_huge_cls": ("h", dict(class_token=True)),
}
# The same plans thinner and shorter, but for the smallest.
THIN = {
    "t": {},
    "s": dict(depths=(1, 2, 4, 2), embed_dim=32),
    "b": dict(depths=(2, 3, 4, 3), embed_dim=32),
    "l": dict(depths=(2, 3, 5, 2), embed_dim=48),
    "h": dict(depths=(2, 2, 4, 2), embed_dim=48),
}
PICO = dict(depths=(1, 2, 3, 2), embed_dim=16, drop_path_rate=0.0, pretrain_img_size=64)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomize(model, seed=0):
    """Other values for every weight, also for those that start as zeros or ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.1 if parameter.ndim == 1 else 0.05)
    return model.eval()


def make_timm(name, img_size=224, num_classes=1000, **changes):
    """timm's model, with the class token out of residual pooling where it has one.

    The published weights with a class token were trained so; timm adds its query nevertheless.
    """
    # timm derives the strides again when the configuration is copied.
    config = replace(model_cfgs[name], **changes)
    model = MultiScaleVit(config, img_size, num_classes=num_classes)

    def subtract_residual_of_class_token(attention, inputs, output):
        query = attention.qkv(inputs[0][:, :1]).unflatten(-1, (3, attention.num_heads, -1))[:, :, 0]
        output[0][:, :1] -= F.linear(attention.norm_q(query).flatten(2), attention.proj.weight)

    if config.use_cls_token and config.residual_pooling:
        for module in model.modules():
            if isinstance(module, MultiScaleAttention):
                module.register_forward_hook(subtract_residual_of_class_token)
    return model


def make(size, num_classes=1000, **arguments):
    return getattr(mvit_det, f"mvitv2_{size}")(num_classes=num_classes, **arguments)


def pico(seed=0, num_classes=10, **arguments):
    torch.manual_seed(seed)
    return randomize(make("t", num_classes, **{**PICO, **arguments}), seed)


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_timm(name, tmp_path):
    size, differing = MODELS[name]
    thin = THIN[size]
    reference = make_timm(name, **thin)
    if thin:
        heads = {"s": 1, "b": 1, "l": 2, "h": 3}[size]
        assert reference.stages[0].blocks[0].attn.num_heads == heads
    randomize(reference)
    torch.save(reference.state_dict(), tmp_path / "timm.pth")
    model = make(size, **thin, **differing).eval()
    report = load_weights(model, tmp_path / "timm.pth")
    assert "timm" in report.title
    assert len(report.keys(KeyStatus.LOADED)) == len(model.state_dict()) == len(report.entries)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, expected = model(images), reference(images)
    assert logits.shape == (1, 1000)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_shapes_equal_timm_in_full_size(name):
    size, differing = MODELS[name]
    with torch.device("meta"):
        reference, model = make_timm(name).state_dict(), make(size, **differing).state_dict()
    # Weights without data are refused; these take no memory.
    values = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in reference.items()}
    expected = {key: tensor.shape for key, tensor in recognise(values, "timm").tensors.items()}
    assert {key: tensor.shape for key, tensor in model.items()} == expected
    assert set(to_timm(model).values()) == set(reference)


@pytest.mark.parametrize("name", [f"mvitv2_{size}_in1k" for size in "tsbl"])
def test_parameters_are_as_many_as_published(name):
    entry = model_zoo.MODELS[name]
    with torch.device("meta"):
        model = make(entry.size, **entry.arguments)
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert abs(parameters - entry.parameters) < 1


@pytest.mark.parametrize("class_token", [False, True])
def test_absolute_positions_equal_timm(class_token, tmp_path):
    config = dict(depths=PICO["depths"], embed_dim=16)
    reference = make_timm(
        "mvitv2_tiny", 64, 10, use_abs_pos=True, use_cls_token=class_token, **config
    )
    torch.save(randomize(reference).state_dict(), tmp_path / "timm.pth")
    model = pico(class_token=class_token, position="absolute+decomposed")
    load_weights(model, tmp_path / "timm.pth")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arguments", [dict(residual_pooling=False), dict(qkv_bias=False)], ids=str)
@pytest.mark.parametrize("class_token", [False, True])
def test_options_and_gradients_equal_timm(class_token, arguments):
    config = dict(depths=PICO["depths"], embed_dim=16, use_cls_token=class_token, **arguments)
    reference = randomize(make_timm("mvitv2_tiny", 64, 10, **config))
    model = pico(class_token=class_token, **arguments)
    weights = recognise(reference.state_dict(), "timm")
    model.load_state_dict(weights.tensors, strict=True)
    images = torch.randn(2, 3, 64, 64)
    for network in (model, reference):
        network(images).logsumexp(dim=1).sum().backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[weights.original_names[name]], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("expand_attn", [False, True])
def test_files_of_facebookresearch(class_token, expand_attn, tmp_path):
    options = dict(class_token=class_token, expand_attn=expand_attn)
    source, target = pico(1, **options), pico(2, **options)
    state = {
        re.sub(r"^head\.", "head.projection.", name): tensor.unsqueeze(2)
        if "pool_" in name or name == "patch_embed.proj.weight"
        else tensor
        for name, tensor in source.state_dict().items()
    }
    torch.save({"epoch": 300, "model_state": state, "cfg": "…"}, tmp_path / "MViTv2.pyth")
    report = load_weights(target, tmp_path / "MViTv2.pyth")
    assert f"(facebookresearch/mvit, expand_attn={expand_attn})" in report.title
    assert not report.keys(KeyStatus.DROPPED)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(target(images), source(images))


def test_a_backbone_gives_the_features_a_classifier_sees():
    """With the plan of pre-training, the mean of its last output is what the head gets."""
    classifier = pico()
    backbone = mvit_det.mvitv2_t(**PICO, attention="global", out_features=("scale5",)).eval()
    state = {key: value for key, value in classifier.state_dict().items() if key[:4] != "head"}
    backbone.load_state_dict(
        {key.replace("norm.", "scale5_norm.") if key[:5] == "norm." else key: value
         for key, value in state.items()}
    )  # fmt: skip
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = backbone(images)["scale5"].mean(dim=(2, 3))
        torch.testing.assert_close(classifier(images), classifier.head(features))


@pytest.mark.parametrize("class_token", [False, True])
def test_other_images_and_batches(class_token):
    model = pico(class_token=class_token, position="absolute+decomposed", in_chans=1)
    images = torch.randn(3, 1, 70, 97)
    with torch.no_grad():
        batch, singles = model(images), [model(image[None]) for image in images]
        assert batch.shape == (3, 10)
        torch.testing.assert_close(batch, torch.cat(singles))
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images)
    assert (half - batch).norm() <= 0.05 * batch.norm()


def test_class_token_has_no_residual_pooling_and_no_positions():
    """SlowFast's formulas, written out."""
    attention = pico(class_token=True, depths=(1, 2), num_heads=2).blocks[1].attn
    grid, dim = (5, 6), attention.qkv.in_features
    tokens = torch.randn(2, 1 + 30, dim)
    query, key, value = attention.qkv(tokens).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)

    def pool(x, conv, norm):
        token, rest = x[:, :, :1], x[:, :, 1:].flatten(0, 1).transpose(1, 2).unflatten(2, grid)
        pooled = conv(rest)
        rest = pooled.flatten(2).transpose(1, 2).unflatten(0, (2, 4))
        return norm(torch.cat([token, rest], dim=2)), pooled.shape[2:]

    query, (rows, columns) = pool(query, attention.pool_q, attention.norm_q)
    key, (key_rows, key_columns) = pool(key, attention.pool_k, attention.norm_k)
    value, _ = pool(value, attention.pool_v, attention.norm_v)
    logits = attention.scale * query @ key.transpose(2, 3)
    heights = relative_positions(attention.rel_pos_h, rows, key_rows)
    widths = relative_positions(attention.rel_pos_w, columns, key_columns)
    on_grid = query[:, :, 1:].unflatten(2, (rows, columns))
    logits[:, :, 1:, 1:] += (
        (
            torch.einsum("bnhwc,hkc->bnhwk", on_grid, heights)[..., :, None]
            + torch.einsum("bnhwc,wkc->bnhwk", on_grid, widths)[..., None, :]
        )
        .flatten(4)
        .flatten(2, 3)
    )
    expected = logits.softmax(-1) @ value
    expected[:, :, 1:] += query[:, :, 1:]
    expected = attention.proj(expected.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(tokens, grid=grid), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("class_token", [False, True])
def test_checkpointing_gives_the_same_gradients(class_token):
    model, recomputing = (
        pico(class_token=class_token, use_checkpoint=recomputes, drop_path_rate=0.5).train()
        for recomputes in (False, True)
    )
    images = torch.randn(2, 3, 64, 64)
    for network in (model, recomputing):
        torch.manual_seed(3)
        network(images).square().sum().backward()
    for (name, parameter), other in zip(model.named_parameters(), recomputing.named_parameters()):
        assert parameter.grad is not None, name
        assert torch.equal(parameter.grad, other[1].grad), name


def test_sizes_build_backbones_without_classes():
    assert isinstance(mvit_det.mvitv2_t(**PICO), mvit_det.MViTv2)
    model = mvit_det.mvitv2_t(**PICO, num_classes=7)
    assert isinstance(model, MViTv2Classifier)
    assert not isinstance(model, mvit_det.MViTv2)
    assert model.head.out_features == 7
    assert "cls_token" not in model.state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_classes=0), "num_classes must be a positive integer, not 0"),
        (dict(num_classes=2.5), "num_classes must be a positive integer, not 2.5"),
        (dict(class_token=True), "class_token is for classifiers: give num_classes as well"),
        (
            dict(num_classes=5, attention="window"),
            "attention is for backbones: a classifier decides",
        ),
        (dict(num_classes=5, out_features=("scale5",)), "out_features is for backbones"),
        (dict(num_classes=5, depths=()), "depths must be one positive integer a stage"),
        (dict(num_classes=5, num_heads=7), "embed_dim 16 cannot be divided among num_heads 7"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mvit_det.mvitv2_t(**{**PICO, **arguments})


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match=r"must have shape \(N, 3, H, W\), not \(1, 4, 64, 64\)"):
        pico()(torch.zeros(1, 4, 64, 64))


def test_weights_of_another_classifier_are_refused(tmp_path):
    path = tmp_path / "x.pth"

    def save(model):
        torch.save(model.state_dict(), path)

    save(pico(class_token=True))
    message = "holds a classifier with a class token, and the model has none; build it with class_t"
    with pytest.raises(CheckpointError, match=message):
        load_weights(pico(), path)
    # Training may go on without it.
    assert load_weights(pico(), path, purpose="train").keys(KeyStatus.DROPPED) == ["cls_token"]

    save(pico())
    message = "classifier without a class token, and the model has one; build it with .*=False"
    for purpose in ("train", "evaluate"):
        with pytest.raises(CheckpointError, match=message):
            load_weights(pico(class_token=True), path, purpose=purpose)
    with pytest.raises(CheckpointError, match="file has 10 classes, config has 12"):
        load_weights(pico(num_classes=12), path)
    report = load_weights(pico(num_classes=12), path, purpose="train", reset_head=True)
    assert report.keys(KeyStatus.NEW) == ["head.weight", "head.bias"]

    save(mvit_det.mvitv2_t(**PICO))
    with pytest.raises(CheckpointError, match="'norm.weight' of the model is not in the file"):
        load_weights(pico(), path)
