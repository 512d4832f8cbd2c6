"""Downloading one large file: resumable and checked."""

from __future__ import annotations

import hashlib
import http
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vcsf_cli import __version__
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.narrate import Progress

_CHUNK = 2**20
SECONDS_WITHOUT_DATA = 60
_MOST_DIGITS = 15
"""Of the length of a file that a server may send."""
_ADDRESS = ("http://", "https://")


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the web alone; urllib's own would follow one to ftp too."""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        newurl: str = arguments[-1]
        if not newurl.lower().startswith(_ADDRESS):
            raise DataError(f"{arguments[0].full_url} leads to {newurl}, which is not on the web")
        return super().redirect_request(*arguments)


class _BrokenOff(Exception):
    """The connection failed; another one may get further."""


def download(url: str, path: Path, sha256: str = "") -> None:
    """Download a file. It gets its name when its size, and its check sum if known, are right.

    Connections that break are replaced as long as each gets further than the ones before. An
    interrupted call leaves `<name>.partial`, and the next one continues it.

    Raises:
        InputError: If `url` is not an address.
        DataError: If the server refuses, breaks off, or sends something else.
    """
    partial = path.with_name(f"{path.name}.partial")
    furthest, reason = -1, "the server sent less than it promised"
    while (size := file_size(partial)) > furthest:
        furthest = size
        try:
            if _continue_file(url, partial):
                _check(url, partial, sha256)
                partial.replace(path)
                return
        except urllib.error.HTTPError as error:
            raise DataError(
                f"{url} can't be downloaded: the server says {error.code} {error.reason}"
            ) from error
        except _BrokenOff as error:
            reason = str(error)
        except OSError as error:
            raise DataError(
                f"{partial} can't be written: {error.strerror}", "make room there"
            ) from error
    raise DataError(
        f"{url} can't be downloaded: {reason}" + (f"; {size:,} bytes are here" if size else "")
    )


def file_size(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def _continue_file(url: str, partial: Path) -> bool:
    """Download from where a partial file ends; returns whether it is then whole."""
    have = file_size(partial)
    try:
        response = _connect(url, have)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
            return True  # an earlier call was killed when it had everything
        partial.unlink()  # longer than the file is now: another file was begun
        return _continue_file(url, partial)
    with response:
        if have and response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server sends everything from the start
        length = response.headers.get("Content-Length")
        if length and not (length.isascii() and length.isdecimal() and len(length) <= _MOST_DIGITS):
            raise DataError(
                f"{url} can't be downloaded: the server says that it is {length[:50]!r} bytes long"
            )
        total = have + int(length) if length else None
        with (
            partial.open("ab" if have else "wb") as file,
            Progress(
                (total or 0) // _CHUNK, "MiB", f"downloading {partial.stem}", have // _CHUNK
            ) as progress,
        ):
            for chunk in _chunks(response):
                file.write(chunk)
                progress.advance(file.tell() // _CHUNK - progress.done)
    return total is None or file_size(partial) == total


def _connect(url: str, begin: int) -> http.client.HTTPResponse:
    """Request a file from a byte on.

    Raises:
        InputError: If `url` is not an address.
        _BrokenOff: If there is no answer.
        urllib.error.HTTPError: If the server refuses.
    """
    if not url.lower().startswith(_ADDRESS):
        raise InputError(f"{url} is not an address to download from", "it begins with https://")
    headers = {
        "User-Agent": f"vcsf/{__version__}",
        **({"Range": f"bytes={begin}-"} if begin else {}),
    }
    try:
        request = urllib.request.Request(url, headers=headers)
        opener = urllib.request.build_opener(_WebRedirects)
        response: http.client.HTTPResponse = opener.open(request, timeout=SECONDS_WITHOUT_DATA)
    except urllib.error.HTTPError:
        raise
    except (http.client.InvalidURL, ValueError) as error:
        raise InputError(
            f"{url} is not an address to download from: {error}", "it begins with https://"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(getattr(error, "reason", None) or error) from error
    return response


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The data of a response.

    Raises:
        _BrokenOff: If the connection fails.
    """
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenOff(error) from error
        if not chunk:
            return
        yield chunk


def _check(url: str, path: Path, sha256: str) -> None:
    """Compare a file's check sum with the known one, if any.

    Raises:
        DataError: If they differ; the file is deleted.
    """
    if not sha256:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.unlink()
        raise DataError(
            f"{url} is not the file that was expected: its SHA-256 is {found}, not {sha256}"
        )
