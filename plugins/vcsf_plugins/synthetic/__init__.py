"""A synthetic dataset of UCF101's kind: an articulated figure performs actions before changing
scenes."""

from vcsf_plugins.synthetic.dataset import Synthetic

__all__ = ["Synthetic"]
