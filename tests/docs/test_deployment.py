"""The commands of docs/deployment.md."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from PIL import Image

from mvit_det.data.shapes import generate_shapes
from tests.data.test_videos import write_video
from tests.export.detectors import make_classifier, make_detector, make_video_classifier

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_deployment(run_page, tmp_path, capsys):
    for library in ("onnxscript", "onnxruntime", "openvino", "nncf"):
        pytest.importorskip(library)
    demo = tmp_path / "output" / "demo"
    config, weights = make_detector("mask_rcnn", demo)
    weights.rename(demo / "model_final.pth")
    LazyConfig.save(config, str(demo / "config.yaml"))
    classifier = tmp_path / "output" / "classifier"
    config, weights = make_classifier(classifier)
    weights.rename(classifier / "model_final.pth")
    LazyConfig.save(config, str(classifier / "config.yaml"))
    video = tmp_path / "output" / "video"
    config, weights = make_video_classifier(video)
    weights.rename(video / "model_final.pth")
    LazyConfig.save(config, str(video / "config.yaml"))
    write_video(tmp_path / "clip.mp4", range(0, 160, 5), codec="mp4v")
    for split, count in (("train", 4), ("val", 3)):
        generate_shapes(tmp_path / "datasets" / "shapes" / split, count, 128, seed=0)

    _, exported, quantized, found, found_int8, classified, clips = run_page(
        "deployment.md", tmp_path
    )

    assert "0 missing, 0 extra" in exported
    assert "detector-int8.xml" in quantized
    assert "3 images: 0 with another class" in classified
    assert classified.splitlines()[-1].count("%") == 5
    assert "2 clips: 0 with another class" in clips
    assert [line.count("%") for line in clips.splitlines()[-2:]] == [5, 5]
    assert (tmp_path / "labelled.mp4").exists()
    for printed, folder in ((found, "found"), (found_int8, "found_int8")):
        assert "instances in" in printed
        assert Image.open(tmp_path / folder / "000001.png").size == (128, 128)
    assert Image.open(tmp_path / "drawn.png").size == (128, 128)
    assert capsys.readouterr().out.splitlines()
    sizes = [
        (tmp_path / "deployed" / f"{name}.bin").stat().st_size
        for name in ("detector-int8", "detector")
    ]
    assert sizes[0] < 0.5 * sizes[1]
