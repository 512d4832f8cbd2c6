"""Reads, resolves and checks a recipe.

The file that it extends, the file itself, and the assignments of `--set` override each other in
this order; what none of them has is a default. Naming another component replaces its whole node, so
that no setting of the old component is left."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcsf_cli import registry
from vcsf_cli.config import strict_yaml
from vcsf_cli.config.catalogue import RECIPES
from vcsf_cli.config.check import PATHWAY_KEYS, Checker
from vcsf_cli.config.schema import COMPONENTS, DEFAULTS, MODEL_KEYS, Speed, Stage, Top
from vcsf_cli.config.strict_yaml import Marks
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.errors import InputError, RecipeError, UnknownName

_TOP_LEVEL = (*Top.model_fields, *Stage.model_fields, "stages")
_LONGEST_KEY = 200
"""Characters of a key of `--set`."""


@dataclass(frozen=True)
class Recipe:
    """A resolved and checked recipe.

    Args:
        name: Its name, with which the names of its run folders begin.
        seed: The seed of everything random.
        tree: The resolved recipe as plain values, itself a valid recipe.
        stages: The stages to train, in order; at least one.
    """

    name: str
    seed: int
    tree: dict[str, Any]
    stages: tuple[Stage, ...]

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the resolved recipe, but for what changes no
        result."""
        content = json.dumps(with_default_memory(self.tree), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def first_stage(self) -> Stage:
        """The stage whose networks and data all stages share."""
        return self.stages[0]

    @property
    def last_stage(self) -> Stage:
        """The stage whose sampler and border are used to measure and to search."""
        return self.stages[-1]

    def yaml(self) -> str:
        return strict_yaml.dump(self.tree)


def with_default_memory(tree: dict[str, Any]) -> dict[str, Any]:
    """A resolved recipe or stage with the default order of channels in memory, on which nothing but
    time and rounding depends."""
    return tree | {"speed": tree["speed"] | {"channels_last": Speed().channels_last}}


def load(named: str, assignments: Sequence[str] = (), option: str = "--set") -> Recipe:
    """Read, resolve and check a recipe.

    Args:
        assignments: Those of an option, each `key=value`.
        option: Its name, for errors.

    Raises:
        InputError: If there is no such recipe.
        RecipeError: With all of its problems.
    """
    tree, marks = _read_extended(RECIPES.find(named), ())
    tree.setdefault("stages", [])
    problems = assign_all(tree, marks, assignments, option)
    _expand_names(tree, marks, ())  # a value of --set may hold stages
    return resolve(tree, marks, problems)


def _read_extended(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], Marks]:
    """A recipe file merged over the one that it extends."""
    if path.resolve() in chain:
        raise RecipeError(f"{path} extends itself: {' -> '.join(p.name for p in (*chain, path))}")
    tree, marks = strict_yaml.read(path, "recipe", "see `vcsf recipes show demo`")
    _expand_names(tree, marks, ())
    base_name = tree.pop("extends", None)
    if base_name is None:
        return tree, marks
    beside = path.parent / str(base_name)
    try:
        base_path = beside if beside.is_file() else RECIPES.find(str(base_name))
    except InputError as error:
        raise RecipeError(
            f"`extends` ({marks[('extends',)]}): {error.message}", error.hint
        ) from error
    base, base_marks = _read_extended(base_path, (*chain, path.resolve()))
    old, new = base.get("backbone"), tree.get("backbone")
    if (
        isinstance(old, dict)
        and isinstance(new, dict)
        and new.get("name", old.get("name")) != old.get("name")
    ):
        _forget_overrides(base)
    return _merge(base, tree), base_marks | marks


def _expand_names(node: dict[str, Any], marks: Marks, path: strict_yaml.Path) -> None:
    """Replace `motion: none` by `motion: {name: none}` and the like, in a recipe and in its
    stages."""
    for key in COMPONENTS:
        if isinstance(node.get(key), str):
            node[key] = {"name": node[key]}
            marks[(*path, key, "name")] = marks.get((*path, key), "")
    added = node.get("auxiliary_losses")
    added = added if isinstance(added, list) else []
    for index, loss in enumerate(added):
        if isinstance(loss, str):
            added[index] = {"name": loss}
            place = (*path, "auxiliary_losses", index)
            marks[(*place, "name")] = marks.get(place, "")
    stages = node.get("stages")
    for index, stage in enumerate(stages if isinstance(stages, list) else []):
        if isinstance(stage, dict):
            _expand_names(stage, marks, ("stages", index))


def _merge(base: Any, over: Any, key: str = "") -> Any:
    """Merge mappings key by key; other values of `over`, and nodes that name another component,
    replace those of `base`."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return copy.deepcopy(over)
    if key in COMPONENTS and "name" in over and over["name"] != _named_component(key, base):
        return copy.deepcopy(over)
    merged = copy.deepcopy(base)
    for name, value in over.items():
        merged[name] = _merge(base.get(name), value, name)
    return merged


def _named_component(key: str, node: Mapping[str, Any]) -> Any:
    """The component that a node names, or the default."""
    return node.get("name", DEFAULTS.get(key, {}).get("name"))


def _forget_overrides(tree: dict[str, Any]) -> None:
    """Remove the backbone settings in `slow` and `fast`, when another backbone replaces theirs."""
    for pathway in PATHWAYS:
        if isinstance(tree.get(pathway), dict):
            tree[pathway] = {
                key: value for key, value in tree[pathway].items() if key in PATHWAY_KEYS
            }


def assign_all(
    tree: dict[str, Any], marks: Marks, assignments: Sequence[str], option: str = "--set"
) -> list[RecipeError]:
    """Apply the assignments of an option to a recipe's tree; the problems of those that can't be."""
    problems = []
    for assignment in assignments:
        try:
            _assign(tree, marks, assignment, option)
        except RecipeError as problem:
            problems.append(problem)
    return problems


def _assign(tree: dict[str, Any], marks: Marks, assignment: str, option: str) -> None:
    """Apply one assignment `a.b=value`; entries of lists are named by their position.

    Raises:
        RecipeError: If it has no `=`, its value is not YAML, or its key leads through a value.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key or len(key) > _LONGEST_KEY:
        raise RecipeError(
            f"{option} {assignment[:_LONGEST_KEY]} is not an assignment",
            "write key=value, such as loss.temperature=0.1",
        )
    value, inner = strict_yaml.parse(text, f"{option} {key}")
    *parents, last = key.split(".")
    if last == "name" and not isinstance(value, str | list | dict):
        value = text.strip()  # a name is text, whatever it looks like
    if last in COMPONENTS and (not parents or parents[0] == "stages") and isinstance(value, str):
        parents, last, key = [*parents, last], "name", f"{key}.name"
    node = _descend(tree, parents, f"{option} {key}")
    if isinstance(node, list):
        if not last.isdecimal() or int(last) >= len(node):
            raise RecipeError(f"{option} {key}: there is no such entry", _positions(node))
        node[int(last)] = value
    elif (
        last == "name"
        and parents
        and parents[-1] in COMPONENTS
        and _named_component(".".join(parents), node) != value
    ):
        if parents == ["backbone"]:
            _forget_overrides(tree)
        node.clear()
        node["name"] = value
    else:
        node[last] = value
    place = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    marks |= dict.fromkeys([place, *((*place, *below) for below in inner)], "")


def _descend(tree: dict[str, Any], parents: list[str], said: str) -> Any:
    """The node at `parents`; missing nodes on the way are made.

    Args:
        said: What the user wrote, for errors.

    Raises:
        RecipeError: If they lead through a value, or past the end of a list.
    """
    node: Any = tree
    for depth, parent in enumerate(parents):
        where = ".".join(parents[: depth + 1])
        if isinstance(node, list):
            if not parent.isdecimal() or int(parent) >= len(node):
                raise RecipeError(f"{said}: there is no `{where}`", _positions(node))
            node = node[int(parent)]
        else:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        if not isinstance(node, dict | list):
            raise RecipeError(f"{said}: `{where}` is a value, not a node", f"it is {node!r}")
    return node


def _positions(items: list[Any]) -> str:
    return f"positions are 0 to {len(items) - 1}" if items else "the list is empty"


def _unknown_key(key: str, tree: Mapping[str, Any], place: str) -> RecipeError:
    """The error of a key at the top level: it names the node that has such a key, if one alone
    has."""
    problem = UnknownName("key", key, _TOP_LEVEL, place)
    nodes = [
        node
        for node, field in Stage.model_fields.items()
        if key in getattr(field.annotation, "model_fields", ())
    ]
    for kind in COMPONENTS:
        chosen = tree.get(kind)
        named = str(chosen.get("name")) if isinstance(chosen, Mapping) else ""
        component = registry.load().components(kind).get(named)
        if component and key in component.parameters:
            nodes.append(kind)
    if len(nodes) != 1:
        return problem
    return RecipeError(problem.message, f"did you mean `{nodes[0]}.{key}`?")


def resolve(tree: dict[str, Any], marks: Marks, problems: Sequence[RecipeError] = ()) -> Recipe:
    """Fill in defaults and check everything.

    Args:
        marks: `file:line` of each key.

    Raises:
        RecipeError: With all problems.
    """
    checker = Checker(marks, problems)
    tree = _merge(DEFAULTS, tree)
    for key in tree:
        if key not in _TOP_LEVEL:
            checker.add(_unknown_key(key, tree, checker.place(key)))
    top = checker.node(Top, {key: tree[key] for key in ("name", "seed") if key in tree}, ())
    stages = tree.get("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        checker.problem(
            f"{checker.place('stages')} is not a list of stages", "write `stages: []` for one stage"
        )
        stages = []
    shared = {key: value for key, value in tree.items() if key in Stage.model_fields}
    resolved = [checker.stage(shared)]
    for index, stage in enumerate(stages):
        for key in sorted(stage.keys() & MODEL_KEYS):
            checker.problem(
                f"{checker.place('stages', index, key)}: a stage can't change `{key}`",
                "set it at the top level",
            )
        for key in sorted(stage.keys() - set(Stage.model_fields)):
            checker.add(
                UnknownName("key", key, Stage.model_fields, checker.place("stages", index, key))
            )
        own = {key: value for key, value in stage.items() if key in Stage.model_fields}
        resolved.append(checker.stage(_merge(shared, own), ("stages", index)))
    checker.finish()
    assert top is not None
    valid = [stage for stage in resolved if stage]
    whole, *plain = (stage.model_dump(mode="json") for stage in valid)
    whole = top.model_dump() | whole
    whole["stages"] = [
        # `auxiliary_losses: []` says that a stage leaves out those of the top level.
        {key: full.get(key, stage[key]) for key in Stage.model_fields if key in stage}
        for stage, full in zip(stages, plain, strict=True)
    ]
    return Recipe(top.name, top.seed, whole, tuple(valid[1:] or valid))
