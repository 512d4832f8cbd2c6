"""vcsf: video representations without labels, from a slow and a fast RGB pathway that teach each
other.

An independent reconstruction of VCSF (Li et al., IEEE SMC 2023), of which only the abstract is
public."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from vcsf_cli.export.load import load_encoder as load_encoder

try:
    __version__ = version("vcsf")
except PackageNotFoundError:
    # It runs from a bare folder (`pip install --target`, a zip) without metadata.
    __version__ = "unknown"

hookimpl = pluggy.HookimplMarker("vcsf")
"""Marks a function of a plugin as the implementation of the hook of the same name
(`vcsf_cli.hookspecs`)."""


def __getattr__(name: str) -> Any:
    if name == "load_encoder":
        from vcsf_cli.export.load import load_encoder  # torch takes seconds to load

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
