"""Videos written and read back, and errors about corrupt ones."""

import cv2
import numpy as np
import pytest

from mvit_det.data.video_writer import VideoWriter
from mvit_det.data.videos import VideoReader
from mvit_det.errors import ImageError


def frames(number=12, height=48, width=64):
    """One colour each, from dark red to bright green."""
    return [
        np.full((height, width, 3), (120 - 9 * index, 20 * index, 30), np.uint8)
        for index in range(number)
    ]


def write(path, images, rate=12.5):
    with VideoWriter(path, rate) as writer:
        for image in images:
            writer.write(image)
    return path


def read(path):
    with VideoReader(path) as reader:
        return list(reader), reader.rate, reader.num_frames, reader.problem()


@pytest.mark.parametrize("rate", [12.5, 30000 / 1001, 60.0])
def test_there_and_back(rate, tmp_path):
    path = write(tmp_path / "new" / "clip.mp4", frames(), rate)
    found, found_rate, number, problem = read(path)
    assert (number, problem) == (12, "")
    assert found_rate == pytest.approx(rate, rel=1e-3)
    assert len(found) == 12
    for expected, frame in zip(frames(), found):
        assert frame.shape == (48, 64, 3)
        assert frame.dtype == np.uint8
        # The channel order is kept; compression changes values a little.
        assert np.abs(frame.astype(int) - expected).max() < 12


def test_odd_sizes_lose_a_row_and_a_column(tmp_path):
    found, *_, problem = read(write(tmp_path / "clip.mp4", frames(height=47, width=65)))
    assert {frame.shape for frame in found} == {(46, 64, 3)}
    assert problem == ""


def test_a_truncated_video_gives_the_frames_it_has(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(30):
        writer.write(noise.integers(0, 256, (48, 64, 3)).astype(np.uint8))
    writer.release()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found, _, number, problem = read(path)
    assert number == 30
    assert 10 <= len(found) <= 16
    assert f"'{path}' ends after {len(found)} of 30 frames" in problem


def test_files_that_are_not_videos(tmp_path):
    with pytest.raises(ImageError, match="there is no video '.*nowhere.mp4'"):
        VideoReader(tmp_path / "nowhere.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    cut = write(tmp_path / "clip.mp4", frames())
    cut.write_bytes(cut.read_bytes()[:500])
    for path in (tmp_path / "text.mp4", cut):
        with pytest.raises(ImageError, match=f"OpenCV cannot read the video '{path}'"):
            VideoReader(path)


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="cannot write '.*file/clip.mp4'"):
        write(tmp_path / "file" / "clip.mp4", frames(1))
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ImageError, match="cannot write '.*folder.mp4'"):
        write(tmp_path / "folder.mp4", frames(1))
    with pytest.raises(ImageError, match="cannot write a video to '.*clip.avi'; name an .mp4 file"):
        write(tmp_path / "clip.avi", frames(1))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match="cannot write 's3://bucket/clip.mp4' .*URLs"):
        write("s3://bucket/clip.mp4", frames(1))
    assert {each.name for each in tmp_path.iterdir()} == {"file", "folder.mp4"}


def test_the_home_folder_and_links(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("~/clip.mp4", frames(3))
    link = tmp_path / "link.mp4"
    link.symlink_to(tmp_path / "clip.mp4")
    write(link, frames(4))
    assert link.is_symlink()
    assert len(read(tmp_path / "clip.mp4")[0]) == 4


def test_nothing_is_left_of_a_video_that_nobody_can_play(tmp_path):
    path = write(tmp_path / "clip.mp4", frames(3))
    content = path.read_bytes()

    def interrupted():
        yield from frames(5)
        next(tmp_path.glob(".*")).unlink()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, interrupted())
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_closed_video_can_be_closed_again(tmp_path):
    writer = VideoWriter(tmp_path / "clip.mp4", 10)
    for frame in frames(3):
        writer.write(frame)
    writer.close()
    writer.close()
    assert len(read(tmp_path / "clip.mp4")[0]) == 3


def test_missing_frames_are_noticed(tmp_path):
    writer = VideoWriter(tmp_path / "clip.mp4", 10)
    for frame in frames(5):
        writer.write(frame)
    writer._written += 1  # as if one more had been written
    with pytest.raises(ImageError, match="clip.mp4' has 5 of the 6 frames"):
        writer.close()


def test_a_video_that_cannot_be_finished_keeps_the_older_one(tmp_path):
    path = write(tmp_path / "clip.mp4", frames(3))
    content = path.read_bytes()
    writer = VideoWriter(path, 10)
    for frame in frames(5):
        writer.write(frame)
    writer._writer.release()
    next(tmp_path.glob(".*")).write_bytes(b"as on a full disk")
    with pytest.raises(ImageError, match="clip.mp4' has 0 of the 5 frames"):
        writer.close()
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_frames_before_an_interruption_stay_playable(tmp_path):
    def interrupted():
        yield from frames(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "clip.mp4", interrupted())
    assert len(read(tmp_path / "clip.mp4")[0]) == 5
