"""A hub for tests: a stand-in on this machine speaks the calls of the real one that are needed."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
import yaml

TOKEN = "hf_of_the_stand_in"


class Hub:
    """Repositories by name (`me/model`, `datasets/me/name`): whether each is private, and its files at
    each commit, the newest last.

    Attributes:
        lfs: Large files by their SHA-256, as they are uploaded before a commit.
        cards: What was validated.
    """

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.lfs: dict[str, bytes] = {}
        self.cards: list[str] = []
        self.address = ""

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> str:
        files = dict(self.commits[repo][-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.commits[repo].append(files)
        return self.name_of(repo, -1)

    def name_of(self, repo: str, index: int) -> str:
        """The SHA-1 of a commit; only their order matters here."""
        number = range(len(self.commits[repo]))[index]
        return hashlib.sha1(f"{repo} {number}".encode()).hexdigest()

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        names = {self.name_of(repo, index): index for index in range(len(self.commits[repo]))}
        index = names.get(revision, -1)
        return self.name_of(repo, index), self.commits[repo][index]


def card_problem(card: str) -> str:
    """What the hub would say against a card's head; empty if it is right."""
    head = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    if not head:
        return "the card has no head"
    facts = yaml.safe_load(head[1])
    if not isinstance(facts["library_name"], str):
        return '"library_name" must be a string'
    if not all(isinstance(tag, str) for tag in facts["tags"]):
        return '"tags" must be strings'
    if facts.get("license", "mit") not in ("mit", "apache-2.0", "cc-by-nc-4.0", "other"):
        return '"license" must be one of those that are known'
    return ""


class Handler(BaseHTTPRequestHandler):
    """Answers the calls of one client after the other."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(self.path.partition("?")[0])
        found = re.fullmatch(
            r"(?:/api)?/(?:models/)?((?:datasets/)?[^/]+/[^/]+?)(?:\.git/info)?(?:/([a-z-]+)/(.*))?",
            path,
        )
        if path == "/api/whoami-v2":
            self.answer(*((200, {"name": "me"}) if known else (401,)))
        elif path == "/api/validate-yaml":
            self.hub.cards.append(json.loads(body)["content"])
            problem = card_problem(self.hub.cards[-1])
            self.answer(400 if problem else 200, problem.encode() or {})
        elif path == "/api/repos/create" and known:
            self.create(json.loads(body))
        elif path.startswith("/lfs/"):
            self.hub.lfs[path.removeprefix("/lfs/")] = body
            self.answer(200)
        elif found is None:
            self.answer(404)
        elif found[1] not in self.hub.commits or (self.hub.private[found[1]] and not known):
            self.answer(401, X_Error_Code="RepoNotFound")
        else:
            name = (found[2] or "revision").replace("-", "_")
            getattr(self, f"do_{name}")(found[1], found[3] or "main", body)

    do_POST = do_PUT = do_HEAD = do_GET

    def create(self, wanted: dict[str, Any]) -> None:
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        exists = repo in self.hub.commits
        if not exists:
            self.hub.private[repo] = wanted.get("visibility", "public") == "private"
            self.hub.commits[repo] = [{}]
        self.answer(409 if exists else 200, {"url": f"{self.hub.address}/{repo}"})

    def do_preupload(self, repo: str, rest: str, body: bytes) -> None:
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = ["lfs" if path.endswith("safetensors") else "regular" for path in paths]
        files = [
            {"path": path, "uploadMode": mode, "shouldIgnore": False}
            for path, mode in zip(paths, modes, strict=True)
        ]
        self.answer(200, {"files": files})

    def do_lfs(self, repo: str, rest: str, body: bytes) -> None:
        objects = [
            each | {"actions": {"upload": {"href": f"{self.hub.address}/lfs/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def do_commit(self, repo: str, rest: str, body: bytes) -> None:
        name = self.hub.commit(repo, [json.loads(line) for line in body.splitlines()])
        url = f"{self.hub.address}/{repo}/commit/{name}"
        self.answer(200, {"commitUrl": url, "commitOid": name})

    def do_revision(self, repo: str, rest: str, body: bytes) -> None:
        self.answer(
            200, {"id": repo.removeprefix("datasets/"), "sha": self.hub.files(repo, rest)[0]}
        )

    def do_tree(self, repo: str, rest: str, body: bytes) -> None:
        """What is directly in a folder; all that is below it if asked for."""
        revision, _, folder = rest.partition("/")
        _, files = self.hub.files(repo, revision)
        below = f"{folder}/" if folder else ""
        inside = [path for path in files if path.startswith(below)]
        if not inside and folder:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        names = {path.removeprefix(below).partition("/") for path in inside}
        deep = "recursive=true" in self.path.lower()
        entries = [
            self.entry(path, files) for path in inside if deep or "/" not in path[len(below) :]
        ]
        entries += [
            {"type": "directory", "path": f"{below}{name}", "oid": "0"}
            for name in sorted({name for name, slash, _ in names if slash and not deep})
        ]
        self.answer(200, entries)

    def do_paths_info(self, repo: str, rest: str, body: bytes) -> None:
        _, files = self.hub.files(repo, rest)
        wanted = parse_qs(body.decode())["paths"]
        self.answer(200, [self.entry(path, files) for path in wanted if path in files])

    @staticmethod
    def entry(path: str, files: dict[str, bytes]) -> dict[str, Any]:
        digest = hashlib.sha1(files[path]).hexdigest()
        return {"type": "file", "path": path, "size": len(files[path]), "oid": digest}

    def do_resolve(self, repo: str, rest: str, body: bytes) -> None:
        revision, _, file = rest.partition("/")
        name, files = self.hub.files(repo, revision)
        if file not in files:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=name)
            return
        etag = f'"{hashlib.sha256(files[file]).hexdigest()}"'
        self.answer(200, files[file], ETag=etag, X_Repo_Commit=name)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    handler = type("Handler", (Handler,), {"hub": Hub()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield handler.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def python(hub: Hub, folder: Path, code: str, *words: object, **variables: str) -> Any:
    """Python that takes the stand-in for the hub: an address is read when the library loads."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "hf"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",  # the stand-in has the older way of large files
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **variables,
    }
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
