"""One run's work in a process of its own: command lines of vcsf, one after the other.

`python -m vcsf_cli.ablate.worker ERROR_FILE '[["pretrain", ...], ["retrieve", ...]]'`. Its parent
holds the other end of its stdin: when the parent dies, however it dies, so does this process with
all that it started, and no run stays locked. ERROR_FILE gets the last error of a command."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from types import FrameType

from vcsf_cli.errors import ERROR_FILE, EXIT_INTERRUPTED
from vcsf_cli.narrate import say


def _die_with_parent() -> None:
    """Wait for the end of stdin, which only the parent's end can bring."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)  # the parent made this process the first of a group


class _Commands:
    """Runs command lines, and passes the signals that stop this process on to the running one."""

    def __init__(self, error_file: str) -> None:
        self.stopped = False
        self._environment = os.environ | {ERROR_FILE: error_file}
        self._process: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self._process is not None:
            self._process.send_signal(number)

    def run(self, words: list[str]) -> int:
        """The exit status of one command line, as a shell gives it."""
        command = [sys.executable, "-m", "vcsf_cli", *words]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=self._environment)
        if self.stopped:  # while it was started
            self._process.send_signal(signal.SIGINT)
        status = self._process.wait()
        return EXIT_INTERRUPTED if self.stopped else status if status >= 0 else 128 - status


def _run_all(error_file: str, command_lines: list[list[str]]) -> int:
    """Run command lines in order, all of them unless training fails; returns the status of the last
    that failed, else 0."""
    commands, failed = _Commands(error_file), 0
    for words in command_lines:
        say(f"$ vcsf {shlex.join(words)}")
        status = commands.run(words)
        failed = status or failed
        if commands.stopped or status == EXIT_INTERRUPTED or (status and "pretrain" in words):
            break
    return failed


if __name__ == "__main__":
    threading.Thread(target=_die_with_parent, daemon=True).start()
    sys.exit(_run_all(sys.argv[1], json.loads(sys.argv[2])))
