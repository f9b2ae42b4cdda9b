"""A browser through ChromeDriver, by the few requests of the WebDriver protocol that tests need."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
    ),
    *("--disable-background-networking", "--no-first-run", "--disable-component-update", "--disable-sync"),
)


def programs() -> tuple[str, str] | None:
    """Paths of Chromium and its driver; None where one is missing."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Chrome:
    """One window.

    Args:
        folder: For its profile, and for downloads in ``taken``.
        width: Of the window in pixels.
        height: Of the window in pixels.
    """

    def __init__(self, folder: Path, *, width: int = 1280, height: int = 800) -> None:
        import httpx

        found = programs()
        assert found is not None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = subprocess.Popen([found[1], f"--port={port}"], stdout=subprocess.DEVNULL)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300)
        flags = [*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={folder / 'profile'}"]
        self.downloads = folder / "taken"
        prefs = {"download.default_directory": str(self.downloads)}
        options = {"binary": found[0], "args": flags, "prefs": prefs}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        wanted["timeouts"] = {"script": 300_000}
        for _ in range(100):
            try:
                made = self.http.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
                break
            except httpx.TransportError:
                time.sleep(0.1)
        self.session = f"/session/{made.json()['value']['sessionId']}"
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", size)

    def close(self) -> None:
        """Close the window and end the driver."""
        self.http.delete(self.session)
        self.http.close()
        self.process.terminate()
        self.process.wait()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self.http.post(f"{self.session}{path}", json=body or {}).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def open(self, address: str) -> None:
        self.ask("/url", {"url": address})

    def run(self, script: str) -> Any:
        """What a script returns."""
        return self.ask("/execute/sync", {"script": script, "args": []})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self.ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def wait(self, condition: str, seconds: float = 300.0) -> None:
        """Wait until an expression holds."""
        ends = time.monotonic() + seconds
        while not self.run(f"return !!({condition})"):
            if time.monotonic() > ends:
                said = self.run("return document.getElementById('status').textContent")
                raise TimeoutError(f"{condition} did not come true; the page says {said!r}")
            time.sleep(0.2)

    def click(self, selector: str) -> None:
        found = self.ask("/element", {"using": "css selector", "value": selector})
        self.ask(f"/element/{found[ELEMENT]}/click")

    def type(self, selector: str, text: str) -> None:
        found = self.ask("/element", {"using": "css selector", "value": selector})
        self.ask(f"/element/{found[ELEMENT]}/value", {"text": text})

    def stroke(self, points: list[tuple[float, float]]) -> None:
        """Draw with the mouse."""
        kinds = ["mouseMoved", "mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [points[0], *points, points[-1]], strict=True):
            held = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
            self.devtools("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **held})

    def key(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.devtools(
                "Input.dispatchKeyEvent", {"type": kind, "key": key, "text": key if len(key) == 1 else ""}
            )

    def picture(self, path: Path) -> None:
        answer = self.http.get(f"{self.session}/screenshot").json()["value"]
        path.write_bytes(base64.b64decode(answer))

    def errors(self) -> list[str]:
        """What the page complained of; notes of the graphics driver are none of it."""
        rows = self.ask("/se/log", {"type": "browser"})
        return [
            row["message"] for row in rows if row["level"] == "SEVERE" and "GL Driver" not in row["message"]
        ]
