"""Downloads from a real server, which also misbehaves."""

import hashlib
import http.server
import re
import socket
import threading
from pathlib import Path

import pytest

from mvit_det import model_zoo
from mvit_det.checkpoint import download as download_module
from mvit_det.checkpoint import local_path
from mvit_det.checkpoint.download import cache_path, download, find_checksum
from mvit_det.errors import CheckpointError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `CONTENT`; `server.plan` holds the behaviour for each request in turn."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        plan = server.plan.pop(0) if server.plan else {}
        content = plan.get("content", CONTENT)
        if "status" in plan:
            self.send_error(plan["status"])
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        tag = plan.get("tag", '"one"')
        if asked and not plan.get("ignore_range") and self.headers.get("If-Range") == tag:
            start = int(asked[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200 if "headers" not in plan else plan.get("code", 200))
        for name, value in plan.get("headers", {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", plan.get("type", "application/octet-stream"))
        if tag:
            self.send_header("ETag", tag)
        if not (plan.get("no_length") or "Content-Length" in plan.get("headers", {})):
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = plan.get("cut_at", len(content))
        self.wfile.write(content[start:stop])
        if stop < len(content) or plan.get("no_length"):
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download_module, "PAUSE", 0.0)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.plan, server.requests = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/models/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def leftovers(path):
    return sorted(p.name for p in path.parent.iterdir() if p != path and p.suffix != ".lock")


def test_downloads_once(server):
    url = f"{server.url}model_final_{MD5[:6]}.pkl"
    path = local_path(url)
    assert path == cache_path(url)
    assert path.read_bytes() == CONTENT
    assert leftovers(path) == []
    assert download(url) == path
    assert len(server.requests) == 1


def test_resumes_after_lost_connections(server):
    server.plan = [{"cut_at": 1000}, {"cut_at": 500_000}, {"status": 503}, {"cut_at": 500_001}]
    path = download(f"{server.url}model_final_{MD5[:6]}.pkl")
    assert path.read_bytes() == CONTENT
    ranges = [headers.get("Range") for _, headers in server.requests]
    assert ranges == [None, "bytes=1000-", "bytes=500000-", "bytes=500000-", "bytes=500001-"]


def test_a_later_call_resumes(server):
    server.plan = [{"cut_at": 1000}] + [{"status": 500}] * 5
    url = f"{server.url}model.pth"
    with pytest.raises(CheckpointError, match="the server says 500 Internal Server Error"):
        download(url)
    assert not cache_path(url).exists()
    assert download(url).read_bytes() == CONTENT
    assert server.requests[-1][1]["Range"] == "bytes=1000-"
    assert leftovers(cache_path(url)) == []


@pytest.mark.parametrize(
    "change", [{"ignore_range": True}, {"tag": '"two"'}, {"tag": ""}, {"tag": 'W/"one"'}]
)
def test_starts_again_if_the_file_may_have_changed(change, server):
    """The server has no ranges, another version, or no way to tell versions apart."""
    other = bytes(reversed(CONTENT))
    server.plan = [{"cut_at": 1000, **change, "tag": change.get("tag", '"one"')}]
    if change == {"tag": '"two"'}:
        server.plan = [{"cut_at": 1000}]
    server.plan.append({"content": other, **change})
    assert download(f"{server.url}model.pth").read_bytes() == other


def test_more_bytes_than_the_file_has(server):
    url = f"{server.url}model.pth"
    path = cache_path(url)
    path.parent.mkdir(parents=True)
    Path(f"{path}.part").write_bytes(CONTENT + b"more")
    Path(f"{path}.version").write_text('"one"')
    server.plan = [{"status": 416}]
    assert download(url).read_bytes() == CONTENT


def test_short_files_are_not_kept(server):
    server.plan = [{"cut_at": 1000, "ignore_range": True} for _ in range(20)]
    url = f"{server.url}model.pth"
    with pytest.raises(CheckpointError, match=f"got 1000 of {len(CONTENT)} bytes") as raised:
        download(url)
    assert str(cache_path(url)) in str(raised.value)
    assert not cache_path(url).exists()
    assert len(server.requests) == 1 + download_module.ATTEMPTS


def test_wrong_bytes_are_not_kept(server):
    wrong = b"x" + CONTENT[1:]
    server.plan = [{"content": wrong}]
    url = f"{server.url}model_final_{MD5[:6]}.pkl"
    with pytest.raises(CheckpointError, match=hashlib.md5(wrong).hexdigest()):
        download(url)
    assert leftovers(cache_path(url)) == []
    assert not cache_path(url).exists()


@pytest.mark.parametrize(
    "name",
    ["model.pth?id=3", "model_0005000.pth", "detector_20240315.pth", "detector-3fa9c1d0.pth"],
)
def test_ordinary_names_are_not_checksums(name, server):
    server.plan = [{"no_length": True}]
    assert download(server.url + name).read_bytes() == CONTENT


def test_names_with_checksums():
    assert find_checksum("https://a.org/x/model_final_280758.pkl?y") == ("md5", "280758")
    video = "https://download.pytorch.org/models/mvit_v2_s-ae3be167.pth"
    assert find_checksum(video) == ("sha256", "ae3be167")
    for entry in model_zoo.MODELS.values():
        assert (find_checksum(entry.url) is not None) == entry.is_detector


def test_pages_and_errors(server):
    url = f"{server.url}model.pth"
    server.plan = [{"status": 404}, {"type": "text/html; charset=utf-8", "content": b"<html>"}]
    with pytest.raises(CheckpointError, match="the server says 404 Not Found"):
        download(url)
    assert len(server.requests) == 1
    with pytest.raises(CheckpointError, match="web page"):
        download(url)
    assert not cache_path(url).exists()


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", {}),
        (b"\n<!DOCTYPE html><html>", {}),
        (b'<?xml version="1.0"?><Error/>', {}),
        (b'{"error": "not found"}', {}),
        (b"\x1f\x8b and more", {"Content-Encoding": "gzip"}),
    ],
)
def test_what_is_no_file_of_weights_is_not_kept(content, headers, server):
    url = f"{server.url}model.pth"
    server.plan = [{"content": content, "headers": headers}]
    with pytest.raises(CheckpointError, match="the server sends"):
        download(url)
    assert leftovers(cache_path(url)) == []
    assert download(url).read_bytes() == CONTENT


@pytest.mark.parametrize("first", [0, 1000])
def test_bytes_from_another_place_are_not_kept(first, server):
    """A server that answers with part of the file, unasked or with another part than asked."""
    url = f"{server.url}model.pth"
    wrong = {"Content-Range": f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}"}
    answer = {"code": 206, "headers": wrong, "content": CONTENT[5:], "ignore_range": True}
    server.plan = [{"cut_at": first}, answer] if first else [answer]
    assert download(url).read_bytes() == CONTENT


def test_a_length_that_is_no_number_is_ignored(server):
    server.plan = [{"headers": {"Content-Length": "many"}, "no_length": True}]
    assert download(f"{server.url}model.pth").read_bytes() == CONTENT


def test_names_beyond_ascii(server):
    url = f"{server.url}jürgens modell.pth".replace("http", "HTTP")
    assert local_path(url).read_bytes() == CONTENT
    assert server.requests[0][0] == "/models/j%C3%BCrgens%20modell.pth"


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///x.pth",
        "http://[::1/x.pth",
        "http://a.org:port/x.pth",
        "http://a.org:99999/x.pth",
        "http://a.org/x\n.pth",
        "http://a.org/x\0.pth",
        "http://jane:secret@a.org/x.pth",
        "http://127.0.0.1:1/" + "x" * 300,
    ],
)
def test_urls_that_cannot_be_requested(url, server):
    with pytest.raises(CheckpointError) as raised:
        local_path(url)
    assert "secret" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_no_network(server):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/model_final_1a1c30.pkl"
        with pytest.raises(CheckpointError, match="Connection refused"):
            local_path(url)
    cache_path(url).write_bytes(b"weights")
    assert local_path(url).read_bytes() == b"weights"


def test_several_at_once_download_once(server):
    url = f"{server.url}model.pth"
    threads = [threading.Thread(target=download, args=(url,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache_path(url).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_addresses_of_detectron2(server, monkeypatch):
    monkeypatch.setattr(download_module, "DETECTRON2_URL", server.url)
    path = local_path("detectron2://ImageNetPretrained/mvitv2/MViTv2_T_in1k.pyth")
    assert path.read_bytes() == CONTENT
    assert server.requests[0][0] == "/models/ImageNetPretrained/mvitv2/MViTv2_T_in1k.pyth"


def test_the_cache_has_the_folders_of_detectron2s(monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", "/caches/here")
    url = "https://dl.fbaipublicfiles.com/detectron2/MViTv2/x/f1/model_final_1a1c30.pkl"
    expected = "/caches/here/detectron2/MViTv2/x/f1/model_final_1a1c30.pkl"
    assert str(cache_path(url)) == expected
    # The same path elsewhere, or with another query, is another file.
    others = {cache_path(f"https://a.org/x.pth{query}") for query in ("", "?a=1", "?a=2")}
    others.add(cache_path("https://b.org/x.pth"))
    assert len(others) == 4
    assert str(cache_path("https://a.org/../../etc/passwd")) == "/caches/here/a.org/etc/passwd"


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="FVCORE_CACHE"):
        download(f"{server.url}model.pth")


def test_a_user_without_a_home_folder_needs_another_cache(monkeypatch):
    """As in containers that run with a number in place of a user."""
    monkeypatch.delenv("FVCORE_CACHE", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 123456789)
    with pytest.raises(CheckpointError, match="FVCORE_CACHE"):
        cache_path("https://example.org/model.pth")
