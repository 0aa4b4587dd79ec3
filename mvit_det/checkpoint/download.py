"""Downloads of weights into Detectron2's cache: complete, checked, and once.

Detectron2's PathManager and `torch.hub.download_url_to_file` start again from zero after a broken
connection, which for 2.8 GB (MViTv2-H) may never end; the first does not compare MD5 checksums or
sizes, and both accept a web page in place of a file. So this module resumes, retries and checks by
itself, and takes from iopath the lock that lets several processes share one download.
"""

import hashlib
import http.client
import logging
import os
import re
import shlex
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from iopath.common.file_io import file_lock
from tqdm import tqdm

from ..errors import CheckpointError
from .state import is_sharded

logger = logging.getLogger(__name__)

DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/"  # `detectron2://` stands for it
ATTEMPTS = 5  # in a row without progress
PAUSE = 1.0  # seconds between attempts
TIMEOUT = 30.0  # seconds without a response
CHUNK_SIZE = 2**20

# Where file names end in the first digits of a checksum: Detectron2's model zoo, PyTorch's server.
# Elsewhere they are a step, a date or a commit: `model_0005000.pth`, `detector_20240315.pth`.
_CHECKSUMS = (
    ("md5", re.compile(r".*/model_final_([0-9a-f]{6})\.pkl")),
    ("sha256", re.compile(r"https://download\.pytorch\.org/.*-([0-9a-f]{8,64})\.pth")),
)


def local_path(address: str | Path) -> Path:
    """Returns the local file of a path or URL, downloading it the first time.

    Args:
        address: a file, or an `http(s)://` or `detectron2://` URL.

    Raises:
        CheckpointError: the file does not exist, or cannot be downloaded.
    """
    text = str(address)
    if text.startswith("detectron2://"):
        text = DETECTRON2_URL + text.removeprefix("detectron2://")
    if text.lower().startswith(("http://", "https://")):
        return download(text)
    try:
        path = Path(text).expanduser()
        is_folder, is_file = bool(text) and path.is_dir(), path.is_file()
    # Names that are too long, have a NUL, or are of an unknown user.
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"cannot open {text!r} ({error})") from error
    if is_folder:
        raise CheckpointError(_instead_of_folder(path))
    if not is_file:
        raise CheckpointError(
            f"there is no file '{text}'; give weights as a file, or as an http(s):// or "
            "detectron2:// URL"
        )
    return path


def cache_path(url: str) -> Path:
    """Returns where the file of a URL is kept.

    This is Detectron2's cache, `$FVCORE_CACHE` or `~/.torch/iopath_cache`, with the same folders,
    so that neither downloads what the other has. Files of other servers get a folder with the
    server's name.

    Raises:
        CheckpointError: this user has no home folder.
    """
    parts = urlsplit(url)
    try:
        folder = Path(os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache").expanduser()
    except RuntimeError as error:
        raise CheckpointError(
            f"there is no home folder in which to keep '{url}'; set FVCORE_CACHE to a folder"
        ) from error
    if parts.netloc != urlsplit(DETECTRON2_URL).netloc:
        folder /= re.sub(r"[^\w.-]", "_", parts.netloc)
    if parts.query:
        folder /= hashlib.sha256(parts.query.encode()).hexdigest()[:12]
    names = [name for name in parts.path.split("/") if name not in ("", ".", "..")]
    return folder.joinpath(*names or ["index"])


def download(url: str) -> Path:
    """Downloads a file into the cache, unless it is there already.

    The file appears under its name only when it is complete: its size is the one that the server
    announced, and its checksum matches if its name has one. An interrupted download is resumed by
    the next call. Processes that want the same file at the same time download it once.

    Raises:
        CheckpointError: the URL is invalid, the file cannot be downloaded or written, or its
            checksum does not match.
    """
    _check_url(url)
    target = cache_path(url)
    try:
        if target.is_file():
            return target
        with file_lock(str(target)):
            if not target.is_file():
                _Download(url, target).run()
    except OSError as error:
        raise CheckpointError(
            f"cannot write '{url}' to '{target}' ({error.strerror or error}); set FVCORE_CACHE to "
            "a folder with enough space"
        ) from error
    return target


def _instead_of_folder(path: Path) -> str:
    """A sentence that says which file to name in place of a folder."""
    if not is_sharded(path):
        return f"'{path}' is a directory; name a file of weights in it, such as model_final.pth"
    file = path.with_name(f"{path.name}.pth")
    if file.is_file():
        return f"'{path}' is a sharded checkpoint; name '{file}', which holds its weights"
    paths = shlex.join([str(path), str(file)])
    return (
        f"'{path}' is a sharded checkpoint; if you trust its origin, write its weights to a file "
        f"with: mvit-det convert-weights {paths} --to mvit_det --trust-checkpoint"
    )


def _check_url(url: str) -> None:
    """Raises a `CheckpointError` for a URL that cannot be requested."""
    try:
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError("it names no server")
        if parts.port == 0 or any(ord(letter) < 32 for letter in url):
            raise ValueError("it has control characters or port 0")
    except ValueError as error:
        raise CheckpointError(f"{url!r} is not a valid URL ({error})") from error
    if parts.username is not None:
        raise CheckpointError(
            f"cannot log in to '{parts.hostname}' with the name and password of a URL; download "
            "the file by other means and give its path"
        )


def find_checksum(url: str) -> tuple[str, str] | None:
    """The kind and the first digits of the checksum that a URL names; None if it names none."""
    for kind, pattern in _CHECKSUMS:
        if match := pattern.fullmatch(url.partition("?")[0]):
            return kind, match[1]
    return None


class _Download:
    """A download in progress.

    Attributes:
        part: the bytes so far.
        version: a file with the server's name of the version that they belong to.
    """

    def __init__(self, url: str, target: Path) -> None:
        self.url = url
        self.target = target
        self.part = target.with_name(target.name + ".part")
        self.version = target.with_name(target.name + ".version")

    def run(self) -> None:
        """Downloads until the file is complete, or several attempts in a row made no progress."""
        logger.info("Downloading %s to %s", self.url, self.target)
        failures, furthest = 0, self._size()
        while problem := self._attempt():
            failures = 0 if self._size() > furthest else failures + 1
            furthest = max(furthest, self._size())
            if failures == ATTEMPTS:
                raise self._failed(problem)
            time.sleep(PAUSE)
        self._check()
        os.replace(self.part, self.target)
        self._forget()
        logger.info("Downloaded %s", self.target)

    def _attempt(self) -> str:
        """Requests the missing bytes. Returns a problem that another attempt may solve, or ''."""
        # Spaces and letters beyond ASCII are sent as browsers do.
        url = urllib.parse.quote(self.url, safe="%/:=&?~#+!$,;'@()*[]")
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
        start = self._size()
        if start and self.version.exists():
            request.add_header("Range", f"bytes={start}-")
            # The server sends the whole file if its version has changed since.
            request.add_header("If-Range", self.version.read_text())
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return self._receive(response, start)
        except urllib.error.HTTPError as error:
            problem = f"the server says {error.code} {str(error.reason).splitlines()[0]}"
            if error.code == 416:
                self._forget()  # more bytes than the file has
            elif error.code < 500 and error.code not in (408, 429):
                raise self._failed(problem) from error
            return problem
        except urllib.error.URLError as error:
            return str(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            return str(error) or type(error).__name__

    def _receive(self, response: http.client.HTTPResponse, start: int) -> str:
        headers = response.headers
        if headers.get_content_type() == "text/html":
            raise self._failed("the server sends a web page instead of the file")
        if headers.get("Content-Encoding", "identity") != "identity":
            raise self._failed(f"the server sends it as {headers['Content-Encoding']}")
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if response.status == 206 and not (sent and int(sent[1]) == start):
            self._forget()
            return "the server sends other bytes than the missing ones"
        if response.status != 206:
            start = 0
            self._forget()
            tag = headers.get("ETag", "")
            # A weak tag may stand for different bytes.
            version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
            if version:
                self.version.write_text(version)
        length = headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        if sent and sent[2].isdecimal():
            total = int(sent[2])
        bar = tqdm(
            total=total,
            initial=start,
            desc=self.target.name,
            unit="B",
            unit_scale=True,
            disable=None,  # shown on terminals only
        )
        with bar, open(self.part, "ab") as file:
            while chunk := response.read(CHUNK_SIZE):
                file.write(chunk)
                bar.update(len(chunk))
            os.fsync(file.fileno())
        complete = total is None or self._size() == total
        return "" if complete else f"got {self._size()} of {total} bytes"

    def _check(self) -> None:
        """Looks for text in place of weights, and compares the checksum, if the URL names one.

        Raises:
            CheckpointError: the file is wrong, and has been deleted.
        """
        with open(self.part, "rb") as file:
            # Pages and messages of errors, whatever the server calls them.
            start = file.read(64).lstrip()
        if not start or start.startswith((b"<", b"{")):
            self._forget()
            raise self._failed(f"the server sends {'text' if start else 'nothing'} instead of it")
        checksum = find_checksum(self.url)
        if not checksum:
            return
        kind, expected = checksum
        with open(self.part, "rb") as file:
            digest = hashlib.new(kind, usedforsecurity=False)
            while chunk := file.read(CHUNK_SIZE):
                digest.update(chunk)
        if not digest.hexdigest().startswith(expected):
            self._forget()
            raise CheckpointError(
                f"the {kind} checksum of '{self.url}' is {digest.hexdigest()} and does not begin "
                f"with {expected}, as its name says; the file was deleted, download it again"
            )

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def _failed(self, problem: str) -> CheckpointError:
        return CheckpointError(
            f"cannot download '{self.url}' ({problem}); download the file by other means and put "
            f"it at '{self.target}'"
        )
