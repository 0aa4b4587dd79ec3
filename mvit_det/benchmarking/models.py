"""Both sides of a case, with equal weights."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.modeling import GeneralizedRCNN, MViT
from torch import nn

from ..config import load_config
from ..model_zoo import configs_folder
from ..modeling import MViTv2, mvitv2_b, mvitv2_h, mvitv2_l, mvitv2_s, mvitv2_t
from .case import Case

PICO = partial(MViTv2, depths=(1, 2, 3, 2), embed_dim=16)
BUILDERS: dict[str, Callable[..., MViTv2]] = dict(
    t=mvitv2_t, s=mvitv2_s, b=mvitv2_b, l=mvitv2_l, h=mvitv2_h, pico=PICO
)


def build(case: Case, side: str) -> nn.Module:
    """Builds one side, on the CPU; the other gets the same weights, whichever is built first.

    Random weights, relative positions included, so that an error in any of them shows. Without
    drop path, so that both sides compute the same also in training.
    """
    options: dict[str, Any] = dict(drop_path_rate=0.0, rel_pos_std=0.02)
    if side == "candidate":
        if case.checkpoint:
            options["use_checkpoint"] = (
                True if case.checkpoint == ("all",) else list(case.checkpoint)
            )
        if case.mask_padding:
            options["mask_padding"] = True
    torch.manual_seed(0)
    is_upstream = side == "baseline" and case.baseline == "detectron2"
    if not case.detector:
        backbone = BUILDERS[case.size](**options)
        return upstream_of(backbone) if is_upstream else backbone
    detector = _build_detector(case.size, options)
    if is_upstream:
        detector.backbone.bottom_up = upstream_of(detector.backbone.bottom_up)
    return detector


def compile_backbone(model: nn.Module) -> None:
    """Has `torch.compile` run the backbone; the rest of a detector decides by its data."""
    backbone = model.backbone.bottom_up if isinstance(model, GeneralizedRCNN) else model
    backbone.compile()


def upstream_of(model: MViTv2) -> MViT:
    """Detectron2's MViT with the plan and the weights of a model."""
    first = model.plan[0]
    with warnings.catch_warnings():
        # Of timm, from which Detectron2 takes its drop path.
        warnings.filterwarnings("ignore", "Importing from timm", FutureWarning)
        upstream = MViT(
            # It only sizes the tables of relative positions.
            img_size=first.table_size * model.patch_embed.proj.stride[0],
            in_chans=model.in_chans,
            embed_dim=first.dim,
            depth=len(model.plan),
            num_heads=first.num_heads,
            last_block_indexes=tuple(i for i, block in enumerate(model.plan) if block.is_last),
            adaptive_kv_stride=first.key_stride,
            adaptive_window_size=first.window_size,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            out_features=model.out_features,
        )
    upstream.load_state_dict(model.state_dict(), strict=True)
    return upstream


def _build_detector(size: str, options: dict[str, Any]) -> GeneralizedRCNN:
    folder = "shapes" if size == "pico" else "COCO"
    config = load_config(configs_folder() / folder / f"mask_rcnn_mvitv2_{size}.py").model
    config.backbone.bottom_up.update(options)
    # Random weights are sure of nothing. Keep what they find, as many detections as ever there
    # are, or there would be no work for the mask head.
    config.roi_heads.box_predictor.test_score_thresh = 0.0
    return instantiate(config)
