"""Exported classifiers score as `Classifier` does."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image
from torch import nn

from mvit_det import Classifier
from mvit_det.config import load_config
from mvit_det.data.image_folder import register_image_folder
from mvit_det.data.shape_classes import generate_shape_classes
from mvit_det.errors import ConfigError, ExportError
from mvit_det.export import compare, export, prepare
from mvit_det.export.evaluation import evaluate
from mvit_det.export.exporting import save_openvino
from mvit_det.export.quantization import groups_of, quantize
from mvit_det.export.torch_session import TorchSession
from mvit_det.runtime import (
    Metadata,
    OnnxClassifier,
    OnnxPredictor,
    OpenVinoClassifier,
    OpenVinoPredictor,
    RuntimeClassifier,
)
from mvit_det.runtime.__main__ import main as runtime_main
from mvit_det.runtime.preprocessing import crop
from mvit_det.runtime.sessions import OnnxSession
from tests.export.detectors import CLASSES, CONFIGS, make_classifier

for library in ("onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(library)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return make_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def files(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    exportable = prepare(*classifier)
    for file_format, name in (("onnx", "c.onnx"), ("openvino", "c.xml"), ("torch", "c.pt2")):
        export(exportable, folder / name, file_format)
    return folder


def test_files_score_as_the_classifier_does(classifier, files, images):
    expected = Classifier(*classifier)(images)
    for predictor in (OnnxClassifier(files / "c.onnx"), OpenVinoClassifier(files / "c.xml")):
        for found, best in zip(predictor(images), expected, strict=True):
            assert [each.name for each in found] == [each.name for each in best]
            scores = [[each.score for each in row] for row in (found, best)]
            np.testing.assert_allclose(*scores, atol=1e-5)
    top = {best[0].name for best in expected}
    assert len(top) > 1
    assert len(OnnxClassifier(files / "c.onnx", top=2)(images[0])) == 2


def test_files_are_compared_with_pytorch(classifier, files, images):
    exportable = prepare(*classifier)
    for session in (OnnxSession(files / "c.onnx"), TorchSession(files / "c.pt2")):
        assert session.metadata == exportable.metadata
        differences = compare(exportable, session, images)
        assert (differences.count, differences.changed) == (len(images), 0)
        assert differences.score < 1e-5
        assert differences.are_within_limits
    other = prepare(*classifier)
    other.model.classifier.head.weight.data.neg_()
    differences = compare(other, OnnxSession(files / "c.onnx"), images)
    assert differences.changed > 0
    assert not differences.are_within_limits


def test_the_batch_is_open(files):
    session = OnnxSession(files / "c.onnx")
    batch = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64)).astype(np.uint8)
    found = session.run(batch)["scores"]
    assert found.shape == (5, len(CLASSES))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(session.run(batch[3:4])["scores"][0], found[3], atol=1e-6)


def attention_nodes(path):
    """How often each kind of node attends: a softmax over the classes has two axes only."""
    graph = pytest.importorskip("onnx").load(path).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    kinds = (node.op_type for node in graph.node if ranks.get(node.output[0]) == 4)
    return Counter(kind for kind in kinds if kind in ("Softmax", "Attention"))


def test_from_opset_23_on_attention_is_one_node(classifier, files, images, tmp_path):
    export(prepare(*classifier), tmp_path / "c.onnx", "onnx", opset=23)
    assert attention_nodes(files / "c.onnx") == {"Softmax": 4}
    assert attention_nodes(tmp_path / "c.onnx") == {"Attention": 4}
    expected = OnnxClassifier(files / "c.onnx")
    for predictor in (OnnxClassifier(tmp_path / "c.onnx"), OpenVinoClassifier(tmp_path / "c.onnx")):
        for image in images:
            np.testing.assert_allclose(predictor.scores(image), expected.scores(image), atol=1e-5)


@pytest.mark.parametrize("override", ["crop=center", "crop=full"])
@pytest.mark.parametrize("size", [(90, 120), (200, 64), (64, 64), (41, 77)])
def test_cropping_is_that_of_the_evaluation(classifier, override, size):
    config, weights = classifier
    config = load_config(
        CONFIGS / "classifier_mvitv2_pico.py",
        ["dataloader.test.mapper.crop_ratio=0.875", f"dataloader.test.mapper.{override}"],
    )
    metadata = prepare(config, weights).metadata
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    expected = instantiate(config.dataloader.test.mapper).transform(Image.fromarray(image))
    np.testing.assert_array_equal(crop(image, metadata)[0].transpose(1, 2, 0), expected)


def test_metadata_and_other_sizes(classifier):
    metadata = prepare(*classifier).metadata
    assert (metadata.task, metadata.size, metadata.resize) == ("classification", (64, 64), "crop")
    assert (metadata.short_edge, metadata.class_names) == (80, tuple(CLASSES))
    assert Metadata.from_json(metadata.to_json(), "") == metadata
    larger = prepare(*classifier, size=(96, 96)).metadata
    assert (larger.size, larger.short_edge) == ((96, 96), 120)


def test_int8_halves_the_file(classifier, files, images, tmp_path):
    pytest.importorskip("nncf")
    assert groups_of(files / "c.xml") == ["patch_embed", "attention", "mlp", "classifier_head"]
    model, metadata = quantize(files / "c.xml", images)
    save_openvino(model, metadata, tmp_path / "int8.xml")
    assert (tmp_path / "int8.bin").stat().st_size < 0.5 * (files / "c.bin").stat().st_size
    expected, found = OpenVinoClassifier(files / "c.xml"), OpenVinoClassifier(tmp_path / "int8.xml")
    for image in images:
        scores = found.scores(image)
        assert scores.sum() == pytest.approx(1, abs=1e-3)
        assert (scores != expected.scores(image)).any()


def test_accuracy_is_that_of_the_labels(files, tmp_path):
    predictor = OnnxClassifier(files / "c.onnx")
    generate_shape_classes(tmp_path / "images", 60, 64, 0)
    name, _ = register_image_folder(tmp_path / "images")
    shapes = load_config(
        CONFIGS / "classifier_mvitv2_pico.py", [f"dataloader.test.dataset.names={name}"]
    )
    metrics = evaluate(predictor, shapes, limit=40)["classification"]
    records = instantiate(shapes.dataloader.test.dataset)
    hits = [
        predictor(records[index]["file_name"])[0].class_id == records[index]["label"]
        for index in range(40)
    ]
    assert metrics["top1"] == pytest.approx(100 * sum(hits) / 40)
    assert metrics["top5"] == 100


def test_the_command_prints_classes(files, images, tmp_path, capsys):
    Image.fromarray(images[0]).save(tmp_path / "photo.png")
    (best, *_) = OnnxClassifier(files / "c.onnx")(images[0])
    assert runtime_main([str(files / "c.onnx"), str(tmp_path / "photo.png")]) == 0
    assert f"photo.png: {best.name} {best.score:.1%}," in capsys.readouterr().out


def test_what_does_not_fit_is_named(classifier, files, mask_rcnn):
    with pytest.raises(ExportError, match="96x128"):
        prepare(*classifier, size=(96, 128))
    with pytest.raises(ExportError, match="2x2"):
        prepare(*classifier, size=(2, 2))
    with pytest.raises(ExportError, match="backbone"):
        prepare(*classifier, part="backbone")
    with pytest.raises(ExportError, match="score_threshold"):
        prepare(*classifier, score_threshold=0.5)
    with pytest.raises(ConfigError, match="top is 0"):
        OnnxClassifier(files / "c.onnx", top=0)
    for predictor in (OnnxPredictor, OpenVinoPredictor):
        with pytest.raises(ExportError, match="'classification'"):
            predictor(files / "c.onnx")
    session = OnnxSession(files / "c.onnx")
    session.metadata = mask_rcnn.metadata
    with pytest.raises(ExportError, match="'detection'"):
        RuntimeClassifier(session)


def test_the_batch_of_a_model_with_a_class_token_is_open(tmp_path):
    """As the models of ImageNet-21K have it."""
    exportable = prepare(
        *make_classifier(
            tmp_path, "model.classifier.class_token=true", "model.classifier.depths=[1,1]"
        )
    )
    export(exportable, tmp_path / "c.onnx", "onnx")
    batch = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64)).astype(np.uint8)
    assert OnnxSession(tmp_path / "c.onnx").run(batch)["scores"].shape == (3, len(CLASSES))


def test_an_axis_that_the_exporter_fixes_is_named(classifier, tmp_path):
    class Fixed(nn.Module):
        def forward(self, image):
            return {"scores": image.flatten(1).float() + torch.arange(len(image))[:, None]}

    exportable = replace(prepare(*classifier), graph=Fixed())
    with pytest.raises(ExportError, match="axis 0 of 'image' at 2"):
        export(exportable, tmp_path / "c.onnx", "onnx")
    assert not (tmp_path / "c.onnx").exists()
