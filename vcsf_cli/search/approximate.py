"""Approximate search: a faiss index over a gallery's windows, kept on disk, gives candidates, which
are then ranked exactly.

Inverted lists with one byte for each number (`IVF,SQ8`) take a quarter of the memory of whole
vectors, train nothing beside k-means, and lose so little that the number of probed lists decides
the recall. Product quantisation would be smaller still, but its codebooks take long to train, and
its coarser similarities would need more candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vcsf_cli.contracts import Indices
from vcsf_cli.errors import InputError, RunError
from vcsf_cli.features.extract import Features
from vcsf_cli.narrate import say
from vcsf_cli.search.exact import Pair, nearest_recordings, rank, run_starts
from vcsf_cli.search.gallery import ROWS_AT_ONCE, GalleryWindows, split_pathway, unit_vectors
from vcsf_cli.storage import files
from vcsf_cli.storage.sealed import file_crc32, read_json, reading, write_json

FAISS_FROM_WINDOWS = 1_000_000
"""From this size on an exact search takes a second or more for each query."""
_GROWTH = 2.0
"""The lists are trained again when a gallery has grown or shrunk by this factor."""
_WINDOWS_A_LIST = 64
"""For k-means; faiss asks for 39."""
_SAMPLE = 64
"""Windows of the gallery whose neighbours are compared with the exact ones."""
_COMPARED = 10
"""Nearest recordings to compare."""
WANTED_RECALL = 0.95
"""Share of the exact neighbours that must be found."""
_MORE = 4
"""Candidates for each wanted recording."""


def load_faiss() -> Any:
    """The faiss module, which is optional.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import faiss  # optional
    except ImportError as error:
        raise InputError(
            "--index faiss needs faiss, which is not installed", "pip install 'vcsf[faiss]'"
        ) from error
    return faiss


class FaissIndex:
    """The index of a gallery and pathway, brought up to date.

    Args:
        folder: The gallery's folder, which is emptied when features change.

    Raises:
        InputError: If faiss is not installed.
    """

    def __init__(self, folder: Path, windows: GalleryWindows, pathway: str) -> None:
        self.faiss = load_faiss()
        self.folder, self.windows, self.pathway = folder, windows, pathway
        self.position = np.full(len(next(iter(windows.features.values()))), -1)
        """The number of the window of every row on disk, -1 for unused rows."""
        self.position[windows.row] = np.arange(len(windows))
        self.state_file = folder / f"faiss-{pathway}.json"
        self.file: Path | None = None
        """Where the index was read from."""
        self.index, state = self._read()
        if self.index is None:
            say(f"drawing up the lists of a faiss index for {len(windows):,} windows")
            self.index, state = self._train()
        self.mean: Features = {
            name: np.array(state["mean"][name], np.float32) for name in windows.mean
        }
        self.probes, self.recall = int(state["probes"]), float(state["recall"])
        self.trained_on = int(state["trained_on"])
        if self._update():
            self._tune()
            self._write()

    def search(self, query: Features, group: Indices, k: int) -> list[Pair]:
        """As `search_exact`, except for candidates that the index misses."""
        found = self.candidates(query, group, k)
        return rank(query, group, found, self.windows, self.pathway, k)

    def candidates(self, query: Features, group: Indices, k: int) -> list[Indices]:
        """Recordings that are probably the nearest of each group, more than k."""
        vectors = unit_vectors(query, self.mean, self.pathway)
        wanted, probes = _MORE * 2 * k, self.probes
        enough, everything = min(k, len(self.windows.names)), len(self.windows)
        while True:
            self.index.nprobe = probes
            similarity, rows = self.index.search(vectors, min(wanted, everything))
            parts = zip(
                np.split(similarity, run_starts(group)[1:]),
                np.split(rows, run_starts(group)[1:]),
                strict=True,
            )
            found = [self._recordings(*part, _MORE * k) for part in parts]
            if min(map(len, found)) >= enough or (
                wanted >= everything and probes >= self.index.nlist
            ):
                return found
            # Many windows of few recordings, or short lists: look further.
            wanted, probes = min(4 * wanted, everything), min(2 * probes, self.index.nlist)

    def _recordings(self, similarity: Any, rows: Any, most: int) -> Indices:
        """The recordings of found rows (q, n), the most similar first; row -1 means nothing."""
        near = np.argsort(-similarity[rows >= 0], kind="stable")
        rows = rows[rows >= 0][near]
        recording = self.windows.recording[self.position[rows]]
        _, first = np.unique(recording, return_index=True)
        nearest: Indices = recording[np.sort(first)[:most]]
        return nearest

    def _read(self) -> tuple[Any, dict[str, Any]]:
        """The index and its state from disk; None if there is none, or it was trained for another
        size."""
        try:
            with reading(self.state_file, ""):
                state = read_json(self.state_file, dict, "")
                file, trained_on = self.folder / state["file"], int(state["trained_on"])
                if state.get("crc32") not in (None, file_crc32(file)):
                    raise ValueError(file)
                index = self.faiss.read_index(str(file), self.faiss.IO_FLAG_MMAP)
        except (RunError, RuntimeError):
            return None, {}
        if not 1 / _GROWTH <= len(self.windows) / trained_on <= _GROWTH:
            return None, {}
        self.file = file
        return index, state

    def _train(self) -> tuple[Any, dict[str, Any]]:
        """An empty index with trained lists, and its state."""
        count = len(self.windows)
        lists = max(1, min(int(2 * np.sqrt(count)), count // 39))
        chosen = np.random.default_rng(0).choice(
            count, min(count, lists * _WINDOWS_A_LIST), replace=False
        )
        vectors = self._vectors(np.sort(chosen), self.windows.mean)
        index = self.faiss.index_factory(
            vectors.shape[1], f"IVF{lists},SQ8", self.faiss.METRIC_INNER_PRODUCT
        )
        index.cp.min_points_per_centroid = (
            1  # a gallery of a few windows has one list: nothing to warn of
        )
        index.train(vectors)
        mean = {name: values.tolist() for name, values in self.windows.mean.items()}
        return index, {"trained_on": count, "mean": mean, "probes": 1, "recall": 0.0}

    def _vectors(self, numbers: Indices, mean: Features) -> Any:
        """Unit vectors of some windows."""
        rows = self.windows.row[numbers]
        features = {
            name: np.asarray(self.windows.features[name][rows])
            for name in split_pathway(self.pathway)
        }
        return unit_vectors(features, mean, self.pathway)

    def _update(self) -> bool:
        """Add new windows and remove those that are gone; return whether there were any."""
        there = np.zeros(len(self.position), bool)
        there[self._rows()] = True
        gone = np.flatnonzero(there & (self.position < 0))
        new = np.flatnonzero(~there[self.windows.row])
        if (len(gone) or len(new)) and self.file is not None:
            # Into memory: a mapped index can't be changed.
            self.index = self.faiss.read_index(str(self.file))
        if len(gone):
            self.index.remove_ids(gone)
        for begin in range(0, len(new), ROWS_AT_ONCE):
            numbers = new[begin : begin + ROWS_AT_ONCE]
            self.index.add_with_ids(self._vectors(numbers, self.mean), self.windows.row[numbers])
        return bool(len(gone) or len(new))

    def _rows(self) -> Indices:
        """The rows that the index holds."""
        lists = self.index.invlists
        sizes = [lists.list_size(number) for number in range(self.index.nlist)]
        rows = [
            self.faiss.rev_swig_ptr(lists.get_ids(number), size).copy()
            for number, size in enumerate(sizes)
            if size
        ]
        return np.concatenate([*rows, np.empty(0, np.int64)])

    def _tune(self) -> None:
        """Double the probed lists until enough exact neighbours of a sample of windows are found.

        A window's own recording does not count: a query has none in the gallery."""
        count = len(self.windows)
        sample = np.sort(np.random.default_rng(1).choice(count, min(_SAMPLE, count), replace=False))
        query = {
            name: np.asarray(rows[self.windows.row[sample]])
            for name, rows in self.windows.features.items()
        }
        group, own = np.arange(len(sample)), self.windows.recording[sample]
        nearest = nearest_recordings(query, group, self.windows, self.pathway, _COMPARED + 1)
        right = [near[near != mine][:_COMPARED] for near, mine in zip(nearest, own, strict=True)]
        total = sum(map(len, right))
        self.probes, self.recall = 1, 0.0
        while True:
            found = self.candidates(query, group, _COMPARED + 1)
            both = sum(int(np.isin(a, b).sum()) for a, b in zip(right, found, strict=True))
            self.recall = both / total if total else 1.0
            if self.recall >= WANTED_RECALL or self.probes >= self.index.nlist:
                return
            self.probes = min(2 * self.probes, self.index.nlist)

    def _write(self) -> None:
        """Write the index, then the state that names it; then remove an older one."""
        name = f"faiss-{self.pathway}-{self.trained_on}.index"
        with files.atomic_write(self.folder / name) as file:
            self.faiss.write_index(self.index, self.faiss.PyCallbackIOWriter(file.write))
        state = {
            "file": name,
            "crc32": file_crc32(self.folder / name),
            "trained_on": self.trained_on,
            "mean": {name: values.tolist() for name, values in self.mean.items()},
            "probes": self.probes,
            "recall": self.recall,
        }
        write_json(self.state_file, state)
        for old in self.folder.glob(f"faiss-{self.pathway}-*.index"):
            if old.name != name:
                old.unlink()
