"""MViTv2 as a backbone of Detectron2: for LazyConfig files, and by name for YAML configs."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from .modeling import MViTv2


class MViTv2Backbone(MViTv2, Backbone):
    """`MViTv2` that tells Detectron2 the shapes of its outputs; takes the same arguments."""

    def __init__(self, *, freeze_at: int = 0, **arguments: Any) -> None:
        """Builds the backbone.

        Args:
            freeze_at: as for `MViTv2.freeze`: 1 freezes the patch embedding, 2 the first stage as
                well, as in Detectron2's ResNets.
            arguments: of `MViTv2`.
        """
        super().__init__(**arguments)
        self.freeze(freeze_at)
        self._out_features = self.out_features
        self._out_feature_channels = self.out_feature_channels
        self._out_feature_strides = self.out_feature_strides


def add_mvitv2_config(cfg: CfgNode) -> None:
    """Adds the keys of `MODEL.MVITV2` to a config of Detectron2; their defaults are MViTv2-T's.

    The builders below know these defaults by themselves; call this before merging a YAML file or
    options that set `MODEL.MVITV2.*`. Calling it again changes nothing.
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
    """Builds the backbone that `cfg.MODEL.MVITV2` describes, MViTv2-T where that is absent.

    Args:
        cfg: a config of Detectron2, with or without the keys of `add_mvitv2_config`.
        input_shape: tells the number of image channels.
    """
    cfg = cfg.clone()
    cfg.defrost()
    add_mvitv2_config(cfg)
    arguments = {key.lower(): value for key, value in cfg.MODEL.MVITV2.items()}
    return MViTv2Backbone(in_chans=input_shape.channels, **arguments)


@BACKBONE_REGISTRY.register()
def build_mvitv2_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds MViTv2 under a feature pyramid with levels p2 to p6.

    `MODEL.BACKBONE.NAME: build_mvitv2_fpn_backbone` alone swaps MViTv2 for the ResNet of a stock
    config: where `MODEL.FPN.IN_FEATURES` names no stage of MViTv2, all its outputs are taken.

    Args:
        cfg: as for `build_mvitv2_backbone`; `MODEL.FPN` describes the pyramid.
        input_shape: tells the number of image channels.
    """
    bottom_up = build_mvitv2_backbone(cfg, input_shape)
    in_features = [name for name in cfg.MODEL.FPN.IN_FEATURES if name in bottom_up.out_features]
    return FPN(
        bottom_up=bottom_up,
        in_features=in_features or bottom_up.out_features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
