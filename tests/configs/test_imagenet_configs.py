"""ImageNet configs: the published sizes, and the paper's schedule."""

import pytest
import torch
from detectron2.config import instantiate

from mvit_det.config import load_config
from tests.engine.trainings import ROOT

CONFIGS = sorted((ROOT / "configs" / "ImageNet").glob("*.py"), key=lambda path: path.name)
# Millions, from the paper's table 1; MViTv1-B with 16 blocks is 37 M (MViT, table 8).
PARAMETERS = {"t": 24, "s": 35, "b": 52, "l": 218, "h": 667}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_builds_a_model_of_the_published_size(path):
    config = load_config(path)
    with torch.device("meta"):
        classifier = instantiate(config.model.classifier)
    assert classifier.head.out_features == config.model.num_classes
    if path.stem != "mvitv1_b" and config.model.num_classes == 1000:
        millions = sum(p.numel() for p in classifier.parameters()) / 1e6
        assert millions == pytest.approx(PARAMETERS[path.stem.split("_")[1]], rel=0.025)
    instantiate(config.dataloader.train.mapper)
    assert instantiate(config.dataloader.test.mapper).image_size == (
        config.dataloader.train.mapper.image_size
    )


def test_the_learning_rate_peaks_after_the_warm_up():
    config = load_config(ROOT / "configs/ImageNet/mvitv2_t.py")
    schedule = instantiate(config.lr_multiplier)
    rates = [config.optimizer.lr * schedule(epoch / 300) for epoch in (0, 35, 70, 185, 299.999)]
    assert rates == pytest.approx([8e-8, 1.00004e-3, 2e-3, 1.004e-3, 8e-6], rel=1e-3)
    assert config.train.max_iter == 300 * 1_281_167 // 2048


def test_all_but_norms_and_biases_have_weight_decay():
    config = load_config(ROOT / "configs/ImageNet/mvitv2_t.py", ["model.classifier.depths=[1,1]"])
    model = instantiate(config.model)
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.0 if parameter.ndim == 1 else 0.05), name
