"""Where what is kept of buckets lies on this disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

CACHE = "VCSF_CACHE"
"""Variable that names the folder."""


def folder_of(kind: str, address: str) -> Path:
    """The folder of an address, which has the address's last name.

    Args:
        kind: Of what lies there, such as `runs`.
    """
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vcsf"
    cache = Path(os.environ.get(CACHE) or usual).expanduser()
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    return cache / kind / digest / address.rpartition("/")[2]
