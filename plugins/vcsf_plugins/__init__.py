"""The first-party plugin: all built-in parts, registered through the public hooks."""

from collections.abc import Callable, Mapping
from typing import Any

from vcsf_cli import hookimpl

Factories = Mapping[str, Callable[..., Any]]

# Modules are imported in the hooks: `vcsf prepare` needs datasets and decoders only, and no torch.


@hookimpl
def vcsf_backbones() -> Factories:
    from vcsf_plugins import backbones

    return {
        "s3d": backbones.s3d,
        "r3d18": backbones.r3d18,
        "r2plus1d18": backbones.r2plus1d18,
        "slowfast_r50": backbones.slowfast_r50,
        "timm": backbones.timm_images,
        "small": backbones.small,
    }


@hookimpl
def vcsf_motion_modules() -> Factories:
    from vcsf_plugins import motion

    return {
        "none": motion.none,
        "difference_gate": motion.DifferenceGate,
        "difference_map": motion.DifferenceMap,
        "short_term": motion.ShortTerm,
        "additive": motion.Additive,
        "correlation": motion.Correlation,
    }


@hookimpl
def vcsf_samplers() -> Factories:
    from vcsf_plugins import samplers

    return {"slow_fast": samplers.SlowFast}


@hookimpl
def vcsf_losses() -> Factories:
    from vcsf_plugins import losses

    return {
        "infonce": losses.InfoNCE,
        "cross_pathway": losses.CrossPathway,
        "cross_pathway_bank": losses.CrossPathwayBank,
        "cross_pathway_clusters": losses.CrossPathwayClusters,
        "cross_instance": losses.CrossInstance,
        "supervised": losses.Supervised,
        "temporal_contrast": losses.TemporalContrast,
    }


@hookimpl
def vcsf_datasets() -> Factories:
    from vcsf_plugins import datasets, synthetic

    return {
        "ucf101": datasets.UCF101,
        "hmdb51": datasets.HMDB51,
        "folder": datasets.Folder,
        "webdataset": datasets.WebDataset,
        "csv": datasets.Table,
        "synthetic": synthetic.Synthetic,
    }


@hookimpl
def vcsf_decoders() -> Factories:
    from vcsf_plugins import decoders

    return {
        "auto": decoders.Auto,
        "decord": decoders.Decord,
        "pyav": decoders.PyAV,
        "torchcodec": decoders.TorchCodec,
    }


@hookimpl
def vcsf_encoders() -> Factories:
    from vcsf_plugins import encoders

    return {"hf": encoders.hugging_face, "timm": encoders.timm_frames}


@hookimpl
def vcsf_loggers() -> Factories:
    from vcsf_plugins import loggers

    return {"wandb": loggers.WandB, "mlflow": loggers.MLflow, "trackio": loggers.Trackio}
