"""MViTv2 and MViT for clips: the blocks over time, height and width (MViTv2, section 4.3)."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import NormLayer, PatchEmbed
from .padding import pooled_sizes
from .plan import plan_blocks
from .transformer import MultiScaleBlock, MultiScaleTransformer

PATCH_KERNEL, PATCH_STRIDE, PATCH_PADDING = (3, 7, 7), (2, 4, 4), (1, 3, 3)


class VideoMViT(MultiScaleTransformer):
    """Classifies clips of any length and size by a class token.

    Attention is global in every block. Frames are joined in pairs by the patch embedding, and time
    is not pooled after that. Parameters are named as in SlowFast, whose models these are.
    """

    frozen_with_blocks = ("norm",)

    def __init__(
        self,
        num_classes: int,
        *,
        depths: Sequence[int],
        embed_dim: int = 96,
        num_heads: int = 1,
        in_chans: int = 3,
        frames: int = 16,
        img_size: int = 224,
        pool_kernel: int = 3,
        key_stride: int = 8,
        expand_attn: bool = True,
        full_query_pooling: bool = True,
        residual_pooling: bool = True,
        position: str = "decomposed",
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        dropout: float = 0.5,
        init_std: float = 0.02,
        norm_layer: NormLayer = partial(nn.LayerNorm, eps=1e-6),
        use_checkpoint: bool = False,
        freeze_at: int = 0,
    ) -> None:
        """Builds all stages.

        Args:
            num_classes: number of logits.
            depths: blocks of each stage.
            embed_dim: channels of the first stage; they double at each further one.
            num_heads: attention heads of the first stage; they double as well.
            in_chans: channels of the frames.
            frames: length of the clips in pre-training. With `img_size`, it sizes the tables of
                positions, which are interpolated for other clips.
            img_size: side in pixels of the frames in pre-training.
            pool_kernel: odd size of the depthwise convolutions that pool query, key and value,
                along each axis.
            key_stride: stride of key and value pooling in the first stage, in height and width; it
                halves per stage.
            expand_attn: whether a stage widens in the attention of its first block (MViTv2), and
                not in the MLP of the block before (MViT).
            full_query_pooling: pools queries in every block (MViTv2), and not only where a stage
                begins (MViT).
            residual_pooling: adds the pooled query to the output of attention (MViTv2).
            position: "decomposed" adds relative positions to the logits (MViTv2); "separate" adds
                embeddings of time, of space and of the class token to the tokens (MViT).
            mlp_ratio: hidden width of the MLPs over their outer width.
            qkv_bias: whether query, key and value have a bias.
            drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first.
            dropout: of the head's input.
            init_std: standard deviation of the initial weights of linear layers.
            norm_layer: makes a norm of the last axis from its width.
            use_checkpoint: computes blocks again in the backward pass instead of keeping their
                activations.
            freeze_at: as for `freeze`; `len(depths) + 1` freezes all but the head.

        Raises:
            ValueError: an argument is out of range or does not fit the others; names it.
        """
        super().__init__()
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes must be a positive integer, not {num_classes!r}")
        if pool_kernel < 1 or pool_kernel % 2 == 0:
            raise ValueError(f"pool_kernel must be odd and positive, not {pool_kernel}")
        if position not in ("decomposed", "separate"):
            raise ValueError(f"position must be decomposed or separate, not {position!r}")
        if frames < PATCH_STRIDE[0] or img_size < PATCH_STRIDE[1]:
            raise ValueError(
                f"frames and img_size must be at least {PATCH_STRIDE[0]} and {PATCH_STRIDE[1]}, "
                f"not {frames} and {img_size}"
            )
        time, side = frames // PATCH_STRIDE[0], img_size // PATCH_STRIDE[1]
        self.plan = plan_blocks(
            depths=depths,
            embed_dim=embed_dim,
            num_heads=num_heads,
            key_stride=key_stride,
            attention="global",
            window_size=1,
            table_size=side,
            drop_path_rate=drop_path_rate,
            expand_attn=expand_attn,
            full_query_pooling=full_query_pooling,
        )
        self.checkpointed = tuple({plan.scale for plan in self.plan}) if use_checkpoint else ()
        self.patch_embed = PatchEmbed(
            in_chans, embed_dim, PATCH_KERNEL, PATCH_STRIDE, PATCH_PADDING
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        if position == "separate":
            self.pos_embed_spatial = nn.Parameter(torch.zeros(1, side**2, embed_dim))
            self.pos_embed_temporal = nn.Parameter(torch.zeros(1, time, embed_dim))
            self.pos_embed_class = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.position = position
        self.position_grid = (time, side, side)
        self.blocks = nn.ModuleList(
            MultiScaleBlock(
                plan,
                mlp_ratio=mlp_ratio,
                norm_layer=norm_layer,
                pool_kernel=pool_kernel,
                qkv_bias=qkv_bias,
                residual_pooling=residual_pooling,
                relative="decomposed" if position == "decomposed" else None,
                frames=time,
            )
            for plan in self.plan
        )
        self.norm = norm_layer(self.plan[-1].dim_out)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.plan[-1].dim_out, num_classes)
        self._initialize(init_std)
        self.freeze(freeze_at)

    def _initialize(self, init_std: float) -> None:
        """As SlowFast does: biases of linear layers and norms start at 0.02."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=init_std)
            if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
                nn.init.constant_(module.bias, 0.02)
        for name, parameter in self.named_parameters():
            if "rel_pos" in name or "pos_embed" in name or name == "cls_token":
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, clips: Tensor) -> Tensor:
        """Computes logits.

        Args:
            clips: normalised clips, (N, in_chans, T, H, W), of any length and any size from the
                patch up.

        Returns:
            (N, num_classes), before the softmax.

        Raises:
            ValueError: the clips have another rank or channel count, or are too small.
        """
        tokens, _ = self._tokens(clips)
        return self.head(self.dropout(self.norm(tokens[:, 0])))

    def forward_features(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Computes what a head may start from.

        Args:
            clips: as for `forward`.

        Returns:
            The class token, (N, C), and the features of the last stage,
            (N, C, ceil(T / 2), ceil(H / 32), ceil(W / 32)) for models of four stages; both behind
            the norm.
        """
        tokens, grid = self._tokens(clips)
        tokens = self.norm(tokens)
        return tokens[:, 0], tokens[:, 1:].unflatten(1, grid).movedim(-1, 1)

    def _tokens(self, clips: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Class token and grid behind the last block, (N, 1 + T·H·W, C), and T, H and W."""
        x = self.patch_embed(clips)
        time, height, width = x.shape[1:4]
        token: Tensor = self.cls_token
        if self.position == "separate":
            x = x + self._separate_positions(time, (height, width))
            token = token + self.pos_embed_class
        tokens = torch.cat([token.expand(x.shape[0], -1, -1), x.flatten(1, 3)], dim=1)
        for plan, block in zip(self.plan, self.blocks, strict=True):
            tokens = self.run_block(plan, block, tokens, None, (time, height, width))
            ((height, width),) = pooled_sizes([(height, width)], plan.query_stride)
        return tokens, (time, height, width)

    def _separate_positions(self, time: int, grid: tuple[int, int]) -> Tensor:
        """Embeddings of time plus those of space, (1, T, H, W, C), interpolated if need be."""
        # (1, C, T) and (1, C, H, W)
        temporal = self.pos_embed_temporal.transpose(1, 2)
        spatial = self.pos_embed_spatial.transpose(1, 2).unflatten(2, self.position_grid[1:])
        if (time, *grid) != self.position_grid:
            temporal = F.interpolate(temporal, size=time, mode="linear")
            spatial = F.interpolate(spatial, size=grid, mode="bilinear")
        positions = temporal[..., None, None] + spatial[:, :, None]
        return positions.permute(0, 2, 3, 4, 1)
