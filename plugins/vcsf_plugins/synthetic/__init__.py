"""A synthetic dataset of UCF101's kind: an articulated figure performs actions before changing
scenes."""

from vcsf_plugins.synthetic.dataset import synthetic

__all__ = ["synthetic"]
