"""From YAML to a checked recipe: `extends`, `--set`, defaults, and all errors at once.

A recipe is resolved in this order: the file that it extends, the file, the assignments of `--set`,
the defaults. Naming another component replaces its whole node, so that no stale setting leaks from
the one before."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcsf_cli.config import strict_yaml
from vcsf_cli.config.catalogue import RECIPES
from vcsf_cli.config.check import PATHWAY_KEYS, Checker
from vcsf_cli.config.schema import COMPONENTS, DEFAULTS, MODEL_KEYS, Stage
from vcsf_cli.config.strict_yaml import Marks
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.errors import InputError, RecipeError, UnknownName

_TOP_LEVEL = ("name", "seed", *Stage.model_fields, "stages")
LARGEST_SEED = 2**31 - 1
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Recipe:
    """A resolved and checked recipe.

    Args:
        name: Its name, from which run folders are named.
        seed: Seed of everything random.
        tree: The whole resolved recipe as plain values; written as YAML it is itself a valid
            recipe.
        stages: What to train, in order; at least one.
    """

    name: str
    seed: int
    tree: dict[str, Any]
    stages: tuple[Stage, ...]

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of the resolved recipe's SHA-256; no path is part of it."""
        return hashlib.sha256(json.dumps(self.tree, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def first_stage(self) -> Stage:
        """The stage that says what the networks look like; all stages agree on that."""
        return self.stages[0]

    @property
    def last_stage(self) -> Stage:
        """The last stage: measuring and searching read clips with its sampler and its border."""
        return self.stages[-1]

    def yaml(self) -> str:
        """The resolved recipe as YAML."""
        return strict_yaml.dump(self.tree)


def load(named: str, assignments: Sequence[str] = ()) -> Recipe:
    """Read, resolve and check a recipe.

    Args:
        named: A recipe's name or file.
        assignments: What `--set` was given, each `key=value`.

    Raises:
        InputError: If there is no such recipe.
        RecipeError: With everything that is wrong in it.
    """
    tree, marks = _read_extended(RECIPES.find(named), ())
    tree.setdefault("stages", [])
    problems = assign_all(tree, marks, assignments)
    _expand_names(tree, marks, ())  # a value of --set may hold stages
    return resolve(tree, marks, problems)


def _read_extended(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], Marks]:
    """A recipe file merged over what it extends."""
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
    return merge(base, tree), base_marks | marks


def _expand_names(node: dict[str, Any], marks: Marks, path: strict_yaml.Path) -> None:
    """`motion: none` is short for `motion: {name: none}`, in a recipe and in its stages."""
    for key in COMPONENTS:
        if isinstance(node.get(key), str):
            node[key] = {"name": node[key]}
            marks[(*path, key, "name")] = marks.get((*path, key), "")
    stages = node.get("stages")
    for index, stage in enumerate(stages if isinstance(stages, list) else []):
        if isinstance(stage, dict):
            _expand_names(stage, marks, ("stages", index))


def merge(base: Any, over: Any, key: str = "") -> Any:
    """`over` laid on `base`: mappings key by key, anything else whole, as is a node that names
    another component."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return copy.deepcopy(over)
    if key in COMPONENTS and "name" in over and over["name"] != _named_component(key, base):
        return copy.deepcopy(over)
    merged = copy.deepcopy(base)
    for name, value in over.items():
        merged[name] = merge(base.get(name), value, name)
    return merged


def _named_component(key: str, node: Mapping[str, Any]) -> Any:
    """The component that a node names, or means by naming none."""
    return node.get("name", DEFAULTS.get(key, {}).get("name"))


def _forget_overrides(tree: dict[str, Any]) -> None:
    """Drop what `slow` and `fast` change in a backbone's settings, because another one takes its
    place."""
    for pathway in PATHWAYS:
        if isinstance(tree.get(pathway), dict):
            tree[pathway] = {
                key: value for key, value in tree[pathway].items() if key in PATHWAY_KEYS
            }


def assign_all(tree: dict[str, Any], marks: Marks, assignments: Sequence[str]) -> list[RecipeError]:
    """Set what `--set` gave, each `key=value`, in a recipe's tree; what could not be set."""
    problems = []
    for assignment in assignments:
        try:
            assign(tree, marks, assignment)
        except RecipeError as problem:
            problems.append(problem)
    return problems


def assign(tree: dict[str, Any], marks: Marks, assignment: str) -> None:
    """Apply one `a.b=value`; a list's entries are named by their position.

    Raises:
        RecipeError: If it has no `=`, its value is no YAML, or its key leads through a value.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"--set {assignment} is no assignment", "write key=value, such as loss.temperature=0.1"
        )
    value, inner = strict_yaml.parse(text, f"--set {key}")
    *parents, last = key.split(".")
    if last == "name" and not isinstance(value, str | list | dict):
        value = text.strip()  # a name is text, whatever it looks like
    if last in COMPONENTS and (not parents or parents[0] == "stages") and isinstance(value, str):
        parents, last, key = [*parents, last], "name", f"{key}.name"
    node = _descend(tree, parents, key)
    if isinstance(node, list):
        if not last.isdecimal() or int(last) >= len(node):
            raise RecipeError(f"--set {key}: there is no such entry", positions(node))
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


def _descend(tree: dict[str, Any], parents: list[str], key: str) -> Any:
    """The node that `parents` lead to, made where there is none yet.

    Raises:
        RecipeError: If they lead through a value, or past the end of a list; `key` is named.
    """
    node: Any = tree
    for depth, parent in enumerate(parents):
        where = ".".join(parents[: depth + 1])
        if isinstance(node, list):
            if not parent.isdecimal() or int(parent) >= len(node):
                raise RecipeError(f"--set {key}: there is no `{where}`", positions(node))
            node = node[int(parent)]
        else:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        if not isinstance(node, dict | list):
            raise RecipeError(f"--set {key}: `{where}` is a value, not a node", f"it is {node!r}")
    return node


def positions(items: list[Any]) -> str:
    """The positions that a list has, in words."""
    return f"positions are 0 to {len(items) - 1}" if items else "the list is empty"


def resolve(tree: dict[str, Any], marks: Marks, problems: Sequence[RecipeError] = ()) -> Recipe:
    """Fill in defaults and check everything.

    Args:
        tree: What files and assignments say.
        marks: Where each key of it stands.
        problems: What was wrong before.

    Raises:
        RecipeError: With all problems.
    """
    checker = Checker(marks, problems)
    tree = merge(DEFAULTS, tree)
    for key in tree:
        if key not in _TOP_LEVEL:
            checker.add(UnknownName("key", key, _TOP_LEVEL, checker.place(key)))
    name, seed, stages = tree.get("name"), tree.get("seed"), tree.get("stages")
    if not isinstance(name, str) or not name or not all(c.isalnum() or c in "-_." for c in name):
        checker.add(
            RecipeError(
                f"{checker.place('name')} is {name!r}", "give letters, digits, `-`, `_` and `.`"
            )
        )
    elif len(name.encode()) > _LONGEST_NAME:
        checker.add(
            RecipeError(
                f"{checker.place('name')} is {len(name)} letters long",
                f"give at most {_LONGEST_NAME}: folders bear it",
            )
        )
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
        checker.add(
            RecipeError(
                f"{checker.place('seed')} is {seed!r}",
                f"give a whole number from 0 to {LARGEST_SEED}",
            )
        )
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        checker.add(
            RecipeError(
                f"{checker.place('stages')} is no list of stages",
                "write `stages: []` for one stage",
            )
        )
        stages = []
    shared = {key: value for key, value in tree.items() if key in Stage.model_fields}
    top = checker.stage(shared)
    all_stages = []
    for index, stage in enumerate(stages):
        for key in sorted(stage.keys() & MODEL_KEYS):
            checker.add(
                RecipeError(
                    f"{checker.place('stages', index, key)}: a stage can't change `{key}`",
                    "set it at the top level",
                )
            )
        for key in sorted(stage.keys() - set(Stage.model_fields)):
            checker.add(
                UnknownName("key", key, Stage.model_fields, checker.place("stages", index, key))
            )
        own = {key: value for key, value in stage.items() if key in Stage.model_fields}
        all_stages.append(checker.stage(merge(shared, own), ("stages", index)))
    checker.finish()
    valid = [stage for stage in (top, *all_stages) if stage]
    whole, *plain = (stage.model_dump(mode="json") for stage in valid)
    resolved = {"name": name, "seed": seed} | whole
    resolved["stages"] = [
        {key: value for key, value in full.items() if key in stage}
        for stage, full in zip(stages, plain, strict=True)
    ]
    return Recipe(str(name), int(seed or 0), resolved, tuple(valid[1:] or valid))
