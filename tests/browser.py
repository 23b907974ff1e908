"""Headless Chromium, spoken to through a pipe: opens a page, hears its console, prints it, looks at it at any size."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-dev-shm-usage", "--disable-extensions", "--hide-scrollbars"),
)
PATIENCE = 60.0  # seconds for one answer, on a machine that is busy
TROUBLE = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


def find_browser() -> str | None:
    """The path of a Chromium on this machine, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a browser with a fresh profile in `folder`.

    `said` is what the page wrote on its console, raised, or was refused; `asked` are the addresses that it loaded.
    """

    def __init__(self, folder: Path):
        path = find_browser()
        assert path, "no Chromium here"
        mine, theirs = os.pipe(), os.pipe()  # what it reads, what it writes
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (mine[0], theirs[1])]  # out of the way of 3 and 4
        self._process = subprocess.Popen(
            [path, *SWITCHES, f"--user-data-dir={folder}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: [os.dup2(end, number) for number, end in enumerate(ends, 3)], pass_fds=(3, 4),
            start_new_session=True,
        )  # fmt: skip
        for end in (mine[0], theirs[1], *ends):
            os.close(end)
        self._write, self._read = mine[1], theirs[0]
        self._buffer, self._number, self._session = b"", 0, ""
        self._events: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.asked: list[str] = []

    def __enter__(self) -> Browser:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False, medium: str = "") -> None:
        """Loads a file at a window's size, light or dark, as on a screen or on paper (medium "print")."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=medium, features=[feature])
        self.call("Page.navigate", url=page.absolute().as_uri())
        self.wait("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key on what has the focus."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if kind == "keyDown" and text else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **extra)

    def photograph(self, whole: bool = True) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def print(self) -> bytes:
        """The page on paper, as PDF."""
        answer = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(answer["data"])

    # ----------------------------------------------------------------------------------------------- the pipe

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What the browser answers to a command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            self._note(answer)

    def wait(self, event: str) -> None:
        """Until an event has come since the last wait for it."""
        while not any(known["method"] == event for known in self._events):
            self._note(self._next())
        self._events.clear()

    def _note(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        if event["method"] in TROUBLE:
            self.said.append(json.dumps(event["params"])[:500])
        if event["method"] == "Network.requestWillBeSent":
            self.asked.append(event["params"]["request"]["url"])

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"no word from the browser for {PATIENCE:.0f} s"
            read = os.read(self._read, 1 << 20)
            assert read, "the browser is gone"
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))
