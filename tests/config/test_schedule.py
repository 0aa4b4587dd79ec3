import logging
import re
import shutil

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from fvcore.common.param_scheduler import CosineParamScheduler
from omegaconf import OmegaConf

from mvit_det.config import load_config
from mvit_det.config.schedule import fit_schedule
from mvit_det.errors import ConfigError
from mvit_det.model_zoo import configs_folder


def records(number):
    return [{"width": 4, "height": 4}] * number


def make_config(images=100):
    """MViTv2-T's schedule: 67,500 iterations of 64 images, on a dataset of our own."""
    config = load_config(configs_folder() / "COCO" / "mask_rcnn_mvitv2_t.py")
    config.dataloader.train.dataset = L(records)(number=images)
    return config


def rates(config, *shares):
    """The multiplier of the learning rate at these shares of the training."""
    multiplier = instantiate(config.lr_multiplier)
    return [multiplier(share) for share in shares]


def test_a_smaller_batch_sees_as_many_images_at_a_lower_rate(caplog):
    config = make_config()
    with caplog.at_level(logging.INFO, logger="mvit_det"):
        fit_schedule(config, batch_size=16)
    assert config.train.max_iter == 4 * 67_500
    assert config.dataloader.train.total_batch_size == 16
    assert config.optimizer.lr == pytest.approx(1.6e-4 / 4)
    # Warm-up over 250 iterations of 64 images.
    assert config.lr_multiplier.warmup_length * config.train.max_iter == pytest.approx(1000)
    assert rates(config, 0, 0.5, 0.8, 0.95) == pytest.approx([0.001, 1, 0.1, 0.01])
    assert config.train.eval_period == 20_000
    assert config.train.checkpointer.period == 20_000
    assert caplog.messages[-1] == (
        "Schedule: 270000 iterations of 16 images in 1 micro-batch(es) per rank, "
        "learning rate 4e-05, warm-up 1000 iterations, steps at 210000, 250000, "
        "an evaluation every 20000"
    )


def test_epochs_count_the_images_there_are(caplog):
    config = make_config(images=6400)
    with caplog.at_level(logging.INFO, logger="mvit_det"):
        fit_schedule(config, epochs=12)
    assert config.train.max_iter == 1200
    assert config.optimizer.lr == 1.6e-4
    assert rates(config, 0.5, 0.77, 0.78, 0.92, 0.93) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert f"steps at {round(1200 * 7 / 9)}, {round(1200 * 25 / 27)}, " in caplog.text


def test_warm_up_leaves_most_of_a_short_training(caplog):
    config = make_config(images=100)
    fit_schedule(config, epochs=3, batch_size=4)
    assert config.train.max_iter == 75
    assert config.lr_multiplier.warmup_length == 0.1
    assert "The warm-up is shortened to 10 %" in caplog.text
    assert config.train.eval_period == 6


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_trainings_of_a_few_iterations_have_a_schedule_too(iterations):
    config = make_config(images=4)
    fit_schedule(config, epochs=iterations, batch_size=4)
    assert config.train.max_iter == iterations
    assert rates(config, 0.5, 0.8, 0.95) == pytest.approx([1, 0.1, 0.01])


def test_accumulation_changes_no_schedule():
    config, before = make_config(), make_config()
    config.lr_multiplier.warmup_length = before.lr_multiplier.warmup_length = 0.5
    fit_schedule(config, grad_accum_steps=8)
    assert config.train.grad_accum_steps == 8
    config.train.grad_accum_steps = 1
    assert OmegaConf.to_yaml(config, resolve=False) == OmegaConf.to_yaml(before, resolve=False)


def test_schedules_without_steps_are_relative():
    config = make_config()
    config.lr_multiplier = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)
    fit_schedule(config, batch_size=32)
    assert config.train.max_iter == 135_000
    assert rates(config, 0.5) == pytest.approx([0.5])


def test_explicit_values_win():
    config = make_config()
    values = {
        "train.max_iter": 1000,
        "train.eval_period": 70,
        "train.checkpointer.period": 30,
        "lr_multiplier.warmup_length": 0.3,
    }
    for path, value in values.items():
        OmegaConf.update(config, path, value)
    fit_schedule(config, batch_size=16, explicit=values)
    assert {path: OmegaConf.select(config, path) for path in values} == values
    # The rate is for the batch of the config.
    assert config.optimizer.lr == pytest.approx(1.6e-4 / 4)


def test_periods_of_an_explicit_length_stay():
    config = make_config()
    config.train.max_iter = 1000
    period = config.train.eval_period
    fit_schedule(config, batch_size=16, explicit={"train.max_iter"})
    assert (config.train.max_iter, config.train.eval_period) == (1000, period)
    # A share of the training that sees as many images as before.
    assert config.lr_multiplier.warmup_length == pytest.approx(4 * 250 / 67_500)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", -1.0),
        ("epochs", float("nan")),
        ("epochs", float("inf")),
        ("epochs", 1e300),
        ("batch_size", 0),
        ("grad_accum_steps", -2),
    ],
)
def test_impossible_values_are_refused_before_data_is_loaded(name, value):
    config = make_config()
    config.dataloader.train.dataset = L(fail)()
    with pytest.raises(ConfigError, match=re.escape(f"not {value}")):
        fit_schedule(config, **{name: value})


def fail():
    raise AssertionError("the dataset is loaded")


def test_warm_up_of_a_short_training_is_shortened_with_it(tmp_path):
    """Of configs that count it in iterations."""
    common = configs_folder() / "common"
    path = tmp_path / "short.py"
    shutil.copytree(common, tmp_path / "common")
    path.write_text(
        "from .common.schedule import cosine, multi_step\n"
        "short, long = multi_step(20, decay_at=(0.5,)), cosine(300, warmup_iterations=70)\n"
    )
    config = LazyConfig.load(str(path))
    assert config.short.warmup_length == 0.25
    assert config.long.warmup_length == 70 / 300
    assert instantiate(config.short)(0.3) == 1


def test_a_config_without_a_length():
    config = make_config()
    config.train.max_iter = 0
    with pytest.raises(ConfigError, match="train.max_iter"):
        fit_schedule(config, batch_size=2)
    fit_schedule(config, epochs=2, batch_size=20)
    assert config.train.max_iter == 10
