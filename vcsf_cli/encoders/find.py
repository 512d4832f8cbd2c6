"""The encoder that `--from` names: the one place where that is decided."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from vcsf_cli import registry
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.check import Checker
from vcsf_cli.config.schema import Init
from vcsf_cli.config.signature import settings_model
from vcsf_cli.config.strict_yaml import Marks
from vcsf_cli.contracts import PATHWAYS, Encoder
from vcsf_cli.encoders import hub
from vcsf_cli.encoders.exported import CONFIG, FILES, exported_recipe, is_export, read_config
from vcsf_cli.encoders.others import ExportSource, PluginSource, WeightsSource
from vcsf_cli.encoders.run import RunSource, UntrainedSource
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.errors import InputError, PluginError, RunError, UnknownName
from vcsf_cli.model.pathways import build
from vcsf_cli.model.pretrained import InitialWeights, read_pathway_weights
from vcsf_cli.narrate import say
from vcsf_cli.runs.run import find_run, run_folder
from vcsf_cli.storage import files

_SCRATCH = "scratch:"
_NAMED = re.compile(r"([A-Za-z]\w+):(.+)")
"""An encoder of a plugin, such as `hf:NAME`; a drive of Windows has one letter."""


def find_source(
    runs: Path,
    named: str | None,
    recipe: str | None = None,
    settings: Sequence[str] = (),
    doing: str = "measuring",
    scratch: bool = False,
) -> EncoderSource:
    """The encoder that `--from` names, or that of the newest finished run.

    Args:
        runs: Folder of run folders.
        named: What the user wrote: a run, an exported folder or one on the hub (`hf:USER/NAME`), a
            file of weights, `scratch:RECIPE`, or an encoder of a plugin, such as `hf:NAME` too.
            None for the newest run.
        recipe: Whose networks weights are put into.
        settings: `key=value` of that recipe, or of an encoder of a plugin.
        doing: What is done with a run's checkpoint, for a remark if it is not finished.
        scratch: Whether `scratch:RECIPE` may be named.

    Raises:
        InputError: If there is none, several begin like this, or the options don't go together.
        VcsfError: If it can't be loaded.
    """
    pathways, path = _split_pathway(named or "")
    if named and path.is_file():
        return _open_weights(runs, named, pathways, path, recipe, settings)
    if recipe:
        raise InputError(
            f"--recipe {recipe} says whose networks the weights of a file go into, and "
            f"{f'--from {named} is no file' if named else 'there is no --from FILE'}",
            "give a file of weights: --from FILE --recipe NAME",
        )
    if named and not settings and (folder := _download_export(named)):
        return _open_export(runs, named, folder)
    match = _NAMED.fullmatch(named or "")
    if named and match and not named.startswith(_SCRATCH) and not Path(named).exists():
        return _open_of_plugin(runs, named, match[1], match[2], settings)
    if settings:
        raise InputError(
            f"--with {settings[0]} has nothing to set",
            "it sets a key of --recipe, or of an encoder that `vcsf plugins encoder` lists",
        )
    if named and named.startswith(_SCRATCH):
        if not scratch:
            raise InputError(
                f"--from {named} is for vcsf finetune alone",
                "vcsf retrieve --untrained measures a run's networks as they were at the beginning",
            )
        return _find_untrained(runs, named)
    if named and (Path(named) / CONFIG).is_file():
        return _open_export(runs, named, Path(named))
    run = find_run(runs, named)
    if named is None:
        say(f"using the newest finished run: {run.name}")
    if not run.finished:
        say(f"run {run.name} is not finished: {doing} its newest checkpoint")
    return RunSource(run)


def describe(source: EncoderSource) -> None:
    """Say what must be known of an encoder before it is used."""
    for remark in source.labels_remarks:
        say(f"warning: {remark}")
    for remark in source.remarks:
        say(remark)


def chosen_pathways(source: EncoderSource, chosen: str) -> tuple[str, ...]:
    """The pathways that `--pathway` chooses: all for `both`.

    Raises:
        InputError: If the encoder has no such pathway.
    """
    if chosen == "both":
        return source.pathways
    if chosen not in source.pathways:
        raise InputError(
            f"{source.name} has no pathway {chosen}, only {' and '.join(source.pathways)}",
            "leave out --pathway",
        )
    return (chosen,)


def _find_untrained(runs: Path, named: str) -> UntrainedSource:
    """The networks of `scratch:RECIPE`.

    Raises:
        InputError: If the recipe does not start from random weights.
    """
    recipe = recipes.load(named.removeprefix(_SCRATCH))
    stage = recipe.first_stage
    if stage.init != Init():
        raise InputError(
            f"{named} starts from the weights of a file, not from scratch",
            "leave out its key `init`; --from FILE --recipe NAME measures weights of a file",
        )
    pathways = (stage.backbone.settings, stage.slow, stage.fast)
    if any(settings.get("pretrained") for settings in pathways):
        raise InputError(
            f"{named} starts from a pretrained backbone, not from scratch",
            "leave out its key `pretrained`",
        )
    return UntrainedSource(run_folder(runs, recipe), recipe)


def _split_pathway(named: str) -> tuple[tuple[str, ...], Path]:
    """The pathways and the file of `[slow=|fast=]FILE`."""
    pathway, _, rest = named.partition("=")
    return ((pathway,), Path(rest)) if pathway in PATHWAYS and rest else (PATHWAYS, Path(named))


def _open_weights(
    runs: Path,
    named: str,
    pathways: Sequence[str],
    path: Path,
    recipe: str | None,
    settings: Sequence[str],
) -> WeightsSource:
    if recipe is None:
        own = path.parent if (path.parent / "recipe.yaml").is_file() else None
        raise InputError(
            f"{path} is a file of weights, and nothing says whose networks they go into",
            f"name the folder that it lies in, {own}, or a recipe: --recipe NAME"
            if own
            else "name a recipe with the same backbone: --recipe NAME",
        )
    loaded = recipes.load(recipe, settings, "--with")
    weights = _read_weights(loaded, pathways, path)
    given = ["--from", named, "--recipe", recipe, *_as_words(settings)]
    return WeightsSource(runs, loaded, weights, tuple(given))


def _read_weights(recipe: recipes.Recipe, pathways: Sequence[str], path: Path) -> InitialWeights:
    model, digest = build(recipe, weights_follow=True), files.sha256(path)
    backbone = recipe.first_stage.backbone.name
    return InitialWeights(
        tuple(read_pathway_weights(path, digest, each, model, backbone) for each in pathways)
    )


def _download_export(named: str) -> Path | None:
    """The folder of an export on the hub; None if that is not what is named."""
    if not named.startswith(hub.PREFIX) or Path(named.removeprefix(hub.PREFIX)).exists():
        return None
    try:
        # Without the package, nothing but an export could come of a long wait.
        alone = find_spec("transformers") is None
        if alone and not hub.is_cached(named) and not hub.answers(named):
            return None
        return hub.download(named)
    except InputError:  # the plugin says what is wrong, or has it
        return None


def _open_export(runs: Path, named: str, folder: Path) -> ExportSource:
    """An exported folder.

    Raises:
        InputError: If it is another folder with a `config.json`, such as a model of transformers.
        RunError: If it is damaged, or was exported without `model.safetensors`.
    """
    if not is_export(folder):
        others = [f"{name}:{folder}" for name in registry.load().components("encoder")]
        raise InputError(
            f"{folder} is not a folder that vcsf exported",
            f"models of others are named with their kind: {', '.join(others)}",
        )
    config = read_config(folder)
    path = folder / FILES["safetensors"]
    if not path.is_file():
        raise RunError(f"{folder} has no {path.name}", "export the run with --format safetensors")
    recipe = exported_recipe(config)
    weights = _read_weights(recipe, tuple(config["features"]), path)
    return ExportSource(runs, recipe, weights, ("--from", named), folder, config)


def _open_of_plugin(
    runs: Path, named: str, scheme: str, which: str, settings: Sequence[str]
) -> PluginSource:
    """An encoder of a plugin.

    Raises:
        UnknownName: If no plugin has registered the word before the colon.
        RecipeError: If a setting is wrong.
        PluginError: If the plugin gives something else.
    """
    plugins = registry.load()
    known = plugins.components("encoder")
    if scheme not in known:
        raise UnknownName("kind of encoder", scheme, known, f"`--from {named}`")
    component = known[scheme]
    tree: dict[str, object] = {}
    marks: Marks = {}
    checker = Checker(
        marks, recipes.assign_all(tree, marks, settings, "--with"), f"encoder {scheme}"
    )
    checked = checker.node(settings_model(component, {}), tree, ())
    checker.finish()
    assert checked is not None
    values = {name: getattr(checked, name) for name in component.parameters}
    encoder = plugins.build("encoder", scheme, which, **values)
    if not isinstance(encoder, Encoder):
        raise PluginError(
            f"plugin `{component.plugin}` returns {type(encoder).__name__} as encoder `{scheme}`",
            "return a `vcsf_cli.contracts.Encoder`",
        )
    given = ("--from", named, *_as_words(settings))
    return PluginSource(runs, scheme, encoder, component.plugin, given)


def _as_words(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--with", setting)]
