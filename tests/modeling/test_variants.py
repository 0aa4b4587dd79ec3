"""Each variant of attention, position and pooling against a plain, slow reference."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.utils import get_abs_pos
from torch import nn
from torchvision.models import swin_transformer

from mvit_det.modeling import MViTv2
from mvit_det.modeling.attention import MultiScaleAttention
from mvit_det.modeling.plan import plan_blocks
from mvit_det.modeling.position import joint_relative_positions, joint_terms

PICO = dict(
    depths=(1, 2, 2), embed_dim=16, num_heads=1, window_size=8, pretrain_img_size=32,
    out_features=("scale2", "scale3", "scale4"),
)  # fmt: skip
VIT = dict(
    depths=(8,), embed_dim=24, num_heads=3, patch_kernel=16, patch_stride=16, patch_padding=0,
    key_stride=1, full_query_pooling=False, full_key_pooling=False, residual_pooling=False,
    window_size=4, pretrain_img_size=64, out_features=("scale4",),
)  # fmt: skip
V1 = dict(
    position="absolute", expand_attn=False, residual_pooling=False, full_query_pooling=False,
    pool_global_more=False,
)  # fmt: skip


def randomize(model):
    """Weights of a size that shows in the features, positions included."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def reference_pool(x, conv, norm):
    """One head at a time, (N, heads, C, H, W) to (N, heads, C, H', W')."""
    if isinstance(conv, nn.Identity):
        return x
    channels = x.shape[2]
    heads = [
        F.conv2d(x[:, head], conv.weight, None, conv.stride, conv.padding, groups=channels)
        for head in range(x.shape[1])
    ]
    return norm(torch.stack(heads, 1).permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3)


def reference_distances(queries, keys, query_size, key_size):
    """Rows of a table for pairs of coordinates on axes of these sizes."""
    query_step, key_step = max(key_size / query_size, 1), max(query_size / key_size, 1)
    difference = queries[:, None] * query_step - keys[None] * key_step
    distances = (difference + (key_size - 1) * key_step).long()
    return distances.clamp(0, 2 * max(query_size, key_size) - 2)


def reference_position(attention, query, coordinates, sizes):
    """E of one image and head, (queries, keys)."""
    rows, columns = (
        reference_distances(*pair, *size) for pair, size in zip(coordinates, sizes, strict=True)
    )
    lengths = [2 * max(size) - 1 for size in sizes]
    if attention.relative == "joint":
        table = attention.rel_pos_joint.permute(2, 0, 1)[None]
        table = F.interpolate(table, size=lengths, mode="bilinear", align_corners=False)[0]
        positions = table.permute(1, 2, 0)[rows, columns]
    else:
        tables = [
            F.interpolate(table.t()[None], size=length, mode="linear")[0].t()
            for table, length in zip((attention.rel_pos_h, attention.rel_pos_w), lengths)
        ]
        positions = tables[0][rows] + tables[1][columns]
    return torch.einsum("ic,ijc->ij", query, positions)


def fill_up(x, axis, side):
    """Zeros behind (N, heads, C, H, W), along H or W."""
    missing = side - x.shape[3 + axis]
    return F.pad(x, (0, missing) if axis else (0, 0, 0, missing))


def reference_attention(attention, plan, x):
    """Every query against every key of the image, those of other windows masked."""
    heads = plan.num_heads
    projected = F.linear(x, attention.qkv.weight, attention.qkv.bias)
    q, k, v = projected.unflatten(-1, (3, heads, -1)).permute(3, 0, 4, 5, 1, 2)
    q = pooled = reference_pool(q, attention.pool_q, attention.norm_q)
    k = reference_pool(k, attention.pool_k, attention.norm_k)
    v = reference_pool(v, attention.pool_v, attention.norm_v)
    grid = q.shape[-2:]
    strides = plan.query_stride, plan.key_stride
    coordinates, edges, sizes = [], [], []
    for axis in (0, 1):
        window = plan.window_size
        if window:
            # Zeros fill up the last window.
            whole = -(-grid[axis] * strides[0] // window) * window
            q, k, v = (
                fill_up(tensor, axis, whole // stride)
                for tensor, stride in zip((q, k, v), (*strides, strides[1]))
            )
            shift = plan.shift if whole > window else 0
            sizes.append([window // stride for stride in strides])
        else:
            window, shift = 10**6, 0
            sizes.append([q.shape[3 + axis], k.shape[3 + axis]])
        edges.append((window, shift))
    apart = False
    for axis, (window, shift) in enumerate(edges):
        pair = [torch.arange(tensor.shape[3 + axis]) for tensor in (q, k)]
        pair = [
            (number[:, None] if axis == 0 else number).expand(tensor.shape[-2:]).flatten()
            for number, tensor in zip(pair, (q, k))
        ]
        coordinates.append(pair)
        # Windows begin at the shift; what lies before is one of its own.
        labels = [
            torch.div(number * stride - shift, window, rounding_mode="floor")
            for number, stride in zip(pair, strides)
        ]
        apart = apart | (labels[0][:, None] != labels[1])
    output = torch.empty_like(q)
    for image in range(len(q)):
        for head in range(heads):
            query, key, value = (t[image, head].flatten(1).t() for t in (q, k, v))
            logits = attention.scale * query @ key.t()
            if attention.relative:
                logits = logits + reference_position(attention, query, coordinates, sizes)
            weights = logits.masked_fill(apart, float("-inf")).softmax(-1)
            output[image, head] = (weights @ value).t().unflatten(1, q.shape[-2:])
    output = output[..., : grid[0], : grid[1]]
    if attention.residual_pooling:
        output = output + pooled
    return attention.proj(output.flatten(1, 2).permute(0, 2, 3, 1))


def reference_features(model, images):
    """The whole backbone, block by block."""
    x = model.patch_embed.proj(images).permute(0, 2, 3, 1)
    if model.pos_embed is not None:
        x = x + get_abs_pos(model.pos_embed, model.pretrain_class_token, x.shape[1:3])
    features = {}
    for plan, block in zip(model.plan, model.blocks):
        normed = block.norm1(x)
        skip = block.proj(normed) if plan.widens_in_attention else x
        if plan.query_stride == 2:
            skip = F.max_pool2d(skip.permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)
        x = skip + reference_attention(block.attn, plan, normed)
        normed = block.norm2(x)
        skip = block.proj(normed) if plan.widens_in_mlp else x
        x = skip + block.mlp.fc2(F.gelu(block.mlp.fc1(normed)))
        if plan.is_last and plan.scale in model.out_features:
            norm = model.get_submodule(f"{plan.scale}_norm")
            features[plan.scale] = norm(x).permute(0, 3, 1, 2)
    return features


def assert_equals_reference(model, size, batch=1):
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, expected = model(images), reference_features(model, images)
    assert tuple(features) == tuple(expected)
    for name in features:
        error = (features[name] - expected[name]).norm() / expected[name].norm()
        assert error <= 1e-5, name


ATTENTIONS = ("hwin", "window", "shifted_window", "global")
POSITIONS = ("none", "absolute", "decomposed", "joint", "absolute+decomposed")


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_attention_with_every_position(attention, position):
    model = randomize(MViTv2(**PICO, attention=attention, position=position))
    assert_equals_reference(model, (54, 75))


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (31, 70)])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_attention_at_other_sizes(attention, size):
    """As large as a window, whole windows, and one window high."""
    assert_equals_reference(randomize(MViTv2(**PICO, attention=attention)), size, batch=2)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    "arguments",
    [
        dict(key_stride=1),
        dict(key_stride=1, full_key_pooling=False),
        dict(full_query_pooling=False),
        dict(full_query_pooling=False, residual_pooling=False),
        dict(residual_pooling=False),
        dict(expand_attn=False),
    ],
    ids=str,
)
def test_every_attention_with_every_pooling(attention, arguments):
    assert_equals_reference(randomize(MViTv2(**PICO, attention=attention, **arguments)), (54, 75))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_mvit_v1(attention):
    model = randomize(MViTv2(**{**PICO, **V1}, attention=attention))
    assert not any("rel_pos" in name for name in model.state_dict())
    pooled = [isinstance(block.attn.pool_q, nn.Conv2d) for block in model.blocks]
    assert pooled == [plan.query_stride == 2 for plan in model.plan]
    assert_equals_reference(model, (54, 75))


@pytest.mark.parametrize("pooling", [dict(), dict(key_stride=2)])
@pytest.mark.parametrize("position", ["absolute", "decomposed", "joint"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_vit(attention, position, pooling):
    """One stage; without pooling of keys there are no convolutions but the patches."""
    model = randomize(MViTv2(**{**VIT, **pooling}, attention=attention, position=position))
    assert any(isinstance(module, nn.Conv2d) for module in model.blocks.modules()) == bool(pooling)
    assert model.out_feature_strides == {"scale4": 16}
    assert_equals_reference(model, (100, 150))


def test_vit_equals_detectron2():
    """Windows, four global blocks and relative positions as in ViTDet."""
    from detectron2.modeling import ViT

    upstream = ViT(
        img_size=64, patch_size=16, embed_dim=24, depth=8, num_heads=3, window_size=4,
        window_block_indexes=(0, 2, 4, 6), use_abs_pos=True, use_rel_pos=True,
        pretrain_img_size=64, pretrain_use_cls_token=True, out_feature="scale4",
    ).eval()  # fmt: skip
    model = MViTv2(**VIT, position="absolute+decomposed")
    state = randomize(upstream).state_dict()
    # It has no norm behind the last block.
    names = [name for name in state if name not in model.state_dict()]
    assert names == []
    missing = [name for name in model.state_dict() if name not in state]
    assert missing == ["scale4_norm.weight", "scale4_norm.bias"]
    model.load_state_dict(state, strict=False)
    model.scale4_norm = nn.Identity()
    # In whole windows: where they are filled up, ViTDet does so in front of the projection.
    images = torch.randn(1, 3, 128, 192)
    with torch.no_grad():
        expected, features = upstream(images)["scale4"], model(images)["scale4"]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("relative", [None, "joint"])
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("grid", [(14, 21), (16, 9), (7, 21), (21, 5), (6, 6)])
def test_windows_equal_those_of_swin(grid, shift, relative):
    """Its shift, its mask and, of one head, its index into a joint table."""
    depth = dict(attention="shifted_window") if shift else dict(attention="window")
    plan = plan_blocks(
        **depth, depths=(2,), embed_dim=12, num_heads=3, key_stride=1, window_size=7, table_size=7,
        drop_path_rate=0.0, full_query_pooling=False, full_key_pooling=False,
    )[1]  # fmt: skip
    assert plan.shift == shift
    arguments = dict(pool_kernel=3, residual_pooling=False, norm_layer=nn.LayerNorm)
    # Swin fills up in front of the projection, and so with its bias, where there is one.
    attention = MultiScaleAttention(plan, relative=relative, qkv_bias=False, **arguments)
    randomize(attention)
    bias = torch.zeros(1)
    if relative:
        # Swin's bias does not depend on the query. This is so of a query that is constant.
        reference = swin_transformer.ShiftedWindowAttention(12, [7, 7], [0, 0], 3)
        table = torch.randn(13, 13, 3)
        query = torch.zeros(12, 12)
        x = torch.cat([torch.randn(2, *grid, 11), torch.ones(2, *grid, 1)], dim=-1)
        query[torch.arange(0, 12, 4), 11] = 1.0
        attention.qkv.weight.data[:12] = query
        heads = torch.zeros(13, 13, 4)
        heads[..., 0] = table[..., 0]
        attention.rel_pos_joint.data = heads
        reference.relative_position_bias_table.data = heads[..., :1].flatten(0, 1).expand(-1, 3)
        bias = reference.get_relative_position_bias()
    else:
        x = torch.randn(2, *grid, 12)
    expected = swin_transformer.shifted_window_attention(
        x, attention.qkv.weight, attention.proj.weight, bias, [7, 7], 3, [shift, shift],
        proj_bias=attention.proj.bias,
    )  # fmt: skip
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-5)


def test_joint_positions_are_looked_up_as_in_swin():
    swin = swin_transformer.ShiftedWindowAttention(24, [5, 5], [0, 0], 6)
    table = torch.randn(9, 9, 6)
    swin.relative_position_bias_table.data = table.flatten(0, 1)
    # (queries, keys, C)
    positions = swin.get_relative_position_bias()[0].permute(1, 2, 0)
    query = torch.randn(2, 3, 5, 5, 6)
    terms = joint_terms(query, joint_relative_positions(table, (5, 5), (5, 5)), (5, 5))
    expected = torch.einsum("bnic,ijc->bnij", query.flatten(2, 3), positions)
    torch.testing.assert_close(terms, expected)


def test_joint_tables_are_as_large_as_the_grid_and_resized_bilinearly():
    model = MViTv2(**PICO, position="joint")
    sizes = [block.attn.rel_pos_joint.shape for block in model.blocks]
    assert [tuple(size) for size in sizes] == [
        (2 * side - 1, 2 * side - 1, 16) for side in (8, 4, 4, 4, 2)
    ]
    table = torch.randn(7, 7, 6)
    resized = F.interpolate(table.permute(2, 0, 1)[None], size=(11, 5), mode="bilinear")[0]
    looked_up = joint_relative_positions(table, (6, 3), (3, 3))
    torch.testing.assert_close(looked_up[5, 0], resized.permute(1, 2, 0)[9 + 0])


def test_variants_of_attention_share_their_parameters():
    shapes = [
        {name: value.shape for name, value in MViTv2(**PICO, attention=a).state_dict().items()}
        for a in ATTENTIONS
    ]
    assert shapes[1:] == shapes[:-1]


@pytest.mark.parametrize("attention", ["window", "shifted_window", "global"])
@pytest.mark.parametrize("position", ["decomposed", "joint"])
def test_gradients_equal_those_of_the_reference(attention, position):
    model = randomize(MViTv2(**PICO, attention=attention, position=position))
    images = torch.randn(1, 3, 90, 70)
    weights = {name: torch.randn_like(value) for name, value in model(images).items()}
    gradients, expected = (
        torch.autograd.grad(
            sum((outputs[name] * weights[name]).sum() for name in weights), model.parameters()
        )
        for outputs in (model(images), reference_features(model, images))
    )
    scales = {name: grad.norm() for (name, _), grad in zip(model.named_parameters(), expected)}
    for (name, _), actual, wanted in zip(model.named_parameters(), gradients, expected):
        # Softmax is blind to what all keys share: the gradient of this bias is next to nothing.
        scale = scales[name.replace("norm_k.bias", "norm_k.weight")]
        assert (actual - wanted).norm() <= 1e-4 * scale, name


@pytest.mark.parametrize("attention", ["window", "global"])
@pytest.mark.parametrize("position", ["none", "absolute"])
def test_masked_padding_goes_with_every_other_variant(attention, position):
    model = randomize(MViTv2(**PICO, attention=attention, position=position, mask_padding=True))
    image = torch.randn(1, 3, 70, 50)
    with torch.no_grad():
        alone, batch = model(image), model(F.pad(image, (0, 70, 0, 30)))
    for name, features in alone.items():
        height, width = features.shape[2:]
        torch.testing.assert_close(
            batch[name][..., :height, :width], features, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(attention="swin"), "attention must be one of hwin, window, .*, not 'swin'"),
        (dict(position="relative"), "position must be one of none, absolute, .*, not 'relative'"),
        (dict(attention="shifted_window", mask_padding=True), "mask_padding goes with neither"),
        (dict(position="joint", mask_padding=True), "and position is 'joint'"),
        (
            dict(attention="shifted_window", window_size=4, depths=(2,), out_features=["scale2"]),
            "windows of 4 tokens are too small to be shifted in steps of 4",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MViTv2(**{**PICO, **arguments})
