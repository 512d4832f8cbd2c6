"""Datasets for `vcsf prepare`: the benchmarks and videos of one's own."""

from vcsf_plugins.datasets.hmdb51 import HMDB51
from vcsf_plugins.datasets.own import Folder, Table
from vcsf_plugins.datasets.tars import WebDataset
from vcsf_plugins.datasets.ucf101 import UCF101

__all__ = ["HMDB51", "UCF101", "Folder", "Table", "WebDataset"]
