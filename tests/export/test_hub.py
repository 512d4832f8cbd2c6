"""Exports on a hub: a stand-in on this machine speaks the calls of the real one that are needed."""

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

import pandas as pd
import pytest
import yaml
from conftest import called
from trained import copy_run

from vcsf_cli.cli import main

TOKEN = "hf_of_the_stand_in"


class Hub:
    """Repositories by name: whether each is private, and its files at each commit, the newest last.

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
        path = self.path.partition("?")[0]
        found = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+?)(?:\.git/info)?/(\w+)/(.*)", path)
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
            getattr(self, f"do_{found[2]}")(found[1], found[3], body)

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

    def do_tree(self, repo: str, rest: str, body: bytes) -> None:
        _, files = self.hub.files(repo, rest)
        sizes = {path: len(content) for path, content in files.items()}
        entries = [
            {"type": "file", "path": path, "size": size, "oid": "0"} for path, size in sizes.items()
        ]
        self.answer(200, entries)

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


PUSH_AND_LOAD = """
import sys
from pathlib import Path
import torch
from vcsf_cli import load_encoder
from vcsf_cli.cli import main
from vcsf_cli.errors import InputError
assert main(["export", "--push", "hf:me/clips", *sys.argv[1:]]) == 0
(folder,) = Path("exports").iterdir()
here, there = load_encoder(folder), load_encoder("hf:me/clips")
assert here.digest == there.digest
assert all(map(torch.equal, here.state_dict().values(), there.state_dict().values()))
measured = ["retrieve", "synthetic", *sys.argv[1:], "--from"]
assert main([*measured, "hf:me/clips"]) == 0
assert main([*measured, str(folder)]) == 0
try:
    load_encoder("hf:me/nothing")
except InputError as error:
    print("refused:", error.message)
"""


def test_a_model_is_pushed_and_loaded_again(
    hub: Hub, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    copy_run(tiny_run, tmp_path)
    hub.private["me/clips"], hub.commits["me/clips"] = True, [{"model.onnx": b"", "notes": b""}]
    done = python(hub, tmp_path, PUSH_AND_LOAD, "--data", tiny_data)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "exports").iterdir()
    pushed = hub.commits["me/clips"][-1]
    # What an earlier export left is gone; what somebody else put there stays.
    assert set(pushed) == {path.name for path in folder.iterdir()} | {"notes"}
    assert pushed["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert b'load_encoder("hf:me/clips")' in pushed["README.md"]
    assert set(hub.cards) == {pushed["README.md"].decode()}
    assert f"pushed: {hub.address}/me/clips" in done.stderr
    assert "refused: hf:me/nothing: " in done.stdout
    assert f"export: me/clips, of {tiny_run.name}" in done.stderr
    tables = [pd.read_csv(path) for path in (tmp_path / "runs").glob("*/retrieve/*/results.csv")]
    there, here = (table.drop(columns="run") for table in tables)
    pd.testing.assert_frame_equal(there, here)
    assert set(there["training_data"]) == {"same"}


def test_a_repository_is_private_and_a_card_is_validated(
    hub: Hub, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    code = """
import sys
from pathlib import Path
from vcsf_cli.errors import VcsfError
from vcsf_cli.export.hub import check_login, push
folder = Path(sys.argv[1])
push(folder, "me/mine", False)
push(folder, "me/ours", True)
card = folder / "README.md"
card.write_text(card.read_text().replace("---\\n", "---\\nlicense: none of yours\\n", 1))
for attempt in (lambda: push(folder, "me/other", False), lambda: check_login("me/other")):
    try:
        attempt()
        print("done")
    except VcsfError as error:
        print(error.message)
"""
    run = copy_run(tiny_run, tmp_path)
    called("export", "--from", run, "--data", tiny_data, "--out", "clips", cwd=tmp_path)
    done = python(hub, tmp_path, code, tmp_path / "clips")
    assert done.returncode == 0, done.stderr
    assert hub.private == {"me/mine": True, "me/ours": False}
    assert done.stderr.count("names no licence") == 1  # of the public one
    refused, logged_in = done.stdout.splitlines()
    assert refused.startswith('the hub finds the model card wrong: "license" must be')
    assert logged_in == "done"


def test_a_dry_run_lists_the_files_and_asks_no_hub(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = copy_run(tiny_run, tmp_path)
    words = ("export", "--from", run, "--data", tiny_data, "--push", "hf:me/clips", "--dry-run")
    listed = [line.split()[0] for line in called(*words, cwd=tmp_path).stdout.splitlines()]
    (folder,) = (tmp_path / "exports").iterdir()
    names = sorted(path.name for path in folder.iterdir())
    assert "README.md" in names
    assert listed[-len(names) :] == [f"hf:me/clips/{name}" for name in names]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--push", "me/clips"], "`me/clips` is not a repository; write hf:USER/NAME"),
        (["--public"], "--public and --dry-run are for --push"),
    ],
)
def test_options_of_a_push_that_make_no_sense_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *words]) == 2
    assert said in capsys.readouterr().err
