"""Downloading from a server that breaks off, forgets, lies or is not there."""

from __future__ import annotations

import hashlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listings import Site, served
from vcsf_plugins.datasets import download as module
from vcsf_plugins.datasets.download import download

from vcsf_cli.errors import DataError, InputError

BODY = bytes(range(256)) * 12_000
"""3 MB, more than one piece of a download."""


@pytest.fixture
def site() -> Iterator[Site]:
    with served({"a.zip": BODY}) as site:
        yield site


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "a.zip"


def partial(target: Path) -> Path:
    return target.with_name("a.zip.partial")


def test_a_file_comes_whole_and_its_progress_is_told(
    site: Site, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(f"{site.address}/a.zip", target, hashlib.sha256(BODY).hexdigest())
    assert target.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["a.zip"]
    output = capsys.readouterr()
    assert output.out == ""
    assert "downloading a.zip 2/2 MiB" in output.err


def test_a_download_goes_on_where_the_server_broke_off(site: Site, target: Path) -> None:
    site.breaks = [100_000, 1, 2_000_000, 7, 7, 7, 7]
    download(f"{site.address}/a.zip", target, hashlib.sha256(BODY).hexdigest())
    assert target.read_bytes() == BODY
    begins = [100_000, 100_001, 2_100_001, 2_100_008, 2_100_015, 2_100_022, 2_100_029]
    assert site.requests == [("a.zip", ""), *(("a.zip", f"bytes={begin}-") for begin in begins)]


def test_the_next_call_goes_on_where_the_last_one_stopped(site: Site, target: Path) -> None:
    site.breaks = [1000, 0]
    with pytest.raises(DataError, match="1,000 bytes are here"):
        download(f"{site.address}/a.zip", target)
    assert not target.exists()
    assert partial(target).read_bytes() == BODY[:1000]
    download(f"{site.address}/a.zip", target)
    assert target.read_bytes() == BODY
    assert site.requests[-1] == ("a.zip", "bytes=1000-")
    assert not partial(target).exists()


def test_a_server_that_ignores_ranges_is_read_from_the_start(target: Path) -> None:
    with served({"a.zip": BODY}, ranges=False) as site:
        site.breaks = [1000, 2_000_000]
        download(f"{site.address}/a.zip", target)
    assert target.read_bytes() == BODY
    assert len(site.requests) == 3


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_never_sends_everything_is_given_up(target: Path, ranges: bool) -> None:
    with served({"a.zip": BODY}, ranges) as site:
        site.breaks = [1000] + [0 if ranges else 1000] * 100
        with pytest.raises(DataError, match="sent less than it promised; 1,000 bytes are here"):
            download(f"{site.address}/a.zip", target)
    assert len(site.requests) == 2
    assert not target.exists()


def test_a_connection_that_falls_silent_is_replaced(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_WITHOUT_DATA", 2.0)
    site.breaks, site.stalls = [2_000_000], True
    download(f"{site.address}/a.zip", target)
    assert target.read_bytes() == BODY
    assert len(site.requests) == 2


def test_a_wrong_check_sum_leaves_nothing_and_the_right_file_can_follow(
    site: Site, target: Path
) -> None:
    right = hashlib.sha256(BODY).hexdigest()
    site.files["a.zip"] = BODY[::-1]
    with pytest.raises(DataError) as caught:
        download(f"{site.address}/a.zip", target, right)
    assert right in caught.value.message
    assert hashlib.sha256(BODY[::-1]).hexdigest() in caught.value.message
    assert list(target.parent.iterdir()) == []
    site.files["a.zip"] = BODY
    download(f"{site.address}/a.zip", target, right)
    assert target.read_bytes() == BODY


def test_what_was_begun_from_a_longer_file_is_thrown_away(site: Site, target: Path) -> None:
    partial(target).write_bytes(bytes(len(BODY) + 1))
    download(f"{site.address}/a.zip", target)
    assert target.read_bytes() == BODY
    assert [wanted for _, wanted in site.requests] == [f"bytes={len(BODY) + 1}-", ""]


def test_a_call_that_was_killed_with_everything_there_downloads_nothing_again(
    site: Site, target: Path
) -> None:
    partial(target).write_bytes(BODY)
    download(f"{site.address}/a.zip", target, hashlib.sha256(BODY).hexdigest())
    assert target.read_bytes() == BODY
    assert [wanted for _, wanted in site.requests] == [f"bytes={len(BODY)}-"]


def test_a_refusal_is_told_with_the_address_and_at_once(site: Site, target: Path) -> None:
    with pytest.raises(DataError, match="404 Not Found") as caught:
        download(f"{site.address}/b.zip", target)
    assert f"{site.address}/b.zip" in caught.value.message
    assert len(site.requests) == 1
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("have", [0, 5])
def test_a_server_that_is_not_there_is_told_with_the_reason(target: Path, have: int) -> None:
    with served({}) as site:
        pass
    if have:
        partial(target).write_bytes(BODY[:have])
    with pytest.raises(DataError, match="refused"):
        download(f"{site.address}/a.zip", target)
    assert partial(target).exists() == bool(have)


@pytest.mark.parametrize(
    "address",
    [
        "files/a.zip",
        "ftp://127.0.0.1/a.zip",
        "file:///etc/hostname",
        "http://127.0.0.1:port/a.zip",
        "http:// /a.zip",
    ],
)
def test_what_is_no_address_is_a_mistake_of_the_command_line(target: Path, address: str) -> None:
    with pytest.raises(InputError, match="is not an address"):
        download(address, target)


@pytest.mark.parametrize("leads_to", ["ftp://127.0.0.1:{port}/a.zip", "file:///etc/hostname"])
def test_a_redirect_that_leaves_the_web_is_not_followed(
    site: Site, target: Path, leads_to: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        site.redirects["a.zip"] = leads_to.format(port=other.getsockname()[1])
        with pytest.raises(DataError, match=r"is not (on the web|allowed)"):
            download(f"{site.address}/a.zip", target)
        other.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody has called
            other.accept()
    assert list(target.parent.iterdir()) == []


def test_a_redirect_on_the_web_is_followed(site: Site, target: Path) -> None:
    site.redirects["b.zip"] = f"{site.address}/a.zip"
    download(f"{site.address}/b.zip", target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "²", "9" * 5_000])
def test_a_length_that_is_no_number_is_told(site: Site, target: Path, length: str) -> None:
    site.length = length
    with pytest.raises(DataError, match="bytes long") as caught:
        download(f"{site.address}/a.zip", target)
    assert len(caught.value.message) < 300
    assert list(target.parent.iterdir()) == []


def test_a_place_that_can_not_be_written_to_is_told(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be written"):
        download(f"{site.address}/a.zip", tmp_path / "missing" / "a.zip")


@given(st.lists(st.integers(1, 400), max_size=8), st.booleans())
@settings(max_examples=25)
def test_breaks_never_change_the_file(breaks: list[int], ranges: bool) -> None:
    body = BODY[:1000]
    with tempfile.TemporaryDirectory() as folder, served({"a.zip": body}, ranges) as site:
        target = Path(folder) / "a.zip"
        site.breaks = list(breaks)
        for _ in range(len(breaks) + 1):
            try:
                download(f"{site.address}/a.zip", target)
                break
            except DataError:
                assert not target.exists()
        assert target.read_bytes() == body
