"""Search of many windows by vcsf's own files and faiss, and by a table of LanceDB: seconds a query,
recall, memory, and what `kill -9` leaves.

    pip install lancedb faiss-cpu
    python tests/benchmarks/search.py --windows 1000000 --folder /tmp/search
    python tests/benchmarks/search.py --windows 10000000 --folder /tmp/search --alone

Windows are simulated: recordings lie around scenes that overlap, in a space of few dimensions,
windows around their recording, and everything is shifted, as features before centring are. Queries are new
recordings of the same scenes. All times of a line are measured in turns, in one process, so that
their ratios hold on a busy machine; processor time says what waiting does not. Memory is the peak
of what can't be given back to the kernel (`RssAnon`) of a process that does that step alone.
`--steps` chooses; what an earlier call has built in `--folder` is used again. `--alone` leaves LanceDB out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa

from vcsf_cli.search.approximate import FaissIndex
from vcsf_cli.search.exact import search_exact
from vcsf_cli.search.gallery import FloatArray, GalleryWindows, unit_vectors

PER_RECORDING = 10
BLOCK = 100_000
"""Rows that are simulated, written and added at a time."""
SCENES, LATENT = 2_000, 48
K = 10
SPAWN = multiprocessing.get_context("spawn")
Found = tuple[list[int], list[float]]
"""Recordings, nearest first, and their similarities."""


@dataclass(frozen=True)
class Case:
    folder: Path
    windows: int
    width: int
    index: str
    alone: bool = False
    """Leave LanceDB out."""

    @property
    def rows_file(self) -> Path:
        return self.folder / f"slow-{self.windows}.npy"


def simulate(case: Case, number: int, count: int) -> FloatArray:
    """Features (count, width) of one block of windows; the same for the same number."""
    shared = np.random.default_rng(0)
    scenes = shared.normal(size=(SCENES, LATENT)).astype(np.float32)
    spread = (shared.normal(size=(LATENT, case.width)) / np.sqrt(LATENT)).astype(np.float32)
    rng = np.random.default_rng((1, number))
    recordings = -(-count // PER_RECORDING)
    centre = scenes[rng.integers(SCENES, size=recordings)]
    centre = centre + 1.5 * rng.normal(size=centre.shape).astype(np.float32)
    latent = np.repeat(centre, PER_RECORDING, 0)[:count]
    latent = latent + 0.5 * rng.standard_normal(latent.shape, np.float32)
    noise = 0.1 * rng.standard_normal((count, case.width), np.float32)
    return np.asarray(latent @ spread + noise + 1, np.float32)


def blocks(case: Case) -> Iterator[tuple[int, int]]:
    """Number and rows of every block."""
    for first in range(0, case.windows, BLOCK):
        yield first // BLOCK, min(BLOCK, case.windows - first)


def write_rows(case: Case) -> None:
    shape = (case.windows, case.width)
    rows = np.lib.format.open_memmap(case.rows_file, "w+", np.float32, shape)
    total = np.zeros(case.width)
    for number, count in blocks(case):
        values = simulate(case, number, count)
        rows[number * BLOCK : number * BLOCK + count] = values
        total += values.sum(0, dtype=np.float64)
    mean = (total / case.windows).astype(np.float32)
    lengths = np.concatenate(
        [
            np.linalg.norm(rows[number * BLOCK : number * BLOCK + count] - mean, axis=1)
            for number, count in blocks(case)
        ]
    )
    rows.flush()
    np.savez(case.rows_file.with_suffix(".npz"), mean=mean, lengths=lengths)


def gallery(case: Case) -> GalleryWindows:
    """The gallery as `vcsf retrieve --query` opens it: rows stay on disk."""
    kept = np.load(case.rows_file.with_suffix(".npz"))
    rows = np.load(case.rows_file, mmap_mode="r")
    recording = np.arange(case.windows) // PER_RECORDING
    names = np.arange(recording[-1] + 1).astype(object)
    return GalleryWindows(
        # The second pathway is never read; it holds one number a window.
        {"slow": rows, "fast": np.zeros((case.windows, 1), np.float32)},
        np.arange(case.windows),
        recording,
        np.zeros((case.windows, 2)),
        {"slow": kept["mean"], "fast": np.zeros(1, np.float32)},
        {"slow": kept["lengths"], "fast": np.ones(case.windows, np.float32)},
        names,
        names,
    )


def queries(case: Case, count: int, windows: int) -> list[FloatArray]:
    """Features (windows, width) of each of some new recordings."""
    rows = simulate(case, 10**6, count * PER_RECORDING)
    each = rows.reshape(count, PER_RECORDING, case.width)
    return [np.tile(own, (-(-windows // PER_RECORDING), 1))[:windows] for own in each]


def in_own_files(windows: GalleryWindows, query: FloatArray) -> Found:
    of_both = {"slow": query, "fast": np.zeros((len(query), 1), np.float32)}
    pairs = search_exact(of_both, np.zeros(len(query), np.int64), windows, "slow", K)
    return [pair.recording for pair in pairs], [pair.similarity for pair in pairs]


def in_faiss(index: FaissIndex, query: FloatArray) -> Found:
    of_both = {"slow": query, "fast": np.zeros((len(query), 1), np.float32)}
    pairs = index.search(of_both, np.zeros(len(query), np.int64), K)
    return [pair.recording for pair in pairs], [pair.similarity for pair in pairs]


# LanceDB


def table_of(case: Case, name: str = "") -> Any:
    import lancedb

    database = lancedb.connect(case.folder / "lance")
    return database.open_table(name or f"windows-{case.windows}")


def batches(case: Case, mean: FloatArray) -> Iterator[pa.RecordBatch]:
    """Windows as rows of a table: their unit vectors, as `GalleryWindows.vectors` makes them."""
    for number, count in blocks(case):
        rows = simulate(case, number, count)
        vectors = unit_vectors({"slow": rows}, {"slow": mean}, "slow")
        first = number * BLOCK
        yield pa.record_batch(
            {
                "window": pa.array(np.arange(first, first + count)),
                "recording": pa.array(np.arange(first, first + count) // PER_RECORDING),
                "vector": pa.FixedSizeListArray.from_arrays(
                    pa.array(vectors.ravel(), pa.float32()), case.width
                ),
            }
        )


def write_table(case: Case) -> None:
    import lancedb

    mean = np.load(case.rows_file.with_suffix(".npz"))["mean"]
    database = lancedb.connect(case.folder / "lance")
    parts = batches(case, mean)
    table = database.create_table(f"windows-{case.windows}", next(parts), mode="overwrite")
    for part in parts:
        table.add(part)
    table.optimize()


def write_lance_index(case: Case) -> None:
    from lancedb import index as kinds

    options: dict[str, Any] = {"distance_type": "dot"}
    if case.windows > 2_000_000:
        options |= {"num_partitions": int(np.sqrt(case.windows)), "sample_rate": 64}
        options |= {"max_iterations": 10}
    if "Pq" in case.index:
        options["num_sub_vectors"] = case.width // 8
    table = table_of(case)
    table.create_index("vector", config=getattr(kinds, case.index)(**options), replace=True)


def in_table(table: Any, mean: FloatArray, query: FloatArray, probes: int = 0) -> Found:
    """The k recordings with the most similar windows. Windows are asked for until none that was not
    given can belong to a better recording.

    Args:
        probes: Partitions that an index looks into; 0 for an exact search.
    """
    vectors = unit_vectors({"slow": query}, {"slow": mean}, "slow")
    limit = 2 * K * PER_RECORDING
    while True:
        best: dict[int, float] = {}
        reach = -1.0
        for vector in vectors:
            asked = table.search(vector, vector_column_name="vector").distance_type("dot")
            asked = (
                asked.nprobes(probes).refine_factor(4) if probes else asked.bypass_vector_index()
            )
            found = asked.select(["recording", "_distance"]).limit(limit).to_arrow()
            similarity = 1 - found["_distance"].to_numpy()
            for recording, value in zip(found["recording"].to_pylist(), similarity, strict=True):
                best[recording] = max(best.get(recording, -1.0), float(value))
            if len(similarity) == limit:
                reach = max(reach, float(similarity.min()))
        ranked = sorted(best, key=lambda each: (-best[each], each))[:K]
        if len(ranked) == K and (probes or best[ranked[-1]] >= reach):
            return ranked, [best[each] for each in ranked]
        limit *= 4


# Steps


def peak_of(step: Callable[..., Any], *arguments: Any) -> tuple[float, float, Any]:
    """Seconds and peak memory in GiB of a step in a process of its own, and what it returns."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_watched, args=(theirs, step, arguments))
    process.start()
    theirs.close()
    seconds, peak, returned = ours.recv()
    process.join()
    return seconds, peak, returned


def _watched(pipe: Any, step: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            status = Path("/proc/self/status").read_text()
            peak = max(peak, int(status.split("RssAnon:")[1].split()[0]))

    threading.Thread(target=watch, daemon=True).start()
    begun = time.monotonic()
    returned = step(*arguments)
    seconds = time.monotonic() - begun
    done.wait(0.1)
    done.set()
    pipe.send((seconds, peak / 2**20, returned))


def build_faiss(case: Case) -> float:
    folder = case.folder / f"faiss-{case.windows}"
    folder.mkdir(exist_ok=True)
    return FaissIndex(folder, gallery(case), "slow").recall


def search_alone(case: Case, how: str) -> None:
    """Some queries by one way alone, for its memory."""
    windows = None if "lance" in how else gallery(case)
    table = table_of(case) if "lance" in how else None
    mean = np.load(case.rows_file.with_suffix(".npz"))["mean"]
    faiss = (
        FaissIndex(case.folder / f"faiss-{case.windows}", windows, "slow")
        if how == "faiss" and windows
        else None
    )
    for query in queries(case, 5, 1):
        if faiss:
            in_faiss(faiss, query)
        elif windows:
            in_own_files(windows, query)
        else:
            in_table(table, mean, query, 40 if how == "lance index" else 0)


def compare_exact(case: Case, count: int) -> None:
    windows, table = gallery(case), None if case.alone else table_of(case)
    ways: dict[str, Callable[[FloatArray], Found]] = {
        "own": lambda query: in_own_files(windows, query)
    }
    if table is not None:
        ways["lance"] = lambda query: in_table(table, windows.mean["slow"], query)
    for size, some in ((1, count), (PER_RECORDING, max(1, count // 5))):
        asked = queries(case, some, size)
        wall: dict[str, list[float]] = {way: [] for way in ways}
        processor: dict[str, list[float]] = {way: [] for way in ways}
        same, apart = 0, 0.0
        for query in [asked[0], *asked]:  # the first warms up
            found = {}
            for way, search in ways.items():
                begun, used = time.monotonic(), time.process_time()
                found[way] = search(query)
                wall[way].append(time.monotonic() - begun)
                processor[way].append(time.process_time() - used)
            ours, theirs = found["own"], found.get("lance", found["own"])
            same += ours[0] == theirs[0]
            apart = max(apart, float(np.abs(np.subtract(ours[1], theirs[1])).max()))
        said = []
        for name, times in (("wall clock", wall), ("processor", processor)):
            each = {way: 1e3 * statistics.median(some[1:]) for way, some in times.items()}
            line = ", ".join(f"{way} {value:.0f} ms" for way, value in each.items())
            said.append(f"{name} {line}")
            if not case.alone:
                said[-1] += f", ratio {each['lance'] / each['own']:.1f}"
        if not case.alone:
            said.append(f"{same} of {some + 1} lists the same, similarities {apart:.1e} apart")
        click.echo(f"exact, {size} windows a query: {'; '.join(said)}")


def compare_approximate(case: Case, count: int) -> None:
    windows, table = gallery(case), None if case.alone else table_of(case)
    asked = queries(case, count, 1)
    faiss = FaissIndex(case.folder / f"faiss-{case.windows}", windows, "slow")
    right = [in_own_files(windows, query)[0] for query in asked]
    ways: dict[str, Callable[[FloatArray], Found]] = {
        f"faiss, {faiss.probes} of {faiss.index.nlist} lists": lambda query: in_faiss(faiss, query)
    }
    for probes in () if case.alone else (20, 40, 80, 160):
        ways[f"lance {case.index}, {probes} probes"] = lambda query, probes=probes: in_table(
            table, windows.mean["slow"], query, probes
        )
    times: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, int] = dict.fromkeys(ways, 0)
    for way in ways.values():
        way(asked[0])
    for query, exact in zip(asked, right, strict=True):
        for way, search in ways.items():
            begun = time.monotonic()
            ours = search(query)[0]
            times[way].append(time.monotonic() - begun)
            found[way] += len({*ours} & {*exact})
    for way in ways:
        click.echo(
            f"{way}: recall@{K} {found[way] / K / count:.3f}, "
            f"{1e3 * statistics.median(times[way]):.1f} ms a query"
        )


def _add_slowly(case: Case, name: str, ready: Any) -> None:
    mean = np.zeros(case.width, np.float32)
    table = table_of(case, name)
    part = next(batches(case, mean))
    while True:
        for first in range(0, len(part), 1000):
            table.add(part.slice(first, 1000))
            ready.set()


def kill_while_adding(case: Case, kills: int) -> None:
    """Kill processes that add a thousand rows at a time; each table must open and hold whole
    batches."""
    import lancedb

    small = Case(case.folder, BLOCK, case.width, case.index)
    database = lancedb.connect(case.folder / "lance")
    first = next(batches(small, np.zeros(case.width, np.float32)))
    rng, good, counts = np.random.default_rng(0), 0, []
    for number in range(kills):
        name = f"killed-{number}"
        database.create_table(name, first.slice(0, 1000), mode="overwrite")
        ready = SPAWN.Event()
        process = SPAWN.Process(target=_add_slowly, args=(small, name, ready))
        process.start()
        ready.wait()
        time.sleep(float(rng.uniform(0, 2)))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found = table_of(small, name).to_arrow()
        vectors = np.stack(found["vector"].to_numpy())
        expected = np.stack(first["vector"].to_numpy(zero_copy_only=False))
        window = found["window"].to_numpy()
        # What is added begins again at the first window after the last.
        good += len(found) % 1000 == 0 and bool((vectors == expected[window]).all())
        counts.append(len(found))
        database.drop_table(name)
    click.echo(f"kill -9 while adding: {good} of {kills} tables whole, rows {counts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--index", default="IvfPq", help="a class of lancedb.index")
    parser.add_argument("--folder", type=Path, required=True)
    every = ["rows", "exact", "approximate", "kill"]
    parser.add_argument("--steps", nargs="*", choices=every, default=every)
    parser.add_argument("--alone", action="store_true", help="without LanceDB")
    given = parser.parse_args()
    case = Case(given.folder, given.windows, given.width, given.index, given.alone)
    case.folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, tuple[float, float, Any]] = {}
    if "rows" in given.steps:
        write_rows(case)
        if not case.alone:
            report["lance table written"] = peak_of(write_table, case)
    if "exact" in given.steps:
        compare_exact(case, given.queries)
        report["own exact search"] = peak_of(search_alone, case, "own")
        if not case.alone:
            report["lance exact search"] = peak_of(search_alone, case, "lance")
    if "approximate" in given.steps:
        report["faiss index built"] = peak_of(build_faiss, case)
        if not case.alone:
            report[f"lance {case.index} built"] = peak_of(write_lance_index, case)
        compare_approximate(case, given.queries)
        report["faiss search"] = peak_of(search_alone, case, "faiss")
        if not case.alone:
            report["lance index search"] = peak_of(search_alone, case, "lance index")
    for step, (seconds, peak, _) in report.items():
        click.echo(f"{step}: {seconds:.1f} s, peak {peak:.2f} GiB")
    if "kill" in given.steps and not case.alone:
        kill_while_adding(case, given.kills)
    click.echo(json.dumps({"windows": case.windows, "width": case.width, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
