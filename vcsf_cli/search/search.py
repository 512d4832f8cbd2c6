"""Searching a prepared dataset with video files that are not prepared: queries in, answers out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vcsf_cli import registry
from vcsf_cli.contracts import Indices
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.decode import default_decoder
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.errors import DataError, InputError, RunError
from vcsf_cli.features.extract import Features, extract_windows
from vcsf_cli.narrate import Progress, counted, say
from vcsf_cli.search.approximate import FAISS_FROM_WINDOWS, FaissIndex, load_faiss
from vcsf_cli.search.exact import Pair, search_exact
from vcsf_cli.search.gallery import Gallery, GalleryWindows, find_recordings, group_by_clip
from vcsf_cli.search.video import FrameTransform, VideoFile, WindowFeatures, encode_windows
from vcsf_cli.search.where import matching_clips
from vcsf_cli.storage import files
from vcsf_cli.train.compute import Compute

COLUMNS = (
    "query",
    "query_begin",
    "query_end",
    "pathway",
    "rank",
    "video",
    "label",
    "similarity",
    "begin",
    "end",
)
"""One answer a row. Times are seconds: of the query's window in the query, of the gallery's in its
recording."""


@dataclass(frozen=True)
class _Query:
    """A query: its path as the user gave it, and features and times of its windows."""

    name: str
    windows: WindowFeatures


class Search:
    """An encoder and a gallery to search with it.

    Args:
        manifest: The gallery; it need not be the dataset that the encoder was trained on.
        condition: SQL on its clips: only recordings with a clip that it holds for are searched.

    Raises:
        RunError: If the encoder's file is not whole.
        InputError: If the decoder that the gallery was prepared with is not here, or the condition
            holds for no clip.
    """

    def __init__(
        self,
        source: EncoderSource,
        manifest: Manifest,
        machine: Compute,
        condition: str | None = None,
    ) -> None:
        self.source, self.manifest, self.machine = source, manifest, machine
        self.wanted = matching_clips(manifest, condition) if condition else None
        self.sampler = source.windows.build_sampler()
        self.transform = FrameTransform.from_windows(source.windows, manifest.settings)
        registry.load().build("decoder", self.transform.decoder or default_decoder())
        self.device = machine.device()
        self.model = source.network().to(self.device)
        self.folder = source.folder / "index" / manifest.name

    def read(self, paths: list[Path]) -> list[_Query]:
        """The queries that can be read; the others are narrated with the reason.

        Raises:
            DataError: If none can be read.
        """
        found: list[_Query] = []
        with Progress(len(paths), "queries", "reading") as progress:
            for path in paths:
                try:
                    found.append(_Query(str(path), self._encode(path, progress)))
                except (DataError, InputError) as error:
                    say(
                        f"left out: {error.message}"
                        if str(path) in error.message
                        else f"left out {path}: {error.message}"
                    )
                progress.advance(1)
        if not found:
            raise DataError(
                "no query could be read",
                "the reasons are above; give a video that plays to its end",
            )
        return found

    def _encode(self, path: Path, progress: Progress) -> WindowFeatures:
        video = VideoFile(path, self.sampler, self.transform)

        def done(count: int) -> None:
            progress.advance(0, f"{path.name}: {count:,} of {len(video):,} windows")

        return encode_windows(self.model, video, self.device, self.machine.bf16(), done)

    def answers(
        self, queries: list[_Query], pathway: str, k: int, each_window: bool, index: str
    ) -> pd.DataFrame:
        """The k nearest recordings of every query, or of each of its windows, columns as in
        `COLUMNS`.

        Args:
            each_window: Whether every window of a query gets its own answers.
            index: `exact`, `faiss`, or `auto` for faiss on a large gallery. What a condition leaves
                is searched exactly.

        Raises:
            RunError: If another process works on the gallery's index.
            InputError: If faiss is wanted and not installed.
        """
        self.source.remember()
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = RunError(
            f"another search is at work on {self.folder}", "wait until it has built the index"
        )
        with files.lock(self.folder / "lock", busy):
            windows, approximate = self._gallery(), None
            if self.wanted is not None:
                _, owner, _ = find_recordings(self.manifest)
                windows = windows.restricted(owner[self.wanted])
                say(f"searched: {len(windows.names):,} of {counted(len(set(owner)), 'video')}")
            elif _wants_faiss(index, len(windows)):
                approximate = FaissIndex(self.folder, windows, pathway)
        of_all: Features = {
            name: np.concatenate([query.windows.features[name] for query in queries])
            for name in self.source.pathways
        }
        owner = np.repeat(np.arange(len(queries)), [len(query.windows.begin) for query in queries])
        group = np.arange(len(owner)) if each_window else owner
        if approximate is None:
            pairs = search_exact(of_all, group, windows, pathway, k)
        else:
            say(
                f"faiss looks into {approximate.probes:,} of {approximate.index.nlist:,} lists and "
                f"finds {approximate.recall:.0%} of the exact neighbours of a sample"
            )
            pairs = approximate.search(of_all, group, k)
        return _answer_table(pairs, queries, owner, windows, pathway)

    def _gallery(self) -> GalleryWindows:
        """The windows of all clips of the gallery; missing features are computed."""
        windows = self.source.windows
        key: dict[str, Any] = {**self.source.identity, **windows.key}
        gallery = Gallery(self.folder, self.manifest, self.sampler, key, self.source.pathways)
        clips, total = gallery.missing(), len(self.manifest.table)
        if not len(clips):
            return gallery.windows()
        videos = EvalClips(
            self.manifest, clips.tolist(), self.sampler, windows.border, windows.size
        )
        batches = extract_windows(
            self.model,
            videos,
            self.device,
            self.machine.num_workers,
            self.machine.bf16(),
            self.machine.engine,
        )
        try:
            with Progress(
                total, "clips", f"index of {self.manifest.name}", total - len(clips)
            ) as progress:
                for clip, features in group_by_clip(clips, batches):
                    gallery.add(clip, features)
                    progress.advance()
        finally:
            gallery.flush()  # an interrupted call keeps what it has
        return gallery.windows()


def _wants_faiss(index: str, windows: int) -> bool:
    """Whether to search with faiss. If it would pay but is not installed, `auto` is exact."""
    if index != "auto" or windows < FAISS_FROM_WINDOWS:
        return index == "faiss"
    try:
        load_faiss()
    except InputError:
        say(
            f"{windows:,} windows are searched one by one; faiss would be faster: pip install "
            "'vcsf[faiss]'"
        )
        return False
    return True


def _answer_table(
    pairs: list[Pair], queries: list[_Query], owner: Indices, windows: GalleryWindows, pathway: str
) -> pd.DataFrame:
    """Answers as rows, in the order of queries and ranks."""
    begin = np.concatenate([query.windows.begin for query in queries])
    end = np.concatenate([query.windows.end for query in queries])
    rows = []
    rank, group = 0, -1
    for pair in pairs:
        rank, group = (rank + 1 if pair.group == group else 1), pair.group
        name, label = windows.names[pair.recording], windows.labels[pair.recording]
        query = queries[int(owner[pair.query])].name
        asked, shown = (
            [round(float(second), 3) for second in seconds]
            for seconds in ((begin[pair.query], end[pair.query]), windows.times[pair.window])
        )
        rows.append((query, *asked, pathway, rank, name, label, round(pair.similarity, 6), *shown))
    return pd.DataFrame(rows, columns=list(COLUMNS))
