"""Chromium without a window, driven over the pipe of its DevTools protocol: what a page does for a
person who looks at it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
chromium = pytest.mark.skipif(
    not CHROMIUM, reason="Chromium is not installed: apt-get install chromium"
)
SECONDS = 120.0
KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    " ": 32,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


class Browser:
    """One page in one browser.

    Args:
        process: The browser.
        commands: Descriptor to write to.
        answers: Descriptor to read from.
    """

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self.process, self.commands, self.answers = process, commands, answers
        self.number, self.rest, self.events, self.session = 0, b"", [], ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self.answers, 2**20)
            assert data, "the browser has gone"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        """Remember what a person would see in the console, and every request that is not in the
        page itself."""
        method, parameters = message.get("method"), message.get("params", {})
        self.events.append(method)
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        if method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.errors.append(json.dumps(parameters["args"]))
        if method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(parameters["entry"]["text"])
        if method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith(
            "data:"
        ):
            self.requests.append(parameters["request"]["url"])

    def open(self, path: Path, width: int = 1280, height: int = 900, **media: str) -> None:
        """Open a file in a window of a size, with media features such as
        `prefers_color_scheme="dark"`."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        features = [
            {"name": name.replace("_", "-"), "value": value} for name, value in media.items()
        ]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.events, self.errors, self.requests = [], [], []
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self.events:
            self._next()

    def evaluate(self, script: str) -> Any:
        """The value of an expression, or what a promise gives."""
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, script: str) -> Any:
        """The first true value of an expression."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            value = self.evaluate(script)
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"never came true: {script}")

    def appears(self, selector: str) -> int:
        """How many elements there are, when there is one."""
        return int(self.wait(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def scroll(self, selector: str) -> None:
        """Bring an element to the top of the window."""
        self.evaluate(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{behavior: 'instant'}})"
        )

    def middle(self, selector: str) -> tuple[float, float]:
        """Where the middle of an element is in the window."""
        script = "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        x, y = self.evaluate(
            f"{script}(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        return x, y

    def press(self, key: str, **more: Any) -> None:
        """Press and release a key, or type a character."""
        code = {"windowsVirtualKeyCode": KEYS[key]} if key in KEYS else {}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, **code, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **code, **more)

    def move(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click on the middle of an element."""
        self.evaluate(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center', behavior: 'instant'}})"
        )
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, **more: Any) -> None:
        """Save what is seen."""
        kind = path.suffix[1:].replace("jpg", "jpeg")
        path.write_bytes(
            base64.b64decode(self.call("Page.captureScreenshot", format=kind, **more)["data"])
        )


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser whose profile lies in a folder."""
    assert CHROMIUM
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    # No sandbox: in a container, where tests run as root, Chromium has none.
    flags = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe --no-first-run"
    command = f'exec "$0" {flags} --user-data-dir="$1" 3<&{theirs_in} 4>&{theirs_out}'
    with subprocess.Popen(
        ["bash", "-c", command, CHROMIUM, str(folder)],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    ) as process:
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(process, commands, answers)
        finally:
            process.terminate()
            process.wait(SECONDS)
            os.close(commands)
            os.close(answers)
