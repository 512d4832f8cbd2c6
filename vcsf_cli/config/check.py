"""What is wrong in a recipe, a protocol or a table: every problem with its key, its line and what
to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from vcsf_cli import registry
from vcsf_cli.config.schema import COMPONENTS, Optim, Stage, Train
from vcsf_cli.config.strict_yaml import Marks
from vcsf_cli.contracts import Component
from vcsf_cli.errors import RecipeError, UnknownName, VcsfError

_VCSF_KEYS: Mapping[str, Mapping[str, Any]] = {"motion": {"after": list[int]}}
"""Keys of component nodes that are vcsf's own, not the factory's."""
PATHWAY_KEYS: Mapping[str, Any] = {"input": Literal["rgb", "difference"]}
"""Keys of the nodes `slow` and `fast` that are vcsf's own; the others override the backbone's."""

_CHEAP = ("sampler", "loss")
"""Components that are built to see whether their settings fit; networks are built when they are
needed."""

Model = TypeVar("Model", bound=BaseModel)


class Checker:
    """Gathers the problems of a recipe, each with the place it comes from.

    Args:
        marks: `file:line` by path of keys; empty text for what `--set` gave.
        problems: What is known to be wrong already.
        schema: The model that keys are looked up in.
        what: What is checked, for a problem's text.
    """

    def __init__(
        self,
        marks: Marks,
        problems: Iterable[RecipeError] = (),
        schema: type[BaseModel] = Stage,
        what: str = "recipe",
    ) -> None:
        self.marks, self.schema, self.what = marks, schema, what
        self.problems: list[RecipeError] = list(problems)

    def add(self, problem: RecipeError) -> None:
        """Remember a problem, once."""
        if all(problem.message != known.message for known in self.problems):
            self.problems.append(problem)

    def place(self, *path: str | int) -> str:
        """A key in words: `` `loss.temprature` (recipes/vcsf.yaml:12) ``."""
        if (
            path[:1] == ("stages",)
            and len(path) > 2
            and path not in self.marks
            and self._is_inherited(path)
        ):
            path = path[2:]
        key = ".".join(str(part) for part in path)
        mark = self.marks.get(path)
        return f"`{key}` ({mark})" if mark else f"`{key}`"

    def _is_inherited(self, path: tuple[str | int, ...]) -> bool:
        """Whether a stage has what stands at this path of it from the top level, where it is told
        once for all stages."""
        return path[2:] in self.marks or not any(mark[:3] == path[:3] for mark in self.marks)

    def finish(self) -> None:
        """Raise all problems as one error, if there are any."""
        if self.problems:
            raise RecipeError.of(self.problems)

    def stage(self, tree: dict[str, Any], prefix: tuple[str | int, ...]) -> dict[str, Any] | None:
        """A stage with all defaults as plain values; None if it has problems."""
        before = len(self.problems)
        try:
            stage = validate_stage(tree)
        except ValidationError as error:
            for detail in error.errors():
                self.misfit(detail, prefix)
            plain = {}
        else:
            plain = stage.model_dump(mode="json")
        plain |= self._components(tree, prefix)
        try:
            epochs = part(Train, tree.get("train")).epochs
        except ValidationError:  # told above
            epochs = None
        self.optimiser(tree.get("optim", {}), epochs, prefix)
        return plain if len(self.problems) == before else None

    def misfit(self, detail: ErrorDetails, prefix: tuple[str | int, ...]) -> None:
        """Remember what the model says of a value, in words that name the key and what it may
        be."""
        path = tuple(part for part in detail["loc"] if part != "function-after")
        given = detail["input"]
        if detail["type"] in ("missing", "too_long") and isinstance(given, list):
            path = path[:-1] if detail["type"] == "missing" else path
            wanted = registry.fixed_length(_field_at(path, self.schema).annotation)
            problem = registry.needs(wanted, len(given)) if wanted else detail["msg"].lower()
            self.add(
                RecipeError(
                    f"{self.place(*prefix, *path)} is {given!r}: {problem}",
                    _hint_for(path, self.schema),
                )
            )
            return
        place = self.place(*prefix, *path)
        if detail["type"] == "extra_forbidden":
            known = model_fields(path[:-1], self.schema)
            self.add(UnknownName("key", str(path[-1]), known, place))
        elif detail["type"] == "missing":
            self.add(RecipeError(f"the {self.what} needs {place}"))
        else:
            text = detail["msg"].removeprefix("Value error, ")
            self.add(
                RecipeError(
                    f"{place} is {given!r}: {text[:1].lower()}{text[1:]}",
                    _hint_for(path, self.schema),
                )
            )

    def _components(self, tree: dict[str, Any], prefix: tuple[str | int, ...]) -> dict[str, Any]:
        """The component nodes of a stage with their factories' defaults."""
        checked: dict[str, Any] = {}
        for key, kind in COMPONENTS.items():
            node = tree.get(key)
            if not isinstance(node, dict) or not isinstance(node.get("name"), str):
                continue
            try:
                component = registry.load().find(
                    kind, node["name"], self.place(*prefix, key, "name")
                )
            except RecipeError as problem:
                self.add(problem)
                continue
            own = _VCSF_KEYS.get(key, {})
            settings = {k: v for k, v in node.items() if k != "name" and k not in own}
            checked[key] = {"name": component.name} | self._own(node, own, (*prefix, key))
            full, fit = self._settings(component, settings, (*prefix, key))
            checked[key] |= full
            if key in _CHEAP and fit:
                self._factory(component, settings, (*prefix, key))
            if key == "backbone":
                for pathway in ("slow", "fast"):
                    checked[pathway] = self._pathway(
                        component, tree.get(pathway) or {}, (*prefix, pathway)
                    )
        if "motion" in checked:
            checked["motion"].setdefault("after", [2, 3, 4])
        if checked.get("motion", {}).get("name") == "none":
            del checked["motion"][
                "after"
            ]  # nothing sits anywhere: two ways to say so must not be two runs
        return checked

    def _settings(
        self,
        component: Component,
        settings: dict[str, Any],
        path: tuple[str | int, ...],
        *,
        whole: bool = True,
    ) -> tuple[dict[str, Any], bool]:
        """Settings with their defaults, and whether all of them fit."""
        checked, problems = registry.check_settings(
            component, settings, lambda name: self.place(*path, name), whole=whole
        )
        for problem in problems:
            self.add(problem)
        plain = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in checked.items()
        }
        return plain, not problems

    def _factory(
        self, component: Component, settings: dict[str, Any], path: tuple[str | int, ...]
    ) -> None:
        """What only the factory sees, such as settings that don't fit each other; told where the
        key that it names is."""
        try:
            registry.load().build(component.kind, component.name, **settings)
        except VcsfError as error:
            if path[0] == "stages" and not any(mark[: len(path)] == path for mark in self.marks):
                path = path[2:]  # inherited as it is: told once, for all stages
            named = re.search(rf"`{component.kind}\.(\w+)`", error.message)
            key = (*path, named.group(1) if named else "")
            if named and key in self.marks:
                message = error.message.replace(named.group(), self.place(*key), 1)
            else:
                message = f"{self.place(*path)}: {error.message}"
            self.add(RecipeError(message, error.hint))

    def _own(
        self, node: dict[str, Any], own: Mapping[str, Any], path: tuple[str | int, ...]
    ) -> dict[str, Any]:
        """vcsf's own keys of a component's node."""
        checked = {}
        for key, annotation in own.items():
            if key in node:
                try:
                    checked[key] = registry.validate(annotation, node[key])
                except ValidationError as error:
                    message = error.errors()[0]["msg"].lower()
                    hint = (
                        f"known: {', '.join(get_args(annotation))}"
                        if get_args(annotation) and key == "input"
                        else ""
                    )
                    self.add(
                        RecipeError(f"{self.place(*path, key)} is {node[key]!r}: {message}", hint)
                    )
        return checked

    def _pathway(
        self, component: Component, node: Any, path: tuple[str | int, ...]
    ) -> dict[str, Any]:
        """The node `slow` or `fast`: vcsf's own keys, and overrides of the backbone's settings."""
        if not isinstance(node, dict):
            return {}
        overrides = {k: v for k, v in node.items() if k not in PATHWAY_KEYS}
        changed, _ = self._settings(component, overrides, path, whole=False)
        return {"input": "rgb"} | self._own(node, PATHWAY_KEYS, path) | changed

    def optimiser(self, node: Any, epochs: int | None, prefix: tuple[str | int, ...] = ()) -> None:
        """An optimiser's name, and whether its schedule fits into the training; wrong types are
        told elsewhere."""
        name, known = node.get("name") if isinstance(node, dict) else None, optimisers()
        if isinstance(name, str) and name not in known:
            self.add(UnknownName("optimiser", name, known, self.place(*prefix, "optim", "name")))
        try:
            optim = part(Optim, node)
        except ValidationError:
            return
        if epochs is None:
            return
        if optim.schedule == "step" and not optim.drops:
            self.add(
                RecipeError(
                    f"{self.place(*prefix, 'optim', 'schedule')} is `step` without `drops`",
                    "name the epochs, such as drops: [250, 280]",
                )
            )
        if any(drop >= epochs for drop in optim.drops):
            self.add(
                RecipeError(
                    f"{self.place(*prefix, 'optim', 'drops')} is {optim.drops}, but training ends "
                    f"after epoch {epochs}",
                    "drop earlier, or train longer",
                )
            )


def _field_at(path: Sequence[str | int], schema: type[BaseModel]) -> FieldInfo:
    """The key that a path leads to; of a list's entry, the list's."""
    model: Any = schema
    for name in path:
        field: FieldInfo = model.model_fields[str(name)]
        model = field.annotation
        if not hasattr(model, "model_fields"):
            break
    return field


def _hint_for(path: Sequence[str | int], schema: type[BaseModel]) -> str:
    """What to write at a key: what is known, the keys of a node, else the default."""
    field = _field_at(path, schema)
    if get_origin(field.annotation) is Literal:
        return f"known: {', '.join(map(str, get_args(field.annotation)))}"
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return f"write its keys: {', '.join(f'{path[-1]}.{key}' for key in field.annotation.model_fields)}"
    default = field.get_default(call_default_factory=True)
    if field.is_required() or default is None:
        return ""
    return f"the default is {json.dumps(default)}"


def model_fields(path: Iterable[str | int], schema: type[BaseModel]) -> list[str]:
    """The keys that the node at a path may have."""
    model: Any = schema
    for part in path:
        model = model.model_fields[str(part)].annotation
    return sorted(model.model_fields)


def optimisers() -> list[str]:
    """The names of timm's optimisers."""
    # timm loads torch, which takes seconds.
    from timm.optim import list_optimizers  # type: ignore[attr-defined]  # it has no __all__

    return [str(name) for name in list_optimizers()]


def part(model: type[Model], tree: Any) -> Model:
    """A node's model; through JSON, so that a list is a tuple where one is wanted but no text
    becomes a number."""
    return model.model_validate_json(json.dumps(tree), strict=True)


def validate_stage(tree: Any) -> Stage:
    """A stage's model."""
    return part(Stage, tree)
