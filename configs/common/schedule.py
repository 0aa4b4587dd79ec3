"""Learning rate schedules: images, epochs and batch size in; iterations out."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler

from mvit_det.optimization import warmup_then_cosine

# Images that the published schedules count as an epoch. With objects, COCO has 117,266.
COCO_EPOCH_3X = 120_000
COCO_EPOCH_LSJ = 118_000
LVIS_EPOCH = 100_000
LONGEST_WARMUP = 0.25  # of a training
IMAGENET_1K = 1_281_167
# Videos, as published; some can no longer be downloaded.
KINETICS_400 = 240_436
SSV2 = 168_913
# All of ImageNet-21K; how many images the 19,168 classes of MViTv2's models have is not published.
IMAGENET_21K = 14_197_122


def iterations(images, epochs, batch_size):
    """Steps of the optimizer that `epochs` passes over `images` take."""
    return images * epochs // batch_size


def warmup_share(max_iter, warmup_iterations):
    """Share of the training that a warm-up takes; that of a short training is shortened."""
    return min(warmup_iterations / max(max_iter, 1), LONGEST_WARMUP)


def multi_step(max_iter, decay_at, warmup_iterations=250):
    """Warm-up, then a tenth of the rate after each of the fractions `decay_at` of the training."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**step for step in range(len(decay_at) + 1)],
            milestones=[round(max_iter * fraction) for fraction in decay_at],
            num_updates=max_iter,
        ),
        warmup_length=warmup_share(max_iter, warmup_iterations),
        warmup_factor=0.001,
    )


def cosine(max_iter, warmup_iterations):
    """Warm-up, then half a cosine down to almost zero."""
    return L(WarmupParamScheduler)(
        scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
        warmup_length=warmup_share(max_iter, warmup_iterations),
        warmup_factor=0.001,
    )


def imagenet_cosine(epochs, warmup_epochs, peak_lr, first_lr=8e-8, last_lr=8e-6):
    """Linear warm-up from one learning rate to the peak, then half a cosine down to another."""
    return L(warmup_then_cosine)(
        warmup_length=warmup_epochs / epochs,
        start_value=first_lr / peak_lr,
        end_value=last_lr / peak_lr,
    )
