"""What tests of dataset listings need: empty files, archives, a program that unpacks, and a server
on this machine."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from vcsf_cli.contracts import Video


def touch(root: Path, *names: str) -> Path:
    """Make empty files below a folder: listing doesn't decode."""
    for folder in {(root / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.close(os.open(root / name, os.O_CREAT | os.O_WRONLY))
    return root


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Make files below a folder by name."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def zipped(files: Mapping[str, str | bytes] | Iterable[str]) -> bytes:
    """A .zip of files by name, empty ones where only names are given."""
    contents = files if isinstance(files, Mapping) else dict.fromkeys(files, b"")
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return memory.getvalue()


def tarred(*members: tuple[str, str, str | bytes]) -> bytes:
    """A tar of members: a name, a kind (`file`, `link`, `hard link`, `fifo` or `folder`), and
    content or target."""
    kinds = {
        "file": tarfile.REGTYPE,
        "link": tarfile.SYMTYPE,
        "hard link": tarfile.LNKTYPE,
        "fifo": tarfile.FIFOTYPE,
        "folder": tarfile.DIRTYPE,
    }
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kinds[kind]
            if isinstance(content, str):
                member.linkname = content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return memory.getvalue()


def by_name(videos: Iterable[Video]) -> dict[str, Video]:
    """Videos by name."""
    return {video.name: video for video in videos}


def parts(videos: Iterable[Video], split: int = 1) -> dict[str, str]:
    """Part in a split by name."""
    return {video.name: video.split[split - 1] for video in videos}


UNAR = f"""#!{sys.executable}
import sys, tarfile, zipfile
archive, folder = sys.argv[-1], sys.argv[sys.argv.index("-output-directory") + 1]
if tarfile.is_tarfile(archive):
    tarfile.open(archive).extractall(folder, filter="fully_trusted")
else:
    zipfile.ZipFile(archive).extractall(folder)
"""


def install_unar(folder: Path, text: str = UNAR) -> Path:
    """A program `unar` that unpacks a .zip or tar whatever its name's ending is, as the real one
    does, and makes every link that it finds in a tar."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "unar").write_text(text)
    (folder / "unar").chmod(0o755)
    return folder


class Site:
    """Files on a server of this machine.

    Args:
        files: Their bytes by name.
        ranges: Whether the server can send a part of a file.
    """

    def __init__(self, files: dict[str, bytes], ranges: bool) -> None:
        self.files, self.ranges = files, ranges
        self.address = ""
        self.breaks: list[int] = []
        """Of the next answers: after how many bytes each breaks off."""
        self.stalls = False
        """Whether an answer that breaks off keeps its connection open."""
        self.requests: list[tuple[str, str]] = []
        """Name and `Range` of every request."""
        self.redirects: dict[str, str] = {}
        """Addresses that names lead to."""
        self.length: str | None = None
        """What answers say of their length; None: the truth."""
        self.closing = threading.Event()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a GET request."""
        name, wanted = handler.path.rpartition("/")[2], handler.headers.get("Range", "")
        self.requests.append((name, wanted))
        if name in self.redirects:
            handler.send_response(302)
            handler.send_header("Location", self.redirects[name])
            handler.end_headers()
            return
        body = self.files.get(name)
        if body is None:
            handler.send_error(404)
            return
        begin = (
            int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        )
        if begin and begin >= len(body):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if begin else 200)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        handler.send_header("Content-Length", self.length or str(len(body) - begin))
        handler.end_headers()
        end = begin + self.breaks.pop(0) if self.breaks else len(body)
        with suppress(ConnectionError):
            handler.wfile.write(body[begin:end])
            handler.wfile.flush()
        if self.stalls and end < len(body):
            self.closing.wait(60)


@contextmanager
def served(files: dict[str, bytes], ranges: bool = True) -> Iterator[Site]:
    """A server with files, on a free port of this machine."""
    site = Site(files, ranges)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_port}/files"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
