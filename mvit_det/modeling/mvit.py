"""MViTv2 as a backbone for dense prediction."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .layers import NormLayer, PatchEmbed
from .padding import Sizes, fill_padding, pad_to, pooled_sizes, unpadded_sizes
from .plan import first_scale, plan_blocks
from .position import resize_absolute_positions
from .transformer import MultiScaleBlock, MultiScaleTransformer

# Whether tokens get absolute positions, and which relative ones the logits of attention do.
POSITIONS: dict[str, tuple[bool, str | None]] = {
    "none": (False, None),
    "absolute": (True, None),
    "decomposed": (False, "decomposed"),
    "joint": (False, "joint"),
    "absolute+decomposed": (True, "decomposed"),
}


class MViTv2(MultiScaleTransformer):
    """Improved Multiscale Vision Transformer with hybrid window attention (MViTv2, section 4).

    Parameters are named as in Detectron2's MViT, so that weights go either way with
    `load_state_dict(strict=True)`.

    Attributes:
        out_feature_channels: channels of each output, by name.
        out_feature_strides: pixels of the image per cell of each output, by name.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (1, 2, 5, 2),
        embed_dim: int = 96,
        num_heads: int = 1,
        in_chans: int = 3,
        patch_kernel: int = 7,
        patch_stride: int = 4,
        patch_padding: int = 3,
        pool_kernel: int = 3,
        key_stride: int = 4,
        attention: str = "hwin",
        window_size: int = 56,
        expand_attn: bool = True,
        full_query_pooling: bool = True,
        full_key_pooling: bool = True,
        pool_global_more: bool = True,
        residual_pooling: bool = True,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_layer: NormLayer = partial(nn.LayerNorm, eps=1e-6),
        position: str = "decomposed",
        init_std: float = 0.02,
        rel_pos_std: float = 0.0,
        use_checkpoint: bool | Sequence[str] = False,
        mask_padding: bool = False,
        pretrain_img_size: int = 224,
        pretrain_class_token: bool = True,
        out_features: Sequence[str] = ("scale2", "scale3", "scale4", "scale5"),
    ) -> None:
        """Builds the stages up to the last one that `out_features` asks for.

        Args:
            depths: blocks of each stage.
            embed_dim: channels of the first stage; they double at each further one.
            num_heads: attention heads of the first stage; they double as well.
            in_chans: channels of the images.
            patch_kernel, patch_stride, patch_padding: convolution that makes tokens of pixels.
            pool_kernel: odd size of the depthwise convolutions that pool query, key and value.
            key_stride: stride of key and value pooling in the first stage; it halves per stage. 1
                is 1 throughout.
            attention: "hwin" attends within windows, but globally in the last block of each stage
                but the first (of a single stage: in four blocks, evenly spread); "window" in no
                block globally; "shifted_window" neither, and moves the windows by half their side
                in every second block; "global" has no windows, as in pre-training.
            window_size: side in tokens of the first stage's windows; it halves per stage.
            expand_attn: whether a stage widens in the attention of its first block, as in all
                published weights but MViTv2-L's of ImageNet-1K, which widen in the MLP of the last
                block before. Outputs but the last then have twice the channels.
            full_query_pooling: pools queries also where the stride is 1 (MViTv2, table 7), and not
                only where a stage begins, as MViTv1 does.
            full_key_pooling: pools keys and values also where the stride is 1. Without, and with
                `key_stride=1`, they are not pooled at all, as in ViT.
            pool_global_more: doubles the stride of key and value pooling in Hwin's global blocks of
                the second and third stage.
            residual_pooling: adds the pooled query to the output of attention.
            mlp_ratio: hidden width of the MLPs over their outer width.
            qkv_bias: whether query, key and value have a bias.
            drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first.
            norm_layer: makes a norm of the last axis from its width.
            position: "absolute" adds position embeddings to the tokens; "decomposed" (MViTv2,
                equation 4) and "joint" (equation 3; a table over both axes, slow and large) add
                relative positions to the logits of attention; "absolute+decomposed" does both and
                "none" neither.
            init_std: standard deviation of the initial weights of linear layers. The paper's 0.02
                suits its widths; a model of a few dozen channels learns faster from 0.08.
            rel_pos_std: standard deviation of the tables' initial values; 0 starts from zeros.
            use_checkpoint: True or names of stages, whose blocks are computed again in the backward
                pass instead of keeping their activations: less memory for more time.
            mask_padding: keeps the padding of windows and of the batch out of attention and
                pooling, so that an image's features do not depend on what else is in the batch.
                The published weights were trained without.
            pretrain_img_size: side in pixels of the images of pre-training. It sizes the tables
                of positions, which are interpolated for other images.
            pretrain_class_token: whether absolute positions hold one for a class token; it is
                stored and not used.
            out_features: names of the stages to return, of "scale2", "scale3", …: "scaleN" is the
                one with a stride of 2^N pixels.

        Raises:
            ValueError: an argument is out of range or does not fit the others; names both.
        """
        super().__init__()
        if pool_kernel < 1 or pool_kernel % 2 == 0:
            raise ValueError(f"pool_kernel must be odd and positive, not {pool_kernel}")
        if in_chans < 1:
            raise ValueError(f"in_chans must be positive, not {in_chans}")
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, not {position!r}")
        has_absolute, relative = POSITIONS[position]
        if mask_padding and (attention == "shifted_window" or relative == "joint"):
            raise ValueError(
                "mask_padding goes with neither shifted windows nor joint positions, but attention "
                f"is {attention!r} and position is {position!r}"
            )
        table_size = pretrain_img_size // patch_stride
        blocks = plan_blocks(
            depths=depths,
            embed_dim=embed_dim,
            num_heads=num_heads,
            key_stride=key_stride,
            attention=attention,
            window_size=window_size,
            table_size=table_size,
            drop_path_rate=drop_path_rate,
            first_scale=first_scale(patch_stride),
            expand_attn=expand_attn,
            full_query_pooling=full_query_pooling,
            full_key_pooling=full_key_pooling,
            pool_global_more=pool_global_more,
        )
        if pretrain_img_size < 1 or pretrain_img_size % (patch_stride * 2 ** (len(depths) - 1)):
            raise ValueError(
                f"pretrain_img_size {pretrain_img_size} must be a multiple of the coarsest stride "
                f"{patch_stride * 2 ** (len(depths) - 1)}"
            )
        stages = {block.scale: block.dim_out for block in blocks}
        unknown = [name for name in out_features if name not in stages]
        if unknown or not out_features:
            raise ValueError(
                f"out_features must name some of {', '.join(stages)}, not {tuple(out_features)}"
            )

        checkpointed = stages if use_checkpoint is True else use_checkpoint or ()
        unknown = [name for name in checkpointed if name not in stages]
        if unknown:
            raise ValueError(
                f"use_checkpoint must be True, False or names of {', '.join(stages)}, "
                f"not {use_checkpoint}"
            )

        self.in_chans = in_chans
        self.patch_stride = patch_stride
        self.checkpointed = tuple(checkpointed)
        self.mask_padding = mask_padding
        self.pretrain_class_token = pretrain_class_token
        self.out_features = tuple(out_features)
        strides = {name: patch_stride * 2**index for index, name in enumerate(stages)}
        self.out_feature_channels = {name: stages[name] for name in out_features}
        self.out_feature_strides = {name: strides[name] for name in out_features}

        self.patch_embed = PatchEmbed(
            in_chans, embed_dim, (patch_kernel,) * 2, (patch_stride,) * 2, (patch_padding,) * 2
        )
        if has_absolute:
            positions = table_size**2 + int(pretrain_class_token)
            self.pos_embed = nn.Parameter(torch.zeros(1, positions, embed_dim))
        else:
            self.register_parameter("pos_embed", None)

        deepest = max(strides[name] for name in out_features)
        self.plan = [block for block in blocks if strides[block.scale] <= deepest]
        self.blocks = nn.ModuleList(
            MultiScaleBlock(
                block,
                mlp_ratio=mlp_ratio,
                norm_layer=norm_layer,
                pool_kernel=pool_kernel,
                qkv_bias=qkv_bias,
                residual_pooling=residual_pooling,
                relative=relative,
            )
            for block in self.plan
        )
        for name in out_features:
            self.add_module(f"{name}_norm", norm_layer(stages[name]))
        self._initialize(init_std, rel_pos_std)

    def _initialize(self, init_std: float, rel_pos_std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=init_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if rel_pos_std:
            for name, parameter in self.named_parameters():
                if "rel_pos" in name:
                    nn.init.trunc_normal_(parameter, std=rel_pos_std)

    def forward(self, images: Tensor, image_sizes: Sizes | None = None) -> dict[str, Tensor]:
        """Computes feature maps.

        Args:
            images: normalised images, (N, in_chans, H, W), of any size from the patch up.
            image_sizes: with `mask_padding`, height and width of each image before it was filled
                up at the bottom and right; by default what is zero there is taken for padding.

        Returns:
            For each name in `out_features` (N, channels, ceil(H / stride), ceil(W / stride)). With
            `mask_padding` they are 0 beyond each image.

        Raises:
            ValueError: the images have another rank or channel count, or are too small, or
                `image_sizes` is given without `mask_padding`.
        """
        if image_sizes is not None and not self.mask_padding:
            raise ValueError("image_sizes are of use with mask_padding=True only")
        x = self.patch_embed(images)
        sizes = None
        if self.mask_padding:
            sizes = pooled_sizes(image_sizes or unpadded_sizes(images), self.patch_stride)
        if self.pos_embed is not None:
            x = x + self._absolute_positions(x, sizes)
        outputs = {}
        for plan, block in zip(self.plan, self.blocks, strict=True):
            x = self.run_block(plan, block, x, sizes)
            if sizes is not None:
                sizes = pooled_sizes(sizes, plan.query_stride)
            if plan.is_last and plan.scale in self.out_features:
                features = getattr(self, f"{plan.scale}_norm")(x)
                if sizes is not None:
                    fill_padding(features, sizes)
                outputs[plan.scale] = features.permute(0, 3, 1, 2)
        return outputs

    def _absolute_positions(self, x: Tensor, sizes: Sizes | None) -> Tensor:
        """Absolute positions on the grid of x; those of each image on its own, with sizes."""
        grid = (x.shape[1], x.shape[2])
        if sizes is None:
            return resize_absolute_positions(self.pos_embed, grid, self.pretrain_class_token)
        images = [
            resize_absolute_positions(self.pos_embed, size, self.pretrain_class_token)[0]
            for size in sizes
        ]
        return torch.stack([pad_to(image, grid) for image in images])
