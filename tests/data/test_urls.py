"""Images and annotations at URLs: read as files are, and no failing server drops an image."""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mvit_det.data import urls
from mvit_det.data.coco import read_coco
from mvit_det.data.image_folder import ImageFolder
from mvit_det.data.images import read_image, read_image_size
from mvit_det.data.loading import EvaluationLoader, TrainingLoader
from mvit_det.data.urls import find_urls, is_url, join, read_url
from mvit_det.errors import ConfigError, DatasetError, ImageError, StorageError
from tests.data.object_stores import FlakyServer, s3_bucket

EXIF_ROTATED = 6


@pytest.fixture
def folder(tmp_path):
    """Six images of noise, and files that are none."""
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = EXIF_ROTATED if index == 5 else 1
        Image.fromarray(pixels).save(tmp_path / f"{index}.jpg", exif=exif)
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "0.jpg").read_bytes()[:900])
    (tmp_path / "empty.jpg").touch()
    return tmp_path


@pytest.fixture
def server(folder, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(urls, "RETRY_DELAYS", (0.01, 0.01))
    with FlakyServer(folder).running() as running:
        yield running


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://bucket/a.jpg", True),
        ("GS://bucket/a.jpg", True),
        ("https://host/a.jpg?signature=1", True),
        ("simplecache::s3://bucket/a.jpg", True),
        ("memory://a.jpg", True),
        ("photos/a.jpg", False),
        ("C:\\photos\\a.jpg", False),
        ("C:/photos/a.jpg", False),
        ("C://photos/a.jpg", False),
        ("photos/s3://a.jpg", False),
        ("", False),
    ],
)
def test_what_is_a_url(path, expected):
    assert is_url(path) == expected
    assert urls.absolute(path).startswith(path) == expected or not path


def test_names_are_joined():
    assert join("s3://bucket/train/", "a/1.jpg") == "s3://bucket/train/a/1.jpg"
    assert join("photos", "a/1.jpg") == os.path.join("photos", "a", "1.jpg")


def test_files_do_not_import_fsspec(folder):
    program = (
        "import sys; from mvit_det.data.images import read_image; "
        "read_image(sys.argv[1]); print('fsspec' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(folder / "0.jpg")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"


def upload(folder, url):
    """Copies a folder to a URL of fsspec."""
    import fsspec

    files, path = fsspec.core.url_to_fs(url)
    files.put(f"{folder}/", f"{path}/", recursive=True)


@pytest.fixture(params=["s3", "http", "memory"])
def remote(request, folder, monkeypatch):
    """The URL of a copy of the folder."""
    if request.param == "http":
        yield request.getfixturevalue("server").url
    elif request.param == "memory":
        url = f"memory://{folder}"
        upload(folder, url)
        yield url
    else:
        pytest.importorskip("s3fs")
        pytest.importorskip("moto")
        with s3_bucket("images") as bucket:
            upload(folder, f"{bucket}/deep")
            yield f"{bucket}/deep"


def test_images_equal_those_of_files(remote, folder):
    for name in ("0.jpg", "5.jpg"):
        url, path = f"{remote}/{name}", folder / name
        assert np.array_equal(read_image(url), read_image(path))
        assert read_image_size(url) == read_image_size(path) == read_image(path).shape[:2]
    for name in ("text.jpg", "cut.jpg", "empty.jpg", "missing.jpg"):
        messages = []
        for place in (str(folder), remote):
            with pytest.raises(ImageError) as raised:
                read_image(f"{place}/{name}")
            messages.append(str(raised.value).replace(place, ""))
        assert messages[0] == messages[1]
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        read_image_size(f"{remote}/missing.jpg")
    with pytest.raises(DatasetError, match=r"missing\.json"):
        read_coco(f"{remote}/missing.json")


def test_a_read_from_s3_is_one_request(folder, caplog):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with s3_bucket("images") as bucket:
        upload(folder, bucket)
        for prefix in ("", "simplecache::"):
            caplog.clear()
            with caplog.at_level(logging.INFO, "werkzeug"):
                read_url(f"{prefix}{bucket}/0.jpg")
                read_url(f"{prefix}{bucket}/0.jpg")
            requests = [each.getMessage() for each in caplog.records if each.name == "werkzeug"]
            methods = [message.partition('"')[2].split()[0] for message in requests]
            assert methods.count("GET") == (1 if prefix else 2)
            assert prefix or len(methods) == 2


def test_folders_and_patterns(remote):
    images = [f"{remote}/{number}.jpg" for number in range(6)]
    assert find_urls(remote, (".jpg",))[:6] == images
    assert find_urls(f"{remote}/*.jpg", ())[:6] == images
    assert find_urls(f"{remote}/nowhere", (".jpg",)) == []


def test_a_folder_per_class(folder):
    """Lists the same records as the folder itself, without hidden files."""
    for number in range(6):
        parent = folder / ("b", "a", ".hidden")[number % 3] / "deep"
        parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").rename(parent / f"{number}.jpg")
    url = f"memory://{folder}/classes"
    upload(folder, url)
    expected, found = ImageFolder(folder), ImageFolder(url)
    assert found.class_names == expected.class_names == ["a", "b"]
    names = [each["file_name"].removeprefix(str(folder)) for each in expected]
    assert [each["file_name"].removeprefix(url) for each in found] == names
    assert found.labels.tolist() == expected.labels.tolist() == [0, 0, 1, 1]
    assert (read_image(found[2]["file_name"]) == read_image(expected[2]["file_name"])).all()
    with pytest.raises(DatasetError, match="memory:///nowhere"):
        ImageFolder("memory:///nowhere")


def test_a_header_is_enough_for_a_size(server, folder):
    pixels = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "large.png")
    # A TIFF may have its size at the end.
    Image.fromarray(pixels).save(folder / "large.tif")
    size = (folder / "large.png").stat().st_size
    assert len(read_url(f"{server.url}/large.png")) == size > 2**16
    assert read_image_size(f"{server.url}/large.png") == (400, 500)
    assert read_image_size(f"{server.url}/large.tif") == (400, 500)


@pytest.mark.parametrize(
    ("url", "package"),
    [("gs://bucket/a.jpg", "gcsfs"), ("abfs://bucket/a.jpg", "adlfs"), ("xyz://a.jpg", "xyz")],
)
def test_a_missing_package_is_named(url, package, monkeypatch):
    for name in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=package) as raised:
        read_image(url)
    assert "pip install" in str(raised.value) or package == "xyz"


def test_a_failure_that_passes_is_not_noticed(server, folder):
    for name, status in (("0.jpg", 503), ("1.jpg", 0), ("2.jpg", 429)):
        server.answers[f"/{name}"], server.remaining[f"/{name}"] = status, 2
        assert np.array_equal(read_image(f"{server.url}/{name}"), read_image(folder / name))
        assert server.requests.count(f"/{name}") == 3


def test_refused_credentials_are_no_fault_of_an_image(folder, monkeypatch):
    """As when temporary ones expire: skipping would drop all images that are left."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    from urllib.request import Request, urlopen

    monkeypatch.setattr(urls, "RETRY_DELAYS", ())
    with s3_bucket("images") as bucket:
        upload(folder, bucket)
        server = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        headers = {"Content-Type": "text/plain"}
        urlopen(Request(server, b"0", headers)).close()
        try:
            with pytest.raises(StorageError, match="Access Key"):
                read_image(f"{bucket}/0.jpg")
        finally:
            urlopen(Request(server, b"1000000000", headers)).close()


@pytest.mark.parametrize(
    ("status", "error", "requests"),
    [(503, StorageError, 3), (0, StorageError, 6), (401, StorageError, 1)]
    + [(403, ImageError, 1), (404, ImageError, 1)],
)
def test_errors_of_a_server(status, error, requests, server):
    """Those about one image are the image's; others stop whatever is going on.

    After a connection that is dropped, aiohttp asks once more by itself.
    """
    server.answers["/0.jpg"] = status
    with pytest.raises(error, match=r"/0\.jpg'"):
        read_image(f"{server.url}/0.jpg")
    assert issubclass(StorageError, ImageError) is False
    assert server.requests.count("/0.jpg") == requests


def test_a_server_that_is_down(folder, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(urls, "RETRY_DELAYS", (0.01,))
    with FlakyServer(folder).running() as running:
        url = f"{running.url}/0.jpg"
    with pytest.raises(StorageError, match=r"0\.jpg"):
        read_image(url)


def records(server):
    return [{"file_name": f"{server.url}/{index}.jpg", "index": index} for index in range(6)]


def mapped(record):
    return {**record, "image": read_image(record["file_name"])}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_loaders_skip_images_and_stop_at_servers(policy, num_workers, server):
    """A missing image follows the policy, a failing server does not."""
    options = {"mapper": mapped, "num_workers": num_workers, "on_bad_image": policy}

    def train():
        loader = TrainingLoader(records(server), total_batch_size=3, **options)
        batches = loader.batches(seed=0)
        seen = [each["index"] for _ in range(4) for each in next(batches)]
        return seen, loader.skipped

    def evaluate():
        loader = EvaluationLoader(records(server), **options)
        return [each["index"] for batch in loader for each in batch], loader.skipped

    assert evaluate() == ([0, 1, 2, 3, 4, 5], [])
    server.answers["/3.jpg"] = 404
    for run in (train, evaluate):
        if policy == "raise":
            with pytest.raises(ImageError, match=r"/3\.jpg"):
                run()
        else:
            seen, skipped = run()
            assert 3 not in seen
            assert len(skipped) == 1
    server.answers["/3.jpg"] = 503
    for run in (train, evaluate):
        with pytest.raises(StorageError, match=r"/3\.jpg"):
            run()


def test_annotations(server, folder):
    content = {
        "images": [{"id": 1, "file_name": "0.jpg", "height": 40, "width": 50}],
        "annotations": [],
        "categories": [{"id": 7, "name": "bolt"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    dataset = read_coco(f"{server.url}/train.json")
    assert read_coco(f"{server.url}/train.json") is dataset
    (record,) = dataset.records(f"{server.url}/")
    assert record["file_name"] == f"{server.url}/0.jpg"
    with pytest.raises(DatasetError, match=r"\.\./0\.jpg"):
        read_coco(folder / "train.json").from_dict(
            {**content, "images": [{**content["images"][0], "file_name": "../0.jpg"}]}
        ).records(server.url)
    server.answers["/other.json"] = 503
    with pytest.raises(StorageError, match=r"other\.json"):
        read_coco(f"{server.url}/other.json")


@pytest.mark.parametrize("url", ["s3://", "gs:///photos/a.jpg", "simplecache::s3://"])
def test_a_missing_bucket_is_named(url):
    with pytest.raises(ConfigError, match="names no bucket"):
        find_urls(url, [".jpg"])
    with pytest.raises(ConfigError, match="names no bucket"):
        read_url(url)
