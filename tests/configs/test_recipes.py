"""Trainings for single GPUs: all numbers follow from the published ones."""

import logging
import re
import runpy
from pathlib import Path

import pytest
import setuptools
import torch
from detectron2.config import LazyConfig, instantiate

from mvit_det.config import load_config
from mvit_det.model_zoo import configs_folder

ROOT = Path(__file__).resolve().parents[2]
COCO = configs_folder() / "COCO"
RECIPES = sorted((COCO / "recipes").glob("*.py"))
PUBLISHED_EPOCHS = 36
EPOCHS = 12

for_each_recipe = pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])


def published(path):
    """The config that a recipe starts from."""
    return load_config(COCO / f"{re.sub('_[0-9]+gb$', '', path.stem)}.py")


def test_there_is_one_for_each_size_and_gpu():
    names = [f"mask_rcnn_mvitv2_{size}_{gpu}gb" for size in "st" for gpu in (12, 24, 48)]
    assert [path.stem for path in RECIPES] == names


@for_each_recipe
def test_the_model_is_the_published_one(path):
    config, original = load_config(path), published(path)
    assert config.model == original.model
    assert config.train.init_checkpoint == original.train.init_checkpoint
    with torch.device("meta"):
        model = instantiate(config.model)
    size = path.stem.removeprefix("mask_rcnn_mvitv2_")[0]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert round(parameters / 1e6, 1) == {"t": 43.7, "s": 54.4}[size]


@for_each_recipe
def test_the_data_are_the_published_ones(path):
    config, original = load_config(path), published(path)
    config.dataloader.train.total_batch_size = original.dataloader.train.total_batch_size
    assert config.dataloader == original.dataloader
    assert config.data == original.data


@for_each_recipe
def test_the_schedule_follows_from_the_published_one(path):
    config, original = load_config(path), published(path)
    batch = config.dataloader.train.total_batch_size
    ratio = batch / original.dataloader.train.total_batch_size
    stretch = EPOCHS / PUBLISHED_EPOCHS / ratio
    iterations = config.train.max_iter
    assert batch % config.train.grad_accum_steps == 0
    # Linear scaling.
    assert config.optimizer.lr == pytest.approx(original.optimizer.lr * ratio)
    assert config.optimizer.lr == pytest.approx(1.6e-4 * batch / 64)
    assert iterations == original.train.max_iter * stretch
    # Steps at the same fractions, and a warm-up of as many images.
    steps, original_steps = config.lr_multiplier.scheduler, original.lr_multiplier.scheduler
    assert steps.milestones == [round(step * stretch) for step in original_steps.milestones]
    assert steps.num_updates == iterations
    assert config.lr_multiplier.warmup_length * iterations * batch == pytest.approx(250 * 64)
    rate = instantiate(config.lr_multiplier)
    assert rate(0) == pytest.approx(0.001)
    assert rate(0.5) == 1
    assert rate(0.8) == pytest.approx(0.1)
    assert rate(0.99) == pytest.approx(0.01)
    # An evaluation after each epoch, and a checkpoint after each third of it.
    assert config.train.eval_period * EPOCHS == iterations
    assert config.train.checkpointer.period * 3 == config.train.eval_period


@for_each_recipe
def test_gradients_are_clipped_and_ema_is_on(path):
    settings = load_config(path).train
    assert settings.max_grad_norm == 1.0
    assert settings.ema.enabled
    # Over far fewer steps than the training has.
    assert 1 / (1 - settings.ema.decay) < settings.max_iter / 10
    assert settings.amp == {"enabled": True, "dtype": "auto"}


@pytest.mark.parametrize("size", ["t", "s"])
def test_recipes_of_one_size_differ_in_their_micro_batches_only(size):
    configs = [load_config(COCO / "recipes" / f"mask_rcnn_mvitv2_{size}_{gpu}gb.py")
               for gpu in (12, 24, 48)]  # fmt: skip
    steps = [config.train.pop("grad_accum_steps") for config in configs]
    assert steps == sorted(steps, reverse=True)
    assert configs[0] == configs[1] == configs[2]


@for_each_recipe
def test_round_trip_through_yaml(path, tmp_path, caplog):
    config = load_config(path)
    with caplog.at_level(logging.WARNING):
        LazyConfig.save(config, str(tmp_path / "config.yaml"))
    assert not caplog.records
    assert load_config(tmp_path / "config.yaml").train == config.train


def test_an_installed_package_has_them(monkeypatch):
    shipped = {}
    monkeypatch.setattr(setuptools, "setup", shipped.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    assert "mvit_det.configs.COCO.recipes" in shipped["packages"]
    assert shipped["package_dir"] == {"mvit_det.configs": "configs"}
