"""Small models with random weights."""

from pathlib import Path

import pytest
import torch

from mvit_det import MViTv2

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(depths=(1, 2, 2, 1), embed_dim=32, window_size=16, pretrain_img_size=64)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomize(model, seed):
    """Other values for every weight, also for those that start as zeros or ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    return model.eval()


@pytest.fixture
def backbone():
    """Makes an MViTv2 of six blocks from a seed; tables are for images of 64 pixels."""
    return lambda seed=0, **arguments: randomize(MViTv2(**{**SMALL, **arguments}), seed)


@pytest.fixture
def detector():
    """Makes a detector of `configs/shapes` from a seed."""
    from detectron2.config import LazyConfig, instantiate

    def make(seed=0, name="mask_rcnn", **model):
        config = LazyConfig.load(str(ROOT / f"configs/shapes/{name}_mvitv2_pico.py"))
        for key, value in model.items():
            if key == "num_classes":
                config.model.roi_heads.num_classes = value
            else:
                config.model.backbone.bottom_up[key] = value
        return randomize(instantiate(config.model), seed)

    return make


@pytest.fixture
def timm_model():
    """Makes timm's MViTv2 in the geometry of `backbone`, with ten classes, from a seed."""
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    def make(seed=0, img_size=64, **config):
        widths = (32, 64, 128, 256)
        cfg = MultiScaleVitCfg(depths=SMALL["depths"], embed_dim=widths, **config)
        return randomize(MultiScaleVit(cfg, img_size=img_size, num_classes=10), seed)

    return make


@pytest.fixture
def imagenet_state():
    """Turns a backbone's weights into those facebookresearch/mvit would have written."""

    def make(model, class_token=False):
        state = {k: v for k, v in model.state_dict().items() if "_norm." not in k}
        width = state["patch_embed.proj.weight"].shape[0] * 8
        # Kernels with a time axis, of a model that is trained on video too.
        for name, tensor in state.items():
            if "pool_" in name or name == "patch_embed.proj.weight":
                state[name] = tensor.unsqueeze(2)
        state["norm.weight"], state["norm.bias"] = torch.ones(width), torch.zeros(width)
        state["head.projection.weight"] = torch.randn(10, width)
        state["head.projection.bias"] = torch.randn(10)
        if class_token:
            state["cls_token"] = torch.randn(1, 1, width // 8)
        return state

    return make


@pytest.fixture
def same_state():
    """Asserts that two models, or dicts of tensors, hold the same."""

    def check(first, second):
        first, second = (x if isinstance(x, dict) else x.state_dict() for x in (first, second))
        assert first.keys() == second.keys()
        for key in first:
            assert first[key].dtype == second[key].dtype
            assert torch.equal(first[key], second[key]), key

    return check
