"""Files in object stores and on web servers, read through fsspec: `s3://`, `gs://`, `https://` …

Only URLs import fsspec; paths of files never do.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ..errors import ConfigError, StorageError

_T = TypeVar("_T")

# Seconds between the attempts to read, if a server cannot be reached or fails.
RETRY_DELAYS = (1.0, 4.0, 15.0)

# Two letters at least, as 'C:' is a drive of Windows. fsspec chains protocols: simplecache::s3://
_URL = re.compile(r"(?:[a-z][a-z0-9]+::)*[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Protocols whose paths start with the name of a bucket or container.
_IN_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
# HTTP's answers that another attempt will not change, and those about one object alone.
_REFUSED, _FORBIDDEN = range(400, 500), 403
_TRY_LATER = (408, 425, 429)  # timeout, too early, too many requests


def is_url(path: str | os.PathLike[str]) -> bool:
    r"""Whether a path is a URL, such as `s3://bucket/photo.jpg`; `C:\photo.jpg` is not."""
    return isinstance(path, str) and _URL.match(path) is not None


def absolute(path: str | os.PathLike[str]) -> str:
    """An absolute path, with the home folder for `~`; URLs are absolute already."""
    return str(path) if is_url(path) else str(Path(expand_home(path)).absolute())


def expand_home(path: str | os.PathLike[str]) -> str:
    """A path with the home folder for a leading `~` or `~user`.

    Raises:
        ConfigError: there is no such folder.
    """
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ConfigError(
            f"there is no home folder for '{path}'; write './{path}' if this is its name"
        ) from error


def join(folder: str | os.PathLike[str], name: str | os.PathLike[str]) -> str:
    """The path or URL of a file in a folder."""
    if is_url(folder):
        return f"{str(folder).rstrip('/')}/{os.fspath(name)}"
    return str(Path(folder) / name)


def url_path(url: str) -> PurePosixPath:
    """The path of a URL after its protocol, with the bucket or host, and without a query."""
    return PurePosixPath(url.rpartition("://")[2].partition("?")[0])


def check_url(url: str) -> None:
    """Checks that the packages that a URL needs are installed, before anything slow starts.

    Raises:
        ConfigError: one is not, or the protocol is unknown.
    """
    _filesystem(url)


def read_url(url: str, size: int | None = None) -> bytes:
    """Reads a file, or only its first bytes.

    Args:
        url: in one request, for which fsspec finds the credentials.
        size: number of bytes; default: all.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: access to the file is denied.
        StorageError: the server fails or cannot be reached, also after `RETRY_DELAYS`; or it
            refuses the credentials.
        ConfigError: as `check_url`.
    """
    return _attempt(url, lambda files, path: files.cat_file(path, end=size))


def find_urls(url: str, extensions: Sequence[str], *, recursive: bool = False) -> list[str]:
    """The files in a folder, or those that match a pattern with `*`, sorted.

    Args:
        url: of a folder; or a pattern, where `**` matches any folders.
        extensions: lower-case file extensions that count in a folder.
        recursive: also files in the folders below it.

    Raises:
        StorageError, ConfigError: as `read_url`.
    """

    def search(files: Any, path: str) -> list[str]:
        if "*" in path:
            found = files.glob(path)
        elif recursive:
            found = files.find(path)
        else:
            listed = files.ls(path, detail=True)
            found = [each["name"] for each in listed if each["type"] == "file"]
        urls = [files.unstrip_protocol(name) for name in found]
        chain = url[: url.rfind("::") + 2] if "::" in url else ""
        return [chain + each.removeprefix(chain) for each in urls]

    try:
        found = _attempt(url, search)
    except FileNotFoundError:
        return []
    if "*" not in url:
        found = [each for each in found if url_path(each).suffix.lower() in extensions]
    return sorted(found)


def _attempt(url: str, action: Callable[[Any, str], _T]) -> _T:
    """Calls a function with the file system and its path, again after a failure of the server."""
    for delay in (*RETRY_DELAYS, None):
        try:
            return action(*_filesystem(url))
        except (ConfigError, StorageError):
            raise
        except (FileNotFoundError, IsADirectoryError) as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from error
        # Each file system has exceptions of its own.
        except Exception as error:
            status = getattr(error, "status", 0)
            if status == _FORBIDDEN or _is_denied(error):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), url) from error
            is_final = isinstance(error, (PermissionError, ValueError, TypeError)) or (
                status in _REFUSED and status not in _TRY_LATER
            )
            if is_final or delay is None:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise StorageError(
                    f"cannot read '{url}' ({reason}); this is no fault of the file: check the "
                    "network, the server and the credentials, and give the command again, a "
                    "training with '--resume'"
                ) from error
            time.sleep(delay)
    raise AssertionError("the last attempt returns or raises")


def _is_denied(error: Exception) -> bool:
    """Whether access to one object is denied, rather than credentials refused or expired."""
    if not isinstance(error, PermissionError):
        return False
    # S3 gives a code; a file on this machine, as in file://, an errno.
    response = getattr(error.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code", "AccessDenied")
    return code in ("AccessDenied", "403", "Forbidden")


def _filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    It is asked for each time: fsspec keeps one per process, and one of before a fork hangs.

    Raises:
        ConfigError: a package is missing, or the protocol is unknown.
    """
    try:
        from fsspec.core import url_to_fs
        from fsspec.registry import known_implementations
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"reading '{url}' needs fsspec; install it with 'pip install \"mvit_det[cloud]\"'"
        ) from error
    protocol, _, path = url.rpartition("::")[2].partition("://")
    protocol = protocol.lower()
    if protocol in _IN_BUCKETS and (not path or path.startswith("/")):
        raise ConfigError(
            f"'{url}' names no bucket; write it as '{protocol}://BUCKET/{path.lstrip('/')}'"
        )
    try:
        # s3fs would ask for the size of each file first, to read large ones in parallel.
        options = {protocol: {"max_concurrency": 1}} if protocol in ("s3", "s3a") else {}
        return url_to_fs(url, **options)
    except ImportError as error:
        implementation = known_implementations.get(protocol, {})
        package = implementation.get("class", "fsspec").partition(".")[0]
        if package == "fsspec":
            package = '"mvit_det[cloud]"' if protocol in ("http", "https") else '"fsspec[full]"'
        raise ConfigError(
            f"reading '{url}' needs a package that is not installed ({error}); install it with "
            f"'pip install {package}'"
        ) from error
    except ValueError as error:
        raise ConfigError(f"cannot read '{url}' ({error}); check its protocol") from error
