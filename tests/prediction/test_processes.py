"""All predictors work in threads, in forked processes and in a caller's inference mode."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig

from mvit_det import Classifier, Predictor, VideoClassifier
from mvit_det.errors import DeviceError
from tests.export.detectors import make_classifier, make_detector, make_video_classifier
from tests.prediction.test_video_classifier import write_noise

MAKERS = {
    Predictor: partial(make_detector, "mask_rcnn"),
    Classifier: make_classifier,
    VideoClassifier: make_video_classifier,
}


@pytest.fixture(scope="module", params=MAKERS, ids=lambda kind: kind.__name__)
def trained(request, tmp_path_factory):
    """A class with config and weights for it."""
    return request.param, *MAKERS[request.param](tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def sources(trained, tmp_path_factory):
    """Noise of several sizes: images, or for the video classifier videos."""
    folder, generator = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    if trained[0] is VideoClassifier:
        return [write_noise(folder / f"{count}.avi", count) for count in (8, 30)]
    sizes = ((48, 96), (56, 88), (64, 80), (72, 72))
    return [generator.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def plain(result):
    """A result in types that compare."""
    return result.to_coco() if hasattr(result, "to_coco") else result


def test_inference_mode_at_any_time(trained, sources):
    kind, *arguments = trained
    outside = kind(*arguments, device="cpu")
    expected = [plain(outside(source)) for source in sources]
    with torch.inference_mode():
        inside = kind(*arguments, device="cpu")
        found = [inside(source) for source in sources]
        assert [plain(outside(source)) for source in sources] == expected
    assert [plain(result) for result in found] == expected
    assert [plain(inside(source)) for source in sources] == expected
    assert all(expected)
    assert not any(parameter.is_inference() for parameter in inside.model.parameters())
    if kind is Predictor:
        assert not any(result.instances.scores.is_inference() for result in found)


def test_threads_share_a_predictor(trained, sources):
    kind, *arguments = trained
    predictor = kind(*arguments, device="cpu")
    expected = [plain(predictor(source)) for source in sources]
    shared = kind(*arguments, device="cpu")
    with ThreadPoolExecutor(4) as pool:
        assert [plain(result) for result in pool.map(shared, sources * 3)] == expected * 3


FORKED = """
import multiprocessing, sys
import mvit_det, numpy as np, torch

torch.set_num_threads(2)  # of which the second would be missing after a fork
kind, config, weights, video = sys.argv[1:]
predictor = getattr(mvit_det, kind)(config, weights, device="cpu")
image = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)

def find_scores():
    if kind == "Predictor":
        return predictor(image).instances.scores.tolist()
    clips = [clip.classes for clip in predictor(video)] if video else [predictor(image)]
    return [each.score for classes in clips for each in classes]

expected = find_scores()
with multiprocessing.get_context("fork").Pool(1) as pool:
    scores = pool.apply_async(find_scores).get(timeout=60)
print(len(scores) > 0 and np.abs(np.subtract(expected, scores)).max() < 1e-6)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_works_after_a_fork(trained, sources, tmp_path):
    kind, config, weights = trained
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    video = sources[0] if kind is VideoClassifier else ""
    result = subprocess.run(
        [sys.executable, "-c", FORKED, kind.__name__, tmp_path / "config.yaml", weights, video],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.stdout == "True\n", result.stderr
    assert f"This {kind.__name__} was built before the process was forked" in result.stderr


def test_a_fork_on_cuda_says_what_to_do(trained, sources, monkeypatch):
    kind, *arguments = trained
    predictor = kind(*arguments, device="cpu")
    predictor.device = torch.device("cuda")
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as in another process
    with pytest.raises(DeviceError, match=f"{kind.__name__}.*forked; build it in each process"):
        predictor(sources[0])


def test_device_as_an_object(trained, sources):
    kind, *arguments = trained
    assert plain(kind(*arguments, device=torch.device("cpu"))(sources[0]))
