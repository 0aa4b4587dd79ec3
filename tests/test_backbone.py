import re
import warnings
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_model

from mvit_det import (
    MViTv2,
    MViTv2Backbone,
    add_mvitv2_config,
    build_mvitv2_backbone,
    build_mvitv2_fpn_backbone,
)
from mvit_det.backbone import PIXEL_MEAN, PIXEL_STD
from mvit_det.errors import ConfigError

BGR_MEAN = PIXEL_MEAN[::-1]
PICO = dict(depths=(1, 1, 1, 1), embed_dim=16, num_heads=1)


@pytest.fixture(autouse=True)
def _pixel_format_is_tested_below():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "INPUT.FORMAT is ")
        yield


def make_config(name):
    """Detectron2's defaults of a Mask R-CNN with FPN, small, on the CPU."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.MASK_ON = True
    # As in Detectron2's Base-RCNN-FPN.yaml.
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    return cfg


def test_is_a_backbone_with_the_features_of_the_model():
    torch.manual_seed(0)
    backbone = MViTv2Backbone(**PICO)
    assert isinstance(backbone, Backbone)
    model = MViTv2(**PICO)
    model.load_state_dict(backbone.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 96)
    for name, features in model(images).items():
        assert torch.equal(backbone(images)[name], features)
    assert backbone.output_shape() == {
        "scale2": ShapeSpec(channels=16, stride=4),
        "scale3": ShapeSpec(channels=32, stride=8),
        "scale4": ShapeSpec(channels=64, stride=16),
        "scale5": ShapeSpec(channels=128, stride=32),
    }


def test_registered_by_name():
    assert BACKBONE_REGISTRY.get("build_mvitv2_backbone") is build_mvitv2_backbone
    assert BACKBONE_REGISTRY.get("build_mvitv2_fpn_backbone") is build_mvitv2_fpn_backbone


def test_the_name_alone_swaps_the_backbone_of_a_stock_config():
    model = build_model(make_config("build_mvitv2_fpn_backbone")).eval()
    assert isinstance(model.backbone, FPN)
    assert isinstance(model.backbone.bottom_up, MViTv2Backbone)
    assert [len(model.backbone.bottom_up.blocks), model.backbone.bottom_up.plan[0].dim] == [10, 96]
    assert list(model.backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    with torch.no_grad():
        (output,) = model([{"image": torch.rand(3, 60, 90) * 255}])
    assert output["instances"].image_size == (60, 90)


def test_keys_of_the_config_reach_the_model():
    cfg = make_config("build_mvitv2_fpn_backbone")
    add_mvitv2_config(cfg)
    cfg.MODEL.MVITV2.DEPTHS = [1, 1, 1]
    cfg.MODEL.MVITV2.EMBED_DIM = 32
    cfg.MODEL.MVITV2.NUM_HEADS = 2
    cfg.MODEL.MVITV2.ATTENTION = "window"
    cfg.MODEL.MVITV2.POSITION = "absolute"
    cfg.MODEL.MVITV2.OUT_FEATURES = ["scale3", "scale4"]
    cfg.MODEL.FPN.IN_FEATURES = ["scale3", "scale4"]
    cfg.MODEL.PIXEL_MEAN = [0.0] * 4
    add_mvitv2_config(cfg)
    cfg.freeze()
    backbone = build_mvitv2_backbone(cfg, ShapeSpec(channels=4))
    assert [plan.dim_out for plan in backbone.plan] == [32, 64, 128]
    assert backbone.plan[0].num_heads == 2
    assert all(block.window_size for block in backbone.plan)
    assert backbone.pos_embed is not None
    features = backbone(torch.randn(1, 4, 64, 64))
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "scale3": (1, 64, 8, 8),
        "scale4": (1, 128, 4, 4),
    }


def test_keys_of_a_yaml_file(tmp_path):
    path = Path(tmp_path, "config.yaml")
    path.write_text(
        "MODEL:\n  BACKBONE: {NAME: build_mvitv2_fpn_backbone}\n"
        "  MVITV2: {DEPTHS: [1, 1, 1, 1], EMBED_DIM: 16}\n"
    )
    cfg = make_config("build_mvitv2_fpn_backbone")
    add_mvitv2_config(cfg)
    cfg.merge_from_file(str(path))
    model = build_model(cfg)
    assert model.backbone.bottom_up.out_feature_channels["scale5"] == 128


def stock_config(path, *options):
    """A config of Detectron2's zoo, small and on the CPU."""
    cfg = get_cfg()
    add_mvitv2_config(cfg)
    # Not with detectron2.model_zoo, which needs an older setuptools.
    path = Path(detectron2.__file__).parent / "model_zoo" / "configs" / path
    cfg.merge_from_file(str(path), allow_unsafe=True)
    small = ["MODEL.MVITV2.DEPTHS", [1, 1, 1, 1], "MODEL.MVITV2.EMBED_DIM", 16]
    cfg.merge_from_list([*small, "MODEL.DEVICE", "cpu", *options])
    return cfg


@pytest.mark.parametrize("prefix", ["", "retinanet_"])
def test_stock_retinanet(prefix):
    name = f"build_{prefix}mvitv2_fpn_backbone"
    cfg = stock_config("Base-RetinaNet.yaml", "MODEL.BACKBONE.NAME", name)
    model = build_model(cfg).eval()
    assert list(model.backbone.output_shape()) == ["p3", "p4", "p5", "p6", "p7"]
    assert list(model.backbone.bottom_up.out_features) == ["scale3", "scale4", "scale5"]
    with torch.no_grad():
        (output,) = model([{"image": torch.rand(3, 60, 90) * 255}])
    assert output["instances"].image_size == (60, 90)


def test_every_parameter_of_a_stock_retinanet_is_trained():
    """DistributedDataParallel refuses models with unused parameters."""
    options = ["MODEL.BACKBONE.NAME", "build_mvitv2_fpn_backbone"]
    backbone = build_model(stock_config("Base-RetinaNet.yaml", *options)).backbone
    sum(level.sum() for level in backbone(torch.rand(1, 3, 64, 64)).values()).backward()
    assert [name for name, value in backbone.named_parameters() if value.grad is None] == []


def pixel_warnings(cfg):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build_mvitv2_fpn_backbone(cfg, ShapeSpec(channels=3))
    return [str(warning.message) for warning in caught if "PIXEL_STD" in str(warning.message)]


@pytest.mark.parametrize(
    ("image_format", "pixel_mean", "pixel_std", "warns"),
    [
        ("BGR", BGR_MEAN, [1.0, 1.0, 1.0], True),
        ("BGR", PIXEL_MEAN, PIXEL_STD, True),
        ("RGB", PIXEL_MEAN, [1.0, 1.0, 1.0], True),
        ("RGB", BGR_MEAN, PIXEL_STD, True),
        ("RGB", PIXEL_MEAN, PIXEL_STD, False),
        # Of the images of a dataset.
        ("RGB", [90.0, 90.0, 90.0], [60.0, 60.0, 60.0], False),
    ],
)
def test_warns_of_the_pixel_format_of_resnets(image_format, pixel_mean, pixel_std, warns):
    cfg = make_config("build_mvitv2_fpn_backbone")
    assert cfg.MODEL.PIXEL_MEAN == BGR_MEAN
    cfg.INPUT.FORMAT = image_format
    cfg.MODEL.PIXEL_MEAN = pixel_mean
    cfg.MODEL.PIXEL_STD = pixel_std
    messages = pixel_warnings(cfg)
    assert len(messages) == warns
    for values in (pixel_mean, PIXEL_MEAN, PIXEL_STD):
        assert all(str(values) in message for message in messages)


def test_the_lines_of_the_readme_cause_no_warning(tmp_path):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```yaml\n(MODEL: \{BACKBONE:.*?)```", readme, re.S)
    path = tmp_path / "config.yaml"
    path.write_text(lines)
    cfg = make_config("build_resnet_fpn_backbone")
    cfg.merge_from_file(str(path))
    assert cfg.MODEL.BACKBONE.NAME == "build_mvitv2_fpn_backbone"
    assert pixel_warnings(cfg) == []


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="out_features must name some of"):
        MViTv2Backbone(**PICO, out_features=("res2",))


@pytest.mark.parametrize("key", ["DEPTHS", "EXPAND_ATTN", "PRETRAIN_IMG_SIZE", "FREEZE_AT"])
def test_keys_that_are_null_are_refused(key):
    """yacs lets null pass, which would turn a flag off without a word."""
    cfg = make_config("build_mvitv2_fpn_backbone")
    add_mvitv2_config(cfg)
    cfg.merge_from_list([f"MODEL.MVITV2.{key}", None])
    with pytest.raises(ConfigError, match=f"MODEL.MVITV2.{key}"):
        build_mvitv2_fpn_backbone(cfg, ShapeSpec(channels=3))


def test_fpn_of_fewer_stages():
    cfg = make_config("build_mvitv2_fpn_backbone")
    add_mvitv2_config(cfg)
    cfg.MODEL.MVITV2.update(DEPTHS=[1, 1, 1, 1], EMBED_DIM=16)
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4"]
    backbone = build_mvitv2_fpn_backbone(cfg, ShapeSpec(channels=3)).eval()
    with torch.no_grad():
        assert list(backbone(torch.zeros(1, 3, 64, 64))) == ["p3", "p4", "p5"]
