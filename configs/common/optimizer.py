"""AdamW without weight decay on norms, biases and position embeddings."""

from detectron2.config import LazyCall as L
from torch.optim import AdamW

from mvit_det.optimization import parameter_groups

optimizer = L(AdamW)(
    # The trainer fills in `params.model`. Below 1, layer_decay slows down the earlier layers.
    params=L(parameter_groups)(base_lr="${..lr}", layer_decay=1.0),
    lr=1.6e-4,
    betas=[0.9, 0.999],
    weight_decay=0.1,
    fused=True,
)
