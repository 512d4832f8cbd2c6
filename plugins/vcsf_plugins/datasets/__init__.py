"""What `vcsf prepare` can read: the benchmarks and a person's own videos. Nothing here decodes
video."""

from vcsf_plugins.datasets.hmdb51 import hmdb51
from vcsf_plugins.datasets.own import csv, folder
from vcsf_plugins.datasets.ucf101 import ucf101

__all__ = ["csv", "folder", "hmdb51", "ucf101"]
