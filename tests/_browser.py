"""A headless Chromium for tests of pages, driven through two pipes; no package is needed for it.

Chromium's DevTools protocol takes and gives JSON messages that end with a zero byte.
"""

from __future__ import annotations

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

CHROMIUM = next(
    (found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None
)
_SECONDS = 60.0


class Browser:
    """A page of a browser that has been started.

    Attributes:
        asked: Addresses that the page has asked for.
        complaints: Errors of its scripts, and what its policy refused.
    """

    def __init__(self, command: int, answer: int) -> None:
        self._command, self._answer = command, answer
        self._waiting, self._number, self._session = b"", 0, ""
        self.asked: list[str] = []
        self.complaints: list[str] = []

    def open(self, address: str) -> None:
        """Opens a page and waits until it is there."""
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        found = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self._ask(f"{domain}.enable")
        self._ask("Page.navigate", {"url": address})
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives in the page."""
        given = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        found = self._ask("Runtime.evaluate", given)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """Waits until an expression is true."""
        end = time.monotonic() + _SECONDS
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"{expression} did not come true; complaints: {self.complaints}"
            time.sleep(0.05)
        return found

    def choose(self, selector: str, *files: Path) -> None:
        """Chooses files in a field."""
        root = self._ask("DOM.getDocument")["root"]["nodeId"]
        node = self._ask("DOM.querySelector", {"nodeId": root, "selector": selector})["nodeId"]
        self._ask("DOM.setFileInputFiles", {"files": [str(file) for file in files], "nodeId": node})

    def _ask(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters or {}}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._command, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            self._note(found)
            if found.get("id") == self._number:
                assert "error" not in found, (method, found["error"])
                return dict(found["result"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            ready, _, _ = select.select([self._answer], [], [], _SECONDS)
            assert ready, "the browser does not answer"
            content = os.read(self._answer, 1 << 16)
            assert content, "the browser has ended"
            self._waiting += content
        message, _, self._waiting = self._waiting.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        given = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.asked.append(given["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(given["exceptionDetails"].get("exception", given)))
        elif message.get("method") == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.complaints.append(given["entry"]["text"])


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Starts Chromium, with its profile in a folder, and ends it."""
    assert CHROMIUM is not None
    command, answer = os.pipe(), os.pipe()
    flags = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    flags += ["--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={folder}"]
    # It reads commands from 3 and answers on 4, which bash puts there.
    words = [
        "bash",
        "-c",
        f'exec "$@" 3<&{command[0]} 4>&{answer[1]}',
        "bash",
        CHROMIUM,
        *flags,
        "about:blank",
    ]
    process = subprocess.Popen(
        words, pass_fds=(command[0], answer[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(command[0])
    os.close(answer[1])
    try:
        yield Browser(command[1], answer[0])
    finally:
        os.close(command[1])  # Chromium ends when its pipe does
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(answer[0])
