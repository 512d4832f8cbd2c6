"""From YAML to a checked recipe: `extends`, `--set`, defaults, and all errors at once.

A recipe is resolved in this order: the file that it extends, the file, the assignments of `--set`, the defaults.
Naming another component replaces its whole node, so that no stale setting leaks from the one before.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from vcsf_cli import registry, strict_yaml
from vcsf_cli.contracts import PATHWAYS, Component
from vcsf_cli.errors import InputError, PluginError, RecipeError, UnknownName, VcsfError, did_you_mean
from vcsf_cli.narrate import say
from vcsf_cli.schema import COMPONENTS, DEFAULTS, MODEL_KEYS, Optim, Stage, Train
from vcsf_cli.strict_yaml import Marks

TOP_LEVEL = ("name", "seed", *Stage.model_fields, "stages")
VCSF_KEYS: Mapping[str, Mapping[str, Any]] = {"motion": {"after": list[int]}}
"""Keys of component nodes that are vcsf's own, not the factory's."""
PATHWAY_KEYS: Mapping[str, Any] = {"input": Literal["rgb", "difference"]}
"""Keys of the nodes `slow` and `fast` that are vcsf's own; the others override the backbone's."""

CHEAP = ("sampler", "loss")
"""Components that are built to see whether their settings fit; networks are built when they are needed."""

LARGEST_SEED = 2**31 - 1
LONGEST_NAME = 100

Model = TypeVar("Model", bound=BaseModel)

PACKAGED = Path(__file__).parent / "recipes"
CHECKOUT = Path(__file__).parent.parent / "recipes"

PROTOCOLS = "protocols"
"""The sub-folder of a folder of recipes that holds no recipes but protocols of `vcsf finetune`."""

TABLES = "tables"
"""The sub-folder that holds no recipes but tables of `vcsf ablate`."""


@dataclass(frozen=True)
class Recipe:
    """A resolved and checked recipe.

    Args:
        name: Its name, from which run folders are named.
        seed: Seed of everything random.
        tree: The whole resolved recipe as plain values; written as YAML it is itself a valid recipe.
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
    def model(self) -> Stage:
        """The stage that says what the networks look like; all stages agree on that."""
        return self.stages[0]

    def yaml(self) -> str:
        """The resolved recipe as YAML."""
        return strict_yaml.dump(self.tree)


def recipe_dirs() -> list[tuple[str, Path]]:
    """Folders where recipes are found by name, each with who brought it: vcsf's own, then those of plugins."""
    own = PACKAGED if PACKAGED.is_dir() else CHECKOUT
    return [("vcsf", own), *registry.load().recipe_dirs()]


def recipe_names() -> dict[str, Path]:
    """All recipes by name, such as `demo`.

    Raises:
        PluginError: If two plugins bring recipes of one name.
    """
    found: dict[str, Path] = {}
    owners: dict[str, str] = {}
    for owner, folder in recipe_dirs():
        for path in sorted(folder.rglob("*.yaml")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name.startswith((f"{PROTOCOLS}/", f"{TABLES}/")):
                continue
            if name in found and not path.samefile(found[name]):
                raise PluginError(f"recipe `{name}` is brought by both `{owners[name]}` and `{owner}`", registry.RENAME)
            found.setdefault(name, path)
            owners.setdefault(name, owner)
    return found


def find_recipe(named: str) -> Path:
    """The file of a recipe given as a path or a name.

    `recipes/vcsf.yaml` also works where there is no such file: it is then the recipe that vcsf brought along.

    Raises:
        InputError: If there is none.
    """
    path = Path(named)
    if path.is_file():
        return path
    names = recipe_names()
    short = named.removeprefix("recipes/").removesuffix(".yaml")
    if short in names and (short == named or named == f"recipes/{short}.yaml"):
        if short != named:
            say(f"{named} is not in this folder: using the recipe `{short}` that vcsf brought along")
        return names[short]
    if path.is_dir():
        raise InputError(f"{named} is a folder, not a recipe", "name a .yaml file in it")
    raise InputError(f"there is no recipe {named}", did_you_mean(short, names))


def load(named: str, assignments: Sequence[str] = ()) -> Recipe:
    """Read, resolve and check a recipe.

    Args:
        named: A recipe's name or file.
        assignments: What `--set` was given, each `key=value`.

    Raises:
        InputError: If there is no such recipe.
        RecipeError: With everything that is wrong in it.
    """
    tree, marks = read_extended(find_recipe(named), ())
    tree.setdefault("stages", [])
    problems = assign_all(tree, marks, assignments)
    expand_names(tree, marks, ())  # a value of --set may hold stages
    return resolve(tree, marks, problems)


def read_extended(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], Marks]:
    """A recipe file merged over what it extends."""
    if path.resolve() in chain:
        raise RecipeError(f"{path} extends itself: {' -> '.join(p.name for p in (*chain, path))}")
    tree, marks = strict_yaml.read(path, "recipe", "see `vcsf recipes show demo`")
    expand_names(tree, marks, ())
    base_name = tree.pop("extends", None)
    if base_name is None:
        return tree, marks
    beside = path.parent / str(base_name)
    try:
        base_path = beside if beside.is_file() else find_recipe(str(base_name))
    except InputError as error:
        raise RecipeError(f"`extends` ({marks[('extends',)]}): {error.message}", error.hint) from error
    base, base_marks = read_extended(base_path, (*chain, path.resolve()))
    old, new = base.get("backbone"), tree.get("backbone")
    if isinstance(old, dict) and isinstance(new, dict) and new.get("name", old.get("name")) != old.get("name"):
        forget_overrides(base)
    return merge(base, tree), base_marks | marks


def expand_names(node: dict[str, Any], marks: Marks, path: strict_yaml.Path) -> None:
    """`motion: none` is short for `motion: {name: none}`, in a recipe and in its stages."""
    for key in COMPONENTS:
        if isinstance(node.get(key), str):
            node[key] = {"name": node[key]}
            marks[(*path, key, "name")] = marks.get((*path, key), "")
    stages = node.get("stages")
    for index, stage in enumerate(stages if isinstance(stages, list) else []):
        if isinstance(stage, dict):
            expand_names(stage, marks, ("stages", index))


def merge(base: Any, over: Any, key: str = "") -> Any:
    """`over` laid on `base`: mappings key by key, anything else whole, as is a node that names another component."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return copy.deepcopy(over)
    if key in COMPONENTS and "name" in over and over["name"] != component_of(key, base):
        return copy.deepcopy(over)
    merged = copy.deepcopy(base)
    for name, value in over.items():
        merged[name] = merge(base.get(name), value, name)
    return merged


def component_of(key: str, node: Mapping[str, Any]) -> Any:
    """The component that a node names, or means by naming none."""
    return node.get("name", DEFAULTS.get(key, {}).get("name"))


def forget_overrides(tree: dict[str, Any]) -> None:
    """Drop what `slow` and `fast` change in a backbone's settings, because another one takes its place."""
    for pathway in PATHWAYS:
        if isinstance(tree.get(pathway), dict):
            tree[pathway] = {key: value for key, value in tree[pathway].items() if key in PATHWAY_KEYS}


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
        raise RecipeError(f"--set {assignment} is no assignment", "write key=value, such as loss.temperature=0.1")
    value, inner = strict_yaml.parse(text, f"--set {key}")
    *parents, last = key.split(".")
    if last == "name" and not isinstance(value, str | list | dict):
        value = text.strip()  # a name is text, whatever it looks like
    if last in COMPONENTS and (not parents or parents[0] == "stages") and isinstance(value, str):
        parents, last, key = [*parents, last], "name", f"{key}.name"
    node: Any = tree
    for depth, parent in enumerate(parents):
        where = ".".join(parents[: depth + 1])
        if isinstance(node, list):
            if not parent.isdigit() or int(parent) >= len(node):
                raise RecipeError(f"--set {key}: there is no `{where}`", positions(node))
            node = node[int(parent)]
        else:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        if not isinstance(node, dict | list):
            raise RecipeError(f"--set {key}: `{where}` is a value, not a node", f"it is {node!r}")
    if isinstance(node, list):
        if not last.isdigit() or int(last) >= len(node):
            raise RecipeError(f"--set {key}: there is no such entry", positions(node))
        node[int(last)] = value
    elif last == "name" and parents and parents[-1] in COMPONENTS and component_of(".".join(parents), node) != value:
        if parents == ["backbone"]:
            forget_overrides(tree)
        node.clear()
        node["name"] = value
    else:
        node[last] = value
    place = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    marks |= dict.fromkeys([place, *((*place, *below) for below in inner)], "")


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
        if key not in TOP_LEVEL:
            checker.add(UnknownName("key", key, TOP_LEVEL, checker.place(key)))
    name, seed, stages = tree.get("name"), tree.get("seed"), tree.get("stages")
    if not isinstance(name, str) or not name or not all(c.isalnum() or c in "-_." for c in name):
        checker.add(RecipeError(f"{checker.place('name')} is {name!r}", "give letters, digits, `-`, `_` and `.`"))
    elif len(name.encode()) > LONGEST_NAME:
        checker.add(
            RecipeError(
                f"{checker.place('name')} is {len(name)} letters long", f"give at most {LONGEST_NAME}: folders bear it"
            )
        )
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
        checker.add(
            RecipeError(f"{checker.place('seed')} is {seed!r}", f"give a whole number from 0 to {LARGEST_SEED}")
        )
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        checker.add(RecipeError(f"{checker.place('stages')} is no list of stages", "write `stages: []` for one stage"))
        stages = []
    shared = {key: value for key, value in tree.items() if key in Stage.model_fields}
    resolved: dict[str, Any] = {"name": name, "seed": seed}
    top = checker.stage(shared, ())
    resolved_top = top or shared
    resolved |= resolved_top
    resolved["stages"], all_stages = [], []
    for index, stage in enumerate(stages):
        for key in sorted(stage.keys() & MODEL_KEYS):
            checker.add(
                RecipeError(
                    f"{checker.place('stages', index, key)}: a stage can't change `{key}`", "set it at the top level"
                )
            )
        for key in sorted(stage.keys() - set(Stage.model_fields)):
            checker.add(UnknownName("key", key, Stage.model_fields, checker.place("stages", index, key)))
        full = checker.stage(
            merge(shared, {k: v for k, v in stage.items() if k in Stage.model_fields}), ("stages", index)
        )
        if full:
            resolved["stages"].append({key: full[key] for key in full if key in stage})
            all_stages.append(full)
    checker.finish()
    return Recipe(
        str(name), int(seed or 0), resolved, tuple(validated(stage) for stage in all_stages or [resolved_top])
    )


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
        if path[:1] == ("stages",) and len(path) > 2 and path not in self.marks and self._is_inherited(path):
            path = path[2:]
        key = ".".join(str(part) for part in path)
        mark = self.marks.get(path)
        return f"`{key}` ({mark})" if mark else f"`{key}`"

    def _is_inherited(self, path: tuple[str | int, ...]) -> bool:
        """Whether a stage has what stands at this path of it from the top level, where it is told once for all stages."""
        return path[2:] in self.marks or not any(mark[:3] == path[:3] for mark in self.marks)

    def finish(self) -> None:
        """Raise all problems as one error, if there are any."""
        if self.problems:
            raise RecipeError.of(self.problems)

    def stage(self, tree: dict[str, Any], prefix: tuple[str | int, ...]) -> dict[str, Any] | None:
        """A stage with all defaults as plain values; None if it has problems."""
        before = len(self.problems)
        try:
            stage = validated(tree)
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
        """Remember what the model says of a value, in words that name the key and what it may be."""
        path = tuple(part for part in detail["loc"] if part != "function-after")
        given = detail["input"]
        if detail["type"] in ("missing", "too_long") and isinstance(given, list):
            path = path[:-1] if detail["type"] == "missing" else path
            wanted = registry.fixed_length(field_at(path, self.schema).annotation)
            problem = registry.needs(wanted, len(given)) if wanted else detail["msg"].lower()
            self.add(RecipeError(f"{self.place(*prefix, *path)} is {given!r}: {problem}", hint_for(path, self.schema)))
            return
        place = self.place(*prefix, *path)
        if detail["type"] == "extra_forbidden":
            known = model_fields(path[:-1], self.schema)
            self.add(UnknownName("key", str(path[-1]), known, place))
        elif detail["type"] == "missing":
            self.add(RecipeError(f"the {self.what} needs {place}"))
        else:
            text = detail["msg"].removeprefix("Value error, ")
            self.add(RecipeError(f"{place} is {given!r}: {text[:1].lower()}{text[1:]}", hint_for(path, self.schema)))

    def _components(self, tree: dict[str, Any], prefix: tuple[str | int, ...]) -> dict[str, Any]:
        """The component nodes of a stage with their factories' defaults."""
        checked: dict[str, Any] = {}
        for key, kind in COMPONENTS.items():
            node = tree.get(key)
            if not isinstance(node, dict) or not isinstance(node.get("name"), str):
                continue
            try:
                component = registry.load().find(kind, node["name"], self.place(*prefix, key, "name"))
            except RecipeError as problem:
                self.add(problem)
                continue
            own = VCSF_KEYS.get(key, {})
            settings = {k: v for k, v in node.items() if k != "name" and k not in own}
            checked[key] = {"name": component.name} | self._own(node, own, (*prefix, key))
            full, fit = self._settings(component, settings, (*prefix, key))
            checked[key] |= full
            if key in CHEAP and fit:
                self._factory(component, settings, (*prefix, key))
            if key == "backbone":
                for pathway in ("slow", "fast"):
                    checked[pathway] = self._pathway(component, tree.get(pathway) or {}, (*prefix, pathway))
        if "motion" in checked:
            checked["motion"].setdefault("after", [2, 3, 4])
        if checked.get("motion", {}).get("name") == "none":
            del checked["motion"]["after"]  # nothing sits anywhere: two ways to say so must not be two runs
        return checked

    def _settings(
        self, component: Component, settings: dict[str, Any], path: tuple[str | int, ...], *, whole: bool = True
    ) -> tuple[dict[str, Any], bool]:
        """Settings with their defaults, and whether all of them fit."""
        checked, problems = registry.check_settings(
            component, settings, lambda name: self.place(*path, name), whole=whole
        )
        for problem in problems:
            self.add(problem)
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in checked.items()}
        return plain, not problems

    def _factory(self, component: Component, settings: dict[str, Any], path: tuple[str | int, ...]) -> None:
        """What only the factory sees, such as settings that don't fit each other; told where the key that it names is."""
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

    def _own(self, node: dict[str, Any], own: Mapping[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
        """vcsf's own keys of a component's node."""
        checked = {}
        for key, annotation in own.items():
            if key in node:
                try:
                    checked[key] = registry.validate(annotation, node[key])
                except ValidationError as error:
                    message = error.errors()[0]["msg"].lower()
                    hint = (
                        f"known: {', '.join(get_args(annotation))}" if get_args(annotation) and key == "input" else ""
                    )
                    self.add(RecipeError(f"{self.place(*path, key)} is {node[key]!r}: {message}", hint))
        return checked

    def _pathway(self, component: Component, node: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
        """The node `slow` or `fast`: vcsf's own keys, and overrides of the backbone's settings."""
        if not isinstance(node, dict):
            return {}
        overrides = {k: v for k, v in node.items() if k not in PATHWAY_KEYS}
        changed, _ = self._settings(component, overrides, path, whole=False)
        return {"input": "rgb"} | self._own(node, PATHWAY_KEYS, path) | changed

    def optimiser(self, node: Any, epochs: int | None, prefix: tuple[str | int, ...] = ()) -> None:
        """An optimiser's name, and whether its schedule fits into the training; wrong types are told elsewhere."""
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
                    f"{self.place(*prefix, 'optim', 'drops')} is {optim.drops}, but training ends after epoch {epochs}",
                    "drop earlier, or train longer",
                )
            )


def field_at(path: Sequence[str | int], schema: type[BaseModel]) -> FieldInfo:
    """The key that a path leads to; of a list's entry, the list's."""
    model: Any = schema
    for name in path:
        field: FieldInfo = model.model_fields[str(name)]
        model = field.annotation
        if not hasattr(model, "model_fields"):
            break
    return field


def hint_for(path: Sequence[str | int], schema: type[BaseModel]) -> str:
    """What to write at a key: what is known, the keys of a node, else the default."""
    field = field_at(path, schema)
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
    from timm.optim import list_optimizers  # type: ignore[attr-defined]  # timm has no __all__

    return [str(name) for name in list_optimizers()]


def part(model: type[Model], tree: Any) -> Model:
    """A node's model; through JSON, so that a list is a tuple where one is wanted but no text becomes a number."""
    return model.model_validate_json(json.dumps(tree), strict=True)


def validated(tree: Any) -> Stage:
    """A stage's model."""
    return part(Stage, tree)
