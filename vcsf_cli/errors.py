"""The errors that a user can cause: one sentence of what is wrong, one of what to do about it.

Only `vcsf_cli.cli` turns them into output."""

import difflib
import errno
from collections.abc import Iterable, Sequence

DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""System errors where this user may not use a path, or nobody may write it."""

BROKEN_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, *DENIED)
"""System errors that the disk or its permissions cause."""

WRONG_PATH = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""System errors that a path causes: a file where a folder should be, a name that is too long, links
in a circle."""

TOO_FEW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""System errors where handles, memory or processes run out."""

_NO_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "can't start new thread",
    "failed to map segment",
)
"""In torch's and Python's errors where memory runs out; they have no type of their own."""

ERROR_FILE = "VCSF_ERROR_FILE"
"""Variable that names the file for the error that ends a command, as JSON with `kind` and
`message`; `vcsf ablate` sets it for its commands."""

HINT = "hint: "
"""What a hint begins with below an error."""

EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM, with everything saved."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that handles, memory or processes ran out."""
    if isinstance(error, OSError):
        return error.errno in TOO_FEW
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, ImportError))
        and any(text in str(error) for text in _NO_MEMORY)
    )


class VcsfError(Exception):
    """An error that is shown without a traceback.

    Args:
        message: What is wrong, by name.
        hint: What to do about it; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:  # torch hands nothing but the traceback on from a process that reads
            self.add_note(f"{HINT}{hint}")


class DataError(VcsfError):
    """Videos, a prepared dataset or another file are wrong."""


class RemoteError(VcsfError):
    """What an address leads to can't be reached, after all tries."""

    def __init__(
        self,
        message: str,
        hint: str = "look at the address, your credentials and the network; the same command goes on",
    ) -> None:
        super().__init__(message, hint)


class RunError(VcsfError):
    """A run folder or checkpoint can't be used, or the training failed."""


class BusyError(RunError):
    """Another process holds the lock of the run or measurement."""


class InputError(VcsfError):
    """The command line is wrong: a path that doesn't exist, an option that doesn't fit."""

    exit_code = 2


class PluginError(InputError):
    """A plugin can't be loaded, or breaks the contract of a hook."""


class RecipeError(InputError):
    """A recipe is wrong.

    Args:
        message: What is wrong; with `key`, the sentence without its subject: `is 5, which is odd`.
        hint: What to do about it.
        key: The wrong key, such as `sampler.alpha`; its file and line are added for the user.
    """

    def __init__(self, message: str, hint: str = "", *, key: str = "") -> None:
        super().__init__(f"`{key}` {message}" if key else message, hint)
        self.key = key

    @classmethod
    def of(cls, problems: Sequence["RecipeError"]) -> "RecipeError":
        """One error for all problems."""
        if len(problems) == 1:
            return problems[0]
        message = f"{len(problems)} problems in the recipe\n" + "\n".join(
            f"  - {p.message}" for p in problems
        )
        hints = dict.fromkeys(p.hint for p in problems if p.hint)
        return cls(message, "\n      ".join(hints))


def did_you_mean_one(name: str, known: Iterable[str]) -> str:
    """A hint: the most similar known name; empty if none is similar."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean `{near[0]}`?" if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint: the most similar known name, else all known names."""
    known = sorted(known)
    if near := did_you_mean_one(name, known):
        return near
    return f"known: {', '.join(known)}" if known else ""


class UnknownName(RecipeError):
    """A name that is not known.

    Args:
        what: What it should name, such as `backbone`.
        name: The name.
        known: All known names.
        where: Its place, such as a recipe's file and line.
    """

    def __init__(self, what: str, name: str, known: Iterable[str], where: str = "") -> None:
        super().__init__(
            f"unknown {what} `{name}`" + (f" at {where}" if where else ""),
            did_you_mean(name, known),
        )
