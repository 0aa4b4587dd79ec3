"""Exported video classifiers score as `VideoClassifier` does."""

import numpy as np
import pytest

from mvit_det import VideoClassifier
from mvit_det.data.clip_datasets import register_clips
from mvit_det.errors import ConfigError, ExportError, ImageError
from mvit_det.export import compare, export, prepare
from mvit_det.export.evaluation import evaluate, evaluate_pytorch
from mvit_det.export.exporting import save_openvino
from mvit_det.export.quantization import groups_of, quantize
from mvit_det.export.torch_session import TorchSession
from mvit_det.runtime import (
    Metadata,
    OnnxClassifier,
    OnnxPredictor,
    OnnxVideoClassifier,
    OpenVinoVideoClassifier,
    RuntimeVideoClassifier,
)
from mvit_det.runtime.__main__ import main as runtime_main
from mvit_det.runtime.sessions import OnnxSession, OpenVinoSession
from tests.data.test_videos import gestures  # noqa: F401
from tests.export.detectors import make_video_classifier
from tests.export.without_torch import run_without_torch
from tests.prediction.test_video_classifier import write_noise

for library in ("onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(library)

pytestmark = pytest.mark.slow

SMALL = "model.classifier.depths=[1,1]"
V1 = ("expand_attn=false", "full_query_pooling=false", "residual_pooling=false")
OVERRIDES = {
    # MViTv2, frames at a fixed rate, the centre of a larger short side.
    "v2": (SMALL, "dataloader.test.mapper.short_side=40"),
    # MViT, one frame from each segment, three crops.
    "v1": (
        SMALL,
        *(f"model.classifier.{each}" for each in (*V1, "position=separate")),
        "dataloader.test.mapper.crops=3",
    ),
}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Two clips and a half."""
    return write_noise(tmp_path_factory.mktemp("videos") / "noise.avi", 40)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Config and weights of both models."""
    return {
        name: make_video_classifier(
            tmp_path_factory.mktemp(name), *overrides, segments=name == "v1"
        )
        for name, overrides in OVERRIDES.items()
    }


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """Both models in ONNX; v2 in the other formats as well."""
    folder = tmp_path_factory.mktemp("files")
    for name, model in trained.items():
        exportable = prepare(*model)
        export(exportable, folder / f"{name}.onnx", "onnx")
        if name == "v2":
            export(exportable, folder / f"{name}.xml", "openvino")
            export(exportable, folder / f"{name}.pt2", "torch")
    return folder


@pytest.mark.parametrize(("name", "ends"), [("v2", [16, 32, 40]), ("v1", [40])])
def test_files_score_as_the_classifier_does(name, ends, trained, files, video):
    expected = VideoClassifier(*trained[name], device="cpu")(video)
    assert [clip.end * 30 for clip in expected] == pytest.approx(ends)
    for classifier in (
        OnnxVideoClassifier(files / f"{name}.onnx"),
        OpenVinoVideoClassifier(files / f"{name}.onnx", batch_size=2),
    ):
        for found, best in zip(classifier(video), expected, strict=True):
            assert (found.start, found.end) == (best.start, best.end)
            assert [each.name for each in found.classes] == [each.name for each in best.classes]
            scores = [[each.score for each in clip.classes] for clip in (found, best)]
            np.testing.assert_allclose(*scores, atol=1e-5)
    assert len(OnnxVideoClassifier(files / f"{name}.onnx", top=2)(video)[0].classes) == 2


def test_files_are_compared_with_pytorch(trained, files, video):
    exportable = prepare(*trained["v2"])
    for session in (
        OnnxSession(files / "v2.onnx"),
        OpenVinoSession(files / "v2.xml"),
        TorchSession(files / "v2.pt2"),
    ):
        assert session.metadata == exportable.metadata
        differences = compare(exportable, session, [video])
        assert (differences.unit, differences.count, differences.changed) == ("clips", 3, 0)
        assert differences.score < 1e-5
        assert differences.are_within_limits
    exportable.model.classifier.head.weight.data.neg_()
    differences = compare(exportable, OnnxSession(files / "v2.onnx"), [video])
    assert differences.changed > 0
    assert not differences.are_within_limits


def test_real_videos(trained, files, gestures):  # noqa: F811
    exportable = prepare(*trained["v2"])
    videos = sorted(gestures.glob("*.mkv"))[:4]
    for session in (OnnxSession(files / "v2.onnx"), OpenVinoSession(files / "v2.xml")):
        differences = compare(exportable, session, videos)
        assert differences.count > 8
        assert differences.changed == 0
        assert differences.score < 1e-5


@pytest.mark.parametrize(
    ("session", "name"),
    [
        (OnnxSession, "v1.onnx"),
        (OnnxSession, "v2.onnx"),
        (OpenVinoSession, "v2.xml"),
        (TorchSession, "v2.pt2"),
    ],
)
def test_the_batch_is_open(session, name, files):
    loaded = session(files / name)
    clips = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 32, 32)).astype(np.uint8)
    expected = np.concatenate([loaded.run(clip[None])["scores"] for clip in clips])
    for count in (2, 3):
        found = loaded.run(clips[:count])["scores"]
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_openvino_fixes_the_batch_where_it_is_one(files, video):
    fixed = OpenVinoVideoClassifier(files / "v2.xml")
    open_batch = OpenVinoVideoClassifier(files / "v2.xml", batch_size=2)
    assert fixed.session.compiled.inputs[0].partial_shape.is_static
    assert open_batch.session.compiled.inputs[0].partial_shape.is_dynamic
    for clip in fixed.clips(video):
        expected = open_batch.scores(clip.views)
        np.testing.assert_allclose(fixed.scores(clip.views), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_other_sizes(name, trained, video, tmp_path):
    larger = prepare(*trained[name], size=(48, 48))
    short_edge = {"v1": 48, "v2": 60}[name]
    assert (larger.metadata.size, larger.metadata.short_edge) == ((48, 48), short_edge)
    export(larger, tmp_path / "c.onnx", "onnx")
    for session in (OnnxSession, OpenVinoSession):
        assert compare(larger, session(tmp_path / "c.onnx"), [video]).score < 1e-5


def test_metadata(trained):
    metadata = prepare(*trained["v2"]).metadata
    assert Metadata.from_json(metadata.to_json(), "") == metadata
    assert (metadata.task, metadata.size) == ("video_classification", (32, 32))
    assert (metadata.num_frames, metadata.frame_step, metadata.frame_rate) == (8, 2, 30)
    assert (metadata.crops, metadata.short_edge, metadata.resize) == (1, 40, "crop")
    assert metadata.class_names[3] == "action 3"
    segments = prepare(*trained["v1"]).metadata
    assert (segments.num_frames, segments.frame_step) == (8, 0)
    assert (segments.crops, segments.short_edge) == (3, 32)


def test_files_of_earlier_versions_load():
    text = '{"task": "classification", "size": [64, 64], "resize": "crop", "short_edge": 80}'
    metadata = Metadata.from_json(text, "c.onnx")
    assert (metadata.size, metadata.short_edge, metadata.num_frames) == ((64, 64), 80, 0)


def test_an_evaluation_takes_the_views_of_the_config(trained, files, tmp_path):
    config, weights = trained["v2"]
    lines = []
    for number in range(6):
        path = write_noise(tmp_path / f"{number}.avi", 12 + 8 * number)
        lines.append(f"{path.name} {number}")
    (tmp_path / "val.csv").write_text("\n".join(lines))
    names = [f"action {number}" for number in range(10)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    config.dataloader.test.dataset.names, _ = register_clips(tmp_path / "val.csv", names)
    config.dataloader.test.mapper.update(clips=3)
    expected = evaluate_pytorch(config, weights)
    for classifier in (
        OnnxVideoClassifier(files / "v2.onnx"),
        OpenVinoVideoClassifier(files / "v2.xml", batch_size=2),
    ):
        assert evaluate(classifier, config) == expected


def test_int8_makes_the_file_smaller(files, video, tmp_path):
    pytest.importorskip("nncf")
    assert groups_of(files / "v2.xml") == ["patch_embed", "attention", "mlp", "classifier_head"]
    model, metadata = quantize(files / "v2.xml", [video])
    save_openvino(model, metadata, tmp_path / "int8.xml")
    assert (tmp_path / "int8.bin").stat().st_size < 0.5 * (files / "v2.bin").stat().st_size
    expected, found = (
        OpenVinoVideoClassifier(path) for path in (files / "v2.xml", tmp_path / "int8.xml")
    )
    for clip in found.clips(video):
        scores = found.scores(clip.views)
        assert scores.sum() == pytest.approx(1, abs=1e-3)
        assert (scores != expected.scores(clip.views)).any()


def test_the_command_prints_the_classes_of_each_clip(files, video, capsys):
    clips = OnnxVideoClassifier(files / "v2.onnx")(video)
    assert runtime_main([str(files / "v2.onnx"), str(video)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert "noise.avi: " in first
    for line, clip in zip(lines, clips, strict=True):
        best = clip.classes[0]
        assert f"{clip.start:.1f} to {clip.end:.1f} s: {best.name} {best.score:.1%}," in line
    assert runtime_main([str(files / "v2.onnx"), "photo.jpg"]) == 1
    assert "'photo.jpg' is an image" in capsys.readouterr().err


def test_runs_without_pytorch(files, video, tmp_path):
    program = f"""
from mvit_det.runtime import OnnxVideoClassifier, OpenVinoVideoClassifier
for classifier_class in (OnnxVideoClassifier, OpenVinoVideoClassifier):
    classifier = classifier_class("{files}/v2.onnx", top=1)
    results = classifier("{video}")
    classifier.draw("{video}", results, "{tmp_path}/drawn.mp4")
    for clip in results:
        print(clip.end, clip.classes[0].score)
"""
    lines = run_without_torch(program, tmp_path / "packages")
    expected = OnnxVideoClassifier(files / "v2.onnx")(video)
    assert len(lines) == 2 * len(expected)
    for line, clip in zip(lines, 2 * expected, strict=True):
        found = [float(value) for value in line.split()]
        assert found == pytest.approx([clip.end, clip.classes[0].score], abs=1e-5)
    assert (tmp_path / "drawn.mp4").exists()


def test_what_does_not_fit_is_named(trained, files, mask_rcnn):
    with pytest.raises(ExportError, match="32x64"):
        prepare(*trained["v2"], size=(32, 64))
    with pytest.raises(ExportError, match="4x4.*--size 7x7"):
        prepare(*trained["v2"], size=(4, 4))
    with pytest.raises(ConfigError, match="batch_size is 0"):
        OnnxVideoClassifier(files / "v2.onnx", batch_size=0)
    for kind in (OnnxPredictor, OnnxClassifier):
        with pytest.raises(ExportError, match="'video_classification'.*OpenVinoVideoClassifier"):
            kind(files / "v2.onnx")
    session = OnnxSession(files / "v2.onnx")
    session.metadata = mask_rcnn.metadata
    with pytest.raises(ExportError, match="'detection'.*OnnxPredictor"):
        RuntimeVideoClassifier(session)
    with pytest.raises(ImageError, match=r"absent\.mp4"):
        OnnxVideoClassifier(files / "v2.onnx")("absent.mp4")
