import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.utils import add_decomposed_rel_pos, get_abs_pos, get_rel_pos

from mvit_det.modeling.kernels import position_terms
from mvit_det.modeling.position import (
    relative_positions,
    resize_absolute_positions,
)


@pytest.mark.parametrize("rows", [13, 27, 111])
@pytest.mark.parametrize(
    ("queries", "keys"), [(7, 7), (14, 7), (7, 14), (25, 13), (100, 25), (38, 19)]
)
def test_relative_positions_equal_detectron2(rows, queries, keys):
    table = torch.randn(rows, 6)
    expected = get_rel_pos(queries, keys, table)
    assert torch.equal(relative_positions(table, queries, keys), expected)


def test_relative_positions_of_equal_grids_depend_on_the_distance_alone():
    table = torch.arange(9.0)[:, None]
    positions = relative_positions(table, 5, 5)[..., 0]
    for query in range(5):
        for key in range(5):
            assert positions[query, key] == query - key + 4


@pytest.mark.parametrize(
    ("query_grid", "key_grid"), [((4, 6), (2, 3)), ((5, 7), (5, 7)), ((3, 2), (6, 4))]
)
def test_position_terms_equal_detectron2(query_grid, key_grid):
    query = torch.randn(2, 3, query_grid[0] * query_grid[1], 8)
    tables = torch.randn(2, 11, 8)
    logits = torch.zeros(6, query_grid[0] * query_grid[1], key_grid[0] * key_grid[1])
    expected = add_decomposed_rel_pos(logits, query.flatten(0, 1), *tables, query_grid, key_grid)
    height, width = position_terms(
        query.unflatten(2, query_grid),
        [
            relative_positions(table, *sizes)
            for table, *sizes in zip(tables, query_grid, key_grid, strict=True)
        ],
    )
    actual = (height[..., :, None] + width[..., None, :]).flatten(-2).flatten(0, 1)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("grid", [(4, 4), (7, 5), (2, 9)])
def test_absolute_positions_equal_detectron2(class_token, grid):
    table = torch.randn(1, 16 + class_token, 6)
    expected = get_abs_pos(table, class_token, grid)
    assert torch.equal(resize_absolute_positions(table, grid, class_token), expected)


def test_absolute_positions_are_resized_bicubically():
    table = torch.randn(1, 17, 6)
    image = table[:, 1:].view(1, 4, 4, 6).permute(0, 3, 1, 2)
    expected = F.interpolate(image, size=(8, 6), mode="bicubic").permute(0, 2, 3, 1)
    assert torch.equal(resize_absolute_positions(table, (8, 6), True), expected)
