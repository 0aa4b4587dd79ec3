"""MViTv2 as a Detectron2 backbone: for LazyConfig files, and by name for YAML configs."""

import warnings
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

from .errors import ConfigError
from .modeling import MViTv2

# Of the ImageNet weights, in RGB order.
PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


class MViTv2Backbone(MViTv2, Backbone):
    """`MViTv2` with Detectron2's `output_shape`; takes the same arguments."""

    def __init__(self, *, freeze_at: int = 0, **arguments: Any) -> None:
        """Builds the backbone.

        Args:
            freeze_at: as for `MViTv2.freeze`: 1 freezes the patch embedding, 2 the first stage as
                well, as in Detectron2's ResNets.
            arguments: arguments of `MViTv2`.
        """
        super().__init__(**arguments)
        self.freeze(freeze_at)
        self._out_features = self.out_features
        self._out_feature_channels = self.out_feature_channels
        self._out_feature_strides = self.out_feature_strides


def add_mvitv2_config(cfg: CfgNode) -> None:
    """Adds the keys `MODEL.MVITV2.*` to a Detectron2 config, with MViTv2-T as the default.

    Call this before merging a YAML file or options that set `MODEL.MVITV2.*`; without such keys the
    builders below use the defaults. A second call changes nothing.
    """
    if "MVITV2" in cfg.MODEL:
        return
    cfg.MODEL.MVITV2 = CfgNode()
    cfg.MODEL.MVITV2.DEPTHS = [1, 2, 5, 2]
    cfg.MODEL.MVITV2.EMBED_DIM = 96
    cfg.MODEL.MVITV2.NUM_HEADS = 1
    cfg.MODEL.MVITV2.DROP_PATH_RATE = 0.2
    cfg.MODEL.MVITV2.KEY_STRIDE = 4
    cfg.MODEL.MVITV2.ATTENTION = "hwin"
    cfg.MODEL.MVITV2.WINDOW_SIZE = 56
    cfg.MODEL.MVITV2.EXPAND_ATTN = True
    cfg.MODEL.MVITV2.FULL_QUERY_POOLING = True
    cfg.MODEL.MVITV2.FULL_KEY_POOLING = True
    cfg.MODEL.MVITV2.POOL_GLOBAL_MORE = True
    cfg.MODEL.MVITV2.RESIDUAL_POOLING = True
    cfg.MODEL.MVITV2.POSITION = "decomposed"
    cfg.MODEL.MVITV2.USE_CHECKPOINT = False
    cfg.MODEL.MVITV2.PRETRAIN_IMG_SIZE = 224
    cfg.MODEL.MVITV2.FREEZE_AT = 0
    cfg.MODEL.MVITV2.OUT_FEATURES = ["scale2", "scale3", "scale4", "scale5"]


@BACKBONE_REGISTRY.register()
def build_mvitv2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MViTv2Backbone:
    """Builds the backbone of `cfg.MODEL.MVITV2`, MViTv2-T by default.

    Args:
        cfg: a Detectron2 config, with or without the keys of `add_mvitv2_config`.
        input_shape: its `channels` are the image channels.
    """
    _warn_of_pixel_format(cfg)
    values = _with_defaults(cfg).MODEL.MVITV2
    # yacs lets null pass for any type, and a null flag would turn its default off.
    for key, value in values.items():
        if value is None:
            raise ConfigError(f"MODEL.MVITV2.{key} is null; give it a value, or leave the key out")
    arguments = {key.lower(): value for key, value in values.items()}
    return MViTv2Backbone(in_chans=input_shape.channels, **arguments)


@BACKBONE_REGISTRY.register()
def build_mvitv2_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds MViTv2 with an FPN up to p6, or up to p7 for RetinaNet.

    `MODEL.BACKBONE.NAME: build_mvitv2_fpn_backbone` alone replaces the ResNet of a stock config:
    res2 to res5 of `MODEL.FPN.IN_FEATURES` are read as scale2 to scale5.

    Args:
        cfg: as for `build_mvitv2_backbone`; `MODEL.FPN` describes the FPN.
        input_shape: as for `build_mvitv2_backbone`.
    """
    return _build_fpn(cfg, input_shape, up_to_p7=cfg.MODEL.META_ARCHITECTURE == "RetinaNet")


@BACKBONE_REGISTRY.register()
def build_retinanet_mvitv2_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds MViTv2 with an FPN up to p7, like `build_retinanet_resnet_fpn_backbone`.

    Args:
        cfg: as for `build_mvitv2_fpn_backbone`.
        input_shape: as for `build_mvitv2_backbone`.
    """
    return _build_fpn(cfg, input_shape, up_to_p7=True)


def _build_fpn(cfg: CfgNode, input_shape: ShapeSpec, up_to_p7: bool) -> FPN:
    cfg = _with_defaults(cfg)
    in_features = [str(name).replace("res", "scale") for name in cfg.MODEL.FPN.IN_FEATURES]
    in_features = in_features or list(cfg.MODEL.MVITV2.OUT_FEATURES)
    # Outputs that the FPN does not read would have norms without gradients, which DDP refuses.
    cfg.MODEL.MVITV2.OUT_FEATURES = in_features
    bottom_up = build_mvitv2_backbone(cfg, input_shape)
    out_channels = cfg.MODEL.FPN.OUT_CHANNELS
    last = in_features[-1]
    if up_to_p7:
        channels = bottom_up.out_feature_channels[last]
        top_block: Any = LastLevelP6P7(channels, out_channels, in_feature=last)
    else:
        top_block = LastLevelMaxPool()
        top_block.in_feature = last.replace("scale", "p")
    return FPN(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=out_channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _with_defaults(cfg: CfgNode) -> CfgNode:
    """A copy of a config that has the keys of `add_mvitv2_config`."""
    cfg = cfg.clone()
    cfg.defrost()
    add_mvitv2_config(cfg)
    return cfg


def _warn_of_pixel_format(cfg: CfgNode) -> None:
    """Warns if images are prepared as for Detectron2's ResNets, which silently costs AP."""
    image_format = cfg.INPUT.FORMAT
    mean, std = list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)
    # Detectron2's default mean is ImageNet's in BGR order.
    if image_format == "RGB" and mean != PIXEL_MEAN[::-1] and set(std) != {1.0}:
        return
    warnings.warn(
        f"INPUT.FORMAT is {image_format}, MODEL.PIXEL_MEAN {mean} and MODEL.PIXEL_STD {std}, but "
        "MViTv2's ImageNet weights expect normalised RGB; set "
        f"INPUT.FORMAT: RGB, MODEL.PIXEL_MEAN: {PIXEL_MEAN} and MODEL.PIXEL_STD: {PIXEL_STD}",
        stacklevel=2,
    )
