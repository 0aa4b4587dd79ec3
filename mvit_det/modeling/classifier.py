"""MViTv2 as the classifier it is in pre-training (MViTv2, sections 4.1 and 5.1)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .mvit import MViTv2
from .padding import pooled_sizes
from .plan import first_scale
from .position import resize_absolute_positions
from .transformer import MultiScaleTransformer


class MViTv2Classifier(MultiScaleTransformer):
    """Classifies images with the blocks of a backbone, by the mean of all tokens or a class token.

    Its plan is that of pre-training: attention is global in every block. Parameters are named as in
    the backbone; `norm`, `head` and `cls_token` come on top and are those of ImageNet checkpoints.
    """

    frozen_with_blocks = ("norm",)

    def __init__(
        self,
        num_classes: int,
        *,
        depths: Sequence[int],
        class_token: bool = False,
        freeze_at: int = 0,
        **arguments: Any,
    ) -> None:
        """Builds all stages.

        Args:
            num_classes: number of logits.
            depths: blocks of each stage.
            class_token: reads the logits off a class token, as the models of ImageNet-21K do, and
                not off the mean of all tokens, as those of ImageNet-1K do.
            freeze_at: as for `freeze`: 1 freezes the patch embedding, 2 the first stage as well;
                `len(depths) + 1` freezes all but the head, for linear probing.
            arguments: any other of `MViTv2`, but those that a classifier decides on:
                `attention`, `mask_padding`, `pretrain_class_token` and `out_features`.

        Raises:
            ValueError: an argument is out of range or does not fit the others; names it.
        """
        super().__init__()
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes must be a positive integer, not {num_classes!r}")
        last_scale = first_scale(arguments.get("patch_stride", 4)) + len(depths) - 1
        decided: dict[str, Any] = {
            "attention": "global",
            "mask_padding": False,
            "pretrain_class_token": class_token,
            "out_features": (f"scale{last_scale}",),
        }
        for name in decided:
            if name in arguments:
                raise ValueError(f"{name} is for backbones: a classifier decides on it by itself")
        backbone = MViTv2(depths=depths, **decided, **arguments)
        (last_stage,) = backbone.out_features

        self.plan = backbone.plan
        self.checkpointed = backbone.checkpointed
        self.patch_embed = backbone.patch_embed
        self.pos_embed = backbone.pos_embed
        self.blocks = backbone.blocks
        self.norm = backbone.get_submodule(f"{last_stage}_norm")
        self.head = nn.Linear(backbone.out_feature_channels[last_stage], num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        if class_token:
            channels = self.patch_embed.proj.out_channels
            self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        else:
            self.register_parameter("cls_token", None)
        self.freeze(freeze_at)

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits.

        Args:
            images: normalised images, (N, in_chans, H, W), of any size from the patch up.

        Returns:
            (N, num_classes), before the softmax.

        Raises:
            ValueError: the images have another rank or channel count, or are too small.
        """
        x = self.patch_embed(images)
        grid = (x.shape[1], x.shape[2])
        if self.pos_embed is not None:
            x = x + resize_absolute_positions(self.pos_embed, grid, self.cls_token is not None)
        summary = self._mean(x) if self.cls_token is None else self._class_token(x, grid)
        return self.head(summary)

    def _mean(self, x: Tensor) -> Tensor:
        """The mean of all tokens behind the last block, (N, H, W, C) to (N, channels)."""
        for plan, block in zip(self.plan, self.blocks, strict=True):
            x = self.run_block(plan, block, x)
        return self.norm(x).mean(dim=(1, 2))

    def _class_token(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The class token behind the last block, (N, H, W, C) to (N, channels)."""
        token = self.cls_token.expand(x.shape[0], -1, -1)
        if self.pos_embed is not None:
            token = token + self.pos_embed[:, :1]
        tokens = torch.cat([token, x.flatten(1, 2)], dim=1)
        for plan, block in zip(self.plan, self.blocks, strict=True):
            tokens = self.run_block(plan, block, tokens, None, grid)
            (grid,) = pooled_sizes([grid], plan.query_stride)
        return self.norm(tokens[:, 0])
