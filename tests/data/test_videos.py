"""Reading chosen frames of a video: in one pass, whatever its header says."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from mvit_det.data import videos
from mvit_det.data.video_writer import VideoWriter
from mvit_det.data.videos import VideoReader, read_frames, read_preview
from mvit_det.errors import ImageError


@pytest.fixture(scope="session")
def gestures():
    """Folder of twenty real clips, or a skipped test."""
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"), "videos", "gestures")
    if not folder.is_dir():
        pytest.skip("set DETECTRON2_DATASETS to a folder with videos/gestures/*.mkv")
    return folder


def write_video(path, values, size=(32, 48), codec="MJPG", rate=30.0):
    """A video whose frames are of one grey value each."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, size[::-1])
    for value in values:
        writer.write(np.full((*size, 3), value, np.uint8))
    writer.release()
    return path


def grey(frame):
    return round(float(frame.mean()))


def read(path, *indices):
    return read_frames(path, lambda length, rate: np.array(indices), grey)


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "clip.avi", range(0, 200, 10))


def test_frames_come_in_the_order_of_the_indexes(video):
    assert read(video, 7, 0, 7, 19) == pytest.approx([70, 0, 70, 190], abs=2)
    seen = []
    read_frames(video, lambda *given: seen.append(given) or np.array([3]), grey)
    assert seen == [(20, 30.0)]
    assert grey(read_preview(video)) == pytest.approx(100, abs=2)


@pytest.mark.parametrize("indices", [(18, 19, 21), (21, 20)])
def test_the_last_frame_stands_for_frames_that_a_header_only_counts(indices, video, monkeypatch):
    monkeypatch.setattr(videos.VideoReader, "num_frames", 22, raising=False)
    monkeypatch.setattr(videos.VideoReader, "__setattr__", ignore_num_frames)
    expected = [min(index, 19) * 10 for index in indices]
    assert read(video, *indices) == pytest.approx(expected, abs=2)


def ignore_num_frames(self, name, value):
    if name != "num_frames":
        object.__setattr__(self, name, value)


def test_a_video_without_a_number_of_frames_is_counted(video, monkeypatch):
    monkeypatch.setattr(videos.VideoReader, "num_frames", None, raising=False)
    monkeypatch.setattr(videos.VideoReader, "__setattr__", ignore_num_frames)
    lengths = []
    read_frames(video, lambda length, rate: lengths.append(length) or np.array([0]), grey)
    assert lengths == [20]


def test_a_truncated_video_is_refused(tmp_path):
    whole = write_video(tmp_path / "whole.avi", range(0, 200, 4))
    content = whole.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"cut\.avi.* of 50 frames"):
        read(cut, 5, 49)
    assert read(cut, 5) == pytest.approx([20], abs=2)
    for content in (b"", b"no video"):
        cut.write_bytes(content)
        with pytest.raises(ImageError, match=r"cut\.avi"):
            read(cut, 0)
    with pytest.raises(ImageError, match=r"nowhere\.mp4"):
        read(tmp_path / "nowhere.mp4", 0)


def test_every_real_clip_decodes_although_headers_count_a_frame_too_many(gestures):
    differing = 0
    for path in sorted(gestures.glob("*.mkv"))[:6]:
        with VideoReader(path) as reader:
            count = sum(1 for _ in reader)
            differing += reader.num_frames != count
            assert reader.problem() == ""
        first, *_, last, beyond = read(path, 0, count // 2, count - 1, reader.num_frames - 1)
        assert last == beyond
        assert 0 < first < 255
    assert differing > 2


def test_chosen_real_frames_equal_those_of_reading_all(gestures):
    with VideoReader(gestures / "milk.mkv") as reader:
        frames = list(reader)
    chosen = read_frames(
        gestures / "milk.mkv", lambda length, rate: np.array([0, 17, 5, 50]), lambda frame: frame
    )
    for index, frame in zip((0, 17, 5, 50), chosen):
        np.testing.assert_array_equal(frame, frames[index])


def test_a_path_that_is_not_utf8_is_refused(video, tmp_path):
    """OpenCV crashes there."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    shutil.copy(video, path)
    with pytest.raises(ImageError, match=r"udcff\.mp4"):
        VideoReader(path)
    with pytest.raises(ImageError, match=r"udcff\.mp4"):
        VideoWriter(path, 25.0).write(np.zeros((16, 16, 3), np.uint8))
