"""YAML 1.2 without repeated keys, and with the line of every value.

PyYAML itself reads YAML 1.1, where `1e-4` is text, `012` is ten, `1:30` is ninety, `no` is false,
and the last of two equal keys counts."""

from __future__ import annotations

import io
import math
import re
import sys
from pathlib import Path as FilePath
from typing import Any

import yaml

from vcsf_cli.errors import InputError, RecipeError

Path = tuple[str | int, ...]
Marks = dict[Path, str]

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan,
}  # fmt: skip


_LONGEST = 2**18
"""Characters of a file; PyYAML reads some 50,000 a second."""
_MOST_VALUES = 50_000
"""In a file with its aliases written out."""
_DEEPEST = 50
_TOO_DEEP = f"its values lie more than {_DEEPEST} levels deep"
_LARGEST = 2**63 - 1
_DIGITS = 30
"""More than the largest whole number has."""


class _Loader(yaml.SafeLoader):
    """Reads all scalars as text: any other tag was written in the file."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML declares it as an instance's


def read(path: FilePath, what: str, hint: str) -> tuple[dict[str, Any], Marks]:
    """The mapping in a file, and `file:line` of every key.

    Args:
        path: The file.
        what: Its kind, for messages: `recipe`.
        hint: Where to find an example.

    Raises:
        InputError: If it can't be read.
        RecipeError: If `parse` refuses it, or it is not a mapping.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)  # which `parse` refuses
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} can't be read: {error}", f"a {what} is a YAML text file"
        ) from error
    tree, marks = parse(text, str(path))
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} is not a {what}: it has no keys", hint)
    return tree, marks


def parse(text: str, file: str) -> tuple[Any, Marks]:
    """The value of a YAML text, and `file:line` by path of keys and list positions.

    Raises:
        RecipeError: If it is not YAML, repeats a key, has a number that YAML versions read
            differently, or is larger than any recipe is.
    """
    if len(text) > _LONGEST:
        raise _too_large(file, f"it has more than {_LONGEST:,} characters")
    try:
        node = yaml.compose(text, Loader=_Loader)
    except RecursionError as error:
        raise _too_large(file, _TOO_DEEP) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else file
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(
            f"{place} is not YAML: {problem}", "look at the indentation and the quotes"
        ) from error
    marks: Marks = {}
    if node is None:
        return None, marks
    return _value(node, file, (), marks, ()), marks


def _too_large(place: str, why: str) -> RecipeError:
    return RecipeError(f"{place} is too large: {why}", "look whether it is the right file")


def _value(
    node: yaml.Node, file: str, path: Path, marks: Marks, parents: tuple[yaml.Node, ...]
) -> Any:
    place = marks[path] = f"{file}:{node.start_mark.line + 1}"
    if node in parents:
        raise RecipeError(f"{place}: an alias contains itself", "write the value out")
    if len(parents) > _DEEPEST:
        raise _too_large(place, _TOO_DEEP)
    if len(marks) > _MOST_VALUES:
        raise _too_large(file, f"with its aliases it has more than {_MOST_VALUES:,} values")
    parents = (*parents, node)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, place)
    if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
        raise RecipeError(f"{place}: the tag `{node.tag}` is not allowed", "write a plain value")
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(item, file, (*path, index), marks, parents)
            for index, item in enumerate(node.value)
        ]
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        here = f"{file}:{key_node.start_mark.line + 1}"
        if not isinstance(key, str):
            raise RecipeError(
                f"{here}: a key must be a word", "look at the brackets and the colons"
            )
        if key in mapping:
            raise RecipeError(
                f"{here}: the key `{key}` is given twice",
                f"it was first given at {marks[(*path, key)]}",
            )
        mapping[key] = _value(value_node, file, (*path, key), marks, parents)
        marks[(*path, key)] = here
    return mapping


def _scalar(node: yaml.ScalarNode, place: str) -> Any:
    if node.tag != "tag:yaml.org,2002:str":
        raise RecipeError(f"{place}: the tag `{node.tag}` is not allowed", "write a plain value")
    text: str = node.value
    if node.style is not None:  # quoted or a block: text as it stands
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _LEADING_ZERO.fullmatch(text):
        raise RecipeError(
            f"{place}: `{text}` starts with a zero",
            f'write `{text.lstrip("0") or 0}`, or "{text}" if it is text',
        )
    if not _FLOAT.fullmatch(text):  # which whole numbers match too
        return text
    whole = _INTEGER.fullmatch(text)
    number = int(text) if whole and len(text) <= _DIGITS else float(text)
    if abs(number) > (_LARGEST if whole else sys.float_info.max):
        shown = text if len(text) <= _DIGITS else f"{text[:_DIGITS]}..."
        raise RecipeError(f"{place}: the number {shown} is too large", "write a smaller one")
    return number


def dump(value: Any) -> str:
    """YAML that `parse` reads back unchanged: keys in their order, flat lists on one line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes scalars as `parse` reads them, and quotes text that a YAML version would misread."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML declares it as an instance's

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_TEXT = "tag:yaml.org,2002:str"
_BREAKS = frozenset("\x85\u2028\u2029")
"""Line breaks of YAML that only double quotes preserve."""
_OTHER_READERS = yaml.SafeDumper(io.StringIO())


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    tag: str = _OTHER_READERS.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # PyYAML's
    misread = tag != _TEXT or not _BREAKS.isdisjoint(text)
    looks_like_a_value = (
        text in _CONSTANTS or _FLOAT.fullmatch(text) or _LEADING_ZERO.fullmatch(text)
    )
    return dumper.represent_scalar(
        _TEXT, text, style='"' if misread or looks_like_a_value else None
    )


def _represent_value(dumper: yaml.SafeDumper, value: bool | int | float | None) -> yaml.ScalarNode:
    special = {None: "null", True: "true", False: "false", math.inf: ".inf", -math.inf: "-.inf"}
    plain = (
        special[value]
        if value is None or isinstance(value, bool) or value in (math.inf, -math.inf)
        else repr(value)
    )
    return dumper.represent_scalar(_TEXT, plain)


def _represent_list(
    dumper: yaml.SafeDumper, items: list[Any] | tuple[Any, ...]
) -> yaml.SequenceNode:
    flat = all(not isinstance(item, dict | list | tuple) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", list(items), flow_style=flat)


_Dumper.add_representer(str, _represent_text)
for _kind in (bool, int, float, type(None)):
    _Dumper.add_representer(_kind, _represent_value)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(tuple, _represent_list)
