"""What may go wrong for a user, each with one sentence of what and one of what to do about it.

Every error that a user can cause is a `VcsfError`; `vcsf_cli.cli` is the only place that turns them
into output."""

import difflib
import errno
from collections.abc import Iterable, Sequence

BROKEN_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
"""Errors of the system that are the disk's or its owner's doing: the user needs no traceback."""

WRONG_PATH = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""Errors of the system that a path on the command line or in a recipe makes: a file taken for a
folder, too long a name."""

EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C or a polite kill, with everything saved."""


class VcsfError(Exception):
    """A failure that is explained to the user without a traceback.

    Args:
        message: What is wrong, naming the thing that is wrong.
        hint: What to do about it; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class DataError(VcsfError):
    """Videos, a prepared dataset or a file are not what they should be."""


class RunError(VcsfError):
    """A run folder or checkpoint can't be used, or the training itself failed."""


class BusyError(RunError):
    """Another process holds the lock of the run or measurement."""


class InputError(VcsfError):
    """The command line is wrong: a path that doesn't exist, an option that doesn't fit."""

    exit_code = 2


class PluginError(InputError):
    """A plugin can't be loaded, or breaks the contract of a hook."""


class RecipeError(InputError):
    """A recipe is wrong. Several problems are gathered into one error.

    Args:
        message: What is wrong; with `key`, how a sentence goes on that begins with the key.
        hint: What to do about it.
        key: The key that is wrong, such as `sampler.alpha`; the file and line are added to it.
    """

    def __init__(self, message: str, hint: str = "", *, key: str = "") -> None:
        super().__init__(f"`{key}` {message}" if key else message, hint)
        self.key = key

    @classmethod
    def of(cls, problems: Sequence["RecipeError"]) -> "RecipeError":
        """One error that says all of `problems`."""
        if len(problems) == 1:
            return problems[0]
        message = f"{len(problems)} problems in the recipe\n" + "\n".join(
            f"  - {p.message}" for p in problems
        )
        hints = dict.fromkeys(p.hint for p in problems if p.hint)
        return cls(message, "\n      ".join(hints))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint with the nearest known name, else with all known names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known: {', '.join(known)}" if known else ""


class UnknownName(RecipeError):
    """A name that is not among the known ones.

    Args:
        what: The kind of thing, such as `backbone`.
        name: The name that was asked for.
        known: The names there are.
        where: Where it was named, such as a recipe's file and line.
    """

    def __init__(self, what: str, name: str, known: Iterable[str], where: str = "") -> None:
        super().__init__(
            f"unknown {what} `{name}`" + (f" at {where}" if where else ""),
            did_you_mean(name, known),
        )
