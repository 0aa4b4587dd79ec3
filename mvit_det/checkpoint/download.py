"""From an address to a file on this machine: whole, checked, and downloaded once."""

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from iopath.common.file_io import file_lock
from tqdm import tqdm

from ..errors import CheckpointError

logger = logging.getLogger(__name__)

DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/"  # what `detectron2://` stands for
ATTEMPTS = 5  # in a row that get no further
PAUSE = 1.0  # seconds between them
TIMEOUT = 30.0  # seconds without an answer
CHUNK_SIZE = 2**20


def local_path(address: str | Path) -> Path:
    """The file behind a path or an address, which is downloaded if it was not before.

    Args:
        address: a file, or an `http(s)://` or `detectron2://` address.

    Raises:
        CheckpointError: there is no such file, or it cannot be downloaded.
    """
    text = str(address)
    if text.startswith("detectron2://"):
        text = DETECTRON2_URL + text.removeprefix("detectron2://")
    if text.startswith(("http://", "https://")):
        return download(text)
    path = Path(text).expanduser()
    if path.is_dir():
        raise CheckpointError(
            f"'{path}' is a directory; name a file of weights in it, such as model_final.pth"
        )
    if not path.is_file():
        raise CheckpointError(
            f"there is no file '{text}'; weights are named by a file, or by an http(s):// or "
            "detectron2:// address"
        )
    return path


def cache_path(url: str) -> Path:
    """Where the file of an address is kept.

    That is the cache that Detectron2 uses, with the same folders, so that neither downloads what
    the other has: `$FVCORE_CACHE`, or else `~/.torch/iopath_cache`. Files of other servers lie
    in a folder with the server's name.
    """
    parts = urlsplit(url)
    folder = Path(os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache").expanduser()
    if parts.netloc != urlsplit(DETECTRON2_URL).netloc:
        folder /= re.sub(r"[^\w.-]", "_", parts.netloc)
    if parts.query:
        folder /= hashlib.sha256(parts.query.encode()).hexdigest()[:12]
    names = [name for name in parts.path.split("/") if name not in ("", ".", "..")]
    return folder.joinpath(*names or ["index"])


def download(url: str) -> Path:
    """Downloads a file into the cache; a file that is there already is taken as it is.

    The file gets its name only when it is whole, has the length that the server announced and,
    where its name tells one, the checksum. The next call goes on with what an interruption leaves.
    Several processes at once download one file once.

    Raises:
        CheckpointError: it cannot be had, or is not what its name says.
    """
    target = cache_path(url)
    if target.is_file():
        return target
    try:
        with file_lock(str(target)):
            if not target.is_file():
                _Download(url, target).run()
    except OSError as error:
        raise CheckpointError(
            f"cannot keep '{url}' at '{target}' ({error.strerror or error}); name a folder with "
            "room for it in FVCORE_CACHE"
        ) from error
    return target


def check_digest(path: Path) -> str:
    """Compares a file with the beginning of a checksum that ends its name, `name_1a2b3c.pkl`.

    Detectron2's model zoo documents it as that of the MD5; SHA-256, PyTorch's custom, passes too.

    Returns:
        "md5" or "sha256", or "" where the name ends in no checksum.

    Raises:
        CheckpointError: neither begins like that.
    """
    name = path.name.removesuffix(".part")
    expected = re.search(r"[-_]([0-9a-f]{6,64})\.[A-Za-z0-9]+$", name)
    if not expected:
        return ""
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in ("md5", "sha256")}
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_SIZE):
            for digest in digests.values():
                digest.update(chunk)
    for kind, digest in digests.items():
        if digest.hexdigest().startswith(expected[1]):
            return kind
    raise CheckpointError(
        f"'{name}' is not the file its name says: its checksum begins with neither MD5 nor SHA-256 "
        f"'{expected[1]}' (found {digests['md5'].hexdigest()} and "
        f"{digests['sha256'].hexdigest()}); it was not kept"
    )


class _Download:
    """One file on its way.

    Attributes:
        part: what there is of it so far.
        version: a file with what the server calls this version, as parts of two do not fit.
    """

    def __init__(self, url: str, target: Path) -> None:
        self.url = url
        self.target = target
        self.part = target.with_name(target.name + ".part")
        self.version = target.with_name(target.name + ".version")

    def run(self) -> None:
        """Tries until the file is whole or several attempts in a row got no further."""
        logger.info("Downloading %s to %s", self.url, self.target)
        failures, furthest = 0, self._size()
        while problem := self._attempt():
            failures = 0 if self._size() > furthest else failures + 1
            furthest = max(furthest, self._size())
            if failures == ATTEMPTS:
                raise self._failed(problem)
            time.sleep(PAUSE)
        try:
            kind = check_digest(self.part)
        except CheckpointError:
            self._forget()
            raise
        with open(self.part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.part, self.target)
        self.version.unlink(missing_ok=True)
        logger.info("Downloaded %s%s", self.target, f", its {kind} is right" if kind else "")

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def _failed(self, problem: str) -> CheckpointError:
        return CheckpointError(
            f"cannot download '{self.url}' ({problem}); get the file by other means and put it at "
            f"'{self.target}'"
        )

    def _attempt(self) -> str:
        """Asks for what is missing. Returns what went wrong that trying again may mend, or ''."""
        request = urllib.request.Request(self.url, headers={"Accept-Encoding": "identity"})
        start = self._size()
        if start and self.version.exists():
            request.add_header("Range", f"bytes={start}-")
            # If it is another version by now, the server sends all of that.
            request.add_header("If-Range", self.version.read_text())
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return self._receive(response, start)
        except urllib.error.HTTPError as error:
            if error.code == 416:
                self._forget()  # a part longer than the file
            elif error.code < 500 and error.code not in (408, 429):
                raise self._failed(f"the server says {error.code} {error.reason}") from error
            return f"the server says {error.code} {error.reason}"
        except urllib.error.URLError as error:
            return str(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            return str(error) or type(error).__name__

    def _receive(self, response: http.client.HTTPResponse, start: int) -> str:
        headers = response.headers
        if headers.get_content_type() == "text/html":
            raise self._failed("the server sends a web page and no file")
        if response.status != 206 or not headers.get("Content-Range", "").startswith(
            f"bytes {start}-"
        ):
            start = 0
        tag = headers.get("ETag", "")
        # A weak tag may stand for different bytes.
        version = headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
        if not start:
            self._forget()
            if version:
                self.version.write_text(version)
        length = headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with (
            open(self.part, "ab" if start else "wb") as file,
            tqdm(
                total=total,
                initial=start,
                desc=self.target.name,
                unit="B",
                unit_scale=True,
                disable=None,  # shown on terminals only
            ) as bar,
        ):
            while chunk := response.read(CHUNK_SIZE):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and self._size() != total:
            return f"got {self._size()} of {total} bytes"
        return ""
