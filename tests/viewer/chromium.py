"""Headless Chromium, driven by its DevTools protocol over a pair of pipes."""

import base64
import itertools
import json
import os
import subprocess
import threading
from collections import deque
from concurrent.futures import Future
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.peers import tool

# Root has no sandbox; SwiftShader is WebGL without a GPU; the rest keeps it to this machine.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# With --remote-debugging-pipe it reads commands from file 3 and writes answers to file 4.
_PIPES = 'exec "$@" 3<&0 4>&1 >&2 </dev/null'
ANSWER_SECONDS = 120.0


class Chromium:
    """One browser with one page."""

    def __init__(self, folder: Path, width: int, height: int) -> None:
        self._command = [
            "/bin/sh", "-c", _PIPES, "sh", tool("chromium"), *FLAGS,
            f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}",
        ]  # fmt: skip
        self._folder, self._size = folder, (width, height)
        self._numbers = itertools.count()
        self._due: dict[int, Future[dict[str, Any]]] = {}
        self.console: deque[str] = deque(maxlen=200)

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "chromium.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=os.environ | {"HOME": str(self._folder)},
            )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        width, height = self._size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of an expression of JavaScript; promises are awaited."""
        done = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise AssertionError(f"{script}: {json.dumps(done['exceptionDetails'])[:2000]}")
        return done["result"].get("value")

    def screenshot(self) -> NDArray[np.uint8]:
        """The page as (row, column, RGB)."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(BytesIO(png)).convert("RGB"))

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._due[number] = Future()
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        said = answer.result(timeout=ANSWER_SECONDS)
        if "error" in said:
            raise AssertionError(f"{method}: {said['error']}")
        result: dict[str, Any] = said["result"]
        return result

    def _read(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while chunk := os.read(self._process.stdout.fileno(), 1 << 20):
            *messages, rest = (rest + chunk).split(b"\0")
            for message in messages:
                self._take(json.loads(message))
        for answer in list(self._due.values()):
            answer.set_exception(AssertionError(f"Chromium ended; see {self._folder}"))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._due.pop(message["id"]).set_result(message)
        elif message["method"] == "Runtime.consoleAPICalled":
            words = (
                str(one.get("value", one.get("description"))) for one in message["params"]["args"]
            )
            self.console.append(f"{message['params']['type']}: {' '.join(words)}"[:500])
        elif message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.console.append(json.dumps(message["params"])[:500])
