import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
COCO = sorted((CONFIGS / "COCO").glob("*.py"))
ALL = COCO + sorted((CONFIGS / "shapes").glob("*.py"))

# Millions of parameters, as published with the weights.
PUBLISHED_PARAMETERS = {
    "mask_rcnn_mvitv2_t": 44,
    "cascade_mask_rcnn_mvitv2_t": 76,
    "cascade_mask_rcnn_mvitv2_s": 87,
    "cascade_mask_rcnn_mvitv2_b": 103,
    "cascade_mask_rcnn_mvitv2_b_in21k": 103,
    "cascade_mask_rcnn_mvitv2_l_in21k": 270,
    "cascade_mask_rcnn_mvitv2_h_in21k": 718,
}


def build(config):
    with torch.device("meta"):
        return instantiate(config.model)


def names(paths):
    return [path.stem for path in paths]


@pytest.mark.parametrize("path", COCO, ids=names(COCO))
def test_number_of_parameters_is_the_published_one(path):
    parameters = sum(p.numel() for p in build(LazyConfig.load(str(path))).parameters())
    if path.stem not in PUBLISHED_PARAMETERS:
        pytest.skip("no weights have been published for it")
    published = PUBLISHED_PARAMETERS[path.stem]
    if published == 270:
        # Detectron2's model of size L has 265 million, too. Those published are of a variant.
        assert parameters / 1e6 == pytest.approx(265.1, abs=0.1)
        config = LazyConfig.load(str(path))
        config.model.backbone.bottom_up.expand_attn = False
        parameters = sum(p.numel() for p in build(config).parameters())
    assert parameters / 1e6 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("path", ALL, ids=names(ALL))
def test_round_trip_through_yaml(path, tmp_path, caplog):
    config = LazyConfig.load(str(path))
    with caplog.at_level(logging.WARNING):
        LazyConfig.save(config, str(tmp_path / "config.yaml"))
    assert not caplog.records
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]
    loaded = LazyConfig.load(str(tmp_path / "config.yaml"))
    LazyConfig.save(loaded, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()
    shapes = {key: value.shape for key, value in build(config).state_dict().items()}
    assert {key: value.shape for key, value in build(loaded).state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("name", "iterations", "milestones"),
    [
        ("mask_rcnn_mvitv2_t", 67500, [52500, 62500]),
        ("cascade_mask_rcnn_mvitv2_b_in21k", 67500, [52500, 62500]),
        ("cascade_mask_rcnn_mvitv2_l_in21k", 184375 // 2, [163889 // 2, 177546 // 2]),
        ("cascade_mask_rcnn_mvitv2_h_in21k", 67500, [52500, 62500]),
    ],
)
def test_schedules_are_the_published_ones(name, iterations, milestones):
    config = LazyConfig.load(str(CONFIGS / "COCO" / f"{name}.py"))
    assert config.train.max_iter == iterations
    assert config.dataloader.train.total_batch_size == 64
    schedule = instantiate(config.lr_multiplier)

    def rate(iteration):
        return schedule(iteration / iterations)

    assert rate(0) == pytest.approx(0.001)
    assert rate(125) == pytest.approx(0.5, abs=0.01)
    assert rate(250) == pytest.approx(1.0)
    for step, milestone in enumerate(milestones):
        assert rate(milestone - 2) == pytest.approx(0.1**step)
        assert rate(milestone + 2) == pytest.approx(0.1 ** (step + 1))


@pytest.mark.parametrize("path", COCO, ids=names(COCO))
def test_settings_that_decide_the_published_results(path):
    config = LazyConfig.load(str(path))
    large_scale_jitter = path.stem.split("_")[-2] in ("l", "h")
    augmentations = [str(a._target_) for a in config.dataloader.train.mapper.augmentations]
    assert any("FixedSizeCrop" in name for name in augmentations) == large_scale_jitter
    assert config.dataloader.train.mapper.get("recompute_boxes", False) == large_scale_jitter
    assert config.optimizer.lr == (1e-4 if "_l_" in path.stem else 1.6e-4)
    assert config.optimizer.weight_decay == 0.1
    assert config.model.input_format == "RGB"
    assert config.dataloader.test.mapper.image_format == "RGB"
    assert config.model.backbone.bottom_up.drop_path_rate == {
        "t": 0.2, "s": 0.2, "b": 0.4, "l": 0.5, "h": 0.6,
    }[path.stem.split("mvitv2_")[1][0]]  # fmt: skip
    size, *weights = path.stem.split("mvitv2_")[1].split("_")
    weights = weights[0] if weights else "in1k"
    assert config.train.init_checkpoint == (
        f"detectron2://ImageNetPretrained/mvitv2/MViTv2_{size.upper()}_{weights}.pyth"
    )


@pytest.mark.parametrize("path", ALL, ids=names(ALL))
def test_number_of_classes_is_set_in_one_place(path):
    config = LazyConfig.load(str(path))
    config.model.roi_heads.num_classes = 7
    shapes = {key: value.shape for key, value in build(config).roi_heads.state_dict().items()}
    scores = [shape[0] for key, shape in shapes.items() if key.endswith("cls_score.weight")]
    assert set(scores) == {8}
    assert len(scores) == (3 if "cascade" in path.stem else 1)
    assert shapes["mask_head.predictor.weight"][0] == 7


def test_no_weight_decay_on_norms_biases_and_positions():
    config = LazyConfig.load(str(CONFIGS / "shapes" / "mask_rcnn_mvitv2_pico.py"))
    config.optimizer.params.model = model = instantiate(config.model)
    decay = {
        id(parameter): group["weight_decay"]
        for group in instantiate(config.optimizer).param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        spared = "norm" in name or "rel_pos" in name or name.endswith("bias")
        assert decay[id(parameter)] == (0.0 if spared else 0.05), name


@pytest.mark.parametrize("path", ALL, ids=names(ALL))
def test_every_config_passes_on_the_settings_of_data(path):
    config = LazyConfig.load(str(path))
    assert config.data == {
        "train_json": "",
        "train_images": "",
        "val_json": "",
        "val_images": "",
        "class_names": [],
        "on_bad_image": "raise",
    }
    config.data.on_bad_image = "skip"
    assert config.dataloader.train.on_bad_image == config.dataloader.test.on_bad_image == "skip"
