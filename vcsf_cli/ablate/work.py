"""One run's work in a process of its own: command lines of vcsf, one after the other.

`python -m vcsf_cli.ablate.work '[["pretrain", ...], ["retrieve", ...]]'`, whose parent holds the other end of its stdin: when
the parent dies, however it dies, so does this process with all that it started, and no run is left locked.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading

from vcsf_cli.cli import EXIT_INTERRUPTED, main
from vcsf_cli.narrate import say


def die_with_parent() -> None:
    """Wait for the end of stdin, which only the parent's end can bring."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)  # the parent made this process the first of a group


def work(commands: list[list[str]]) -> int:
    """Run command lines in order, the others too if a measurement fails; the status of the last that fails, else 0."""
    failed = 0
    for words in commands:
        say(f"$ vcsf {shlex.join(words)}")
        sys.argv[1:] = words  # what the run remembers as its command
        status = main(words)
        failed = status or failed
        if status == EXIT_INTERRUPTED or (status and "pretrain" in words):
            break
    return failed


if __name__ == "__main__":
    threading.Thread(target=die_with_parent, daemon=True).start()
    sys.exit(work(json.loads(sys.argv[1])))
