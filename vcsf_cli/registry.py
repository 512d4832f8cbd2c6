"""Finding, describing, checking and building the components that plugins register."""

from __future__ import annotations

import importlib.util
import inspect
import multiprocessing
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pluggy
import vcsf_plugins

from vcsf_cli import hookspecs
from vcsf_cli.contracts import Component, Parameter
from vcsf_cli.errors import (
    BROKEN_DISK,
    WRONG_PATH,
    PluginError,
    UnknownName,
    VcsfError,
    did_you_mean,
)
from vcsf_cli.narrate import say

HOOKS = {
    "backbone": "vcsf_backbones",
    "motion": "vcsf_motion_modules",
    "sampler": "vcsf_samplers",
    "loss": "vcsf_losses",
    "dataset": "vcsf_datasets",
    "decoder": "vcsf_decoders",
}
"""The hook that registers each kind of component."""

RENAME = "rename one of them, or uninstall one of the plugins"

_FILLED_BY_VCSF = frozenset({"pathway"})
"""Keywords of factories that vcsf fills in, so that a recipe can't."""

_GIVES = {
    "backbone": ("channels", "forward"),
    "motion": ("forward",),
    "sampler": ("length", "sample", "cover"),
    "loss": ("queue", "forward"),
    "dataset": ("benchmark", "videos", "remarks"),
    "decoder": ("open",),
}
"""What a factory's result must have; shapes and types are in `vcsf_cli.contracts`."""

_LOCAL_PLUGIN = "vcsf_local.py"
_NO_LOCAL_PLUGIN = "VCSF_NO_LOCAL_PLUGIN"
"""Environment variable by which processes that vcsf starts learn that the local plugin is left
out."""


class Registry:
    """All plugins, and the components they register. A kind's hook is called when the kind is first
    asked for, so that a command that needs no network never imports torch.

    Args:
        local_plugin: A plugin file to load last, None for none.
    """

    def __init__(self, local_plugin: Path | None) -> None:
        self.manager = pluggy.PluginManager("vcsf")
        self.manager.add_hookspecs(hookspecs)
        self._kinds: dict[str, dict[str, Component]] = {}
        self._deaf: set[tuple[str, str]] = set()
        self._register(vcsf_plugins, "vcsf_plugins")
        for entry in sorted(entry_points(group="vcsf"), key=lambda entry: entry.name):
            with blame(entry.name):
                plugin = entry.load()
            self._register(plugin, entry.name)
        if local_plugin is not None:
            with blame(str(local_plugin)):
                module = _import_file(local_plugin)
            self._register(module, str(local_plugin))

    def _register(self, plugin: object, name: str) -> None:
        unknown = [
            hook
            for hook in dir(plugin)
            if hook.startswith("vcsf_") and self._is_foreign(plugin, hook)
        ]
        if unknown:
            hooks = [hook for hook in dir(hookspecs) if hook.startswith("vcsf_")]
            raise PluginError(
                f"plugin `{name}` implements an unknown hook `{unknown[0]}`",
                did_you_mean(unknown[0], hooks),
            )
        try:
            self.manager.register(plugin, name=name)
        except ValueError as error:
            raise PluginError(f"plugin `{name}` is registered twice: {error}") from error
        except pluggy.PluginValidationError as error:
            raise PluginError(
                f"plugin `{name}` breaks a hook's contract: {error}", "see `vcsf_cli.hookspecs`"
            ) from error

    def _is_foreign(self, plugin: object, attribute: str) -> bool:
        return self.manager.parse_hookimpl_opts(plugin, attribute) is not None and not hasattr(
            hookspecs, attribute
        )

    def plugins(self) -> list[str]:
        """Names of all plugins, in load order."""
        return [name for name, _ in self.manager.list_name_plugin()]

    def call(self, hook: str) -> Iterator[tuple[str, Any]]:
        """What each plugin returns from a hook without arguments, with the plugin's name, in load
        order."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            with blame(implementation.plugin_name):
                result = implementation.function()
            yield implementation.plugin_name, result

    def notify(self, hook: str, **arguments: Any) -> None:
        """Tell all observers. One that fails is not told again, and stops nobody's training."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            observer = (implementation.plugin_name, hook)
            if observer in self._deaf:
                continue
            try:
                with blame(implementation.plugin_name, f"`{hook}`"):
                    implementation.function(*(arguments[name] for name in implementation.argnames))
            except VcsfError as error:
                self._deaf.add(observer)
                say(f"warning: {error.message}; it is not called again")

    def components(self, kind: str) -> dict[str, Component]:
        """All components of a kind by name, in load order.

        Raises:
            PluginError: If a plugin raises, returns something else than `{name: factory}`, or takes
                a name twice.
        """
        if kind not in self._kinds:
            found: dict[str, Component] = {}
            for plugin, factories in self.call(HOOKS[kind]):
                if not isinstance(factories, typing.Mapping):
                    raise PluginError(
                        f"plugin `{plugin}` returns {type(factories).__name__} from "
                        f"`{HOOKS[kind]}`",
                        "return a dict of names and factories, as plugins/README.md shows",
                    )
                for name, factory in factories.items():
                    if name in found:
                        raise PluginError(
                            f"{kind} `{name}` is registered by both `{found[name].plugin}` and "
                            f"`{plugin}`",
                            RENAME,
                        )
                    found[name] = describe(kind, name, factory, plugin)
            self._kinds[kind] = found
        return self._kinds[kind]

    def find(self, kind: str, name: str, where: str = "") -> Component:
        """The component of a name.

        Raises:
            UnknownName: If there is none; the hint names the nearest.
        """
        components = self.components(kind)
        if name not in components:
            raise UnknownName(kind, name, components, where)
        return components[name]

    def attribute(self, kind: str, name: str, attribute: str, default: Any = None) -> Any:
        """An optional attribute of a component's factory; `default` if it or the component is
        missing."""
        component = self.components(kind).get(name)
        return getattr(component.factory, attribute, default) if component else default

    def build(self, kind: str, name: str, *positional: Any, **settings: Any) -> Any:
        """Call a component's factory, with settings in the types of its signature.

        Raises:
            PluginError: If the factory raises something else than a `VcsfError`, or returns
                something else than its kind must give.
        """
        component = self.find(kind, name)
        with blame(component.plugin, f"{kind} `{name}`"):
            built = component.factory(*positional, **settings)
        missing = [attribute for attribute in _GIVES[kind] if not hasattr(built, attribute)]
        if missing:
            raise PluginError(
                f"plugin `{component.plugin}` returns {type(built).__name__} as {kind} `{name}`, "
                f"which has no "
                f"`{missing[0]}`",
                f"see `{HOOKS[kind]}` in `vcsf_cli.hookspecs`",
            )
        return built

    @contextmanager
    def blame_for(self, kind: str, name: str) -> Iterator[None]:
        """Turn whatever a component raises while it is used into an error that names it and its
        plugin.

        A `VcsfError` passes as it is, and so does what the disk or a path is to blame for.
        """
        try:
            with blame(self.find(kind, name).plugin, f"{kind} `{name}`"):
                yield
        except PluginError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (*BROKEN_DISK, *WRONG_PATH):
                raise cause from None
            raise

    def recipe_dirs(self) -> list[tuple[str, Path]]:
        """Folders of recipes that plugins add, each with the plugin's name."""
        return [
            (plugin, Path(folder))
            for plugin, folder in self._listed("vcsf_recipe_dirs", str | Path)
        ]

    def commands(self, taken: Iterable[str]) -> dict[str, tuple[str, click.Command]]:
        """Commands that plugins add by name, each with the plugin's name.

        Args:
            taken: Names of the built-in commands.

        Raises:
            PluginError: If a name is taken.
        """
        owners = dict.fromkeys(taken, "vcsf")
        found: dict[str, tuple[str, click.Command]] = {}
        for plugin, command in self._listed("vcsf_commands", click.Command):
            name = command.name or ""
            if name in owners:
                raise PluginError(
                    f"command `{name}` is registered by both `{owners[name]}` and `{plugin}`",
                    RENAME,
                )
            owners[name] = plugin
            found[name] = plugin, command
        return found

    def _listed(self, hook: str, kind: Any) -> Iterator[tuple[str, Any]]:
        """Each entry of the lists that plugins return from a hook, with the plugin's name."""
        for plugin, entries in self.call(hook):
            entries = entries if isinstance(entries, list | tuple) else [entries]
            for entry in entries:
                if not isinstance(entry, kind):
                    raise PluginError(
                        f"plugin `{plugin}` returns {type(entry).__name__} from `{hook}`",
                        f"see `{hook}` in `vcsf_cli.hookspecs`",
                    )
                yield plugin, entry


@contextmanager
def blame(plugin: str, what: str = "") -> Iterator[None]:
    """Turn whatever a plugin raises into an error that names it; a `VcsfError` passes as it is.

    `sys.exit` is no way out for a plugin: nobody would know why vcsf ended.
    """
    try:
        yield
    except VcsfError:
        raise
    except (Exception, SystemExit) as error:
        place = f", {what}," if what else ""
        raise PluginError(
            f"plugin `{plugin}`{place} failed: {type(error).__name__}: {error}",
            "mend the plugin, or uninstall it; --no-local-plugin leaves out ./vcsf_local.py",
        ) from error


def _import_file(path: Path) -> ModuleType:
    """Import a Python file that is on no path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} can't be imported")
    module = importlib.util.module_from_spec(spec)
    # So that pickled classes are found, by worker processes that start afresh too.
    sys.modules[path.stem] = module
    sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    return module


def describe(kind: str, name: str, factory: Callable[..., Any], plugin: str) -> Component:
    """A component with its parameters, read from the factory's signature and docstring.

    Raises:
        PluginError: If the factory can't be called, or has parameters that vcsf could not fill.
    """
    if not callable(factory):
        raise PluginError(
            f"plugin `{plugin}` registers {kind} `{name}`, which is no function or class"
        )
    documentation = own_documentation(factory)
    helps = _argument_helps(documentation)
    if inspect.isclass(factory) and not helps:
        helps = _argument_helps(own_documentation(factory.__init__))
    signature = inspect.signature(factory)
    target = factory.__init__ if inspect.isclass(factory) else factory
    with blame(plugin, f"{kind} `{name}`"):
        annotations = typing.get_type_hints(target, include_extras=True)
    parameters = {}
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY or parameter.name in _FILLED_BY_VCSF:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PluginError(
                f"{kind} `{name}` of plugin `{plugin}` takes anything (`{parameter}`), so that no "
                f"recipe could be checked",
                "name its settings; a class needs an `__init__` of its own, as that of torch's "
                "modules takes anything",
            )
        if parameter.kind is not parameter.KEYWORD_ONLY:
            raise PluginError(
                f"{kind} `{name}` of plugin `{plugin}` has a parameter `{parameter}` that is not "
                f"keyword-only",
                "positional-only parameters (before `/`) come from vcsf, keyword-only ones (after "
                "`*`) from the recipe",
            )
        parameters[parameter.name] = Parameter(
            name=parameter.name,
            annotation=annotations.get(parameter.name, Any),
            default=None if parameter.default is parameter.empty else parameter.default,
            help=helps.get(parameter.name, ""),
            required=parameter.default is parameter.empty,
        )
    return Component(
        kind, name, factory, plugin, parameters, documentation.split("\n\n")[0].replace("\n", " ")
    )


def own_documentation(thing: object) -> str:
    """A docstring without its indentation; a base class's is not its own."""
    return inspect.cleandoc(thing.__doc__ or "")


def _argument_helps(documentation: str) -> dict[str, str]:
    """The `Args:` lines of a Google-style docstring by parameter."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", documentation, re.MULTILINE)
    if not section:
        return {}
    entries = re.split(r"^[ \t]{4}(\w+):[ \t]*", section.group(1), flags=re.MULTILINE)[1:]
    return {
        name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)
    }


def takes(component: Component, keyword: str) -> bool:
    """Whether a component's factory has a keyword that vcsf fills in."""
    return keyword in inspect.signature(component.factory).parameters


def leave_out_local_plugin() -> None:
    """Make `load` ignore `./vcsf_local.py` in this process and in those that it starts
    (`--no-local-plugin`)."""
    os.environ[_NO_LOCAL_PLUGIN] = "1"
    load.cache_clear()


@cache
def load() -> Registry:
    """The registry of this process: first-party plugin, entry points of group `vcsf`, then
    `./vcsf_local.py`, which is announced on stderr, once and not to a shell that completes a
    word."""
    path = Path(_LOCAL_PLUGIN).resolve()
    if os.environ.get(_NO_LOCAL_PLUGIN) or not path.is_file():
        return Registry(None)
    if multiprocessing.parent_process() is None and "_VCSF_COMPLETE" not in os.environ:
        say(f"using the plugin ./{_LOCAL_PLUGIN}")
    return Registry(path)
