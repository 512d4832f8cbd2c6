"""vcsf: video representations without labels, from a slow and a fast RGB pathway that teach each other.

An independent reconstruction of VCSF (Li et al., IEEE SMC 2023), of which only the abstract is public.
"""

from importlib.metadata import PackageNotFoundError, version

import pluggy

try:
    __version__ = version("vcsf")
except PackageNotFoundError:  # run from a bare folder (`pip install --target`, a zip) without metadata
    __version__ = "unknown"

hookimpl = pluggy.HookimplMarker("vcsf")
"""Marks a function of a plugin as the implementation of the hook of the same name (`vcsf_cli.hookspecs`)."""
