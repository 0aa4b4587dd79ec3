"""The training wrapper for clips: views, mixing and scores."""

import pytest
import torch
from torch import nn

from mvit_det.modeling.clip_classifier import ClipClassifier


class Mean(nn.Module):
    """Logits that depend on the mean of each frame in turn."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.seen = []

    def forward(self, clips):
        self.seen.append(clips)
        return self.head(clips.mean((1, 3, 4)))


def make_model(**arguments):
    torch.manual_seed(0)
    defaults = dict(num_classes=3, pixel_mean=[100.0, 110.0, 120.0], pixel_std=[50.0, 60.0, 70.0])
    return ClipClassifier(classifier=Mean(), **{**defaults, **arguments})


def make_batch(*views):
    generator = torch.Generator().manual_seed(0)
    shape = (3, 4, 8, 8)
    return [
        {
            "image": torch.randint(0, 256, (count, *shape), generator=generator).byte(),
            "label": label,
        }
        for label, count in enumerate(views)
    ]


@pytest.mark.parametrize("max_views", [1, 4, 100])
def test_scores_are_the_mean_softmax_over_views(max_views):
    model = make_model(max_views=max_views).eval()
    batch = make_batch(5, 2)
    outputs = model(batch)
    assert max(len(seen) for seen in model.classifier.seen) <= max_views
    mean, std = torch.tensor([100.0, 110, 120]), torch.tensor([50.0, 60, 70])
    for record, output in zip(batch, outputs, strict=True):
        expected = []
        for view in record["image"]:
            clip = (view.movedim(0, -1).float() - mean) / std
            expected.append(model.classifier.head(clip.movedim(-1, 0).mean((0, 2, 3))).softmax(0))
        torch.testing.assert_close(output["scores"], torch.stack(expected).mean(0))
        assert output["scores"].sum().item() == pytest.approx(1)


def test_repeated_augmentation_counts_as_further_clips():
    model = make_model()
    batch = make_batch(2, 2)
    loss = model(batch)["loss_cls"]
    separate = [
        {"image": record["image"][number : number + 1], "label": record["label"]}
        for record in batch
        for number in range(2)
    ]
    torch.testing.assert_close(loss, model(separate)["loss_cls"])


def test_mixing_and_erasing_are_the_same_in_all_frames():
    still = torch.randint(0, 256, (2, 3, 1, 16, 16)).byte().expand(-1, -1, 4, -1, -1)
    batch = [{"image": still[:1], "label": 0}, {"image": still[1:], "label": 1}]
    for arguments in ({"mixup": 1.0}, {"cutmix": 1.0}):
        model = make_model(**arguments)
        model(batch)
        (clips,) = model.classifier.seen
        assert clips.shape == (2, 3, 4, 16, 16)
        for frame in clips.unbind(2):
            assert torch.equal(frame, clips[:, :, 0])
    model = make_model(random_erasing=1.0)
    model(batch)
    (clips,) = model.classifier.seen
    changed = (clips != model.normalise(still)).any(1)
    assert 0 < changed.float().mean() < 1
    assert torch.equal(changed.all(1), changed.any(1))


def test_an_impossible_number_of_views_is_refused():
    with pytest.raises(ValueError, match="max_views.*0"):
        make_model(max_views=0)
