"""`vcsf embed` at work."""

from __future__ import annotations

import csv
import json
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from vcsf_cli import __version__
from vcsf_cli.commands.common import open_ray, resumable
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.manifest import FILE, Manifest
from vcsf_cli.encoders.find import describe, find_source
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.export.embed import VideoWindows, embed_clips, embed_files
from vcsf_cli.export.embeddings import Embeddings, VideoItem
from vcsf_cli.export.table_files import FORMATS
from vcsf_cli.model.parts import Geometry
from vcsf_cli.model.pathways import Networks
from vcsf_cli.narrate import Progress, counted, say
from vcsf_cli.remote import beside, find_files, is_address, read_bytes
from vcsf_cli.search.video import FrameTransform, WindowFeatures
from vcsf_cli.storage import files
from vcsf_cli.train.compute import Compute
from vcsf_cli.video import VIDEO_ENDINGS, videos_in


def write(
    source: str,
    named: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
    output: Path,
    every: float,
    half: bool,
    on_bad: str,
    drop_missing: bool,
    data: Path | str,
    runs: Path,
    devices: str,
    workers: int | None,
    engine: str,
    address: str | None,
) -> None:
    """Embed a source and write the table.

    Raises:
        InputError: If the source, the encoder or the table is not what it has to be.
        DataError: If no video can be read, or one with `on_bad` `stop`.
    """
    _check_output(output)
    compute = Compute(devices, "auto", workers)
    encoder = find_source(runs, named, recipe, settings, "embedding with")
    describe(encoder)
    network = encoder.network().to(compute.device())
    manifest = _find_dataset(source, data)
    items = _dataset_items(manifest, encoder.split) if manifest else _find_items(source)
    if manifest and every:
        raise InputError(
            "--every is for video files, and SOURCE is a prepared dataset",
            "leave it out, or name the folder of the videos",
        )
    look = FrameTransform.from_windows(encoder.windows, encoder.video_settings)
    about = {"encoder": encoder.name, "variant": encoder.variant, "version": __version__}
    key: dict[str, Any] = {
        "digest": encoder.weights_digest,
        **encoder.windows.key,
        "stored": look.stored,
        "fps": look.fps,
        "every": every,
        "source": "prepared dataset" if manifest else "video files",
    }
    widths = network.widths
    if len(widths) > 1:
        widths["both"] = sum(widths.values())
    compute = replace(compute, engine=open_ray(engine, address))
    busy = InputError(f"{output} is being written by another process", "wait for it")
    with files.lock(output.with_name(f".{output.name}.lock"), busy), resumable():
        table = Embeddings(output, key, about, widths, half)
        dropped = _find_gone(table, items, source, drop_missing)
        missing = table.missing(items)
        if manifest:
            found = _embed_dataset(encoder, network, manifest, missing, compute)
        else:
            sampler = encoder.windows.build_sampler()
            windows = VideoWindows([item.file for item in missing], sampler, look, every)
            found = embed_files(
                network,
                Geometry.from_sampler(sampler),
                windows,
                compute.device(),
                compute.num_workers,
                compute.bf16(),
                compute.engine,
            )
        bad = _add_all(table, missing, found, len(items), on_bad)
        if bad == len(items):
            raise DataError("no video could be read", "the reasons are above")
        rows = table.finish(items)
    say(
        f"{counted(len(items) - bad, 'video')}, {counted(rows, 'window')}, "
        f"{counted(len(missing) - bad, 'video')} of them new"
        + (f"; {bad:,} could not be read" if bad else "")
    )
    if dropped:
        say(f"dropped: {dropped}")
    say(f"written: {output}")
    reader = {".parquet": "import pandas; print(pandas.read_parquet({}))"}.get(
        output.suffix, "import lance; print(lance.dataset({}).to_table().to_pandas())"
    )
    code = reader.format(json.dumps(str(output)))
    say(f"next: python -c {shlex.quote(code)}")


def _find_gone(table: Embeddings, items: list[VideoItem], source: str, drop: bool) -> str:
    """What the table holds of other videos, as text; empty: nothing.

    Raises:
        InputError: If it holds some and they are not to be dropped.
    """
    windows, videos = table.gone(items)
    if not videos:
        return ""
    what = f"{counted(windows, 'window')} of {counted(videos, 'video')} not in {source}"
    if not drop:
        table.close()
        holder = table.path if table.path.exists() else f"an interrupted call for {table.path}"
        raise InputError(
            f"{holder} has {what}",
            "write to another file with -o, or drop these rows with --drop-missing",
        )
    return what


def _add_all(
    table: Embeddings,
    missing: list[VideoItem],
    found: Iterator[tuple[int, WindowFeatures | str]],
    total: int,
    on_bad: str,
) -> int:
    """Add what is found to the table as it comes; returns how many videos could not be read."""
    bad = 0
    try:
        with Progress(total, "videos", "embedding", total - len(missing)) as progress:
            for number, features in found:
                item = missing[number]
                if isinstance(features, str):
                    bad += 1
                    text = features if item.name in features else f"{item.name}: {features}"
                    if on_bad == "stop":
                        raise DataError(text, "--on-bad skip passes over it")
                    say(f"left out: {text}")
                else:
                    table.add(item, features)
                progress.advance()
    finally:
        table.flush()  # an interrupted call keeps what it has
    return bad


def _embed_dataset(
    encoder: EncoderSource,
    network: Networks,
    manifest: Manifest,
    missing: list[VideoItem],
    compute: Compute,
) -> Iterator[tuple[int, WindowFeatures | str]]:
    row_of = {video: row for row, video in enumerate(manifest.table["video"])}
    rows = [row_of[item.name] for item in missing]
    windows = encoder.windows
    clips = EvalClips(manifest, rows, windows.build_sampler(), windows.border, windows.size)
    number_of = {row: number for number, row in enumerate(rows)}
    found = embed_clips(
        network,
        manifest,
        pd.Index(rows).to_numpy(),
        clips,
        compute.device(),
        compute.num_workers,
        compute.bf16(),
        compute.engine,
    )
    for row, features in found:
        yield number_of[row], features


def _check_output(output: Path) -> None:
    if output.suffix not in FORMATS:
        raise InputError(
            f"-o {output} does not end with {' or '.join(FORMATS)}",
            "the ending says which kind of table it is",
        )
    if not output.parent.is_dir():
        raise InputError(f"-o {output}: there is no folder {output.parent}", "make it first")
    FORMATS[output.suffix](output)  # its library is there


def _find_dataset(source: str, data: Path | str) -> Manifest | None:
    """The prepared dataset that a source names, None if it is a path to videos."""
    if (Path(source) / FILE).is_file():
        return Manifest.open(Path(source))
    if Path(source).exists() or not files.is_folder_name(source):
        return None
    if isinstance(data, Path):
        return Manifest.find(data, source) if (data / source).is_dir() else None
    return Manifest.find(data, source) if find_files([f"{data}/{source}/{FILE}"])[0] else None


def _dataset_items(manifest: Manifest, split: int) -> list[VideoItem]:
    table = manifest.table
    return [
        VideoItem(
            video,
            manifest.folder,
            size,
            0,
            None if pd.isna(label) else label,
            part or None,
            sha256[:16],
        )
        for video, size, label, part, sha256 in zip(
            table["video"],
            table["bytes"],
            table["label"],
            table[f"split{split}"],
            table["sha256"],
            strict=True,
        )
    ]


def _find_items(source: str) -> list[VideoItem]:
    """The videos of a folder, of a list, or one video.

    Raises:
        InputError: If there is no such thing.
        DataError: If it has no video.
    """
    root = source if is_address(source) else Path(source)
    (file,) = find_files([root])
    if file is None or (isinstance(file, Path) and file.is_dir()):
        found, remarks = videos_in(root)
        for remark in remarks:
            say(remark)
        if not found:
            raise DataError(f"{root}: no video was found", "look whether it is the right folder")
        return [VideoItem.at(name, video) for name, video in found.items()]
    if isinstance(file, Path) and not file.is_file():
        raise InputError(
            f"there is no folder, file or prepared dataset {source}",
            "give a folder of videos, a video, a list of them, or the name of a prepared dataset",
        )
    if file.suffix.lower() in (".txt", ".csv"):
        return _listed_items(root)
    if file.suffix.lower() not in VIDEO_ENDINGS:
        say(f"{file} does not have the ending of a video; it is tried all the same")
    return [VideoItem.at(file.name, file)]


def _listed_items(path: Path | str) -> list[VideoItem]:
    """The videos of a list, whose paths are relative to it."""
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}", "a list is a UTF-8 text file") from error
    if str(path).lower().endswith(".csv"):
        try:
            rows = list(csv.DictReader(lines))
        except csv.Error as error:
            raise InputError(
                f"{path} can't be read: {error}", "look for a quotation mark that is not closed"
            ) from error
        if not rows or "path" not in rows[0]:
            raise InputError(
                f"{path} has no column `path`, or no line", "its first line names the columns"
            )
        listed = [(row["path"] or "", row.get("label") or None) for row in rows]
    else:
        listed = [(line.strip(), None) for line in lines if line.strip()]
    if not listed:
        raise InputError(f"{path} lists no video", "write the path of a video in each line")
    (name, count), *_ = Counter(name for name, _ in listed).most_common(1)
    if count > 1:
        raise InputError(f"{path} lists {name} {count} times", "leave the others out")
    places = [beside(path, name) for name, _ in listed]
    items = []
    for (name, label), place, file in zip(listed, places, find_files(places), strict=True):
        if file is None or (isinstance(file, Path) and not file.exists()):
            raise InputError(f"there is no file {place}", "look at the list of videos")
        items.append(VideoItem.at(name, file, label))
    return items
