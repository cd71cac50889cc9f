"""A window of WebKit, the engine of Safari, driven by WebDriver. It has its own screen."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

DOWN, ENTER, ESCAPE = "\ue015", "\ue007", "\ue00c"
_MINI_BROWSER = "/usr/lib/*-linux-gnu/webkit2gtk-4.1/MiniBrowser"
_HEARD = """
    window.problems = [];
    addEventListener("error", (event) => problems.push(event.message));
    addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
    addEventListener("securitypolicyviolation", (event) => problems.push(event.violatedDirective));
"""


def mini_browser() -> str | None:
    """The path of WebKit's own browser, if all that drives it is there."""
    if not (shutil.which("WebKitWebDriver") and shutil.which("xvfb-run")):
        return None
    return next((str(path) for path in Path("/").glob(_MINI_BROWSER[1:])), None)


class WebKit:
    """A window. What it returns is JSON."""

    def __init__(self, path: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Without a graphics card there are no shared buffers. xvfb-run ends with the driver.
        environment = {**os.environ, "WEBKIT_DISABLE_DMABUF_RENDERER": "1"}
        environment.pop("LD_PRELOAD", None)
        self._process = subprocess.Popen(
            ["xvfb-run", "-a", "-s", "-screen 0 1600x1200x24", "WebKitWebDriver", f"--port={port}"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._url = f"http://127.0.0.1:{port}"
        self.wait(self._is_ready)
        options = {"binary": path, "args": ["--automation"]}
        wanted = {"alwaysMatch": {"webkitgtk:browserOptions": options}}
        self._url += f"/session/{self._call('/session', capabilities=wanted)['sessionId']}"
        self._call("/window/rect", width=1200, height=900)

    def _is_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"{self._url}/status", timeout=5).close()
        except OSError:
            return False
        return True

    def _call(self, path: str, method: str = "POST", **body: object):
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self._url + path, data, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def wait(self, is_so) -> None:
        """Wait until a function, or an expression of the page, is true."""
        end = time.monotonic() + 60
        while not (self.js(f"return Boolean({is_so})") if isinstance(is_so, str) else is_so()):
            assert time.monotonic() < end, is_so
            time.sleep(0.1)

    def js(self, script: str, *arguments: object):
        """What a script returns."""
        return self._call("/execute/sync", script=script, args=arguments)

    def goto(self, url: str) -> None:
        """Load an address. `problems` of the page begins to be filled."""
        self._call("/url", url="about:blank")
        self._call("/url", url=url)
        self.js(_HEARD)

    def back(self) -> None:
        """Go back."""
        self._call("/back")

    def click(self, selector: str) -> None:
        """Click at the first element of a selector, as a person does."""
        self._call(f"/element/{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Type into a field."""
        self._call(f"/element/{self._find(selector)}/value", text=text)

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        steps = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._call("/actions", actions=[{"type": "key", "id": "keys", "actions": steps}])

    def point(self, selector: str) -> None:
        """Move the pointer to the middle of an element."""
        x, y = self.js(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [Math.round(box.x + box.width / 2), Math.round(box.y + box.height / 2)]",
            selector,
        )
        step = {"type": "pointerMove", "duration": 0, "x": x, "y": y}
        self._call("/actions", actions=[{"type": "pointer", "id": "mouse", "actions": [step]}])

    def _find(self, selector: str) -> str:
        found = self._call("/element", using="css selector", value=selector)
        return next(iter(found.values()))

    def close(self) -> None:
        """Close the window and its screen."""
        try:
            self._call("", method="DELETE")
        finally:
            os.killpg(self._process.pid, 15)
            self._process.wait()
