"""Rules that CUDA imposes, checked on machines without a GPU."""

import contextlib
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.modeling import PanopticFPN, RetinaNet
from detectron2.modeling.roi_heads import CascadeROIHeads
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.profiler import profile

import mvit_det
from mvit_det.config import load_config
from mvit_det.modeling import MViTv2
from mvit_det.modeling.kernels import ATTENTION_KERNELS, use_attention_kernel
from mvit_det.modeling.mvit import POSITIONS

CONFIGS = Path(__file__).parents[2] / "configs"
PICO = dict(
    depths=(1, 2, 2), embed_dim=16, num_heads=1, window_size=8, pretrain_img_size=32,
    rel_pos_std=0.2, out_features=("scale2", "scale3", "scale4"),
)  # fmt: skip
# Every attention with every position, and with masks where they exist.
VARIANTS = [
    dict(attention=attention, position=position)
    for attention in ("hwin", "window", "shifted_window", "global")
    for position in POSITIONS
] + [
    dict(attention=attention, position=position, mask_padding=True)
    for attention in ("hwin", "window", "global")
    for position in ("none", "absolute", "decomposed")
]


def as_dict(outputs):
    return outputs if isinstance(outputs, dict) else {"logits": outputs}


def features_and_gradients(model, images):
    """Features, and gradients of their product with constant random weights."""
    generator = torch.Generator().manual_seed(1)
    outputs = as_dict(model(images))
    loss = sum(
        (output.float() * torch.randn(output.shape, generator=generator)).sum()
        for output in outputs.values()
    )
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    names = [name for name, _ in model.named_parameters()]
    # Softmax is blind to what all keys share: the gradient of this bias is rounding errors.
    kept = (g for name, g in zip(names, gradients) if not name.endswith("norm_k.bias"))
    return [*outputs.values(), *kept]


def make_images():
    """Two images, of which one leaves whole windows to the padding."""
    images = torch.randn(2, 3, 70, 100, generator=torch.Generator().manual_seed(0))
    images[1, :, 30:] = 0
    images[1, :, :, 20:] = 0
    return images


def assert_close(actual, expected, tolerance):
    for one, other in zip(actual, expected, strict=True):
        assert one.isfinite().all()
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_fused_kernel_in_every_variant(variant, dtype):
    """The fused kernel of the CPU keeps its inputs and its output for the backward pass, as those
    of CUDA do, and fails if one of them was changed."""
    torch.manual_seed(0)
    model, images = MViTv2(**PICO, **variant), make_images()
    expected = features_and_gradients(model, images)
    autocast = torch.autocast("cpu", dtype, enabled=dtype is not torch.float32)
    with autocast, use_attention_kernel("flash"):
        actual = features_and_gradients(model, images)
    assert_close(actual, expected, 1e-4 if dtype is torch.float32 else 0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("class_token", [False, True])
def test_fused_kernel_in_classifiers(class_token, position, dtype):
    torch.manual_seed(0)
    model = mvit_det.mvitv2_t(
        num_classes=5, class_token=class_token, position=position, depths=(1, 2), embed_dim=16,
        pretrain_img_size=32, drop_path_rate=0.0, rel_pos_std=0.2,
    )  # fmt: skip
    images = torch.randn(2, 3, 40, 52)
    expected = features_and_gradients(model, images)
    autocast = torch.autocast("cpu", dtype, enabled=dtype is not torch.float32)
    with autocast, use_attention_kernel("flash"):
        actual = features_and_gradients(model, images)
    assert_close(actual, expected, 1e-4 if dtype is torch.float32 else 0.15)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_masks_are_finite_in_fp16(variant):
    """Masks that are made in fp32 become -inf in fp16, and NaN where all keys are masked."""
    torch.manual_seed(0)
    model, images = MViTv2(**PICO, **variant).eval(), make_images()
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.float16):
            actual = model(images)
    assert_close(actual.values(), expected.values(), 1e-2)


class MemoryEfficientKernel(TorchFunctionMode):
    """The operator that PyTorch chooses on CUDA, which it cannot choose without a GPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention:
            query, key, value, *bias = args
            assert query.dtype == key.dtype == value.dtype
            bias = bias[0].expand(*query.shape[:3], key.shape[2]) if bias else None
            return torch.ops.aten._scaled_dot_product_efficient_attention(
                query, key, value, bias, query.requires_grad, **(kwargs or {})
            )[0]
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def autocast_on_cuda(dtype):
    """That of CUDA, which `torch.autocast` refuses where there is no GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def gradients_without_engine(loss):
    """The gradient of each leaf, and the names of the nodes that ran.

    The engine of autograd needs a context of CUDA, and its nodes do not: this calls one after the
    other. Saved tensors that have been changed in place raise, as in the engine.
    """
    # How many gradients a node waits for.
    waiting, stack = Counter(), [loss.grad_fn]
    seen = {*stack}
    while stack:
        for parent, _ in stack.pop().next_functions:
            if parent is not None:
                waiting[parent] += 1
                if parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
    pending = defaultdict(dict, {loss.grad_fn: {0: torch.ones_like(loss)}})
    ready, names, leaves = [loss.grad_fn], [], {}
    while ready:
        node = ready.pop()
        names.append(node.name())
        found = pending.pop(node, {})
        expected = [
            torch.empty(each.shape, dtype=each.dtype, device=each.device)
            for each in node._input_metadata
        ]
        inputs = [
            found[i].sum_to_size(each.shape).to(each.dtype) if i in found else each.zero_()
            for i, each in enumerate(expected)
        ]
        if names[-1].endswith("AccumulateGrad"):
            leaves[node.variable] = inputs[0]
            continue
        outputs = getattr(node, "apply", node)(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for (parent, index), output in zip(node.next_functions, outputs):
            if parent is None:
                continue
            if output is not None:
                before = pending[parent].get(index)
                pending[parent][index] = output if before is None else before + output
            waiting[parent] -= 1
            if not waiting[parent]:
                ready.append(parent)
    return leaves, names


def summed(outputs):
    return sum((output.float() ** 2).sum() for output in as_dict(outputs).values())


def test_gradients_without_the_engine_are_those_of_the_engine():
    torch.manual_seed(0)
    model = MViTv2(**PICO)
    model.train()
    parameters = list(model.parameters())
    images = make_images()
    leaves, _ = gradients_without_engine(summed(model(images)))
    expected = torch.autograd.grad(summed(model(images)), parameters)
    for parameter, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(leaves[parameter], wanted)

    x = torch.ones(3, requires_grad=True)
    changed = x.exp()
    loss = changed.sum()
    changed += 1
    with pytest.raises(RuntimeError, match="inplace operation"):
        gradients_without_engine(loss)


def run_on_cuda_without_data(run, model, shape):
    """Shapes, types and devices of CUDA's forward and backward pass under autocast."""
    with FakeTensorMode(allow_non_fake_inputs=True), MemoryEfficientKernel():
        model.to_empty(device="cuda")
        for dtype in (torch.float16, torch.bfloat16):
            with autocast_on_cuda(dtype):
                outputs = as_dict(run(torch.empty(shape, device="cuda")))
                loss = summed(outputs)
            assert all(output.device.type == "cuda" for output in outputs.values())
            gradients, names = gradients_without_engine(loss)
            for name, parameter in model.named_parameters():
                gradient = gradients.get(parameter)
                assert gradient is not None, name
                assert gradient.device.type == "cuda"
                assert (gradient.shape, gradient.dtype) == (parameter.shape, parameter.dtype)
            assert any("EfficientAttention" in name for name in names)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.get("mask_padding")], ids=str)
def test_backbone_on_cuda_without_data(variant):
    model = MViTv2(**PICO, **variant)
    run_on_cuda_without_data(model, model, (2, 3, 70, 100))


def test_masked_padding_on_cuda_without_data():
    """With sizes given: finding them reads the images."""

    model = MViTv2(**PICO, mask_padding=True)
    run = partial(model, image_sizes=[(70, 100), (30, 20)])
    run_on_cuda_without_data(run, model, (2, 3, 70, 100))


def run_layers(model, images):
    """The outputs of all layers of a detector.

    Regions depend on scores, which are missing without data: corners of a feature map stand in.
    """
    features = model.backbone(images)
    if isinstance(model, RetinaNet):
        logits, deltas = model.head([features[name] for name in model.head_in_features])
        return dict(enumerate([*logits, *deltas]))
    logits, deltas = model.proposal_generator.rpn_head(list(features.values()))
    outputs = [*logits, *deltas]
    heads, corner = model.roi_heads, features["p2"][:, :, :14, :14]
    stages = [(heads.box_head, heads.box_predictor)]
    if isinstance(heads, CascadeROIHeads):
        stages = zip(heads.box_head, heads.box_predictor, strict=True)
    for box_head, box_predictor in stages:
        outputs += box_predictor(box_head(corner[:, :, :7, :7]))
    outputs.append(heads.mask_head.layers(corner))
    if isinstance(model, PanopticFPN):
        outputs.append(model.sem_seg_head.layers(features))
    return dict(enumerate(outputs))


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn", "retinanet", "panoptic_fpn"])
def test_detector_on_cuda_without_data(name):
    model = instantiate(load_config(CONFIGS / f"shapes/{name}_mvitv2_pico.py").model)
    run_on_cuda_without_data(partial(run_layers, model), model, (2, 3, 96, 128))


@pytest.mark.parametrize("class_token", [False, True])
def test_classifier_on_cuda_without_data(class_token):
    model = mvit_det.mvitv2_t(
        num_classes=5, class_token=class_token, depths=(1, 1), embed_dim=16, pretrain_img_size=32
    )
    run_on_cuda_without_data(model, model, (2, 3, 40, 52))


def largest_allocation(run):
    """Most bytes that a single operator allocates and still holds when it ends."""
    with profile(profile_memory=True) as profiler:
        run()
    return max(event.self_cpu_memory_usage for event in profiler.events())


@pytest.mark.parametrize(
    ("name", "share"), [("flash", 0.1), ("padded_sdpa", 0.1), ("blocked", 0.3)]
)
def test_no_kernel_writes_queries_times_keys(name, share):
    """`blocked` writes blocks of at most 1,024 queries, here a quarter."""
    sizes = [(4097, 16), (4097, 16), (4097, 16), (4097, 64), (4097, 64)]
    inputs = [torch.randn(1, 1, *size).requires_grad_() for size in sizes]
    logits = 4 * 4097**2

    def run():
        query, key, value, *terms = inputs
        ATTENTION_KERNELS[name](query, key, value, terms, 0.25).sum().backward()

    assert largest_allocation(run) < share * logits
    with use_attention_kernel("sdpa"):
        query, key, value, *terms = inputs
        plain = largest_allocation(lambda: ATTENTION_KERNELS["sdpa"](query, key, value, terms, 1.0))
    assert plain >= logits


@pytest.mark.parametrize("class_token", [False, True])
def test_exported_programs_write_no_queries_times_keys(class_token):
    torch.manual_seed(0)
    model = mvit_det.mvitv2_t(
        num_classes=5, class_token=class_token, depths=(1, 1), embed_dim=16, key_stride=1,
        pretrain_img_size=32,
    ).eval()  # fmt: skip
    images = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        program = torch.export.export(model, (images,)).module()
        torch.testing.assert_close(program(images), model(images), rtol=1e-4, atol=1e-5)
        assert largest_allocation(lambda: program(images)) < 0.1 * 4 * (64 * 64) ** 2
