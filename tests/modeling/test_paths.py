"""The same features on every way through the model: compiled, in lower precision, exported."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mvit_det.modeling import MViTv2

PICO = dict(depths=(1, 2, 2, 1), embed_dim=16, num_heads=1, rel_pos_std=0.2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MViTv2(**PICO).eval()


def assert_features_equal(actual, expected, tolerance):
    assert tuple(actual) == tuple(expected)
    for name, features in expected.items():
        assert (actual[name] - features).norm() <= tolerance * features.norm(), name


@pytest.mark.slow
def test_compiled_with_dynamic_sizes_gives_the_same_features():
    """Two blocks, with windows and global; with dynamic sizes, each takes seconds to compile."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = MViTv2(**{**PICO, "depths": (1, 1)}, out_features=("scale2", "scale3"))
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for size in ((64, 96), (96, 130)):
            images = torch.randn(2, 3, *size)
            assert_features_equal(compiled(images), model(images), 1e-5)


def test_compiled_whole_gives_the_same_features_and_gradients():
    """Traced to one graph, and run as PyTorch's operators."""
    torch._dynamo.reset()
    model = MViTv2(**{**PICO, "depths": (1, 1, 1)}, out_features=("scale2", "scale3", "scale4"))
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    for size in ((64, 96), (96, 130)):
        images = torch.randn(2, 3, *size)
        expected = model(images)
        features = compiled(images)
        assert_features_equal(features, expected, 1e-5)
        weights = {name: torch.randn_like(output) for name, output in expected.items()}
        actual_grads, expected_grads = (
            torch.autograd.grad(
                sum((outputs[name] * weights[name]).sum() for name in weights), model.parameters()
            )
            for outputs in (features, expected)
        )
        for (name, _), actual, wanted in zip(
            model.named_parameters(), actual_grads, expected_grads
        ):
            if not name.endswith("norm_k.bias"):
                assert (actual - wanted).norm() <= 1e-5 * wanted.norm(), name


def test_compiled_to_machine_code_gives_the_same_features(model):
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        pytest.skip(f"needs a C++ compiler: {error}")
    torch._dynamo.reset()
    small = MViTv2(**{**PICO, "depths": (1, 1)}, out_features=("scale2", "scale3")).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = torch.compile(small, fullgraph=True)(images)
        assert_features_equal(features, small(images), 1e-5)


def test_compiled_with_masked_padding(model):
    torch._dynamo.reset()
    masked = MViTv2(**PICO, mask_padding=True).eval()
    masked.load_state_dict(model.state_dict())
    images, sizes = torch.randn(2, 3, 64, 96), [(64, 80), (50, 96)]
    with torch.no_grad():
        compiled = torch.compile(masked, fullgraph=True, backend="aot_eager")
        assert_features_equal(compiled(images, sizes), masked(images, sizes), 1e-5)


def test_fast_operators_run_in_every_block(model):
    """No block falls back to something slower, run as it is or compiled."""
    images = torch.randn(1, 3, 64, 64)
    blocks = len(model.blocks)
    with torch.no_grad(), torch.profiler.profile() as profile:
        model(images)
    runs = {event.key: event.count for event in profile.key_averages()}
    assert runs["mvit_det::blocked_attention"] == blocks
    # Only MLPs in blocks compute GELU in place.
    assert runs["aten::gelu_"] == blocks

    graphs = []

    def keep(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, fullgraph=True, backend=keep)(images)
    (targets,) = graphs
    for name in ("mvit_det.blocked_attention", "mvit_det.blocked_mlp"):
        assert sum(name in target for target in targets) == blocks


@pytest.mark.parametrize("mask_padding", [False, True])
def test_bf16_on_the_cpu_is_close(model, mask_padding):
    network = MViTv2(**PICO, mask_padding=mask_padding).eval()
    network.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 96, 130)
    with torch.no_grad():
        expected = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            features = network(images)
    assert_features_equal(features, expected, 3e-2)


def test_training_in_bf16_reaches_all_parameters(model):
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.train()(torch.randn(1, 3, 64, 64))
    sum(output.float().square().mean() for output in outputs.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.count_nonzero() > 0, name


@pytest.mark.parametrize("stages", [True, ("scale2", "scale4"), ()])
def test_checkpointing_keeps_features_and_gradients(model, stages):
    network = MViTv2(**PICO, use_checkpoint=stages)
    network.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 64, 96)
    expected, actual = (
        torch.autograd.grad(
            sum(output.square().sum() for output in m(images).values()), m.parameters()
        )
        for m in (model.train(), network.train())
    )
    for actual_grad, expected_grad in zip(actual, expected):
        assert torch.equal(actual_grad, expected_grad)


def saved_bytes(network, images):
    """The tensors that the forward pass keeps for the backward pass."""
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = network(images)
    del outputs
    return sum(sizes.values())


def test_checkpointing_more_stages_keeps_less():
    images = torch.randn(1, 3, 128, 128)
    kept = [
        saved_bytes(MViTv2(**PICO, use_checkpoint=stages), images)
        for stages in (False, ("scale2",), ("scale2", "scale3"), True)
    ]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < 0.5 * kept[0]


def test_unknown_stage_to_checkpoint_is_refused():
    with pytest.raises(ValueError, match=r"use_checkpoint must be True, False or names of scale2"):
        MViTv2(**PICO, use_checkpoint=("res2",))


def test_exported_program_gives_the_same_features(model):
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        program = torch.export.export(model, (images,))
        assert_features_equal(program.module()(images), model(images), 1e-5)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("mvit_det" in target or "einsum" in target for target in targets)


def test_weights_may_change_in_any_way_between_calls(model):
    """Nothing of an earlier forward pass is used again, not even after changes of `.data`."""
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        model(images)
        for block in model.blocks:
            block.attn.rel_pos_h.data.fill_(0.3)
        fresh = MViTv2(**PICO).eval()
        fresh.load_state_dict(model.state_dict())
        assert_features_equal(model(images), fresh(images), 0)


def test_inference_mode_and_threads_of_several_sizes():
    torch.manual_seed(0)
    with torch.inference_mode():
        model = MViTv2(**PICO).eval()
    sizes = [(64, 96), (96, 64), (70, 130), (128, 64)]
    images = [torch.randn(1, 3, *size) for size in sizes]

    def run(image):
        with torch.inference_mode():
            return model(image)

    expected = [run(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, images * 5))
    for features, wanted in zip(results, expected * 5, strict=True):
        assert_features_equal(features, wanted, 1e-6)
