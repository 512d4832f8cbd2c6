"""Official archives: downloading what is missing, and unpacking, nested ones too."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vcsf_cli.errors import DataError
from vcsf_plugins.datasets.download import download
from vcsf_plugins.datasets.listing import files_below

ENDINGS = frozenset({".zip", ".rar"})
UNPACKED = "unpacked"


@dataclass(frozen=True)
class Archive:
    """A file that a dataset is published as.

    Args:
        name: Its name at the dataset's address.
        sha256: Where it is known for certain; else size and the archive's own check sums must do.
    """

    name: str
    sha256: str = ""


def provide(root: Path, archives: Sequence[Archive], mirror: str) -> Path:
    """The folder where the dataset's files lie: `root` itself, or where its archives are unpacked.

    Args:
        root: A folder, an archive, or what does not exist yet: then the archives are downloaded into it.
        archives: What the dataset is published as.
        mirror: Where to download from.

    Raises:
        DataError: If a download or an archive fails.
    """
    if root.is_file():
        if root.suffix.lower() not in ENDINGS:
            raise DataError(f"{root} is neither a folder nor a .zip or .rar archive", "name the dataset's folder")
        return unpack(root, root.parent / f"{root.stem}-{UNPACKED}")
    if (
        not root.is_dir()
        or not any(not path.name.startswith(".") for path in root.iterdir())
        or (root / f"{archives[0].name}.partial").exists()
        or downloaded_in_part(root, archives)
    ):
        fetch(root, archives, mirror)
    for archive in [path for path in files_below(root) if path.suffix.lower() in ENDINGS]:
        if UNPACKED not in archive.relative_to(root).parts[0]:
            unpack(archive, root / UNPACKED / archive.stem)
    return root


def downloaded_in_part(root: Path, archives: Sequence[Archive]) -> bool:
    """Whether an earlier download stopped between two archives: some are there, and nothing else is."""
    names = {path.name for path in root.iterdir()}
    return names < {archive.name for archive in archives}


def fetch(root: Path, archives: Sequence[Archive], mirror: str) -> None:
    """Download the archives that are not there.

    Raises:
        DataError: If that fails, with what to do by hand.
    """
    root.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        if (root / archive.name).is_file():
            continue
        try:
            download(f"{mirror.rstrip('/')}/{archive.name}", root / archive.name, archive.sha256)
        except DataError as error:
            names = ", ".join(each.name for each in archives)
            raise DataError(
                error.message,
                f"the same command goes on with the download; or get {names} yourself, put them into {root} and run it "
                "again; or name a folder with the videos and lists with --source",
            ) from error


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
        unpack_into(archive, partial)
        for inner in [path for path in files_below(partial) if path.suffix.lower() in ENDINGS]:
            # HMDB51 is an archive of one archive a class, which hold a folder named like the class.
            unpack_into(inner, inner.parent)
            inner.unlink()
        partial.replace(folder)
    except OSError as error:
        raise DataError(
            f"{archive} can't be unpacked into {folder}: {error.strerror or error}", "make room there"
        ) from error
    return folder


def unpack_into(archive: Path, folder: Path) -> None:
    """Unpack one archive into a folder."""
    if archive.suffix.lower() == ".zip":
        unzip(archive, folder)
        return
    program = shutil.which("unar")
    if program is None:
        raise DataError(
            f"{archive} needs the program `unar`", "install it (Debian: apt-get install unar), or unpack it yourself"
        )
    command = [program, "-quiet", "-force-overwrite", "-no-directory", "-output-directory", str(folder), str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"{archive} can't be unpacked: {(done.stderr or done.stdout).strip()}", "download it again")


def unzip(archive: Path, folder: Path) -> None:
    """Unpack a .zip; every file's check sum is verified."""
    try:
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                path = PurePosixPath(name)
                if path.is_absolute() or ".." in path.parts:
                    raise DataError(
                        f"{archive} holds `{name}`, which leads out of its folder", "do not trust this file"
                    )
            content.extractall(folder)
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive} is damaged: {error}", "download it again") from error
