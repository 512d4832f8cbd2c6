"""Conditions on a gallery's clips, in SQL: `--where "label = 'Run' and seconds > 5"`."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np

from vcsf_cli.contracts import Indices
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import InputError
from vcsf_cli.narrate import counted

_COLUMNS = (
    *("video", "label", "group", "source", "seconds", "frames", "fps", "width", "height"),
    *("split1", "split2", "split3"),
)


def matching_clips(manifest: Manifest, condition: str) -> Indices:
    """Rows of a manifest that a condition in SQL holds for.

    Raises:
        InputError: If it is no condition on a manifest's columns, or holds for no clip.
    """
    table = manifest.table.assign(seconds=manifest.table["frames"] / manifest.table["fps"])
    clips = table[list(_COLUMNS)].reset_index(drop=True)
    with closing(sqlite3.connect(":memory:")) as database:
        clips.to_sql("clips", database, index_label="number")
        try:
            found = database.execute(f"SELECT number FROM clips WHERE ({condition})").fetchall()
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise InputError(
                f"--where {condition!r}: {error}",
                f"write SQL such as \"label = 'Run'\"; columns: {', '.join(_COLUMNS)}",
            ) from error
    if not found:
        raise InputError(
            f"--where {condition!r} holds for none of {counted(len(clips), 'clip')} of {manifest.name}",
            f"columns: {', '.join(_COLUMNS)}; text is written in single quotes",
        )
    return np.sort(np.array([number for (number,) in found], np.int64))
