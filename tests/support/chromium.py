"""Chromium, driven over its DevTools pipe with the standard library alone."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
)
PATIENCE = 20.0  # seconds for anything the page is to do
HOSTILE = (
    '<think><script>window.ran = 1</script><img src=x onerror="window.ran = 2"> Heart &lt;large&gt;.\n'
    "<svg onload='window.ran = 3'></think>\n<solution>Cardiomegaly</solution>"
)


class Chromium:
    """A headless browser; reads and writes the DevTools protocol on file descriptors 3 and 4."""

    def __init__(self, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "-", *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.inbox, self.outbox = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self.numbers = itertools.count(1)
        self.events: list[dict] = []
        self.rest = b""

    def call(self, method: str, session: str | None = None, **params: object) -> dict:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self.outbox.write(json.dumps(message).encode() + b"\0")
        self.outbox.flush()
        while (reply := self._read()).get("id") != number:
            self.events.append(reply)
        assert "error" not in reply, reply["error"]
        return reply["result"]

    def _read(self) -> dict:
        while b"\0" not in self.rest:
            chunk = os.read(self.inbox.fileno(), 1 << 20)
            assert chunk, "Chromium has gone"
            self.rest += chunk
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def page(self, address: str, width: int = 1280, height: int = 800) -> Page:
        context = self.call("Target.createBrowserContext")["browserContextId"]  # cookies and caches of its own
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.open(address)
        return page

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.inbox.close()
        self.outbox.close()


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **params: object) -> dict:
        return self.browser.call(method, self.session, **params)

    def resize(self, width: int, height: int) -> None:
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && document.querySelector('#position').textContent !== ''")

    def js(self, expression: str) -> object:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if self.js(expression):
                    return
            except AssertionError:  # the page is being loaded
                pass
            assert time.monotonic() < end, f"never true: {expression}; the page says {self.text('body')!r}"
            time.sleep(0.03)

    def text(self, selector: str) -> str:
        return str(self.js(f"document.querySelector({json.dumps(selector)}).innerText"))

    def key(self, key: str, modifiers: int = 0) -> None:
        code = {"Enter": 13, "Escape": 27}.get(key, 0)
        typed = {"text": "\r" if key == "Enter" else key} if (len(key) == 1 or key == "Enter") and not modifiers else {}
        press = {"key": key, "modifiers": modifiers, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **press, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **press)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def ready(self) -> None:
        """Waits until the image of the present trace is on the screen."""
        self.until("!document.querySelector('#accept').disabled")

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
