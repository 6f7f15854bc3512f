"""A headless Chromium, driven over the WebDriver protocol with nothing but the standard library."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

DRIVER = shutil.which("chromedriver")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip

ENTER, TAB = "\ue007", "\ue004"


class Chromium:
    """One browser window; closed by `close`."""

    def __init__(self, folder: Path) -> None:
        assert DRIVER is not None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = {**os.environ, "HOME": str(folder)}
        self.process = subprocess.Popen([DRIVER, f"--port={port}"], env=environment, **quiet)  # type: ignore[call-overload]
        self.session = ""
        try:
            self._wait()
            options = {"args": [*FLAGS, f"--user-data-dir={folder / 'profile'}"], "binary": BROWSER}
            logs = {"browser": "ALL", "performance": "ALL"}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
            opened = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.session = f"/session/{opened['sessionId']}"
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        for _ in range(200):
            try:
                self._send("GET", "/status")
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("chromedriver does not answer")

    def _send(self, verb: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=verb)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error

    def open(self, page: Path) -> None:
        self._send("POST", f"{self.session}/url", {"url": page.resolve().as_uri()})

    def resize(self, width: int) -> None:
        self._send("POST", f"{self.session}/window/rect", {"width": width, "height": 900})

    def run(self, script: str) -> Any:
        """Result of a function's body."""
        return self._send("POST", f"{self.session}/execute/sync", {"script": script, "args": []})

    def press(self, keys: str) -> None:
        """Type keys where the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._send(
            "POST", f"{self.session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}
        )

    def log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self._send("POST", f"{self.session}/se/log", {"type": kind})
        return entries

    def requests(self) -> dict[str, str]:
        """Addresses that pages from files asked for since the last call, and why each was blocked ("": it was not).

        The browser's own first page, which may still be loading, is left out.
        """
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        blocked = {
            e["params"]["requestId"]: e["params"].get("blockedReason", "")
            for e in events
            if e["method"] == "Network.loadingFailed"
        }
        asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        asked = [one for one in asked if one["documentURL"].startswith("file:")]
        return {one["request"]["url"]: blocked.get(one["requestId"], "") for one in asked}

    def close(self) -> None:
        try:
            if self.session:
                self._send("DELETE", self.session)
        finally:
            self.process.terminate()
            self.process.wait(30)
