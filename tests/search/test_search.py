"""Searching a gallery: against a slow twin, in blocks, with ties; its files when it grows, shrinks
or is cut off; faiss."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vcsf_plugins.samplers import SlowFast

from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import InputError
from vcsf_cli.search import approximate, gallery
from vcsf_cli.search import exact as exact_search
from vcsf_cli.search.approximate import FaissIndex, load_faiss
from vcsf_cli.search.exact import Pair, search_exact
from vcsf_cli.search.gallery import (
    Gallery,
    GalleryWindows,
    find_recordings,
    group_by_clip,
    unit_vectors,
)

WIDTH = {"slow": 3, "fast": 4}
SAMPLER = SlowFast(frames=8, alpha=4)
PATHWAYS = ("slow", "fast", "both")
Found = dict[str, np.ndarray]


def measured(windows: GalleryWindows) -> GalleryWindows:
    """A gallery with the lengths of what its mean leaves of its features."""
    for name, values in windows.features.items():
        windows.lengths[name] = np.linalg.norm(values[windows.row] - windows.mean[name], axis=1)
    return windows


def windows_of(counts: list[int], seed: int = 0, scale: float = 1.0) -> GalleryWindows:
    """A gallery in memory, of recordings with so many windows each; its rows are shuffled."""
    rng = np.random.default_rng(seed)
    total = sum(counts)
    features = {
        name: (scale * rng.normal(size=(total, width)) + 2).astype(np.float32)
        for name, width in WIDTH.items()
    }
    mean = {
        name: values.mean(0, dtype=np.float64).astype(np.float32)
        for name, values in features.items()
    }
    recording = np.repeat(np.arange(len(counts)), counts)
    names = np.array([f"v{number}" for number in range(len(counts))], object)
    times = np.stack([np.arange(total), np.arange(total) + 1.0], axis=1)
    return measured(
        GalleryWindows(
            features,
            rng.permutation(total),
            recording,
            times,
            mean,
            {},
            names,
            np.full(len(counts), None, object),
        )
    )


def query_of(count: int, seed: int) -> Found:
    rng = np.random.default_rng(1000 + seed)
    return {
        name: (rng.normal(size=(count, width)) + 2).astype(np.float32)
        for name, width in WIDTH.items()
    }


def similarity_by_hand(
    query: Found, number: int, windows: GalleryWindows, window: int, pathway: str
) -> float:
    """The cosine after taking the gallery's mean away, or the mean of the two pathways' cosines."""
    cosines = []
    for name in ("slow", "fast") if pathway == "both" else (pathway,):
        mean = windows.features[name].astype(np.float64).mean(0)
        ours, theirs = (
            query[name][number] - mean,
            windows.features[name][windows.row[window]] - mean,
        )
        lengths = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
        cosines.append(
            float(ours @ theirs) / lengths if lengths > 1e-9 else 0.0
        )  # of one window, which is the mean
    return sum(cosines) / len(cosines)


def search_by_hand(
    query: Found, group: np.ndarray, windows: GalleryWindows, pathway: str, k: int
) -> list[list[float]]:
    """For every group the similarities of the k best recordings: every window with every window."""
    found = []
    for number in range(group[-1] + 1):
        best = [-2.0] * len(windows.names)
        for mine in np.flatnonzero(group == number):
            for window, recording in enumerate(windows.recording):
                best[recording] = max(
                    best[recording], similarity_by_hand(query, mine, windows, window, pathway)
                )
        found.append(sorted(best, reverse=True)[:k])
    return found


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=7),
    groups=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    k=st.integers(1, 8),
    pathway=st.sampled_from(PATHWAYS),
    blocks=st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 20)),
    seed=st.integers(0, 99),
)
def test_exact_equals_its_definition_whatever_the_blocks(
    counts: list[int],
    groups: list[int],
    k: int,
    pathway: str,
    blocks: tuple[int, int, int],
    seed: int,
) -> None:
    windows, query = windows_of(counts, seed), query_of(sum(groups), seed)
    group = np.repeat(np.arange(len(groups)), groups)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in zip(
            ("ROWS_AT_ONCE", "QUERIES_AT_ONCE", "SIMILARITIES_AT_ONCE"), blocks, strict=True
        ):
            patch.setattr(exact_search, name, size)
        pairs = search_exact(query, group, windows, pathway, k)
    expected = search_by_hand(query, group, windows, pathway, k)
    for number, similarities in enumerate(expected):
        ours = [pair for pair in pairs if pair.group == number]
        assert [pair.similarity for pair in ours] == pytest.approx(similarities, abs=1e-5)
        assert len({pair.recording for pair in ours}) == len(ours)
    for pair in pairs:
        assert group[pair.query] == pair.group
        assert windows.recording[pair.window] == pair.recording
        by_hand = similarity_by_hand(query, pair.query, windows, pair.window, pathway)
        assert pair.similarity == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("pathway", PATHWAYS)
@pytest.mark.parametrize("counts", [[2, 3, 1], [1]])
def test_the_table_of_best_similarities_by_hand(counts: list[int], pathway: str) -> None:
    """Of one window alone the mean is itself: it is similar to nothing."""
    windows, query = windows_of(counts), query_of(4, 0)
    group = np.array([0, 0, 1, 2])
    table = exact_search.best_similarities(query, group, windows, pathway)
    by_hand = search_by_hand(query, group, windows, pathway, len(counts))
    np.testing.assert_allclose(-np.sort(-table, axis=1), by_hand, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4096])
def test_equal_similarities_go_by_gallery_order_and_to_the_earliest_windows(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_search, "ROWS_AT_ONCE", rows)
    axes = np.eye(3, dtype=np.float32)
    count = 300
    windows = measured(
        GalleryWindows(
            {
                "slow": axes[
                    np.concatenate(
                        [[1, 0, 0] if number % 3 else [1, 1, 1] for number in range(count)]
                    )
                ]
            },
            np.arange(3 * count),
            np.repeat(np.arange(count), 3),
            np.zeros((3 * count, 2)),
            {"slow": np.zeros(3, np.float32)},
            {},
            np.arange(count).astype(object),
            np.full(count, None, object),
        )
    )
    query = {"slow": axes[[2, 0, 0]]}
    pairs = search_exact(query, np.zeros(3, np.int64), windows, "slow", 4)
    assert pairs == [Pair(0, number, 1.0, 1, 3 * number + 1) for number in (1, 2, 4, 5)]


def test_the_inner_product_of_both_is_the_mean_of_the_cosines() -> None:
    windows, query = windows_of([4, 3]), query_of(2, 0)
    both = unit_vectors(query, windows.mean, "both") @ windows.vectors("both", 0, 7).T
    single = [
        unit_vectors(query, windows.mean, p) @ windows.vectors(p, 0, 7).T for p in ("slow", "fast")
    ]
    np.testing.assert_allclose(both, np.mean(single, axis=0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(windows.vectors("both", 0, 7), axis=1), 1, rtol=1e-5)


def features_of(video: str, count: int) -> Found:
    """What a network would give of a video, the same whenever it is asked."""
    rng = np.random.default_rng(zlib.crc32(video.encode()))
    return {
        name: (rng.normal(size=(count, width)) + 5).astype(np.float32)
        for name, width in WIDTH.items()
    }


def dataset(*videos: str, sha256: str = "") -> Manifest:
    """A manifest of clips of 10, 11, 12... frames, 5 a second."""
    rows = [
        {
            "video": v,
            "label": None if v.startswith("x") else v[0],
            "frames": 10 + len(v) % 7,
            "fps": 5.0,
            "frame_times": None,
            "sha256": v + sha256,
        }
        for v in sorted(videos)
    ]
    return Manifest(Path("mine"), pd.DataFrame(rows), {})


def opened(folder: Path, manifest: Manifest, **key: Any) -> Gallery:
    folder.mkdir(exist_ok=True)
    return Gallery(folder, manifest, SAMPLER, {"checkpoint": "a"} | key)


def fill(folder: Path, manifest: Manifest, most: int = 1000, **key: Any) -> Gallery:
    """The gallery with features of all clips, or of `most` more than it had."""
    found = opened(folder, manifest, **key)
    for clip in found.missing()[:most]:
        video = found.videos[clip]
        found.add(clip, features_of(video, len(found.spans[int(found.frames[clip])])))
    found.flush()
    return found


def assert_same(ours: GalleryWindows, theirs: GalleryWindows) -> None:
    """The same windows with the same features in the same order, to the bit."""
    assert ours.names.tolist() == theirs.names.tolist()
    assert ours.labels.tolist() == theirs.labels.tolist()
    np.testing.assert_array_equal(ours.recording, theirs.recording)
    np.testing.assert_array_equal(ours.times, theirs.times)
    for name in WIDTH:
        np.testing.assert_array_equal(
            ours.read_rows(name, 0, len(ours)), theirs.read_rows(name, 0, len(theirs))
        )
        np.testing.assert_array_equal(ours.mean[name], theirs.mean[name])
        np.testing.assert_array_equal(ours.lengths[name], theirs.lengths[name])


def test_a_gallery_knows_windows_times_labels_and_mean(tmp_path: Path) -> None:
    windows = fill(tmp_path, dataset("bb.avi", "a.avi", "x.avi")).windows()
    assert windows.names.tolist() == ["a.avi", "bb.avi", "x.avi"]
    assert windows.labels.tolist() == ["a", "b", None]
    # 15 frames, windows of 8 with hop 3 and one that ends with the video; 16 frames of the second
    begins = [0, 3, 6, 7, 0, 3, 6, 8, 0, 3, 6, 7]
    assert windows.times[:, 0].tolist() == [begin / 5 for begin in begins]
    assert windows.times[:, 1].tolist() == [(begin + 8) / 5 for begin in begins]
    assert windows.recording.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for name in WIDTH:
        expected = np.concatenate([features_of(video, 4)[name] for video in windows.names])
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected)
        np.testing.assert_allclose(windows.mean[name], expected.mean(0), rtol=1e-6)
        np.testing.assert_array_equal(np.load(tmp_path / "mean.npz")[name], windows.mean[name])
        lengths = np.linalg.norm(expected - expected.mean(0), axis=1)
        np.testing.assert_allclose(windows.lengths[name], lengths, rtol=1e-5)


def test_windows_of_a_variable_rate_have_the_times_of_their_frames(tmp_path: Path) -> None:
    manifest = dataset("a.avi#000", "a.avi#001", "a.avi#002", "b.avi")
    frames = int(manifest.table["frames"][0])
    pause = np.concatenate([np.arange(10) / 5, 60 + np.arange(frames - 10) / 5]) + frames / 5
    late = 90 + np.arange(frames) / 5
    manifest.table["frame_times"] = pd.Series([None, pause, late, None], dtype=object)
    windows = fill(tmp_path, manifest).windows()
    spans = opened(tmp_path, manifest).spans[frames]
    first, second, third = np.split(windows.times[windows.recording == 0], 3)
    np.testing.assert_allclose(first, spans / 5)
    np.testing.assert_allclose(second[:, 0], pause[spans[:, 0]])
    np.testing.assert_allclose(second[:, 1], pause[spans[:, 1] - 1] + 0.2)
    assert (second[:, 1] - second[:, 0] > 50).any()
    np.testing.assert_allclose(third, 90 + spans / 5)


def test_clips_cut_from_one_recording_are_one_with_its_own_time() -> None:
    names = [f"long.avi#{number:03d}" for number in (*range(3), 999, 1000)]
    names, owner, begin = find_recordings(dataset(*names, "odd#12.avi", "b.avi#007", "a.avi"))
    assert names.tolist() == ["a.avi", "b.avi#007", "long.avi", "odd#12.avi"]
    assert owner.tolist() == [0, 1, 2, 2, 2, 2, 2, 3]
    seconds = (10 + len("long.avi#000") % 7) / 5
    # sorted as text, #1000 stands before #999
    assert begin.tolist() == pytest.approx(
        [0, 0, 0, seconds, 2 * seconds, 4 * seconds, 3 * seconds, 0]
    )


def test_an_update_equals_a_rebuild(tmp_path: Path) -> None:
    some, more = (
        dataset("b.avi", "dd.avi", "gone.avi"),
        dataset("a.avi", "b.avi", "c.avi", "dd.avi"),
    )
    fill(tmp_path / "grown", some).windows()
    before = np.load(tmp_path / "grown" / "slow.npy")
    grown = fill(tmp_path / "grown", more)
    assert_same(grown.windows(), fill(tmp_path / "anew", more).windows())
    after = np.load(tmp_path / "grown" / "slow.npy")
    np.testing.assert_array_equal(after[: len(before)], before)
    assert opened(tmp_path / "grown", more).missing().tolist() == []


def test_only_new_and_changed_clips_are_missing(tmp_path: Path) -> None:
    fill(tmp_path, dataset("a.avi", "b.avi"))
    assert opened(tmp_path, dataset("a.avi", "b.avi", "c.avi")).missing().tolist() == [2]
    assert opened(tmp_path, dataset("a.avi")).missing().tolist() == []
    changed = dataset("a.avi", "b.avi", sha256="other")
    assert opened(tmp_path, changed).missing().tolist() == [0, 1]
    assert len(fill(tmp_path, changed).windows()) == 8


def test_another_checkpoint_throws_all_away(tmp_path: Path) -> None:
    fill(tmp_path, dataset("a.avi", "b.avi"))
    (tmp_path / "lock").touch()
    assert opened(tmp_path, dataset("a.avi", "b.avi"), checkpoint="b").missing().tolist() == [0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.json", "lock"]


@settings(max_examples=40)
@given(
    whole=st.integers(0, 4),
    journal=st.integers(0, 400),
    rows=st.integers(0, 900),
    garbage=st.binary(max_size=40),
    tail=st.sampled_from([b"", b'{"video": "d.avi", "sha', b'{"video": 3}\n', b"[]\n"]),
)
def test_whatever_a_broken_call_left_the_next_one_ends_as_if_never_broken(
    tmp_path_factory: pytest.TempPathFactory,
    whole: int,
    journal: int,
    rows: int,
    garbage: bytes,
    tail: bytes,
) -> None:
    """The journal cut anywhere, rows that are too many or, after a power cut, too few."""
    manifest = dataset("a.avi", "b.avi", "c.avi", "dd.avi", "eee.avi")
    folder = tmp_path_factory.mktemp("broken")
    fill(folder, manifest, whole)
    if whole:
        with (folder / "windows.jsonl").open("r+b") as file:
            file.truncate(min(journal, (folder / "windows.jsonl").stat().st_size))
        with (folder / "slow.npy").open("r+b") as file:
            file.truncate(min(rows, (folder / "slow.npy").stat().st_size))
        for path, data in ((folder / "windows.jsonl", tail), (folder / "fast.npy", garbage)):
            with path.open("ab") as file:
                file.write(data)
    ours = fill(folder, manifest)
    assert_same(ours.windows(), fill(folder / "anew", manifest).windows())
    assert opened(folder, manifest).missing().tolist() == []
    shutil.rmtree(folder)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_search import dataset, features_of, opened
found = opened(Path(sys.argv[1]), dataset(*[f"{number:05d}.avi" for number in range(20000)]))
for clip in found.missing():
    found.add(clip, features_of(found.videos[clip], 3))
    found.flush()
"""


def test_a_killed_call_loses_nothing_that_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    script = [
        sys.executable,
        "-c",
        KILLED,
        str(folder),
        str(Path(__file__).parent),
        str(Path(__file__).parent.parent),
    ]
    process = subprocess.Popen(script, start_new_session=True)
    journal = folder / "windows.jsonl"
    while not (journal.is_file() and journal.read_bytes().count(b"\n") > 20):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = journal.read_bytes().count(b"\n")
    manifest = dataset(*[f"{number:05d}.avi" for number in range(written + 20)])
    found = opened(folder, manifest)
    assert len(found.missing()) == 20
    assert_same(fill(folder, manifest).windows(), fill(tmp_path / "anew", manifest).windows())


def test_the_mean_is_kept_and_follows_the_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = dataset("a.avi", "b.avi")
    kept = fill(tmp_path, manifest).windows().mean
    with monkeypatch.context() as patch:
        patch.setattr(gallery, "_mean_and_lengths", lambda *_: pytest.fail("it was computed again"))
        np.testing.assert_array_equal(
            opened(tmp_path, manifest).windows().mean["slow"], kept["slow"]
        )
    windows = opened(tmp_path, dataset("a.avi")).windows()
    np.testing.assert_allclose(
        windows.mean["slow"], features_of("a.avi", 4)["slow"].mean(0), rtol=1e-6
    )


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=8), size=st.integers(1, 9))
def test_windows_of_batches_are_gathered_by_clip(counts: list[int], size: int) -> None:
    owner = np.repeat(np.arange(len(counts)), counts)
    values = np.arange(len(owner), dtype=np.float32)[:, None]
    batches = [
        (owner[at : at + size], {"slow": values[at : at + size]})
        for at in range(0, len(owner), size)
    ]
    clips = 10 + np.arange(len(counts))
    found = list(group_by_clip(clips, batches))
    assert [clip for clip, _ in found] == clips.tolist()
    assert [len(features["slow"]) for _, features in found] == counts
    np.testing.assert_array_equal(
        np.concatenate([features["slow"] for _, features in found]), values
    )


def clustered(recordings: int, seed: int = 0) -> GalleryWindows:
    """A gallery as networks give: recordings lie in clusters, and their windows near each other."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, 16))
    own = centres[rng.integers(0, 40, recordings)] + 0.5 * rng.normal(size=(recordings, 16))
    values = (np.repeat(own, 4, axis=0) + 0.2 * rng.normal(size=(4 * recordings, 16)) + 3).astype(
        np.float32
    )
    features = {"slow": values[:, :8], "fast": values[:, 8:]}
    mean = {name: each.mean(0) for name, each in features.items()}
    recording = np.repeat(np.arange(recordings), 4)
    names = np.arange(recordings).astype(object)
    return measured(
        GalleryWindows(
            features,
            np.arange(4 * recordings),
            recording,
            np.zeros((4 * recordings, 2)),
            mean,
            {},
            names,
            names,
        )
    )


def part_of(windows: GalleryWindows, recordings: np.ndarray) -> GalleryWindows:
    """The gallery with some of its recordings only, whose rows stay where they are."""
    keep = np.isin(windows.recording, recordings)
    row = windows.row[keep]
    mean = {name: values[row].mean(0) for name, values in windows.features.items()}
    number = np.searchsorted(recordings, windows.recording[keep])
    names, times = windows.names[recordings], windows.times[keep]
    return measured(
        GalleryWindows(windows.features, row, number, times, mean, {}, names, windows.labels)
    )


def recall(index: FaissIndex, windows: GalleryWindows, pathway: str = "both", k: int = 10) -> float:
    """The share of the exact answers to queries of two windows that faiss finds, with the very same
    similarities."""
    rng = np.random.default_rng(9)
    chosen = rng.choice(len(windows), 60, replace=False)
    query = {
        name: (values[windows.row[chosen]] + 0.3 * rng.normal(size=(60, 8))).astype(np.float32)
        for name, values in windows.features.items()
    }
    group = np.arange(60) // 2
    right, found = search_exact(query, group, windows, pathway, k), index.search(query, group, k)
    assert len(found) == len(right)
    similarities = {(pair.group, pair.recording): pair.similarity for pair in right}
    same = [
        (pair.similarity, similarities[key])
        for pair in found
        if (key := (pair.group, pair.recording)) in similarities
    ]
    np.testing.assert_allclose(*np.array(same).T, rtol=1e-5)
    return len(same) / len(right)


@pytest.fixture(scope="module")
def large() -> GalleryWindows:
    return clustered(3000)


@pytest.mark.parametrize("pathway", PATHWAYS)
def test_faiss_finds_what_exact_finds(pathway: str, large: GalleryWindows, tmp_path: Path) -> None:
    index = FaissIndex(tmp_path, large, pathway)
    assert 1 <= index.probes < index.index.nlist / 2
    assert index.recall >= approximate.WANTED_RECALL
    assert recall(index, large, pathway) >= 0.9
    state = json.loads((tmp_path / f"faiss-{pathway}.json").read_text())
    assert (state["trained_on"], state["recall"]) == (12000, index.recall)


def test_looking_into_one_list_is_not_enough_and_into_all_is_exact(
    large: GalleryWindows, tmp_path: Path
) -> None:
    index = FaissIndex(tmp_path, large, "both")
    assert index.probes > 1
    tuned, index.probes = index.probes, 1
    assert recall(index, large) < 0.9
    index.probes = index.index.nlist
    assert recall(index, large) > 0.99
    assert tuned < index.index.nlist


def test_faiss_takes_in_what_is_new_and_drops_what_is_gone(
    large: GalleryWindows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = FaissIndex(tmp_path, part_of(large, np.arange(0, 2000)), "both")
    monkeypatch.setattr(FaissIndex, "_train", lambda _: pytest.fail("the lists were drawn up anew"))
    for kept in (np.arange(500, 3000), np.arange(0, 2500, 2)):
        windows = part_of(large, kept)
        index = FaissIndex(tmp_path, windows, "both")
        assert index.trained_on == first.trained_on == 8000
        assert np.sort(index._rows()).tolist() == np.sort(windows.row).tolist()
        assert recall(index, windows) >= 0.9
    monkeypatch.setattr(FaissIndex, "_write", lambda _: pytest.fail("nothing has changed"))
    assert recall(FaissIndex(tmp_path, windows, "both"), windows) >= 0.9


def test_faiss_draws_its_lists_anew_for_a_gallery_of_another_size_and_where_its_file_is_broken(
    large: GalleryWindows, tmp_path: Path
) -> None:
    FaissIndex(tmp_path, part_of(large, np.arange(1000)), "both")
    index = FaissIndex(tmp_path, large, "both")
    assert index.trained_on == 12000
    (path,) = tmp_path.glob("*.index")
    path.write_bytes(path.read_bytes()[:1000])
    assert recall(FaissIndex(tmp_path, large, "both"), large) >= 0.9
    assert [left.name for left in tmp_path.glob("*.index")] == [path.name]


def test_faiss_finds_k_recordings_though_one_has_nearly_all_windows(tmp_path: Path) -> None:
    """Whatever the nearest windows' recording, k recordings are answers."""
    windows = windows_of([2000, 1, 1, 1, 1, 1], scale=0.1)
    windows.features["slow"][windows.row[2000:]] -= 5
    windows.features["fast"][windows.row[2000:]] -= 5
    measured(windows)
    query = {name: values[windows.row[:3]] for name, values in windows.features.items()}
    index = FaissIndex(tmp_path, windows, "both")
    group = np.zeros(3, np.int64)
    found, right = index.search(query, group, 5), search_exact(query, group, windows, "both", 5)
    assert [pair.recording for pair in found] == [pair.recording for pair in right]
    assert len(right) == 5


def test_without_faiss_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError) as error:
        load_faiss()
    assert "vcsf[faiss]" in error.value.hint
