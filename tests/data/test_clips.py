"""From a list of videos to clips: sampling, crops and augmentation that agree within a clip."""

import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from mvit_det.data.clip_datasets import load_clips, read_clips, register_clips
from mvit_det.data.clip_mapper import ClipMapper
from mvit_det.data.clip_sampling import DenseSampling, SegmentSampling
from mvit_det.data.loading import EvaluationLoader, TrainingLoader
from mvit_det.data.rand_augment import RandAugment
from mvit_det.data.sampling import seeded
from mvit_det.errors import DatasetError, ImageError
from tests.data.test_videos import gestures, write_video  # noqa: F401

DENSE = DenseSampling(num_frames=4, step=2)


@pytest.fixture
def clips(tmp_path):
    """A CSV of six videos in two classes; the grey value is ten times the number of the frame."""
    lines = []
    for number in range(6):
        write_video(tmp_path / f"a {number}.avi", range(0, 200, 10))
        lines.append(f"a {number}.avi {number % 2}")
    path = tmp_path / "train.csv"
    path.write_text("\n".join(lines))
    return path


def test_dense_sampling_spans_the_same_time_at_any_rate():
    sampling = DenseSampling(num_frames=16, step=4)
    assert (sampling.span(30), sampling.span(15), sampling.span(60)) == (64, 32, 128)
    (middle,) = sampling.uniform(200, 30, 1)
    assert (middle[0], middle[-1]) == (68, 131)
    clips = sampling.uniform(264, 30, 5)
    assert clips[:, 0].tolist() == [0, 50, 100, 150, 200]
    assert clips[:, -1].tolist() == [63, 113, 163, 213, 263]
    short = sampling.uniform(10, 30, 2)
    assert short.max() == 9
    starts = set()
    for seed in range(50):
        random.seed(seed)
        chosen = sampling.at_random(80, 30)
        assert chosen[-1] - chosen[0] == 63
        assert 0 <= chosen[0] <= 16
        starts.add(int(chosen[0]))
    assert len(starts) > 10


def test_segments_cover_a_video_of_any_length():
    sampling = SegmentSampling(num_frames=4)
    assert sampling.uniform(9, 30, 1).tolist() == [[1, 3, 5, 7]]
    assert sampling.uniform(2, 30, 1).max() <= 1
    assert sampling.uniform(41, 30, 2).tolist() == [[2, 12, 22, 32], [7, 17, 27, 37]]
    random.seed(0)
    drawn = np.array([sampling.at_random(41, 30) for _ in range(100)])
    assert (drawn.min(0) >= [0, 10, 20, 30]).all()
    assert (drawn.max(0) <= [10, 20, 30, 40]).all()
    assert (np.diff(drawn) >= 0).all()


@pytest.mark.parametrize("build", [lambda: DenseSampling(step=0), lambda: SegmentSampling(0)])
def test_impossible_samplings_are_refused(build):
    with pytest.raises(ValueError, match="0"):
        build()


def test_class_folders_csv_and_json_give_the_same_records(tmp_path):
    root = tmp_path / "set"
    for name in ("Pushing something", "Tearing something"):
        (root / name).mkdir(parents=True)
    for number, name in enumerate(("Pushing something", "Tearing something", "Tearing something")):
        (root / name / f"{number}.webm").write_bytes(b"")
        (tmp_path / "ssv2" / "videos").mkdir(parents=True, exist_ok=True)
        (tmp_path / "ssv2" / "videos" / f"{number}.webm").write_bytes(b"")
    (tmp_path / "ssv2" / "train.json").write_text(
        json.dumps(
            [
                {"id": "0", "template": "Pushing [something]", "label": "pushing a pen"},
                {"id": "1", "template": "Tearing [something]"},
                {"id": 2, "template": "Tearing [something]"},
            ]
        )
    )
    (tmp_path / "ssv2" / "labels.json").write_text(
        json.dumps({"Tearing something": "1", "Pushing something": "0"})
    )
    (tmp_path / "named.csv").write_text(
        "set/Pushing something/0.webm,Pushing something\n"
        "set/Tearing something/1.webm,Tearing something\n"
        "set/Tearing something/2.webm,Tearing something\n"
    )
    (tmp_path / "numbered.txt").write_text(
        "set/Pushing something/0.webm 0\nset/Tearing something/1.webm 1\n"
        "set/Tearing something/2.webm 1\n"
    )
    (tmp_path / "classes.txt").write_text("Pushing something\nTearing something\n")
    for path in ("set", "named.csv", "numbered.txt", "ssv2/train.json"):
        files = read_clips(tmp_path / path)
        assert files.class_names == ["Pushing something", "Tearing something"], path
        assert files.labels.tolist() == [0, 1, 1], path
        assert [record["file_name"][-6:] for record in files] == ["0.webm", "1.webm", "2.webm"]
        assert all(Path(record["file_name"]).is_file() for record in files)


def test_a_registered_list_keeps_its_classes_for_validation(clips):
    (clips.parent / "val.csv").write_text("a 0.avi 0\n")
    name, names = register_clips(clips)
    assert names == ["class 0", "class 1"]
    val_name, val_names = register_clips(clips.parent / "val.csv", names)
    assert val_names == names
    assert len(load_clips(name)) == 6
    assert MetadataCatalog.get(val_name).thing_classes == names
    for each in (name, val_name):
        DatasetCatalog.remove(each)
        MetadataCatalog.remove(each)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", "", "no videos"),
        ("word.csv", "a 0.avi 0\nword\n", "line 2.*word"),
        ("missing.csv", "b.avi 0\n", r"b\.avi"),
        ("classes.csv", "a 0.avi 7\n", "class 7.*2"),
        ("bad.json", "{", "bad.json"),
        ("odd-train.json", '[{"id": 1}]', "labels.json"),
    ],
)
def test_bad_lists_are_refused(name, content, said, clips):
    (clips.parent / "classes.txt").write_text("a\nb\n")
    (clips.parent / name).write_text(content)
    with pytest.raises(DatasetError, match=said):
        read_clips(clips.parent / name)


def test_evaluation_takes_clips_and_crops_in_order(tmp_path):
    frames = np.zeros((20, 48, 96, 3), np.uint8)
    frames[:, :, 32:64] = 100
    frames[:, :, 64:] = 200
    writer = cv2.VideoWriter(str(tmp_path / "x.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (96, 48))
    for frame in frames:
        writer.write(frame)
    writer.release()
    record = {"file_name": str(tmp_path / "x.avi"), "label": 0, "image_id": 0}
    arguments = dict(is_train=False, sampling=DENSE, image_size=32, short_side=48)
    image = ClipMapper(clips=3, crops=3, **arguments)(record)["image"]
    assert image.shape == (9, 3, 4, 32, 32)
    assert image.dtype == torch.uint8
    levels = image.float().mean((1, 2, 3, 4)).reshape(3, 3)
    assert (levels[0].diff() > 40).all()
    torch.testing.assert_close(levels[0], levels[2])
    (centre,) = ClipMapper(clips=1, **arguments)(record)["image"]
    assert centre.float().mean() == pytest.approx(100, abs=3)


def test_frames_in_random_order_are_the_same_frames(clips):
    arguments = dict(is_train=False, sampling=DENSE, image_size=32, short_side=32, clips=2)
    record = read_clips(clips)[1]
    plain = ClipMapper(**arguments)(record)["image"][:, 0, :, 0, 0]
    mixed = ClipMapper(shuffle_frames=True, **arguments)(record)["image"][:, 0, :, 0, 0]
    again = ClipMapper(shuffle_frames=True, **arguments)(record)["image"][:, 0, :, 0, 0]
    assert torch.equal(mixed, again)
    assert not torch.equal(plain, mixed)
    assert torch.equal(plain.sort(1).values, mixed.sort(1).values)


@pytest.mark.parametrize("scale", [(0.2, 1.0), None])
def test_augmentation_is_the_same_in_all_frames_of_a_view(scale, tmp_path):
    generator = np.random.default_rng(0)
    still = cv2.resize(generator.integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(tmp_path / "still.avi"), codec, 30, (64, 48))
    for _ in range(20):
        writer.write(still)
    writer.release()
    mapper = ClipMapper(
        is_train=True, sampling=DENSE, image_size=32, scale=scale, short_sides=(36, 60),
        augment=RandAugment(num_ops=4), repeats=3,
    )  # fmt: skip
    record = {"file_name": str(tmp_path / "still.avi"), "label": 0, "image_id": 0}
    views = []
    for seed in (0, 0, 1):
        with seeded("test", seed):
            views.append(mapper(record)["image"])
    assert views[0].shape == (3, 3, 4, 32, 32)
    for view in views[0]:
        for frame in view.unbind(1):
            assert torch.equal(frame, view[:, 0])
    assert not torch.equal(views[0][0], views[0][1])
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_flips_are_off_where_asked(clips):
    mapper = ClipMapper(is_train=True, sampling=DENSE, image_size=16, scale=(1, 1), flip=0.0)
    flipped = ClipMapper(is_train=True, sampling=DENSE, image_size=16, scale=(1, 1), flip=1.0)
    record = read_clips(clips)[0]
    with seeded("flip", 0):
        plain = mapper(record)["image"]
    with seeded("flip", 0):
        assert torch.equal(flipped(record)["image"].flip(-1), plain)


def test_batches_are_the_same_after_resuming_and_with_workers(clips):
    def batches(start, workers):
        loader = TrainingLoader(
            read_clips(clips),
            mapper=ClipMapper(
                is_train=True, sampling=DENSE, image_size=16, augment=RandAugment(), repeats=2
            ),
            total_batch_size=4,
            num_workers=workers,
        )
        stream = loader.batches(seed=3, start=start)
        return [next(stream) for _ in range(5 - start)]

    whole, resumed = batches(0, 0), batches(3, 2)
    for first, second in zip(whole[3:], resumed, strict=True):
        assert [each["image_id"] for each in first] == [each["image_id"] for each in second]
        for one, other in zip(first, second):
            assert torch.equal(one["image"], other["image"])


def test_truncated_videos_follow_the_policy_for_bad_images(clips):
    files = read_clips(clips)
    (clips.parent / "a 2.avi").write_bytes((clips.parent / "a 2.avi").read_bytes()[:4000])
    mapper = ClipMapper(is_train=False, sampling=DENSE, image_size=32, short_side=32, clips=1)
    with pytest.raises(ImageError, match=r"a 2\.avi"):
        list(EvaluationLoader(files, mapper=mapper))
    loader = EvaluationLoader(files, mapper=mapper, on_bad_image="skip")
    assert [batch[0]["image_id"] for batch in loader] == [0, 1, 3, 4, 5]
    training = TrainingLoader(files, mapper=mapper, total_batch_size=6, on_bad_image="skip")
    assert len(next(iter(training))) == 6
    assert "a 2.avi" in training.skipped[0]


@pytest.mark.parametrize(
    "changes",
    [{"image_size": 0}, {"repeats": 0}, {"clips": 0}, {"crops": 2}, {"flip": 2},
     {"short_side": 9, "is_train": False}, {"short_sides": (8, 9), "scale": None}],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(changes):
    name, value = next(iter(changes.items()))
    value = value[0] if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        ClipMapper(**{"is_train": True, "sampling": DENSE, **changes})


def test_real_clips_give_training_and_evaluation_views(gestures):  # noqa: F811
    paths = sorted(gestures.glob("*.mkv"))[:3]
    train = ClipMapper(
        is_train=True,
        sampling=DenseSampling(16, 4),
        image_size=64,
        augment=RandAugment(),
        repeats=2,
    )
    test = ClipMapper(
        is_train=False, sampling=SegmentSampling(8), image_size=64, short_side=64, clips=2, crops=3
    )
    for path in paths:
        record = {"file_name": str(path), "label": 0, "image_id": 0}
        assert train(record)["image"].shape == (2, 3, 16, 64, 64)
        views = test(record)["image"].float()
        assert views.shape == (6, 3, 8, 64, 64)
        # Neighbouring crops overlap; people stand in the middle.
        assert views.std() > 20
