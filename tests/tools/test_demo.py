"""The demo on images, folders, patterns and videos, intact and corrupt."""

import json
import runpy
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from PIL import Image

from mvit_det import Predictor
from mvit_det.checkpoint import Checkpointer
from mvit_det.config import load_config
from mvit_det.data.images import read_image
from mvit_det.data.video_writer import VideoWriter
from mvit_det.data.videos import VideoReader
from mvit_det.prediction import Prediction

ROOT = Path(__file__).resolve().parents[2]
PICO = ROOT / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py"
NAMES = ["apple", "bolt", "cat", "door", "eel"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with the config and the checkpoint of a training; random weights find many objects."""
    folder = tmp_path_factory.mktemp("trained")
    config = load_config(PICO)
    torch.manual_seed(0)
    Checkpointer(instantiate(config.model), folder, class_names=NAMES).save("model_final")
    LazyConfig.save(config, str(folder / "config.yaml"))
    return folder


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Images of two sizes in the current folder."""
    monkeypatch.chdir(tmp_path)
    for number, (height, width) in enumerate([(64, 96), (96, 64), (64, 96)]):
        path = tmp_path / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(height, width, number)).save(path)
    return tmp_path


def noise(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def demo(trained, capsys):
    """Runs the tool; returns its exit code and what it printed."""
    main = runpy.run_path(str(ROOT / "tools/demo.py"))["main"]

    def run(*arguments, config=trained / "config.yaml", weights=trained / "model_final.pth"):
        names = ["--config-file", config, "--device", "cpu"]
        names += ["--weights", weights] if weights else []
        code = main([str(argument) for argument in (*names, *arguments)])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def assert_drawn(drawn, original):
    """Something is drawn on an image, and the rest is as it was."""
    assert drawn.shape == original.shape
    assert drawn.std() > 20
    changed = np.abs(drawn.astype(int) - original).max(axis=2) > 60
    assert 0.01 < changed.mean() < 0.99


def write_video(path, number=7, rate=12.5, height=48, width=64):
    with VideoWriter(path, rate) as writer:
        for index in range(number):
            writer.write(np.full((height, width, 3), 30 * index, np.uint8))
    return path


def test_a_folder(demo, images, trained):
    code, out, err = demo("--input", "photos", "--output", "out", "--confidence-threshold", "0.15")
    assert code == 0
    assert err == ""
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *("0.png", "1.png", "2.png", "predictions.json")
    ]
    predictor = Predictor(
        trained / "config.yaml",
        trained / "model_final.pth",
        device="cpu",
        score_threshold=0.15,
    )
    expected = []
    for number in range(3):
        path = Path("photos", f"{number}.png")
        drawn = read_image(Path("out", path.name))
        assert_drawn(drawn, read_image(path))
        prediction = predictor(path)
        assert np.array_equal(drawn, prediction.draw())
        assert prediction.class_names == tuple(NAMES)
        results = prediction.to_coco(number + 1)
        expected += [{**result, "file_name": str(path)} for result in results]
    assert json.loads(Path("out/predictions.json").read_text()) == expected
    assert len(expected) > 10
    assert min(result["score"] for result in expected) > 0.15
    assert out == (
        f"Found {len(expected)} instances in 3 images and 0 videos (0 frames); wrote them to "
        "'out'\n"
    )


@pytest.mark.usefixtures("images")
def test_without_an_output_it_says_where_it_writes(demo):
    code, out, _ = demo("--input", "photos/0.png", "photos/[12].png")
    assert code == 0
    assert out.endswith("wrote them to 'output/demo_predictions'\n")
    assert len(list(Path("output/demo_predictions").iterdir())) == 4


@pytest.mark.usefixtures("images")
def test_one_file(demo):
    before = Path("photos/1.png").read_bytes()
    code, _, _ = demo("--input", "photos/1.png", "--output", "drawn.jpg")
    assert code == 0
    assert Image.open("drawn.jpg").size == (64, 96)
    assert not Path("predictions.json").exists()
    code, _, err = demo("--input", "photos/1.png", "--output", "photos")
    assert code == 2
    assert err.startswith("error: the output would overwrite the input 'photos/1.png'")
    assert Path("photos/1.png").read_bytes() == before


@pytest.mark.usefixtures("images")
def test_high_thresholds_leave_images_as_they_are(demo):
    code, out, _ = demo("--input", "photos/0.png", "--output", "out", "--confidence-threshold", "1")
    assert code == 0
    assert "Found 0 instances in 1 images" in out
    assert np.array_equal(read_image("out/0.png"), read_image("photos/0.png"))
    assert json.loads(Path("out/predictions.json").read_text()) == []


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("batch_size", [1, 2])
def test_corrupt_images_are_skipped_with_a_message(batch_size, demo):
    content = Path("photos/0.png").read_bytes()
    Path("photos/1.png").write_bytes(content[: len(content) // 2])
    Path("photos/3.jpg").write_text("no image")
    code, out, err = demo("--input", "photos", "--output", "out", "--batch-size", batch_size)
    assert code == 1
    lines = err.splitlines()
    assert lines[0].startswith("skipped: the image 'photos/1.png'")
    assert lines[1].startswith("skipped: 'photos/3.jpg'")
    assert lines[2:] == ["2 of 4 inputs had problems, see above"]
    assert "in 2 images" in out
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *("0.png", "2.png", "predictions.json")
    ]
    results = json.loads(Path("out/predictions.json").read_text())
    assert {(r["image_id"], r["file_name"]) for r in results} <= {
        *((1, "photos/0.png"), (2, "photos/2.png"))
    }


@pytest.mark.usefixtures("images")
def test_videos(demo):
    """With a video's extension among images, and with any other by --video-input."""
    write_video(Path("clip.mp4")).rename("photos/clip.mov")
    write_video(Path("other.mp4"), number=3, rate=30).rename("recording")
    code, out, err = demo(
        *("--input", "photos", "--video-input", "recording", "--output", "out"),
        *("--confidence-threshold", "0.15", "--batch-size", "3"),
    )
    assert (code, err) == (0, "")
    assert "in 3 images and 2 videos (10 frames)" in out
    results = json.loads(Path("out/predictions.json").read_text())
    for name, source, number, rate, first in [
        ("clip.mov.mp4", "photos/clip.mov", 7, 12.5, 4),
        ("recording.mp4", "recording", 3, 30, 11),
    ]:
        with VideoReader(Path("out", name)) as reader:
            frames = list(reader)
            assert reader.rate == pytest.approx(rate)
        assert {frame.shape for frame in frames} == {(48, 64, 3)}
        assert len(frames) == number
        assert all(frame.std() > 10 for frame in frames)  # those of the source have one colour
        of_frame = {r["image_id"]: r["frame"] for r in results if r["file_name"] == source}
        assert of_frame == {first + index: index for index in range(number)}


@pytest.mark.usefixtures("images")
def test_a_truncated_video(demo):
    writer = cv2.VideoWriter("cut.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for index in range(20):
        writer.write(noise(48, 64, index))
    writer.release()
    content = Path("cut.avi").read_bytes()
    Path("cut.avi").write_bytes(content[: len(content) // 2])
    Path("text.mp4").write_text("no video")
    code, out, err = demo("--input", "cut.avi", "text.mp4", "--output", "out")
    assert code == 1
    with VideoReader("out/cut.avi.mp4") as reader:
        number = len(list(reader))
    assert 5 < number < 15
    lines = err.splitlines()
    assert lines[0].startswith(f"incomplete: the video 'cut.avi' ends after {number} of 20")
    assert lines[1].startswith("skipped: OpenCV cannot read the video 'text.mp4'")
    assert f"in 0 images and 1 videos ({number} frames)" in out
    assert not Path("out/text.mp4").exists()


@pytest.mark.usefixtures("images")
def test_an_interruption_keeps_finished_outputs(demo, monkeypatch):
    draw, drawn = Prediction.draw, []

    def interrupted(self):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(draw(self))
        return drawn[-1]

    monkeypatch.setattr(Prediction, "draw", interrupted)
    code, _, err = demo(*("--input", "photos", "--output", "out", "--confidence-threshold", "0.15"))
    assert (code, err) == (130, "interrupted; the outputs written so far are kept\n")
    assert np.array_equal(read_image("out/1.png"), drawn[1])
    assert not Path("out/2.png").exists()
    results = json.loads(Path("out/predictions.json").read_text())
    assert {result["image_id"] for result in results} == {1, 2}


@pytest.mark.usefixtures("images")
def test_memory_does_not_grow_with_a_video(demo, monkeypatch):
    """No more predictions are alive than are in a batch."""
    seen, alive = [], []
    draw = Prediction.draw

    def counting(self):
        seen.append(weakref.ref(self))
        alive.append(sum(reference() is not None for reference in seen))
        return draw(self)

    monkeypatch.setattr(Prediction, "draw", counting)
    write_video(Path("clip.mp4"), number=8)
    assert demo("--input", "clip.mp4", "--output", "out", "--batch-size", "2")[0] == 0
    assert len(alive) == 8
    assert max(alive) <= 2 * 2  # a batch is freed when the next has been predicted


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["nowhere"], {}, "'nowhere'\n"),
        (["photos"], {"config": "no.py"}, "error: there is no config 'no.py'"),
        (["photos"], {"config": "rcnn"}, "error: there is no config 'rcnn'"),
        (["photos"], {"weights": "no.pth"}, "error: there is no file 'no.pth'"),
        (["photos"], {"weights": None}, "error: no weights to predict with"),
        (["photos", "--opts", "model.roi_heads.num_classes=3"], {}, "classes, config has 3"),
        (["photos", "--opts", "no_change"], {}, "error: cannot read the argument 'no_change'"),
        (["photos", "--confidence-threshold", "50"], {}, "error: score_threshold is 50"),
        (["photos", "--output", "x.png"], {}, "error: 'x.png' is one file"),
    ],
)
def test_mistakes_get_one_sentence(arguments, options, message, demo):
    code, out, err = demo("--input", *arguments, **options)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--webcam"], "use '--input clip.mp4'"),
        ([], "give images or videos with --input"),
        (["--input", "x.jpg", "--batch-size", "two"], "invalid int value: 'two'"),
    ],
)
def test_mistakes_in_the_arguments(arguments, message, capsys):
    main = runpy.run_path(str(ROOT / "tools/demo.py"))["main"]
    with pytest.raises(SystemExit) as stopped:
        main(["--config-file", str(PICO), *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_the_exit_codes(capsys):
    main = runpy.run_path(str(ROOT / "tools/demo.py"))["main"]
    with pytest.raises(SystemExit) as stopped:
        main(["--help-all"])
    assert stopped.value.code == 0
    assert "exit codes: 0 success; 1 an input was skipped" in capsys.readouterr().out
