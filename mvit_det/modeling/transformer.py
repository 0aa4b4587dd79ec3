"""The base class of MViTv2 models, as backbone and as classifier."""

from collections.abc import Sequence

from torch import nn
from torchvision.ops import StochasticDepth

from .layers import PatchEmbed
from .plan import BlockPlan


class MultiScaleTransformer(nn.Module):
    """A patch embedding followed by multi-scale blocks.

    Layer decay, freezing, sharding, compilation and gradient reports find MViTv2 models by this
    class, and work on the attributes below. Parameters of the module itself, such as position
    embeddings and a class token, belong to the embedding.

    Attributes:
        plan: geometry of each block.
        patch_embed: makes tokens of pixels.
        blocks: one per entry of `plan`.
    """

    plan: Sequence[BlockPlan]
    patch_embed: PatchEmbed
    blocks: nn.ModuleList

    def freeze(self, freeze_at: int) -> None:
        """Freezes the embedding and the first stages, and turns off their stochastic depth.

        Args:
            freeze_at: 0 freezes nothing, 1 the embedding, 2 the first stage as well, and so on.
                Norms of the outputs stay trainable.

        Raises:
            ValueError: there are fewer stages.
        """
        stages = list(dict.fromkeys(plan.scale for plan in self.plan))
        if not 0 <= freeze_at <= len(stages) + 1:
            raise ValueError(f"freeze_at must be between 0 and {len(stages) + 1}, not {freeze_at}")
        if freeze_at:
            self.patch_embed.requires_grad_(False)
            for parameter in self.parameters(recurse=False):
                parameter.requires_grad_(False)
        for plan, block in zip(self.plan, self.blocks, strict=True):
            if plan.scale in stages[: max(freeze_at - 1, 0)]:
                block.requires_grad_(False)
                for module in block.modules():
                    if isinstance(module, StochasticDepth):
                        module.p = 0.0
