"""The comparison of attention kernels, on the CPU."""

from collections import Counter

import pytest
import torch

from mvit_det.benchmarking import Case, attention
from mvit_det.benchmarking.attention import attention_shapes, compare_kernels, format_kernels
from mvit_det.benchmarking.workload import build
from mvit_det.modeling.kernels import ATTENTION_KERNELS


@pytest.mark.parametrize("image_size", [(96, 160), (230, 250)])
def test_shapes_are_those_of_the_model(image_size, monkeypatch):
    case = Case(size="pico", image_size=image_size, batch=2)
    seen = Counter()
    blocked = ATTENTION_KERNELS["blocked"]

    def spy(query, key, value, terms, scale):
        grid = tuple(term.shape[-1] for term in terms)
        seen[(*query.shape, *grid, scale)] += 1
        return blocked(query, key, value, terms, scale)

    monkeypatch.setitem(ATTENTION_KERNELS, "blocked", spy)
    model = build(case, "candidate")
    with torch.no_grad():
        model(torch.zeros(2, 3, *image_size))
    expected = Counter()
    for shape, blocks in attention_shapes(model.plan, case).items():
        queries = shape.queries[0] * shape.queries[1]
        sizes = (shape.batch, shape.heads, queries, shape.channels, *shape.keys)
        expected[(*sizes, shape.channels**-0.5)] += blocks
    assert seen == expected
    assert seen.total() == 8


def test_kernels_side_by_side(monkeypatch):
    def global_shapes(plan, case):
        counts = attention_shapes(plan, case)
        return {shape: blocks for shape, blocks in counts.items() if "global" in shape.name}

    # Windows are as large in small images as in large ones.
    monkeypatch.setattr(attention, "attention_shapes", global_shapes)
    case = Case(size="pico", image_size=(32, 32), dtype="bf16", repeats=1, warmup=0)
    rows = list(compare_kernels(case))
    total = {row.kernel: row for row in rows if row.shape is None}
    single = [row for row in rows if row.shape]
    assert {row.kernel for row in single} == set(ATTENTION_KERNELS)
    assert {row.kernel for row in rows if row.is_default} == {"blocked"}
    for row in single:
        runs = row.kernel not in ("memory_efficient", "cudnn")
        assert bool(row.forward) == runs
        assert row.reason == ("" if row.train else "needs CUDA")
        if runs:
            assert row.error < 0.02
            assert row.peak_memory >= 0
    blocked = [row for row in single if row.kernel == "blocked"]
    expected = sum(row.blocks * row.forward[0] for row in blocked)
    assert total["blocked"].forward == pytest.approx((expected,))
    assert total["blocked"].blocks == 3

    text = format_kernels(rows)
    assert "| all 3 blocks " in text
    assert "| blocked (default) " in text
    assert "Skipped: cudnn: needs CUDA." in text
