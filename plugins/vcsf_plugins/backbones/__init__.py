"""Encoders of clips. Each returns a feature map, and takes motion modules between its stages."""

from vcsf_plugins.backbones.images import timm_images
from vcsf_plugins.backbones.slowfast import slowfast_r50
from vcsf_plugins.backbones.small import small
from vcsf_plugins.backbones.torchvision_nets import r2plus1d18, r3d18, s3d

__all__ = ["r2plus1d18", "r3d18", "s3d", "slowfast_r50", "small", "timm_images"]
