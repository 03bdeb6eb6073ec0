"""A headless Chromium, spoken to over its pipe: enough to open a page and to read what it shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

# All text of a page, also that inside of components (shadow roots), which `innerText` of the body leaves out.
TEXT = """
(() => {
  const parts = [];
  const walk = node => {
    if (node.nodeType === Node.TEXT_NODE && node.textContent.trim()) parts.push(node.textContent.trim());
    if (node.shadowRoot) walk(node.shadowRoot);
    if (!['SCRIPT', 'STYLE'].includes(node.nodeName)) node.childNodes.forEach(walk);
  };
  walk(document.body);
  return parts.join('\\n');
})()
"""


class Browser:
    """A browser with one page; a context manager.

    Args:
        folder: For its profile.
        size: Width and height of the window, in pixels.
    """

    def __init__(self, folder: Path, size: tuple[int, int] = (1400, 2400)) -> None:
        self._folder, self._size = folder, size
        self._number = 0

    def __enter__(self) -> Self:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={self._folder}", f"--window-size={self._size[0]},{self._size[1]}"]
        command += ["--no-proxy-server", "--remote-debugging-pipe", "about:blank"]
        # The browser reads from 3 and writes to 4, whatever these are here.
        script = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._file = os.fdopen(self._in, "rb")
        (page,) = [t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self._ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._file.close()
        os.close(self._out)

    def open(self, url: str) -> None:
        """Goes to a page."""
        self._ask("Page.navigate", session=self._session, url=url)

    def emulate(self, size: tuple[int, int], scale: float = 1, dark: bool = False) -> None:
        """Shows pages as on a screen of another size in CSS pixels, of `scale` pixels each, in a dark color scheme."""
        phone = size[0] < 500
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": scale, "mobile": phone}
        self._ask("Emulation.setDeviceMetricsOverride", session=self._session, **metrics)
        self._ask("Emulation.setScrollbarsHidden", session=self._session, hidden=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", session=self._session, features=[scheme])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = self._ask("Runtime.evaluate", session=self._session, expression=expression, returnByValue=True)
        return found["result"].get("value")

    def text(self) -> str:
        """All that the page shows as text."""
        return str(self.evaluate(TEXT) or "")

    def picture(self, path: Path, height: int | None = None) -> None:
        """Writes what is seen as PNG: the screen, or the page from its top to a height in CSS pixels."""
        import base64

        clip = {}
        if height is not None:
            width = self.evaluate("document.documentElement.clientWidth")
            area = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            clip = {"clip": area, "captureBeyondViewport": True}
        data = self._ask("Page.captureScreenshot", session=self._session, format="png", **clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def _ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        question = {"id": self._number, "method": method, "params": parameters}
        question |= {} if session is None else {"sessionId": session}
        os.write(self._out, json.dumps(question).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> bytes:
        found = bytearray()
        while (byte := self._file.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("The browser has ended.")
            found += byte
        return bytes(found)
