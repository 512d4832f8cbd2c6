"""Readers of video files. They never seek: with AVI, whose frames carry no times, decord and PyAV
land on the wrong frame after a seek, silently (B-frames: half of all frames and more)."""

from vcsf_plugins.decoders.auto import Auto
from vcsf_plugins.decoders.checked import Decord, TorchCodec
from vcsf_plugins.decoders.pyav import PyAV, PyAVReader

__all__ = ["Auto", "Decord", "PyAV", "PyAVReader", "TorchCodec"]
