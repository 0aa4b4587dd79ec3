"""AdamW without weight decay on norms and position embeddings."""

from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params
from torch.optim import AdamW

optimizer = L(AdamW)(
    # The trainer fills in `params.model`.
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        overrides={
            name: {"weight_decay": 0.0}
            for name in ("pos_embed", "rel_pos_h", "rel_pos_w", "rel_pos_joint")
        },
    ),
    lr=1.6e-4,
    betas=[0.9, 0.999],
    weight_decay=0.1,
    fused=True,
)
