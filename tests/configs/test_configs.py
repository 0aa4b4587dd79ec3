import logging
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from mvit_det.config import load_config
from mvit_det.config.schema import Data
from mvit_det.config.validation import find_issues

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
pytestmark = pytest.mark.usefixtures("shapes_root")
COCO = sorted((CONFIGS / "COCO").glob("*.py"))
ALL = COCO + sorted([*(CONFIGS / "LVIS").glob("*.py"), *(CONFIGS / "shapes").glob("*.py")])
# Mask R-CNN and Cascade Mask R-CNN on the five sizes.
SIZES = [
    path for path in COCO if re.fullmatch(r"(cascade_)?mask_rcnn_mvitv2_.(_in21k)?", path.stem)
]

# Millions of parameters, as published with the weights and in MViTv2's section 5.2.
PUBLISHED_PARAMETERS = {
    "mask_rcnn_mvitv1_t": 46,
    "mask_rcnn_mvitv1_s": 57,
    "mask_rcnn_mvitv1_b": 73,
    "mask_rcnn_mvitv2_t": 44,
    "mask_rcnn_mvitv2_s": 54,
    "mask_rcnn_mvitv2_b": 71,
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


def class_counts(node):
    """Values of all fields `num_classes` outside of heads for semantic maps."""
    if OmegaConf.is_dict(node):
        own = [node.num_classes] if "num_classes" in node else []
        below = [node[name] for name in node if name != "sem_seg_head"]
    else:
        own, below = [], list(node) if OmegaConf.is_list(node) else []
    return own + [count for inner in below for count in class_counts(inner)]


@pytest.mark.parametrize("path", ALL, ids=names(ALL))
def test_every_config_is_valid_and_builds(path, tmp_path, caplog):
    config = load_config(path)
    assert find_issues(config) == []
    with caplog.at_level(logging.WARNING):
        LazyConfig.save(config, str(tmp_path / "config.yaml"))
    assert not caplog.records
    saved = load_config(tmp_path / "config.yaml")
    LazyConfig.save(saved, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()

    parameters = sum(parameter.numel() for parameter in build(saved).parameters()) / 1e6
    published = PUBLISHED_PARAMETERS.get(path.stem if path.parent.name == "COCO" else "")
    if published == 270:
        # Detectron2's model of size L has 265 million as well. The published weights are of a
        # variant.
        assert parameters == pytest.approx(265.1, abs=0.1)
        saved.model.backbone.bottom_up.expand_attn = False
        parameters = sum(parameter.numel() for parameter in build(saved).parameters()) / 1e6
    assert published is None or parameters == pytest.approx(published, rel=0.01)

    # The number of classes is set in one place, and so is what happens with corrupt images.
    (config.model.get("roi_heads") or config.model).num_classes = 7
    assert set(class_counts(config.model)) == {7}
    assert config.data == asdict(Data())
    config.data.on_bad_image = "skip"
    assert config.dataloader.train.on_bad_image == config.dataloader.test.on_bad_image == "skip"


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


@pytest.mark.parametrize("path", SIZES, ids=names(SIZES))
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
