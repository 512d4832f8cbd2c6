"""Finds all problems of a recipe, protocol or table, each with key, line and what to write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

from annotated_types import Gt, MinLen
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from vcsf_cli import registry
from vcsf_cli.config import schema
from vcsf_cli.config.schema import COMPONENTS, Stage
from vcsf_cli.config.signature import Settings, settings_model
from vcsf_cli.config.strict_yaml import Marks, Path
from vcsf_cli.contracts import PATHWAYS, Component
from vcsf_cli.errors import RecipeError, UnknownName, VcsfError, did_you_mean

_MOTION_KEYS: Mapping[str, tuple[Any, Any]] = {"after": (list[int], [2, 3, 4])}
"""Annotation and default of vcsf's own keys of the node `motion`."""

AUXILIARY_KEYS: Mapping[str, tuple[Any, Any]] = {
    "weight": (Annotated[float, Gt(0)], 1.0),
    "pathways": (Annotated[tuple[Literal["slow", "fast"], ...], MinLen(1)], PATHWAYS),
}
"""The same for the entries of `auxiliary_losses`."""

PATHWAY_KEYS: Mapping[str, tuple[Any, Any]] = {"input": (Literal["rgb", "difference"], "rgb")}
"""The same for the nodes `slow` and `fast`; their other keys override the backbone's."""

_CHEAP = ("sampler", "loss")
"""Kinds that are built to check their settings. Networks are too large for that."""

Model = TypeVar("Model", bound=BaseModel)


class Checker:
    """Collects the problems of a recipe, each with its place.

    Args:
        marks: `file:line` by path of keys; an empty text for keys of `--set`.
        what: Name of what is checked, for messages.
    """

    def __init__(
        self, marks: Marks, problems: Iterable[RecipeError] = (), what: str = "recipe"
    ) -> None:
        self.marks, self.what = marks, what
        self.problems: list[RecipeError] = list(problems)

    def add(self, problem: RecipeError) -> None:
        """Add a problem, unless it is there already."""
        if all(problem.message != other.message for other in self.problems):
            self.problems.append(problem)

    def problem(self, message: str, hint: str = "") -> None:
        self.add(RecipeError(message, hint))

    def place(self, *path: str | int) -> str:
        """A key with its line: `` `loss.temprature` (recipes/vcsf.yaml:12) ``."""
        if path[0] == "stages" and len(path) > 2 and path not in self.marks:
            own = any(mark[:3] == path[:3] for mark in self.marks)
            if path[2:] in self.marks or not own:
                path = path[2:]  # inherited from the top level: the problem is reported once
        key = ".".join(map(str, path))
        mark = self.marks.get(path)
        return f"`{key}` ({mark})" if mark else f"`{key}`"

    def finish(self) -> None:
        """Raise all problems as one error, if there are any."""
        if self.problems:
            raise RecipeError.of(self.problems)

    def node(self, model: type[Model], tree: Any, path: Path) -> Model | None:
        """Validate a node; None if it has problems."""
        # As JSON, where lists may become tuples but text never becomes a number.
        try:
            return model.model_validate_json(json.dumps(tree), strict=True)
        except ValidationError as error:
            groups = groupby(error.errors(), key=lambda detail: _key_path(detail, tree))
            for key, details in groups:
                self.add(self._misfit(model, tree, path, key, list(details)))
            return None

    def _misfit(
        self, model: type[BaseModel], tree: Any, path: Path, key: Path, details: list[ErrorDetails]
    ) -> RecipeError:
        """The problem of one key of a node, from pydantic's errors."""
        place, detail = self.place(*path, *key), details[0]
        owner, field = _find_field(model, key)
        component = owner.component if issubclass(owner, Settings) else None
        what = f"{component.kind} `{component.name}`" if component else ""
        if detail["type"] == "extra_forbidden":
            name, known = str(key[-1]), owner.model_fields
            if not component:
                return UnknownName("key", name, known, place)
            return RecipeError(
                f"unknown parameter `{name}` of {what} at {place}",
                did_you_mean(name, known) or f"{what} has no parameters",
            )
        if detail["type"] == "missing" and isinstance(detail["input"], dict):
            return RecipeError(
                f"{what or f'the {self.what}'} needs {place}", field.description or ""
            )
        value = tree
        for part in key:
            value = value[part]
        if detail["type"] == "unknown_name":
            return UnknownName(detail["ctx"]["what"], value, detail["ctx"]["known"], place)
        hint = _hint(field, ".".join(map(str, (*path, *key))))
        if field.description:
            hint = f"{what}: {field.description}"
        return RecipeError(f"{place} is {value!r}: {_describe(details, field)}", hint)

    def stage(self, tree: dict[str, Any], prefix: Path = ()) -> Stage | None:
        """A stage with all defaults; None if it has problems."""
        nodes: dict[str, Any] = {}
        for key, field in Stage.model_fields.items():
            path = (*prefix, key)
            if key in PATHWAYS:
                nodes[key] = self._pathway(tree.get("backbone"), tree.get(key, {}), path)
            elif key not in tree and field.is_required():
                self.problem(f"the {self.what} needs {self.place(*path)}")
                nodes[key] = None
            elif key not in tree:
                nodes[key] = field.get_default()
            elif key in COMPONENTS:
                own = _MOTION_KEYS if key == "motion" else {}
                nodes[key] = self._component(COMPONENTS[key], tree[key], path, own)
            elif key == "auxiliary_losses":
                nodes[key] = self._auxiliary_losses(tree[key], path)
            else:
                nodes[key] = self.node(cast(type[BaseModel], field.annotation), tree[key], path)
        optim, train = nodes["optim"], nodes["train"]
        if optim and train:
            self.check_drops(optim.schedule, optim.drops, train.epochs, prefix)
        # The nodes are validated already.
        return None if None in nodes.values() else Stage.model_construct(**nodes)

    def _auxiliary_losses(self, tree: Any, path: Path) -> tuple[schema.Component, ...] | None:
        if not isinstance(tree, list):
            self.problem(
                f"{self.place(*path)} is not a list of losses",
                "write a list of names, or of nodes such as `{name: NAME, weight: 0.5}`",
            )
            return None
        found = [
            self._component("loss", entry, (*path, index), AUXILIARY_KEYS)
            for index, entry in enumerate(tree)
        ]
        valid = tuple(loss for loss in found if loss)
        return valid if len(valid) == len(found) else None

    def _component(
        self, kind: str, tree: Any, path: Path, own: Mapping[str, tuple[Any, Any]]
    ) -> schema.Component | None:
        node = self.node(schema.Component, tree, path)
        if node is None:
            return None
        try:
            component = registry.load().find(kind, node.name, self.place(*path, "name"))
        except RecipeError as problem:
            self.add(problem)
            return None
        settings = self.settings(component, node.settings, path, own)
        if settings is None:
            return None
        theirs = {name: value for name, value in settings.items() if name not in own}
        if kind in _CHEAP and not self._builds(component, theirs, path):
            return None
        if kind == "motion" and node.name == schema.NO_MOTION:
            del settings["after"]  # it has no effect: recipes that differ in it alone are equal
        return schema.Component.model_construct(name=node.name, **settings)

    def _pathway(self, backbone: Any, tree: Any, path: Path) -> dict[str, Any] | None:
        name = backbone.get("name") if isinstance(backbone, dict) else None
        component = registry.load().components("backbone").get(str(name))
        if component is None:
            return None
        return self.settings(component, tree, path, PATHWAY_KEYS, partial=True)

    def settings(
        self,
        component: Component,
        tree: Any,
        path: Path,
        own: Mapping[str, tuple[Any, Any]] | None = None,
        *,
        partial: bool = False,
    ) -> dict[str, Any] | None:
        """The settings of a component, in its factory's types; None if they have problems.

        Args:
            own: Annotation and default of keys that are vcsf's own.
            partial: Leave out parameters that the node doesn't name, instead of taking defaults.
        """
        own = own or {}
        valid = self.node(settings_model(component, own, partial=partial), tree, path)
        if valid is None:
            return None
        given = valid.model_fields_set | own.keys()
        return {name: value for name, value in valid if not partial or name in given}

    def _builds(self, component: Component, settings: Mapping[str, Any], path: Path) -> bool:
        """Check by building that settings fit each other."""
        try:
            registry.load().build(component.kind, component.name, **settings)
        except VcsfError as error:
            if path[0] == "stages" and not any(mark[: len(path)] == path for mark in self.marks):
                path = path[2:]  # the whole node is inherited
            key = error.key if isinstance(error, RecipeError) else ""
            # Before `RecipeError.key`, plugins named the key in their message.
            quoted = re.search(rf"`({component.kind}\.\w+)`", error.message)
            key = key or (quoted.group(1) if quoted else "")
            place = (*path, key.removeprefix(f"{component.kind}."))
            if place in self.marks:
                message = error.message.replace(f"`{key}`", self.place(*place), 1)
            else:
                message = f"{self.place(*path)}: {error.message}"
            self.problem(message, error.hint)
            return False
        return True

    def check_drops(
        self, schedule: str, drops: Sequence[int], epochs: int, prefix: Path = ()
    ) -> None:
        """Check that a step schedule has drops, and that they come before the last epoch."""
        if schedule == "step" and not drops:
            self.problem(
                f"{self.place(*prefix, 'optim', 'schedule')} is `step` without `drops`",
                "name the epochs, such as drops: [250, 280]",
            )
        if any(drop >= epochs for drop in drops):
            self.problem(
                f"{self.place(*prefix, 'optim', 'drops')} is {drops}, but training ends after "
                f"epoch {epochs}",
                "drop earlier, or train longer",
            )


def _key_path(detail: ErrorDetails, tree: Any) -> Path:
    """The path of keys in pydantic's `loc`, without list positions and branches of unions."""
    key: list[str | int] = []
    for name in detail["loc"]:
        if not isinstance(tree, dict) or (name not in tree and detail["type"] != "missing"):
            break
        key.append(name)
        tree = tree.get(name)
    return tuple(key)


def _find_field(model: type[BaseModel], key: Path) -> tuple[type[BaseModel], FieldInfo]:
    """The field at the end of a path of keys, and the model that has it."""
    owner, field = model, FieldInfo(annotation=model)
    for name in key:
        inner = field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        owner = inner
        field = owner.model_fields.get(str(name), field)
    return owner, field


def _hint(field: FieldInfo, key: str) -> str:
    """A hint: the known values, the keys of a node, or the default."""
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return f"known: {', '.join(map(str, get_args(annotation)))}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"write its keys: {', '.join(f'{key}.{name}' for name in annotation.model_fields)}"
    default = field.get_default(call_default_factory=True)
    if field.is_required() or default is None:
        return ""
    return f"the default is {json.dumps(default)}"


def _describe(details: Iterable[ErrorDetails], field: FieldInfo) -> str:
    """Pydantic's messages about a value, or the length that a list should have."""
    wanted, texts = _fixed_length(field.annotation), []
    for detail in details:
        value, text = detail["input"], detail["msg"].removeprefix("Value error, ")
        if wanted and detail["type"] in ("missing", "too_long") and isinstance(value, list):
            return f"needs {wanted} values, has {len(value)}"
        texts.append(text[:1].lower() + text[1:])
    return "; ".join(dict.fromkeys(texts))


def _fixed_length(annotation: Any) -> int:
    """The length of the tuple in an annotation, 0 if there is none or it has any length."""
    inner = get_args(annotation)
    if get_origin(annotation) is tuple:
        return 0 if Ellipsis in inner else len(inner)
    return max(map(_fixed_length, inner), default=0)
