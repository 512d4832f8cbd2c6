"""Official archives: downloading what is missing, and unpacking, nested ones too."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vcsf_cli.errors import DataError, InputError
from vcsf_plugins.datasets.download import download
from vcsf_plugins.datasets.listing import VIDEO_ENDINGS, files_below, text_of, videos_below

ENDINGS = frozenset({".zip", ".rar"})
UNPACKED = "unpacked"
BEGUN = ".downloading"
"""Marks a folder that vcsf made to download into, until all archives are there and unpacked."""


@dataclass(frozen=True)
class Archive:
    """A file that a dataset is published as.

    Args:
        name: Its name at the dataset's address.
        sha256: Where it is known for certain; else size and the archive's own check sums must do.
    """

    name: str
    sha256: str = ""


@dataclass(frozen=True)
class Provided:
    """Where a dataset's files lie.

    Args:
        root: The folder.
        remarks: What the user should know about its archives.
    """

    root: Path
    remarks: list[str]


def provide(
    root: Path, archives: Sequence[Archive], mirror: str, is_list: Callable[[str], bool], lists: Path | None
) -> Provided:
    """The folder where the dataset's files lie: `root` itself, or where its archives are unpacked.

    Args:
        root: A folder, an archive, or what does not exist yet: then the archives are downloaded into it.
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
            raise InputError(f"{root} is neither a folder nor a .zip or .rar archive", "name the dataset's folder")
        return Provided(unpack(root, root.parent / f"{root.stem}-{UNPACKED}"), [])
    own = (path for path in videos_below(root) if path.relative_to(root).parts[0] != UNPACKED)
    if not root.exists() or ((root / BEGUN).exists() and not any(own)):
        fetch(root, archives, mirror)
    remarks = unpack_below(root, is_list, lists is not None)
    if (root / BEGUN).exists():  # not before: what proves damaged can be deleted, and is downloaded again
        (root / BEGUN).unlink()
    return Provided(root, remarks)


def fetch(root: Path, archives: Sequence[Archive], mirror: str) -> None:
    """Download the archives that are not there.

    Raises:
        DataError: If that fails, with what to do by hand.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / BEGUN).touch()
    missing = [archive for archive in archives if not (root / archive.name).is_file()]
    names = ", ".join(each.name for each in archives)
    by_hand = f"get {names} yourself, put them into {root} and run it again; or name a folder with the videos and lists"
    for archive in missing:
        program_for(f"{mirror.rstrip('/')}/{archive.name}")  # rather now than after hours of downloading
    for archive in missing:
        try:
            download(f"{mirror.rstrip('/')}/{archive.name}", root / archive.name, archive.sha256)
        except DataError as error:
            raise DataError(
                error.message, f"the same command goes on with the download; or {by_hand} with --source"
            ) from error


def unpack_below(root: Path, is_list: Callable[[str], bool], has_lists: bool) -> list[str]:
    """Unpack the archives below a folder, but those whose content somebody has unpacked beside them.

    Raises:
        DataError: If one fails, or two would be unpacked into the same folder.
    """
    files = [path for path in files_below(root) if path.relative_to(root).parts[0] != UNPACKED]
    has_videos = any(path.suffix.lower() in VIDEO_ENDINGS for path in files)
    has_lists = has_lists or any(is_list(path.name) for path in files)
    begun: dict[Path, Path] = {}
    left_packed = []
    for archive in [path for path in files if path.suffix.lower() in ENDINGS]:
        # Both benchmarks publish their lists as an archive of "splits".
        if has_lists if "split" in archive.name.lower() else has_videos:
            left_packed.append(archive.relative_to(root).as_posix())
            continue
        folder = (root / UNPACKED / archive.relative_to(root)).with_suffix("")
        other = begun.setdefault(folder, archive)
        if other != archive:
            raise DataError(f"{other} and {archive} are two archives of one name", "leave only one of them there")
        unpack(archive, folder)
    what = "archives left packed, because videos or lists lie beside them"
    return [f"{what}: {', '.join(left_packed)}"] if left_packed else []


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive and those in it; the folder gets its name when it is complete.

    Raises:
        DataError: If the archive is damaged, leads out of its folder, or there is no program for it.
    """
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        unpack_into(archive, partial, archive)
        # HMDB51 is an archive of one archive a class.
        while inner := next((path for path in files_below(partial) if path.suffix.lower() in ENDINGS), None):
            unpack_into(inner, inner.with_suffix(""), archive)
            inner.unlink()
        partial.replace(folder)
    except OSError as error:
        raise DataError(
            f"{archive} can't be unpacked into {folder}: {error.strerror or error}", "make room there"
        ) from error
    return folder


def unpack_into(archive: Path, folder: Path, outermost: Path) -> None:
    """Unpack one archive, which may have come out of another, into a folder.

    Raises:
        DataError: If it is damaged, saying that the outermost one is to be replaced.
    """
    again = f"delete {outermost} and download it again; the same command does that where it had downloaded it"
    program = program_for(str(archive))
    folder.mkdir(exist_ok=True)
    if program is None:
        unzip(archive, folder, again)
        return
    command = [program, "-quiet", "-force-overwrite", "-no-directory", "-output-directory", str(folder), str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise DataError(f"{archive} can't be unpacked: {(done.stderr or done.stdout).strip()}", again)


def program_for(archive: str) -> str | None:
    """The program that unpacks an archive, None where none is needed.

    Raises:
        DataError: If it is not installed.
    """
    if archive.lower().endswith(".zip"):
        return None
    program = shutil.which("unar")
    if program is None:
        raise DataError(
            f"{archive} needs the program `unar`",
            "install it (Debian: apt-get install unar), or unpack the archive yourself and name its folder with --source",
        )
    return program


def unzip(archive: Path, folder: Path, again: str) -> None:
    """Unpack a .zip; every file's check sum is verified, and `again` is what to do if one is wrong."""
    try:
        with zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                if not entry.flag_bits & 0x800:  # its name is not marked as UTF-8, and was read as code page 437
                    entry.filename = text_of(entry.filename.encode("cp437"))
                path = PurePosixPath(entry.filename)
                if path.is_absolute() or ".." in path.parts:
                    raise DataError(
                        f"{archive} holds `{entry.filename}`, which leads out of its folder", "do not trust this file"
                    )
            for entry in content.infolist():
                content.extract(entry, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is damaged: {error}", again) from error
    except (RuntimeError, NotImplementedError) as error:  # a password, or a compression that Python lacks
        raise DataError(f"{archive} can't be unpacked: {error}", "unpack it yourself") from error
