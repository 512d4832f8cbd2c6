"""Downloading one large file: with progress, going on after a break, and checked."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from vcsf_cli import __version__
from vcsf_cli.errors import DataError
from vcsf_cli.narrate import Progress

CHUNK = 2**20
SECONDS_WITHOUT_DATA = 60
ATTEMPTS = 5


def download(url: str, path: Path, sha256: str = "") -> None:
    """Download a file; it gets its name when it is complete and its size, and check sum if known, are right.

    What an interrupted call got lies in `<name>.partial`, and the next call goes on from there.

    Raises:
        DataError: If the server refuses, breaks off again and again, or sends something else.
    """
    partial = path.with_name(f"{path.name}.partial")
    before = -1
    for _ in range(ATTEMPTS):
        size = partial.stat().st_size if partial.exists() else 0
        if size == before:
            break  # the last attempt got nothing
        before = size
        try:
            if continue_file(url, partial):
                check(url, partial, sha256)
                partial.replace(path)
                return
        except urllib.error.HTTPError as error:
            raise DataError(f"{url} can't be downloaded: the server says {error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            if not partial.exists():
                raise DataError(f"{url} can't be downloaded: {reason}") from error
        except OSError as error:
            raise DataError(f"{partial} can't be written: {error.strerror}", "make room there") from error
    raise DataError(f"{url} breaks off: {partial.stat().st_size if partial.exists() else 0:,} bytes came")


def continue_file(url: str, partial: Path) -> bool:
    """Download from where a partial file ends; whether the whole file is there then."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": f"vcsf/{__version__}", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=SECONDS_WITHOUT_DATA)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            partial.unlink()  # longer than the file is now: another file was begun
            return continue_file(url, partial)
        raise
    with response:
        if have and response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server sends everything from the start
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            partial.open("ab" if have else "wb") as file,
            Progress((total or 0) // CHUNK, "MiB", f"downloading {partial.stem}", have // CHUNK) as progress,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                progress.advance(1)
    return total is None or partial.stat().st_size == total


def check(url: str, path: Path, sha256: str) -> None:
    """Compare a file's check sum with the known one.

    Raises:
        DataError: If they differ; the file is deleted.
    """
    if not sha256:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.unlink()
        raise DataError(f"{url} is not the file that was expected: its SHA-256 is {found}, not {sha256}")
