"""Buckets for tests: a local S3 server that fails when it is asked to, or a folder behind `file://`
where none is installed. With VCSF_BUCKET=gs it is an emulator of Google's."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest

WITH_FAILURES = "pip install 'vcsf[s3]' moto flask flask-cors"
KIND = os.environ.get("VCSF_BUCKET", "")
"""`gs` (it needs `pip install 'vcsf[gs]' gcp-storage-emulator`), else S3 or a folder."""


@dataclass
class Bucket:
    """A bucket.

    Args:
        address: Where it is.
        faults: Given the method and path of a request, what fails about it: `503`, `cut` or `hang`;
            empty: nothing. Only a server has faults.
        requests: How often each method and path was asked for.
    """

    address: str
    faults: Callable[[str, str], str] = lambda method, path: ""
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def can_fail(self) -> bool:
        return self.address.startswith("s3://")

    def write(self, name: str, content: bytes) -> None:
        """Write a file into the bucket."""
        filesystem, path = fsspec.core.url_to_fs(f"{self.address}/{name}")
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(path, content)

    def delete(self, name: str) -> None:
        """Delete a folder of the bucket."""
        filesystem, path = fsspec.core.url_to_fs(f"{self.address}/{name}")
        filesystem.rm(path, recursive=True)

    def upload(self, folder: Path, to: str) -> str:
        """Copy a folder into the bucket; returns its address there."""
        filesystem, path = fsspec.core.url_to_fs(f"{self.address}/{to}")
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            target = f"{path}/{file.relative_to(folder).as_posix()}"
            filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
            filesystem.put_file(str(file), target)
        return f"{self.address}/{to}"

    def serve(self, app: Any) -> Callable[..., Iterable[bytes]]:
        """A WSGI application that fails as `faults` says."""

        def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            self.requests[method, path] += 1
            fault = self.faults(method, path)
            if fault == "503":
                body = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
                start("503 Slow Down", [("Content-Length", str(len(body)))])
                return [body]
            if fault == "hang":
                self.over.wait()
            answered: Iterable[bytes] = app(environ, start)
            if fault == "cut":  # fewer bytes than were promised, then the connection ends
                return [b"".join(answered)[:100]]
            return answered

        return answer


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, with a cache of its own: of S3 where a server is installed, else a folder."""
    monkeypatch.setenv("VCSF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VCSF_CACHE_SIZE", raising=False)
    if KIND == "gs":
        with gs_bucket(monkeypatch) as found:
            yield found
    elif all(importlib.util.find_spec(name) for name in ("s3fs", "moto", "flask_cors")):
        with s3_bucket(monkeypatch) as found:
            yield found
    else:
        (tmp_path / "bucket").mkdir()
        yield Bucket(f"file://{tmp_path / 'bucket'}")


@contextlib.contextmanager
def s3_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments: Any) -> None:
            pass

    server = make_server("127.0.0.1", 0, None, threaded=True, request_handler=Quiet)
    name = f"bucket-{server.server_port}"  # what is in moto's buckets stays there
    found = Bucket(f"s3://{name}")
    server.app = found.serve(DomainDispatcherApplication(create_backend_app))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {
        "endpoint_url": f"http://127.0.0.1:{server.server_port}",
        "key": "key",
        "secret": "secret",
        "default_block_size": 4096,  # so that a small file is fetched in parts, as a large one is
        # s3fs tries again itself; botocore beneath it would multiply the tries.
        "config_kwargs": {"read_timeout": 0.5, "retries": {"total_max_attempts": 1}},
    }
    monkeypatch.setenv("FSSPEC_S3", json.dumps(settings))  # for processes that are started
    monkeypatch.setitem(fsspec.config.conf, "s3", settings)
    try:
        fsspec.filesystem("s3").mkdir(name)
        yield found
    finally:
        found.over.set()
        server.shutdown()


@contextlib.contextmanager
def gs_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    server.start()
    address = "http://{}:{}".format(*server._api._httpd.server_address)
    settings = {"endpoint_url": address, "token": "anon"}
    monkeypatch.setenv("FSSPEC_GS", json.dumps(settings))  # for processes that are started
    monkeypatch.setitem(fsspec.config.conf, "gs", settings)
    # Otherwise gcsfs asks for the kind of the bucket in a way that the emulator doesn't know.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        yield Bucket("gs://bucket")
    finally:
        server.stop()
