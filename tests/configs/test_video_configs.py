"""Kinetics and Something-Something configs: the published sizes and recipes."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch.optim import SGD

from mvit_det.config import load_config
from mvit_det.config.validation import find_issues
from mvit_det.data.clip_sampling import DenseSampling, SegmentSampling
from tests.engine.trainings import ROOT

CONFIGS = sorted(
    path for folder in ("Kinetics", "SSv2") for path in (ROOT / "configs" / folder).glob("*.py")
)
# Millions, as published, with 400 classes; L widens in attention.
PARAMETERS = {"mvitv2_s": 34.5, "mvitv2_b": 51.2, "mvitv2_l": 213.4, "mvitv1_b": 36.6}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_config_builds_a_model_of_the_published_size(path, tmp_path):
    config = load_config(path)
    assert find_issues(config) == []
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    saved = load_config(tmp_path / "config.yaml")
    with torch.device("meta"):
        classifier = instantiate(saved.model.classifier)
    assert classifier.head.out_features == (400 if path.parent.name == "Kinetics" else 174)
    millions = sum(p.numel() for p in classifier.parameters()) / 1e6
    assert millions == pytest.approx(PARAMETERS[path.stem[:8]], rel=0.01)
    train, test = (instantiate(config.dataloader[name].mapper) for name in ("train", "test"))
    assert train.sampling == test.sampling
    assert train.sampling.num_frames == saved.model.classifier.frames
    assert train.image_size == test.image_size == saved.model.classifier.img_size
    kinds = {"Kinetics": DenseSampling, "SSv2": SegmentSampling}
    assert isinstance(train.sampling, kinds[path.parent.name])
    assert train.flip == (0.5 if path.parent.name == "Kinetics" else 0.0)


def test_kinetics_is_trained_on_512_clips_for_200_epochs():
    config = load_config(ROOT / "configs/Kinetics/mvitv2_s.py")
    train = config.dataloader.train
    assert train.total_batch_size * train.mapper.repeats == 512
    assert config.train.max_iter == 200 * 240_436 // 256
    schedule = instantiate(config.lr_multiplier)
    rates = [config.optimizer.lr * schedule(epoch / 200) for epoch in (0, 30, 199.999)]
    assert rates == pytest.approx([1.6e-5, 1.6e-3, 1.6e-5], rel=1e-3)


def test_something_something_starts_from_kinetics_with_sgd():
    config = load_config(ROOT / "configs/SSv2/mvitv2_s.py", ["model.classifier.depths=[1,1]"])
    assert config.train.init_checkpoint.endswith("MViTv2_S_16x4_k400_f302660347.pyth")
    config.optimizer.params.model = instantiate(config.model)
    optimizer = instantiate(config.optimizer)
    assert isinstance(optimizer, SGD)
    assert optimizer.defaults["momentum"] == 0.9
