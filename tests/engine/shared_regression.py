"""Trains a linear model on generated vectors over several processes, and saves its weights.

Losses are means over images, and nothing is random: so any split of the batch is the same.
"""

import sys

import torch
from torch import nn

from mvit_det.checkpoint import Checkpointer
from mvit_det.data.loading import TrainingLoader
from mvit_det.engine import launch
from mvit_det.engine.parallel import parallelize
from mvit_det.engine.trainer import Trainer

RECORDS = [{"width": 1, "height": 1, "number": number} for number in range(24)]


def image(record):
    """A vector to fit, different for each image."""
    return torch.linspace(-1, 1, 5) * (1 + record["number"] % 7) + record["number"]


class Regression(nn.Module):
    """Fits sums of vectors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))

    def forward(self, batch):
        vectors = torch.stack(batch) / 10
        return {"loss": (self.layers(vectors)[:, 0] - vectors.sum(1)).square().mean()}


def train(output, grad_accum_steps, parallel="ddp"):
    """Three steps; the weights go to `output`."""
    model = parallelize(Regression(), parallel, "cpu", {})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    loader = TrainingLoader(RECORDS, mapper=image, total_batch_size=8)
    trainer = Trainer(
        model, loader, optimizer, device="cpu", grad_accum_steps=grad_accum_steps, max_grad_norm=0.5
    )
    trainer.train(0, 3)
    Checkpointer(model, output).save("model")


if __name__ == "__main__":
    output, grad_accum_steps, *parallel = sys.argv[1:]
    launch(train, (output, int(grad_accum_steps), *parallel), device="cpu")
