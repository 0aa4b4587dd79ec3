"""The classifier in training: normalisation, mixing, erasing and the loss of the recipe."""

import pytest
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import nn

from mvit_det.modeling.image_classifier import ImageClassifier

MEAN, STD = [120.0, 110.0, 100.0], [50.0, 60.0, 70.0]
CLASSES = 5


class Recorder(nn.Module):
    """A linear classifier that remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, CLASSES)

    def forward(self, images):
        self.images = images
        return self.linear(images.flatten(1))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator),
            "label": label,
        }
        for label in (0, 3, 3, 1)
    ]


def make(**options):
    torch.manual_seed(0)
    return ImageClassifier(
        classifier=Recorder(), num_classes=CLASSES, pixel_mean=MEAN, pixel_std=STD, **options
    )


def normalised(batch):
    images = torch.stack([record["image"] for record in batch])
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_scores_are_probabilities_of_normalised_images(batch):
    model = make(mixup=0.8, random_erasing=1.0).eval()
    outputs = model([{"image": record["image"]} for record in batch])
    torch.testing.assert_close(model.classifier.images, normalised(batch))
    scores = torch.stack([output["scores"] for output in outputs])
    expected = model.classifier(normalised(batch)).softmax(1)
    torch.testing.assert_close(scores, expected)


def test_the_loss_is_cross_entropy_with_smoothing(batch):
    model = make(label_smoothing=0.1)
    (loss,) = model(batch).values()
    labels = torch.tensor([record["label"] for record in batch])
    targets = F.one_hot(labels, CLASSES) * 0.9 + 0.1 / CLASSES
    logits = model.classifier(normalised(batch))
    torch.testing.assert_close(loss, SoftTargetCrossEntropy()(logits, targets))


def test_mixed_targets_equal_timms_for_the_same_share(batch):
    model = make(mixup=0.8, label_smoothing=0.1)
    torch.manual_seed(1)
    (loss,) = model(batch).values()
    images, plain = model.classifier.images, normalised(batch)
    partner = plain.roll(1, 0)
    share = ((images - partner) * (plain - partner)).sum() / (plain - partner).square().sum()
    torch.testing.assert_close(images, share * plain + (1 - share) * partner)
    labels = torch.tensor([record["label"] for record in batch])
    mixup = Mixup(mixup_alpha=0.8, label_smoothing=0.1, num_classes=CLASSES)
    smooth = [F.one_hot(each, CLASSES) * 0.9 + 0.1 / CLASSES for each in (labels, labels.roll(1))]
    targets = share * smooth[0] + (1 - share) * smooth[1]
    assert mixup.label_smoothing == model.label_smoothing
    torch.testing.assert_close(loss, SoftTargetCrossEntropy()(model.classifier(images), targets))


def test_either_kind_of_mixing_is_as_frequent(batch):
    model = make(mixup=0.8, cutmix=1.0)
    plain = normalised(batch)
    pasted = 0
    for seed in range(200):
        torch.manual_seed(seed)
        model(batch)
        images = model.classifier.images
        # CutMix leaves every pixel as it was in one of the two images.
        pasted += bool(((images == plain) | (images == plain.roll(1, 0))).all())
    assert pasted == pytest.approx(100, abs=25)


def test_erasing_replaces_a_rectangle_by_noise(batch):
    model = make(random_erasing=1.0)
    torch.manual_seed(0)
    model(batch)
    changed = (model.classifier.images != normalised(batch)).all(1)
    for image in changed:
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert 0 < image.sum() == area


def test_the_same_seed_gives_the_same_loss(batch):
    model = make(mixup=0.8, cutmix=1.0, random_erasing=0.25, label_smoothing=0.1)
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(model(batch)["loss_cls"].item())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    "changes", [{"mixup": -1}, {"cutmix": -0.5}, {"random_erasing": 1.5}, {"label_smoothing": 1.0}]
)
def test_arguments_out_of_range_are_refused(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        make(**changes)
