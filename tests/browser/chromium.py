"""Headless Chromium over its DevTools protocol, with nothing but the `websockets` that viser brings."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image
from websockets.sync.client import connect

QUIET = ('--headless', '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--hide-scrollbars', '--mute-audio', '--enable-unsafe-swiftshader',
         '--use-angle=swiftshader', '--ignore-gpu-blocklist', '--remote-debugging-port=0')


class Browser:
    """One page of `size` (width, height); a context manager."""

    def __init__(self, size: tuple[int, int] = (1280, 800)) -> None:
        program = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
        if program is None:
            raise SystemExit('Chromium is not installed (Debian: apt-get install chromium).')
        self.profile = tempfile.TemporaryDirectory(prefix='chromium-')
        self.process = subprocess.Popen(
            [program, *QUIET, f'--user-data-dir={self.profile.name}', f'--window-size={size[0]},{size[1]}', 'about:blank'],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = self._port()
        pages = json.load(urllib.request.urlopen(f'http://127.0.0.1:{port}/json'))
        address = next(page['webSocketDebuggerUrl'] for page in pages if page['type'] == 'page')
        self.socket = connect(address, max_size=None)
        self.number = 0
        for domain in ('Page', 'Runtime'):
            self.call(f'{domain}.enable')
        self.call('Emulation.setDeviceMetricsOverride', width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)

    def _port(self) -> int:
        file = Path(self.profile.name) / 'DevToolsActivePort'
        for _ in range(300):
            if file.is_file() and (lines := file.read_text().splitlines()):
                return int(lines[0])
            time.sleep(0.1)
        raise SystemExit('Chromium did not start.')

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
        self.profile.cleanup()

    def call(self, method: str, **arguments) -> dict:
        """Return what the browser answers to a command; events that come before are passed over."""
        self.number += 1
        self.socket.send(json.dumps(dict(id=self.number, method=method, params=arguments)))
        while True:
            message = json.loads(self.socket.recv(timeout=600))
            if message.get('id') == self.number:
                if 'error' in message:
                    raise RuntimeError(f'{method}: {message["error"]}')
                return message['result']

    def open(self, address: str) -> None:
        """Go to a page."""
        self.call('Page.navigate', url=address)

    def value(self, script: str):
        """Return what a piece of JavaScript gives."""
        found = self.call('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in found:
            raise RuntimeError(str(found['exceptionDetails'])[:500])
        return found['result'].get('value')

    def wait_for(self, script: str, seconds: float = 60) -> float:
        """Wait until JavaScript gives something true; return the seconds that it took."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            if self.value(script):
                return time.monotonic() - start
            time.sleep(0.1)
        raise AssertionError(f'not within {seconds} s: {script}\nthe page says: {self.text()[:800]}')

    def text(self) -> str:
        """Return what can be read on the page."""
        return self.value("document.body ? document.body.innerText : ''")

    def picture(self) -> np.ndarray:
        """Return a screenshot, (height, width, 3) uint8."""
        data = base64.b64decode(self.call('Page.captureScreenshot', format='png')['data'])
        return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))

    def click(self, x: float, y: float) -> None:
        """Press and release the left button."""
        self.call('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)
        for kind in ('mousePressed', 'mouseReleased'):
            self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 8) -> None:
        """Press at `start`, move to `end`, release."""
        self.call('Input.dispatchMouseEvent', type='mouseMoved', x=start[0], y=start[1])
        self.call('Input.dispatchMouseEvent', type='mousePressed', x=start[0], y=start[1], button='left', clickCount=1)
        for share in np.linspace(0, 1, steps + 1)[1:]:
            x, y = (a + (b - a) * share for a, b in zip(start, end, strict=True))
            self.call('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y, button='left')
        self.call('Input.dispatchMouseEvent', type='mouseReleased', x=end[0], y=end[1], button='left', clickCount=1)
