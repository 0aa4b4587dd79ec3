"""Backbone and detector against Detectron2's, with equal weights, on the GPU."""

import pytest
import torch

from mvit_det.benchmarking import Case
from mvit_det.benchmarking.comparison import check_parity
from mvit_det.benchmarking.workload import Workload

pytestmark = pytest.mark.gpu
LARGEST_ERROR = {"fp32": 1e-5, "bf16": 5e-2, "fp16": 1e-2}


def workloads(device, dtype, **arguments):
    if device == "cpu" and dtype == "fp16":
        pytest.skip("fp16 needs CUDA")
    case = Case(
        size="pico", image_size=(160, 224), batch=2, dtype=dtype, device=device, **arguments
    )
    return case, {side: Workload(case, side) for side in ("candidate", "baseline")}


@pytest.mark.parametrize("detector", [False, True], ids=["backbone", "detector"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_features_equal_detectron2(device, dtype, detector):
    case, sides = workloads(device, dtype, detector=detector)
    assert check_parity(case, sides) < LARGEST_ERROR[dtype]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_compiled_features_equal_detectron2(device, dtype):
    case, sides = workloads(device, dtype)
    # A rehearsal on the CPU leaves the C++ compiler out.
    backend = "inductor" if device == "cuda" else "aot_eager"
    sides["candidate"].model.compile(fullgraph=True, backend=backend)
    assert check_parity(case, sides) < LARGEST_ERROR[dtype]


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("bf16", 0.1)])
def test_gradients_equal_detectron2(device, dtype, tolerance):
    _, sides = workloads(device, dtype)
    gradients = {}
    for side, workload in sides.items():
        torch.manual_seed(0)
        with workload.autocast, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features = workload.model.train()(workload.inputs)
            # Outputs are normalised: without weights, their squares would have next to no gradient.
            sum(
                (x.float() * torch.randn_like(x.float())).sum() for x in features.values()
            ).backward()
        gradients[side] = {name: p.grad for name, p in workload.model.named_parameters()}
    expected = gradients["baseline"]
    error = sum((gradients["candidate"][name] - expected[name]).norm() ** 2 for name in expected)
    assert (error / sum(x.norm() ** 2 for x in expected.values())) ** 0.5 < tolerance
