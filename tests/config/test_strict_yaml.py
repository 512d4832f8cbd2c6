"""YAML as a reader expects it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vcsf_cli.config.strict_yaml import dump, parse, read
from vcsf_cli.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), (".5", 0.5), ("-3", -3), ("+7", 7), ("0", 0), ("3.", 3.0),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("1:30", "1:30"), ("1_000", "1_000"),
        ("true", True), ("false", False), ("null", None), ("~", None), ("", None), ("'12'", "12"), ('"true"', "true"),
        ("2020-01-01", "2020-01-01"), ("[1, a, 2.5]", [1, "a", 2.5]), ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)  # fmt: skip
def test_plain_values(text: str, value: Any) -> None:
    parsed = parse(text, "x")[0]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 012", "starts with a zero"),
        ("a: 1\nb: 2\na: 3", "r.yaml:3: the key `a` is given twice"),
        ("a: !!python/object:os.system 1", "not allowed"),
        ("a: [1, 2", "not YAML"),
        ("a: &x [*x]", "contains itself"),
        ("? [1]\n: 2", "a key must be a word"),
    ],
)
def test_what_would_be_read_wrong_is_refused(text: str, problem: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse(text, "r.yaml")
    assert problem in error.value.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("9" * 5_000, "is too large"),
        ("-9223372036854775808", "is too large"),
        ("1e999", "is too large"),
        ("[" * 60 + "]" * 60, "levels deep"),
        ("[" * 100_000, "levels deep"),
        ("a: " + "{a: " * 5_000, "levels deep"),
        ("? " * 3_000, "levels deep"),
        ("x" * 300_000, "characters"),
        ('"\\UFFFFFFFF"', "not YAML"),
        (f"%YAML 1.{'9' * 5_000}\n---\na", "not YAML"),
        ("a: &a [x, x]\n" + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
        ), "values"),
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_what_no_recipe_holds_is_refused_at_once(text: str, problem: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse(text, "r.yaml")
    assert problem in error.value.message
    assert error.value.message.startswith("r.yaml")
    assert len(error.value.message) < 200


def test_a_huge_file_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RecipeError, match="characters"):
        read(tmp_path / "huge.yaml", "recipe", "")


def test_marks_give_file_and_line() -> None:
    _, marks = parse("a: 1\nb:\n  c: 2\nd: [5,\n  6]\n", "r.yaml")
    assert marks[("b", "c")] == "r.yaml:3"
    assert marks[("d", 1)] == "r.yaml:5"


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
)
keys = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1)


@example("\x85")
@example(["\u2028", "a\u2029b"])
@given(
    st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20
    )
)
def test_what_is_dumped_is_read_back(value: Any) -> None:
    assert parse(dump(value), "x")[0] == value
