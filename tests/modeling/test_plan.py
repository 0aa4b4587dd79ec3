from dataclasses import replace

import pytest

from mvit_det.modeling.plan import first_scale, global_blocks, plan_blocks

TINY = dict(
    depths=(1, 2, 5, 2),
    embed_dim=96,
    num_heads=1,
    key_stride=4,
    window_size=56,
    table_size=56,
    drop_path_rate=0.2,
)


def test_plan_of_the_tiny_model():
    plan = plan_blocks(**TINY)
    assert [block.scale for block in plan] == (
        ["scale2"] + ["scale3"] * 2 + ["scale4"] * 5 + ["scale5"] * 2
    )
    assert [block.dim for block in plan] == [96, 96, 192, 192, 384, 384, 384, 384, 384, 768]
    assert [block.dim_out for block in plan] == [96] + [192] * 2 + [384] * 5 + [768] * 2
    assert [block.num_heads for block in plan] == [1, 2, 2, 4, 4, 4, 4, 4, 8, 8]
    assert [block.query_stride for block in plan] == [1, 2, 1, 2, 1, 1, 1, 1, 2, 1]
    assert [block.key_stride for block in plan] == [4, 2, 4, 1, 1, 1, 1, 2, 1, 1]
    assert [block.window_size for block in plan] == [56, 56, 0, 28, 14, 14, 14, 0, 14, 0]
    assert [block.table_size for block in plan] == [56, 56, 28, 28, 14, 14, 14, 14, 14, 7]
    assert [block.is_last for block in plan] == [
        True, False, True, False, False, False, False, True, False, True,
    ]  # fmt: skip
    assert plan[0].drop_path == 0
    assert plan[-1].drop_path == pytest.approx(0.2)
    assert plan[3].drop_path == pytest.approx(0.2 * 3 / 9)


def test_plan_that_widens_in_the_mlp():
    plan = plan_blocks(**TINY, expand_attn=False)
    usual = plan_blocks(**TINY)
    assert [block.dim for block in plan] == [96, 192, 192, 384, 384, 384, 384, 384, 768, 768]
    assert [block.dim_out for block in plan] == [192, 192, 384, 384, 384, 384, 384, 768, 768, 768]
    assert not any(block.widens_in_attention for block in plan)
    assert not any(block.widens_in_mlp for block in usual)
    for block, other in zip(plan, usual):
        assert block.widens_in_mlp == (block.is_last and block.scale != "scale5")
        assert other.widens_in_attention == (other.query_stride == 2)
        widths = dict(dim=0, dim_out=0)
        assert replace(block, **widths) == replace(other, **widths)


def test_plan_of_pretraining():
    plan = plan_blocks(**{**TINY, "attention": "global"})
    assert [block.key_stride for block in plan] == [4, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert {block.window_size for block in plan} == {0}
    for block, other in zip(plan, plan_blocks(**TINY)):
        differing = dict(key_stride=0, window_size=0)
        assert replace(block, **differing) == replace(other, **differing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(depths=()), r"depths must be one positive integer a stage, not \(\)"),
        (dict(depths=(1, 0)), r"depths must be one positive .* not \(1, 0\)"),
        (dict(depths=(1, 2.5)), r"depths must be one positive .* not \(1, 2.5\)"),
        (dict(embed_dim=0), "embed_dim must be a positive integer, not 0"),
        (dict(num_heads=0), "num_heads must be a positive integer, not 0"),
        (dict(num_heads=5), "embed_dim 96 cannot be divided among num_heads 5"),
        (dict(key_stride=-1), "key_stride must be a positive integer, not -1"),
        (dict(window_size=0), "window_size must be a positive integer, not 0"),
        (dict(window_size=54), "windows of 54 tokens in scale2, which the key stride 4 does not"),
        (
            dict(window_size=4, depths=(1, 1, 1, 2)),
            "windows of 1 tokens .* query stride 2 does not",
        ),
        (dict(window_size=60), "leaves windows of 15 tokens .* query stride 2 does not divide"),
        (dict(window_size=None), "window_size must be a positive integer, not None"),
        (dict(attention="full"), "attention must be one of hwin, window, .*, not 'full'"),
        (dict(drop_path_rate=1.0), "drop_path_rate must be at least 0 and below 1, not 1.0"),
        (dict(drop_path_rate=-0.1), "drop_path_rate must be at least 0 and below 1, not -0.1"),
    ],
)
def test_values_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plan_blocks(**{**TINY, **change})


def test_first_block_of_a_stage_keeps_the_window_of_the_stage_before():
    plan = plan_blocks(**{**TINY, "depths": (2, 2, 3, 3)})
    for previous, block in zip(plan, plan[1:]):
        if block.query_stride == 2:
            assert block.window_size in (0, 56, 28, 14)
            assert block.table_size == previous.table_size


def test_attention_without_global_blocks():
    plan = plan_blocks(**{**TINY, "attention": "window"})
    assert [block.window_size for block in plan] == [56, 56, 28, 28, 14, 14, 14, 14, 14, 7]
    # Hwin's global blocks need not pool more.
    assert [block.key_stride for block in plan] == [4, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert {block.shift for block in plan} == {0}


def test_every_second_block_of_a_stage_is_shifted():
    plan = plan_blocks(**{**TINY, "attention": "shifted_window"})
    assert [block.shift for block in plan] == [0, 0, 14, 0, 7, 0, 7, 0, 0, 3]
    for block, other in zip(plan, plan_blocks(**{**TINY, "attention": "window"})):
        assert replace(block, shift=0) == other


@pytest.mark.parametrize("attention", ["hwin", "window", "shifted_window", "global"])
def test_a_key_stride_of_one_is_one_throughout(attention):
    plan = plan_blocks(**{**TINY, "attention": attention, "key_stride": 1})
    assert {block.key_stride for block in plan} == {1}
    assert all(block.pools_key for block in plan)


def test_global_blocks_may_pool_no_more_than_others():
    plan = plan_blocks(**TINY, pool_global_more=False)
    assert [block.key_stride for block in plan] == [4, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    for block, other in zip(plan, plan_blocks(**TINY)):
        assert replace(block, key_stride=0) == replace(other, key_stride=0)


def test_poolings_with_a_stride_of_one_may_be_left_out():
    plan = plan_blocks(**TINY, full_query_pooling=False)
    assert [block.pools_query for block in plan] == [block.query_stride == 2 for block in plan]
    assert all(block.pools_key for block in plan)
    plan = plan_blocks(**TINY, full_key_pooling=False)
    assert [block.pools_key for block in plan] == [block.key_stride > 1 for block in plan]
    assert all(block.pools_query for block in plan)


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ((1, 2, 5, 2), (2, 7, 9)),
        ((2, 3), (4,)),
        ((12,), (2, 5, 8, 11)),
        ((24,), (5, 11, 17, 23)),
        ((6,), (0, 2, 3, 5)),
        ((2,), (0, 1)),
        ((1,), (0,)),
    ],
)
def test_global_blocks(depths, expected):
    assert global_blocks(depths) == expected
    plan = plan_blocks(**{**TINY, "depths": depths})
    assert tuple(i for i, block in enumerate(plan) if not block.window_size) == expected


def test_names_of_stages_tell_their_stride():
    assert [first_scale(stride) for stride in (2, 4, 8, 16)] == [1, 2, 3, 4]
    assert [block.scale for block in plan_blocks(**{**TINY, "depths": (1, 1)}, first_scale=4)] == [
        "scale4",
        "scale5",
    ]
