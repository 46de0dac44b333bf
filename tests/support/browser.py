"""Headless Chromium, controlled through its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import requests
from websockets.sync.client import connect

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
_CODES = {"Enter": 13, "Backspace": 8, " ": 32, "ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39}


class NavigatedError(RuntimeError):
    """The page was replaced while a command waited for its answer."""


class Browser:
    """One Chromium with its own profile. Two of them act as two users."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 860, phone: bool = False) -> None:
        program = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
        if not program:
            pytest.skip("Chromium is not on the path")
        flags = [*_FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", f"--window-size={width},{height}"]
        self._process = subprocess.Popen([program, *flags, "about:blank"], stderr=subprocess.DEVNULL)
        port_file = profile / "DevToolsActivePort"
        wait_for(port_file.exists, "Chromium to listen")
        port = port_file.read_text().split()[0]
        pages = requests.get(f"http://127.0.0.1:{port}/json/list", timeout=10).json()
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self._open = ExitStack()
        self._socket = self._open.enter_context(connect(address, max_size=None))
        self._number = 0
        self.command("Page.enable")
        if phone:
            self.command(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=True
            )
            self.command("Emulation.setTouchEmulationEnabled", enabled=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()
        self._process.terminate()
        self._process.wait(20)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends one DevTools command and returns its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._number:
                if "navigated or closed" in message.get("error", {}).get("message", ""):
                    raise NavigatedError(method)
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def reset(self) -> Browser:
        """Leaves the page and removes its cookies."""
        self.open("about:blank")
        self.command("Network.clearBrowserCookies")
        return self

    def open(self, address: str) -> None:
        """Opens an address and waits until the page has loaded."""
        self.command("Page.navigate", url=address)
        wait_for(lambda: self.value("document.readyState") == "complete", address)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression. It is evaluated again if the page was navigating meanwhile."""
        while True:
            with contextlib.suppress(NavigatedError):
                result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
                break
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def text(self, selector: str) -> str:
        """The visible text of the first matching element; "" if there is none or it is hidden."""
        return self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def press(self, *keys: str) -> None:
        """Presses keys one after the other."""
        for key in keys:
            event: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": _CODES.get(key, ord(key[0].upper()))}
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            self.command("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
            self.command("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self, path: Path) -> None:
        """Writes the window as a PNG file."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))


def wait_for(condition: Callable[[], Any], description: str, seconds: float = 60.0) -> None:
    """Waits until `condition()` is true. Fails with `description` after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {description}"
        time.sleep(0.05)
