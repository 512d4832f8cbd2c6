"""Finds, describes and builds the components that plugins register."""

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
    is_shortage,
)
from vcsf_cli.narrate import say

HOOKS = {
    "backbone": "vcsf_backbones",
    "motion": "vcsf_motion_modules",
    "sampler": "vcsf_samplers",
    "loss": "vcsf_losses",
    "dataset": "vcsf_datasets",
    "decoder": "vcsf_decoders",
    "encoder": "vcsf_encoders",
    "logger": "vcsf_loggers",
}
"""The hook that registers each kind of component."""

RENAME = "rename one of them, or uninstall one of the plugins"

_FILLED_BY_VCSF = frozenset({"pathway"})
"""Parameters of factories that vcsf fills in; a recipe can't set them."""

_INTERFACES = {
    "backbone": ("channels", "forward"),
    "motion": ("forward",),
    "sampler": ("length", "sample", "cover"),
    "loss": ("queue", "forward"),
    "dataset": ("benchmark", "videos", "remarks"),
    "decoder": ("open",),
    "encoder": ("network", "width", "frames", "size"),
    "logger": ("vcsf_on_log",),
}
"""Attributes that a factory's result must have; `vcsf_cli.contracts` has shapes and types."""

_LOCAL_PLUGIN = "vcsf_local.py"
_NO_LOCAL_PLUGIN = "VCSF_NO_LOCAL_PLUGIN"
"""Environment variable that tells child processes to leave out the local plugin."""


class Registry:
    """All plugins and their components.

    The hook of a kind is called when the kind is first needed: a command without networks never
    imports torch.

    Args:
        local_plugin: A plugin file to load last, or None.
    """

    def __init__(self, local_plugin: Path | None) -> None:
        self.manager = pluggy.PluginManager("vcsf")
        self.manager.add_hookspecs(hookspecs)
        self._kinds: dict[str, dict[str, Component]] = {}
        self._failed_observers: set[tuple[str, str]] = set()
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
        hooks = [hook for hook in dir(hookspecs) if hook.startswith("vcsf_")]
        for hook in dir(plugin):
            is_hook = hook.startswith("vcsf_") and self.manager.parse_hookimpl_opts(plugin, hook)
            if is_hook and hook not in hooks:
                raise PluginError(
                    f"plugin `{name}` implements an unknown hook `{hook}`",
                    did_you_mean(hook, hooks),
                )
        try:
            self.manager.register(plugin, name=name)
        except ValueError as error:
            raise PluginError(f"plugin `{name}` is registered twice: {error}") from error
        except pluggy.PluginValidationError as error:
            raise PluginError(
                f"plugin `{name}` breaks a hook's contract: {error}", "see `vcsf_cli.hookspecs`"
            ) from error

    def plugins(self) -> list[str]:
        """Names, in load order."""
        return [name for name, _ in self.manager.list_name_plugin()]

    def unmarked(self) -> list[str]:
        """Warnings about plugins whose functions pluggy passes over, as `@hookimpl` is missing."""
        found = []
        for name, plugin in self.manager.list_name_plugin():
            shown = f"./{_LOCAL_PLUGIN}" if Path(name).name == _LOCAL_PLUGIN else name
            forgotten = [
                hook
                for hook in vars(hookspecs)
                if hook.startswith("vcsf_")
                and hasattr(plugin, hook)
                and not self.manager.parse_hookimpl_opts(plugin, hook)
            ]
            if not self.manager.get_hookcallers(plugin):
                found.append(f"{shown} implements no hook; is @hookimpl missing?")
            elif forgotten:
                found.append(f"`{forgotten[0]}` of {shown} is not called; is @hookimpl missing?")
        return found

    def call(self, hook: str) -> Iterator[tuple[str, Any]]:
        """Call a hook without arguments: names of plugins and their results, in load order."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            with blame(implementation.plugin_name):
                result = implementation.function()
            yield implementation.plugin_name, result

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call all observers. One that fails is not called again; the training goes on."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            observer = (implementation.plugin_name, hook)
            if observer in self._failed_observers:
                continue
            try:
                with blame(implementation.plugin_name, f"`{hook}`"):
                    implementation.function(*(arguments[name] for name in implementation.argnames))
            except VcsfError as error:
                self._failed_observers.add(observer)
                say(f"warning: {error.message}; it is not called again")

    @contextmanager
    def observed_by(self, loggers: Iterable[str]) -> Iterator[None]:
        """Have loggers called as observers meanwhile.

        Raises:
            UnknownName: If there is no such logger.
            InputError: If one needs a package that is not installed.
        """
        built = {name: self.build("logger", name) for name in loggers}
        for name, logger in built.items():
            self._register(logger, name)
        try:
            yield
        finally:
            for name in built:
                self.manager.unregister(name=name)
                self._failed_observers -= {(name, "vcsf_on_log"), (name, "vcsf_on_finish")}

    def components(self, kind: str) -> dict[str, Component]:
        """All components of a kind by name, in load order.

        Raises:
            PluginError: If a plugin raises, does not return `{name: factory}`, or takes a name
                twice.
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
        """A component by name.

        Raises:
            UnknownName: If there is none.
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
            PluginError: If the factory raises anything but a `VcsfError`, or its result lacks an
                attribute.
        """
        component = self.find(kind, name)
        with blame(component.plugin, f"{kind} `{name}`"):
            built = component.factory(*positional, **settings)
        missing = [attribute for attribute in _INTERFACES[kind] if not hasattr(built, attribute)]
        if missing:
            raise PluginError(
                f"plugin `{component.plugin}` returns {type(built).__name__} as {kind} `{name}`, "
                f"which has no `{missing[0]}`",
                f"see `{HOOKS[kind]}` in `vcsf_cli.hookspecs`",
            )
        return built

    @contextmanager
    def blame_for(self, kind: str, name: str) -> Iterator[None]:
        """Turn an exception in a component's methods into an error that names it and its plugin.

        A `VcsfError` and errors of the disk or of a path pass unchanged.
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
        """Names of plugins, and the folders of recipes that they add."""
        return [
            (plugin, Path(folder))
            for plugin, folder in self._listed("vcsf_recipe_dirs", str | Path)
        ]

    def commands(self, taken: Iterable[str]) -> dict[str, tuple[str, click.Command]]:
        """Commands of plugins by name, each with its plugin.

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
        """Names of plugins, and each entry of the lists that they return from a hook."""
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
    """Turn an exception of a plugin into an error that names it; a `VcsfError` passes unchanged.

    `sys.exit` is an error too: it would end vcsf without a word.
    """
    try:
        yield
    except VcsfError:
        raise
    except (Exception, SystemExit) as error:
        if is_shortage(error):
            raise
        place = f", {what}," if what else ""
        raise PluginError(
            f"plugin `{plugin}`{place} failed: {type(error).__name__}: {error}",
            "mend the plugin, or uninstall it; --no-local-plugin leaves out ./vcsf_local.py",
        ) from error


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} can't be imported")
    module = importlib.util.module_from_spec(spec)
    # So that pickled classes are found, in spawned worker processes too.
    sys.modules[path.stem] = module
    sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    return module


def describe(kind: str, name: str, factory: Callable[..., Any], plugin: str) -> Component:
    """Read a component from a factory's signature and docstring.

    Raises:
        PluginError: If the factory can't be called, or has parameters that vcsf can't fill.
    """
    if not callable(factory):
        raise PluginError(
            f"plugin `{plugin}` registers {kind} `{name}`, which is not a function or class"
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
                "recipe could be checked",
                "name its settings; a class needs an `__init__` of its own, as that of torch's "
                "modules takes anything",
            )
        if parameter.kind is not parameter.KEYWORD_ONLY:
            raise PluginError(
                f"{kind} `{name}` of plugin `{plugin}` has a parameter `{parameter}` that is not "
                "keyword-only",
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
    """The `Args:` lines of a Google-style docstring, by parameter."""
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
    """Make `load` ignore `./vcsf_local.py` in this process and its children."""
    os.environ[_NO_LOCAL_PLUGIN] = "1"
    load.cache_clear()


@cache
def load() -> Registry:
    """Load the first-party plugin, entry points of group `vcsf`, then `./vcsf_local.py`.

    The last is announced on stderr, and so is a plugin that seems to lack `@hookimpl`, but not to a
    shell that completes a word.
    """
    path = Path(_LOCAL_PLUGIN).resolve()
    local = None if os.environ.get(_NO_LOCAL_PLUGIN) or not path.is_file() else path
    speaks = multiprocessing.parent_process() is None and "_VCSF_COMPLETE" not in os.environ
    if local and speaks:
        say(f"using the plugin ./{_LOCAL_PLUGIN}")
    registry = Registry(local)
    for warning in registry.unmarked() if speaks else []:
        say(f"warning: {warning}")
    return registry
