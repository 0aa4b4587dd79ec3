"""Video models against torchvision's, and against SlowFast's formulas where they differ."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import mvit as torchvision_mvit

import mvit_det
from mvit_det.modeling import VideoMViT
from mvit_det.modeling.kernels import depthwise_conv3d, use_attention_kernel
from mvit_det.modeling.position import relative_positions

THIN = dict(depths=(1, 2, 3, 2), embed_dim=16)
V1 = dict(
    expand_attn=False, full_query_pooling=False, residual_pooling=False, position="separate"
)  # fmt: skip
# Name of torchvision's parameters, and ours.
RENAMED = {
    "conv_proj.": "patch_embed.proj.",
    "pos_encoding.class_token": "cls_token",
    "pos_encoding.spatial_pos": "pos_embed_spatial",
    "pos_encoding.temporal_pos": "pos_embed_temporal",
    "pos_encoding.class_pos": "pos_embed_class",
    "attn.project.0.": "attn.proj.",
    ".pool.": ".",
    "attn.pool_q.norm_act.0": "attn.norm_q",
    "attn.pool_k.norm_act.0": "attn.norm_k",
    "attn.pool_v.norm_act.0": "attn.norm_v",
    "mlp.0.": "mlp.fc1.",
    "mlp.3.": "mlp.fc2.",
    ".project.": ".proj.",
    "head.1.": "head.",
}


def our_name(name):
    for theirs, ours in RENAMED.items():
        name = name.replace(theirs, ours)
    return name


def make_torchvision(version, frames=16, size=64, classes=10):
    """torchvision's model with a thin plan; its builders have fixed widths and depths."""
    blocks, depths = [], (1, 2, 3, 2)
    for stage, depth in enumerate(depths):
        stride = 8 // 2**stage
        for index in range(depth):
            begins, ends = stage > 0 and index == 0, index == depth - 1 and stage < 3
            width = 16 * 2**stage
            if version == 2:
                inputs, outputs = (width // 2 if begins else width), width
            else:
                inputs, outputs = width, (2 * width if ends else width)
            pools = version == 2 or begins
            blocks.append(
                torchvision_mvit.MSBlockConfig(
                    num_heads=2**stage,
                    input_channels=inputs,
                    output_channels=outputs,
                    kernel_q=[3, 3, 3] if pools else [],
                    kernel_kv=[3, 3, 3],
                    stride_q=[1, 2, 2] if begins else [1, 1, 1] if pools else [],
                    stride_kv=[1, stride, stride],
                )
            )
    model = torchvision_mvit.MViT(
        spatial_size=(size, size), temporal_size=frames, block_setting=blocks, num_classes=classes,
        residual_pool=version == 2, residual_with_cls_embed=False, rel_pos_embed=version == 2,
        proj_after_attn=version == 2,
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def make_ours(reference, version, frames=16, size=64):
    model = VideoMViT(
        10, **THIN, **(V1 if version == 1 else {}), frames=frames, img_size=size
    ).eval()
    state = {}
    for name, tensor in reference.state_dict().items():
        name = our_name(name)
        state[name] = tensor.view(dict(model.named_parameters())[name].shape)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("frames", "size"), [(16, 64), (8, 96), (4, 160)])
def test_logits_and_gradients_equal_torchvision(version, frames, size):
    reference = make_torchvision(version, frames, size)
    model = make_ours(reference, version, frames, size)
    clips = torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(1))
    logits, expected = model(clips), reference(clips)
    assert expected.std() > 0.1
    assert (logits - expected).norm() <= 1e-5 * expected.norm()
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    for output in (logits, expected):
        (output * weights).sum().backward()
    wanted = {our_name(name): p.grad.flatten() for name, p in reference.named_parameters()}
    for name, parameter in model.named_parameters():
        # Softmax is blind to what all keys share: the gradient of this bias is next to nothing.
        scale = wanted[name.replace("norm_k.bias", "norm_k.weight")].norm()
        assert (parameter.grad.flatten() - wanted[name]).norm() <= 1e-4 * scale, name


@pytest.mark.parametrize("version", [1, 2])
def test_full_sizes_have_the_names_and_shapes_of_torchvision(version):
    with torch.device("meta"):
        if version == 2:
            reference, model = torchvision_mvit.mvit_v2_s(), mvit_det.video_mvitv2_s()
        else:
            reference, model = torchvision_mvit.mvit_v1_b(), mvit_det.video_mvitv1_b()
    theirs = {our_name(name): tensor.numel() for name, tensor in reference.state_dict().items()}
    assert {name: tensor.numel() for name, tensor in model.state_dict().items()} == theirs


@pytest.mark.parametrize(
    ("name", "frames", "size", "parameters", "operations"),
    [
        ("video_mvitv2_s", 16, 224, 34.5, 64.2),
        ("video_mvitv2_b", 32, 224, 51.2, 224.5),
        ("video_mvitv2_l", 40, 312, 213.4, 2823),
        ("video_mvitv1_b", 16, 224, 36.6, 70.6),
        ("video_mvitv1_b", 32, 224, 36.6, 170.0),
    ],
)
def test_published_parameters_and_multiply_adds(name, frames, size, parameters, operations):
    with torch.device("meta"):
        model = getattr(mvit_det, name)(frames=frames).eval()
        clips = torch.zeros(1, 3, frames, size, size)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(parameters, abs=0.1)
    with use_attention_kernel("blocked"), FlopCounterMode(display=False) as counter:
        model(clips)
    assert counter.get_total_flops() / 2e9 == pytest.approx(operations, rel=2e-3)


def slowfast_attention(attention, tokens, grid):
    """SlowFast's `MultiScaleAttention` with `REL_POS_SPATIAL` and `REL_POS_TEMPORAL`."""
    heads = attention.num_heads
    query, key, value = attention.qkv(tokens).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)

    def pool(x, conv, norm):
        token, rest = x[:, :, :1], x[:, :, 1:].flatten(0, 1).transpose(1, 2).unflatten(2, grid)
        pooled = conv(rest)
        rest = pooled.flatten(2).transpose(1, 2).unflatten(0, (len(x), heads))
        return norm(torch.cat([token, rest], dim=2)), tuple(pooled.shape[2:])

    query, query_grid = pool(query, attention.pool_q, attention.norm_q)
    key, key_grid = pool(key, attention.pool_k, attention.norm_k)
    value, _ = pool(value, attention.pool_v, attention.norm_v)
    logits = attention.scale * query @ key.transpose(2, 3)
    on_grid = query[:, :, 1:].unflatten(2, query_grid)
    tables = (attention.rel_pos_t, attention.rel_pos_h, attention.rel_pos_w)
    time, height, width = (
        relative_positions(table, *sizes) for table, *sizes in zip(tables, query_grid, key_grid)
    )
    logits[:, :, 1:, 1:] += (
        (
            torch.einsum("bnthwc,tkc->bnthwk", on_grid, time)[..., :, None, None]
            + torch.einsum("bnthwc,hkc->bnthwk", on_grid, height)[..., None, :, None]
            + torch.einsum("bnthwc,wkc->bnthwk", on_grid, width)[..., None, None, :]
        )
        .flatten(5)
        .flatten(2, 4)
    )
    out = logits.softmax(-1) @ value
    out[:, :, 1:] += query[:, :, 1:]
    return attention.proj(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("block", [0, 1, 3, 6])
def test_attention_equals_slowfast_where_strides_leave_a_rest(block):
    """As in L at 312 pixels, whose grid of 78 is no multiple of 8."""
    torch.manual_seed(0)
    model = VideoMViT(5, **THIN, frames=6, img_size=72)
    attention = model.blocks[block].attn
    side = {0: 18, 1: 18, 3: 9, 6: 5}[block]
    tokens = torch.randn(2, 1 + 3 * side * side, attention.qkv.in_features)
    expected = slowfast_attention(attention, tokens, (3, side, side))
    actual = attention(tokens, grid=(3, side, side))
    assert (actual - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("variant", [{}, V1], ids=["v2", "v1"])
@pytest.mark.parametrize("shape", [(1, 3, 8, 64, 64), (2, 3, 5, 50, 90), (1, 3, 40, 33, 32)])
def test_clips_of_any_length_and_size(variant, shape):
    torch.manual_seed(0)
    model = VideoMViT(5, **THIN, **variant, frames=8, img_size=64).eval()
    clips = torch.randn(shape)
    with torch.no_grad():
        logits = model(clips)
        singles = torch.cat([model(clip[None]) for clip in clips])
        token, grid = model.forward_features(clips)
    torch.testing.assert_close(logits, singles)
    torch.testing.assert_close(model.head(token), logits)
    assert grid.shape == (
        len(clips),
        128,
        *(-(-side // s) for side, s in zip(shape[2:], (2, 32, 32))),
    )


def test_separate_positions_are_interpolated_over_time_and_space():
    torch.manual_seed(0)
    model = VideoMViT(5, **THIN, **V1, frames=8, img_size=64)
    assert torch.equal(
        model._separate_positions(4, (16, 16)).flatten(1, 3),
        (model.pos_embed_temporal[:, :, None] + model.pos_embed_spatial[:, None]).flatten(1, 2),
    )
    both = model._separate_positions(6, (9, 20)).permute(0, 4, 1, 2, 3)
    table = model._separate_positions(4, (16, 16)).permute(0, 4, 1, 2, 3)
    expected = nn.functional.interpolate(table, size=(6, 9, 20), mode="trilinear")
    torch.testing.assert_close(both, expected)


@pytest.mark.parametrize("shape", [(2, 4, 5, 6, 7), (1, 4, 1, 5, 5), (1, 4, 2, 9, 4)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_depthwise_convolution_equals_pytorch(shape, stride, kernel):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(4, 1, *(kernel,) * 3, dtype=torch.float64, generator=generator)
    weight.requires_grad_()
    strides, padding = (1, stride, stride), (kernel // 2,) * 3
    actual = depthwise_conv3d(x, weight, strides)
    expected = nn.functional.conv3d(x, weight, None, strides, padding, groups=4)
    torch.testing.assert_close(actual, expected)
    grad = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(
        torch.autograd.grad(actual, (x, weight), grad),
        torch.autograd.grad(expected, (x, weight), grad),
    )


@pytest.mark.parametrize("variant", [{}, V1], ids=["v2", "v1"])
def test_bf16_is_close_and_trains(variant):
    torch.manual_seed(0)
    model = VideoMViT(5, **THIN, **variant, frames=4, img_size=32, dropout=0.0)
    clips = torch.randn(2, 3, 4, 32, 32)
    expected = model(clips)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(clips)
    assert (logits - expected).norm() <= 0.05 * expected.norm()
    logits.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("variant", [{}, V1], ids=["v2", "v1"])
def test_exported_and_compiled_models_give_the_same_logits(variant):
    torch._dynamo.reset()
    torch.manual_seed(0)
    thin = dict(THIN, depths=(1, 1))
    model = VideoMViT(5, **thin, **variant, frames=4, img_size=32).eval()
    clips = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        expected = model(clips)
        program = torch.export.export(model, (clips,))
        torch.testing.assert_close(program.module()(clips), expected, rtol=1e-4, atol=1e-5)
    assert not any("mvit_det" in str(node.target) for node in program.graph.nodes)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(clips), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", [{}, V1], ids=["v2", "v1"])
def test_checkpointing_and_fused_kernels_keep_logits_and_gradients(variant):
    torch.manual_seed(0)
    make = partial(VideoMViT, 5, **THIN, **variant, frames=4, img_size=32, dropout=0.0)
    model, recomputing = make(), make(use_checkpoint=True)
    recomputing.load_state_dict(model.state_dict())
    clips = torch.randn(1, 3, 4, 32, 32)

    def gradients(network):
        return torch.autograd.grad(network(clips).square().sum(), network.parameters())

    expected = gradients(model)
    for actual, wanted in zip(gradients(recomputing), expected):
        assert torch.equal(actual, wanted)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.3)):
        autocast = torch.autocast("cpu", dtype, enabled=dtype is not torch.float32)
        with autocast, use_attention_kernel("flash"):
            actual = gradients(model)
        for (name, _), one, other in zip(model.named_parameters(), actual, expected):
            if not name.endswith("norm_k.bias"):
                assert (one - other).norm() <= tolerance * other.norm(), (name, dtype)


@pytest.mark.parametrize("variant", [{}, V1], ids=["v2", "v1"])
def test_no_attention_map_is_ever_written_whole(variant):
    torch.manual_seed(0)
    model = VideoMViT(
        5, depths=(1, 1), embed_dim=8, key_stride=4, **variant, frames=16, img_size=160
    )
    clips = torch.randn(1, 3, 16, 160, 160)
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.nbytes) or tensor, lambda tensor: tensor
    )
    with profile(profile_memory=True) as profiler, hooks:
        model(clips).sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profiler.events())
    # In the first block queries are full and keys pooled by 4; in the second both are pooled by 2.
    bytes_of_map = min(4 * (1 + 12800) * (1 + 800), 4 * (1 + 3200) ** 2)
    # A block of 1,024 queries is a third of the second map.
    assert largest < bytes_of_map / 2
    assert sum(kept) < bytes_of_map


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_classes=0), "num_classes must be a positive integer, not 0"),
        (dict(position="joint"), "not 'joint'"),
        (dict(frames=1), "not 1 and 64"),
        (dict(pool_kernel=2), "not 2"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VideoMViT(**{"num_classes": 5, **THIN, "img_size": 64, **arguments})


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 8, 64, 64), (1, 3, 8, 64, 5)])
def test_wrong_clips_are_refused(shape):
    with pytest.raises(ValueError, match="clips must"):
        VideoMViT(5, **THIN)(torch.zeros(shape))
