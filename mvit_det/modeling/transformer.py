"""The blocks of MViT, and the base class of all models that are made of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from .attention import MultiScaleAttention
from .layers import Linear, Mlp, NormLayer, PatchEmbed, SkipPool
from .padding import Sizes
from .plan import BlockPlan


class MultiScaleBlock(nn.Module):
    """Pooling attention and an MLP, each with a skip path and a norm in front.

    Where a stage begins, the skip path of attention is pooled along with the query. The skip path
    beside what widens, attention or MLP, is widened along with it.
    """

    def __init__(
        self, plan: BlockPlan, *, mlp_ratio: float, norm_layer: NormLayer, **attention: Any
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(plan.dim)
        self.attn = MultiScaleAttention(plan, norm_layer=norm_layer, **attention)
        widens, pools = plan.dim != plan.dim_out, plan.query_stride > 1
        self.proj = Linear(plan.dim, plan.dim_out) if widens else nn.Identity()
        self.pool_skip = SkipPool(plan.query_stride) if pools else nn.Identity()
        self.pools = pools
        self.widens_in_attention = plan.widens_in_attention
        self.widens_in_mlp = plan.widens_in_mlp
        self.norm2 = norm_layer(plan.attention_dim)
        self.mlp = Mlp(plan.attention_dim, int(plan.attention_dim * mlp_ratio), plan.dim_out)
        self.drop_path = StochasticDepth(plan.drop_path, mode="row")

    def forward(
        self, x: Tensor, sizes: Sizes | None = None, grid: tuple[int, ...] | None = None
    ) -> Tensor:
        """Maps (N, H, W, dim) to (N, ceil(H / query stride), ceil(W / query stride), dim_out).

        Args:
            x: tokens.
            sizes: as in `MultiScaleAttention.forward`.
            grid: as in `MultiScaleAttention.forward`.
        """
        normed = self.norm1(x)
        # A skip path that changes its width starts behind the norm (as in the original).
        skip = self.proj(normed) if self.widens_in_attention else x
        if self.pools:
            skip = self.pool_skip(skip, sizes, grid)
        x = skip + self.drop_path(self.attn(normed, sizes, grid))
        normed = self.norm2(x)
        skip = self.proj(normed) if self.widens_in_mlp else x
        return skip + self.drop_path(self.mlp(normed))


class MultiScaleTransformer(nn.Module):
    """A patch embedding followed by multi-scale blocks.

    Layer decay, freezing, sharding, compilation and gradient reports find MViTv2 models by this
    class, and work on the attributes below. Parameters of the module itself, such as position
    embeddings and a class token, belong to the embedding.

    Attributes:
        plan: geometry of each block.
        patch_embed: turns pixels into tokens.
        blocks: one per entry of `plan`.
        checkpointed: names of the stages whose blocks are computed again in the backward pass.
    """

    plan: Sequence[BlockPlan]
    patch_embed: PatchEmbed
    blocks: nn.ModuleList
    checkpointed: Sequence[str]

    # Names of modules behind the blocks that freeze once all blocks do.
    frozen_with_blocks: tuple[str, ...] = ()

    _frozen: tuple[nn.Module, ...] = ()

    def run_block(self, plan: BlockPlan, block: nn.Module, *inputs: Any) -> Tensor:
        """Runs one of the blocks, keeping its activations or not."""
        if plan.scale in self.checkpointed and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def freeze(self, freeze_at: int) -> None:
        """Freezes the embedding and the first stages: no gradients, always in evaluation mode.

        Args:
            freeze_at: 0 freezes nothing, 1 the embedding, 2 the first stage as well, and so on;
                `number of stages + 1` freezes a classifier but for its head. The norms of a
                backbone's outputs stay trainable.

        Raises:
            ValueError: there are fewer stages.
        """
        stages = list(dict.fromkeys(plan.scale for plan in self.plan))
        if not 0 <= freeze_at <= len(stages) + 1:
            raise ValueError(f"freeze_at must be between 0 and {len(stages) + 1}, not {freeze_at}")
        frozen_stages = stages[: max(freeze_at - 1, 0)]
        modules: list[nn.Module] = []
        if freeze_at:
            modules.append(self.patch_embed)
            for parameter in self.parameters(recurse=False):
                parameter.requires_grad_(False)
        for plan, block in zip(self.plan, self.blocks, strict=True):
            if plan.scale in frozen_stages:
                modules.append(block)
        if frozen_stages == stages:
            modules += [self.get_submodule(name) for name in self.frozen_with_blocks]
        for module in modules:
            module.requires_grad_(False).eval()
        self._frozen = tuple(modules)

    def train(self, mode: bool = True) -> "MultiScaleTransformer":
        """Sets the mode of all modules but the frozen ones."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self
