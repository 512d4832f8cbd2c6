"""Contrastive losses on two pathways.

All compute in float32 whatever the networks compute in: a sum of exponentials of similarities over
temperature loses too much in bfloat16."""

from vcsf_plugins.losses.bank import CrossPathwayBank, CrossPathwayClusters
from vcsf_plugins.losses.cross_pathway import CrossPathway
from vcsf_plugins.losses.instance import CrossInstance, InfoNCE
from vcsf_plugins.losses.supervised import Supervised
from vcsf_plugins.losses.temporal import TemporalContrast

__all__ = [
    "CrossInstance",
    "CrossPathway",
    "CrossPathwayBank",
    "CrossPathwayClusters",
    "InfoNCE",
    "Supervised",
    "TemporalContrast",
]
