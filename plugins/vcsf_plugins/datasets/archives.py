"""The official archives of a dataset: downloading those that are missing, and unpacking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vcsf_cli.errors import DataError, InputError
from vcsf_cli.video import VIDEO_ENDINGS, files_below, left_out
from vcsf_plugins.datasets.download import download
from vcsf_plugins.datasets.unpack import ENDINGS, find_program, unpack

_UNPACKED = "unpacked"
_BEGUN = ".downloading"
"""Marks a folder that vcsf made to download into, until all archives are there and unpacked."""


@dataclass(frozen=True)
class Archive:
    """A file that a dataset is published as.

    Args:
        name: Its name at the dataset's address.
        sha256: Empty if unknown: then its size and its own check sums must do.
    """

    name: str
    sha256: str = ""


@dataclass(frozen=True)
class _Provided:
    """Where a dataset's files lie.

    Args:
        root: The folder.
        unpacked: Where its archives were unpacked, if they were; no link in it may be followed.
        remarks: Sentences for the user.
    """

    root: Path
    unpacked: Path
    remarks: list[str]

    def left_out(self, is_list: Callable[[str], bool]) -> list[str]:
        """Remarks on files that are neither videos nor lists nor archives."""
        return left_out(
            self.root,
            self.unpacked,
            lambda name: is_list(name) or Path(name).suffix.lower() in ENDINGS,
        )


def provide(
    root: Path,
    archives: Sequence[Archive],
    mirror: str,
    is_list: Callable[[str], bool],
    lists: Path | None,
) -> _Provided:
    """The folder where a dataset's files lie: `root` itself, or where its archives are unpacked.

    Args:
        root: A folder or an archive; if it does not exist, the archives are downloaded into it.
        archives: What the dataset is published as.
        mirror: Where to download from.
        is_list: Whether a file's name is that of an official list.
        lists: Where the lists lie if not below `root`.

    Raises:
        InputError: If `root` is a file of another kind.
        DataError: If a download or an archive fails.
    """
    if root.is_file():
        if root.suffix.lower() not in ENDINGS:
            raise InputError(
                f"{root} is neither a folder nor a .zip or .rar archive",
                "name the dataset's folder",
            )
        folder = root.parent / f"{root.stem}-{_UNPACKED}"
        return _Provided(folder, folder, unpack(root, folder))
    begun = root / _BEGUN
    if not root.exists() or (begun.exists() and not _has_videos(_own_files(root))):
        _fetch(root, archives, mirror)
    remarks = _unpack_below(root, is_list, lists is not None)
    # Not before: an archive that proves damaged is deleted by hand, and is downloaded again.
    begun.unlink(missing_ok=True)
    return _Provided(root, root / _UNPACKED, remarks)


def _own_files(root: Path) -> list[Path]:
    """The files below a folder but those that were unpacked there."""
    files = files_below(root, root / _UNPACKED)
    return [path for path in files if path.relative_to(root).parts[0] != _UNPACKED]


def _has_videos(files: list[Path]) -> bool:
    return any(path.suffix.lower() in VIDEO_ENDINGS for path in files)


def _fetch(root: Path, archives: Sequence[Archive], mirror: str) -> None:
    """Download the archives that are not there.

    Raises:
        DataError: If that fails, with what to do by hand.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / _BEGUN).touch()
    addresses = {
        archive: f"{mirror.rstrip('/')}/{archive.name}"
        for archive in archives
        if not (root / archive.name).is_file()
    }
    for address in addresses.values():
        find_program(address)  # not after hours of downloading
    for archive, address in addresses.items():
        try:
            download(address, root / archive.name, archive.sha256)
        except DataError as error:
            names = ", ".join(each.name for each in archives)
            raise DataError(
                error.message,
                f"the same command goes on with the download; or get {names} yourself, put them "
                f"into {root} and run it again; or name a folder with the videos and lists with "
                "--source",
            ) from error


def _unpack_below(root: Path, is_list: Callable[[str], bool], has_lists: bool) -> list[str]:
    """Unpack the archives below a folder but those whose content lies unpacked beside them; returns
    remarks.

    Raises:
        DataError: If one fails, or two would be unpacked into the same folder.
    """
    files = _own_files(root)
    has_videos = _has_videos(files)
    has_lists = has_lists or any(is_list(path.name) for path in files)
    sources: dict[Path, Path] = {}
    left_packed, remarks = [], []
    for archive in [path for path in files if path.suffix.lower() in ENDINGS]:
        # Both benchmarks publish their lists as an archive of "splits".
        if has_lists if "split" in archive.name.lower() else has_videos:
            left_packed.append(archive.relative_to(root).as_posix())
            continue
        folder = (root / _UNPACKED / archive.relative_to(root)).with_suffix("")
        other = sources.setdefault(folder, archive)
        if other != archive:
            raise DataError(
                f"{other} and {archive} are two archives of one name",
                "leave only one of them there",
            )
        remarks += unpack(archive, folder)
    if left_packed:
        what = "archives left packed, because videos or lists lie beside them"
        remarks.append(f"{what}: {', '.join(left_packed)}")
    return remarks
