"""Linear layers by oneDNN equal PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mvit_det.modeling import MViTv2
from mvit_det.modeling.kernels import linear, products


@pytest.fixture
def onednn(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of PyTorch has no oneDNN")
    monkeypatch.setattr(products, "MKL_LACKS_AVX512", True)


@pytest.mark.parametrize("shape", [(12,), (0, 12), (5, 12), (2, 3, 7, 12)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_pytorchs(shape, with_bias, onednn):
    torch.manual_seed(0)
    inputs = [torch.randn(shape), torch.randn(20, 12), torch.randn(20) if with_bias else None]
    results = []
    for function in (F.linear, linear):
        leaves = [None if x is None else x.clone().requires_grad_() for x in inputs]
        output = function(*leaves)
        (output * torch.linspace(0, 1, 20)).sum().backward()
        results.append([output, *(x.grad for x in leaves if x is not None)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("transposed", [(), ("a",), ("b",), ("a", "b")], ids=str)
def test_products_in_place(transposed, overwrite, onednn):
    """Of each layout of the inputs, and into a part of a larger tensor."""
    torch.manual_seed(0)
    shapes = {"a": (3, 140, 20), "b": (3, 130, 20)}
    a, b = (
        torch.randn(shape).mT.contiguous().mT if name in transposed else torch.randn(shape)
        for name, shape in shapes.items()
    )
    with_gaps = torch.randn(3, 130, 40)[..., ::2].copy_(b)
    whole = torch.randn(3, 150, 130)
    expected = whole.clone()
    expected[:, 5:145] = 0.5 * (a @ b.mT) + (0 if overwrite else whole[:, 5:145])
    for each in (b, with_gaps):
        found = whole.clone()
        products.add_product(found[:, 5:145], a, each, 0.5, overwrite=overwrite)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", ["none", "decomposed"])
def test_a_backbone_gives_the_same(position, monkeypatch, onednn):
    torch.manual_seed(0)
    model = MViTv2(embed_dim=16, depths=(1, 1, 2, 1), position=position, pretrain_img_size=64)
    images, results = torch.randn(2, 3, 160, 128), []
    for uses_onednn in (False, True):
        monkeypatch.setattr(products, "MKL_LACKS_AVX512", uses_onednn)
        model.zero_grad()
        features = model.eval()(images)
        sum(feature.square().mean() for feature in features.values()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append({**features, **gradients})
    assert len(results[0]) > 20
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=1e-4, atol=1e-5)


def test_operations_are_counted(onednn):
    with FlopCounterMode(display=False) as counter:
        linear(torch.randn(5, 12), torch.randn(20, 12))
    assert counter.get_total_flops() == 2 * 5 * 12 * 20


def test_autocast_and_other_types_are_left_to_pytorch(onednn):
    x, weight = torch.randn(5, 12), torch.randn(20, 12)
    assert linear(x.double(), weight.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
