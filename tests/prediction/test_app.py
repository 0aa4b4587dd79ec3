"""The page `mvit-det app`, in Chromium: uploads, controls, downloads, errors, and what it hides."""

import json
import socket
import sys
import time

import numpy as np
import pytest
from PIL import Image

from mvit_det import Predictor, save_pretrained
from mvit_det.cli.app import load, parse_arguments
from mvit_det.cli.main import command
from mvit_det.data.video_writer import VideoWriter
from mvit_det.data.videos import count_frames
from tests.browser import Visit
from tests.prediction.test_sharing import noise, train

pytest.importorskip("gradio", reason="needs Gradio: pip install 'mvit_det[app]'")
from mvit_det.prediction.app import HINT, LOWEST_THRESHOLD, Limits, build_page, serve

pytestmark = pytest.mark.slow

LIMITS = Limits(megabytes=1, megapixels=1, frames=6)


class CountingPredictor(Predictor):
    """A real one that counts its forward passes."""

    calls = 0

    def predict(self, prepared):
        self.calls += len(prepared)
        return super().predict(prepared)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Config and weights of a detector, and the files that tests upload."""
    folder = tmp_path_factory.mktemp("trained")
    config, weights = train("shapes/mask_rcnn_mvitv2_pico", folder)
    Image.fromarray(noise()).save(folder / "noise.png")
    Image.fromarray(noise()).resize((1200, 900)).save(folder / "large.jpg", quality=50)
    (folder / "notes.txt").write_text("no image")
    (folder / "truncated.png").write_bytes((folder / "noise.png").read_bytes()[:5000])
    for name, number in (("clip.mp4", 4), ("long.mp4", 7)):
        with VideoWriter(folder / name, 10) as writer:
            for shift in range(number):
                writer.write(np.roll(noise(), 8 * shift, axis=1))
    return config, weights


@pytest.fixture(scope="module")
def predictor(trained):
    return CountingPredictor(*trained, score_threshold=LOWEST_THRESHOLD, device="cpu")


@pytest.fixture(scope="module")
def url(predictor, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        page = build_page(predictor, "Objects", threshold=0.2, limits=LIMITS)
        yield serve(page, "127.0.0.1", free_port(), LIMITS)
        page.close(verbose=False)


@pytest.fixture
def visit(browser, url, trained):
    """The page in a new tab."""
    with browser.new_context() as context:
        yield Visit(context.new_page(), url, trained[0].parent)


def count(text):
    return int(text.split(" object")[0])


def test_an_image_is_predicted_once_and_drawn_as_the_controls_say(visit, predictor):
    calls = predictor.calls
    expected = predictor.predict([predictor.prepare(noise())])[0]
    text, image = visit.upload("noise.png"), visit.image()
    assert count(text) == len(expected.select(0.2).instances) > 0

    more = visit.after(visit.set, "threshold", 0.1)
    assert count(more) == len(expected.select(0.1).instances) > count(text)
    image_of_more = visit.wait(visit.image, image)

    visit.tab.click("#masks input")
    without_masks = visit.wait(visit.image, image_of_more)
    name, path = visit.download("png")
    assert name.name == "noise_drawn.png"
    drawn = expected.select(0.1).draw(show_masks=False)
    assert np.array_equal(np.asarray(Image.open(path)), drawn)

    label = expected.instances.pred_classes[0].item()
    visit.tab.click("#classes input")
    chosen = visit.after(visit.tab.click, f"[role=option] >> text={expected.class_names[label]}")
    assert expected.class_names[label] in chosen
    visit.wait(visit.image, without_masks)
    name, path = visit.download("json")
    assert name.name == "noise.json"
    results = expected.select(0.1, [label]).to_coco(1)
    assert json.loads(path.read_text()) == [{**each, "file_name": "noise.png"} for each in results]
    assert 0 < len(results) == count(chosen) < count(more)

    assert visit.after(visit.set, "threshold", 1) == "0 objects"
    assert predictor.calls == calls + 2
    assert visit.hosts == {visit.tab.url.split("/")[2]}


def test_errors_are_sentences_about_the_file(visit, trained):
    for name, words in (
        ("notes.txt", "not an image"),
        ("truncated.png", "truncated"),
        ("large.jpg", "1200 x 900 pixels, more than 1 million"),
        ("long.mp4", "more than 6 frames"),
    ):
        text = visit.upload(name)
        assert f"'{name}'" in text
        assert words in text
        assert "/" not in text
        assert visit.tab.locator("#image img").count() == 0
        assert visit.tab.is_disabled("#json")
    assert count(visit.upload("noise.png")) > 0
    # Larger uploads are refused before they are stored.
    content = np.random.default_rng(0).integers(0, 256, (700, 800, 3)).astype(np.uint8)
    Image.fromarray(content).save(trained[0].parent / "heavy.png")
    visit.after(visit.tab.locator("#file button[aria-label=Clear]").click)
    visit.tab.set_input_files("#file input[type=file]", trained[0].parent / "heavy.png")
    visit.tab.wait_for_selector("text=/maximum.*size/i")
    assert visit.tab.input_value("#found textarea") == HINT


def test_a_video_is_shown_frame_by_frame(visit, predictor):
    assert not visit.tab.is_visible("#frame")
    calls = predictor.calls
    visit.upload("clip.mp4")
    image = visit.image()
    assert predictor.calls == calls + 4
    visit.set("frame", 3)
    visit.wait(visit.image, image)
    assert visit.download("png")[0].name == "clip_frame_3.png"
    results = json.loads(visit.download("json")[1].read_text())
    assert {each["frame"] for each in results} == {0, 1, 2, 3}
    assert all(each["image_id"] == each["frame"] + 1 for each in results)
    visit.tab.click("#draw")
    visit.tab.wait_for_selector("#mp4", state="visible")
    name, path = visit.download("mp4")
    assert name.name == "clip_drawn.mp4"
    assert count_frames(path) == 4
    assert predictor.calls == calls + 4
    visit.upload("noise.png")
    assert not visit.tab.is_visible("#frame")
    assert not visit.tab.is_visible("#draw")


@pytest.mark.slow
def test_uploads_are_deleted(browser, predictor, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr("mvit_det.prediction.app.KEPT_SECONDS", 8)
    page = build_page(predictor, "Objects", threshold=0.2)
    visit = Visit(
        browser.new_page(), serve(page, "127.0.0.1", free_port(), LIMITS), trained[0].parent
    )
    visit.upload("noise.png")
    stored = {path.name for path in tmp_path.rglob("noise*")}
    assert {"noise.png", "noise_drawn.png", "noise.json"} >= stored > set()
    visit.wait(lambda: bool(list(tmp_path.rglob("noise*"))), True)
    assert visit.after(visit.set, "threshold", 0.3) == HINT
    page.close(verbose=False)


def test_files_of_this_machine_cannot_be_read(url, tmp_path, monkeypatch, capsys):
    import httpx

    secret = tmp_path / "secret.png"
    Image.fromarray(noise()).save(secret)
    monkeypatch.chdir(tmp_path)
    api = f"{url}gradio_api"
    for path in (secret, "secret.png", "/etc/hostname", __file__, "../../etc/hostname"):
        answer = httpx.get(f"{api}/file={path}")
        assert answer.status_code in (403, 404), path
    # Nor predicted, as an upload that was never made.
    config = httpx.get(f"{url}config").json()
    assert config["analytics_enabled"] is False
    number = next(
        each["id"]
        for each in config["dependencies"]
        if [event for _, event in each["targets"] if event == "upload"] == ["upload"]
    )
    for path in (str(secret), "/etc/hostname"):
        upload = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"fn_index": number, "session_hash": "x", "data": [upload, 0.1, [], True]}
        assert httpx.post(f"{api}/queue/join", json=body).status_code == 200
        with httpx.stream("GET", f"{api}/queue/data?session_hash=x", timeout=30) as stream:
            events = [json.loads(line[6:]) for line in stream.iter_lines() if line[:5] == "data:"]
        (done,) = (event for event in events if event["msg"] == "process_completed")
        assert done["success"] is False
        assert "InvalidPathError" in capsys.readouterr().err
        assert "image" not in json.dumps(done["output"])
    assert httpx.get(f"{api}/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}


def test_the_server_connects_to_this_machine_only(trained):
    contacted = []
    listening = True

    def watch(event, arguments):
        if listening and event == "socket.connect":
            contacted.append(arguments[1])
        if listening and event == "socket.getaddrinfo":
            contacted.append(arguments[:2])

    sys.addaudithook(watch)
    page = build_page(Predictor(*trained, device="cpu"), "Objects")
    serve(page, "127.0.0.1", free_port(), LIMITS)
    time.sleep(2)  # for threads that it may have started
    page.close(verbose=False)
    listening = False
    assert contacted
    hosts = {address[0] for address in contacted if isinstance(address, tuple)}
    assert hosts <= {"127.0.0.1", "localhost", None}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--weights", "nowhere/model.pth"], "nowhere/config.yaml"),
        (["--config-file", "mvitv2_t_in1k", "--weights", "x.pth"], "classifier"),
        (["--config-file", "shapes/mask_rcnn_mvitv2_pico"], "--weights"),
        ([], "--weights"),
        (["--weights", "x.pth", "--confidence-threshold", "0"], "--confidence-threshold"),
        (["--weights", "x.pth", "--max-frames", "0"], "--max-frames is 0"),
        (["--weights", "x.pth", "--max-megapixels", "-3"], "--max-megapixels is -3"),
    ],
)
def test_mistakes_are_named_before_anything_is_served(arguments, named, capsys):
    try:
        code = command("app")(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert named in capsys.readouterr().err


def test_weights_beside_a_config_and_in_a_folder_to_share(trained, tmp_path):
    shared = save_pretrained(*trained, tmp_path / "shared")
    for weights in (trained[1], shared):
        options = parse_arguments(["--weights", str(weights), "--device", "cpu"], "app")
        found = load(options)
        assert found.class_names == ("bolt", "nut", "washer", "gear", "pin")
        assert found.model.roi_heads.box_predictor.test_score_thresh == LOWEST_THRESHOLD


def test_other_machines_and_taken_ports_are_said(trained, capsys):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["--weights", str(trained[1]), "--device", "cpu", "--host", "0.0.0.0"]
        assert command("app")([*arguments, "--port", str(port)]) == 2
    printed = capsys.readouterr().err
    assert f"port {port}" in printed
    assert "no password" in printed


def test_a_missing_gradio_is_named(trained, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "mvit_det.prediction.app")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert command("app")(["--weights", str(trained[1])]) == 2
    assert 'pip install "mvit_det[app]"' in capsys.readouterr().err
