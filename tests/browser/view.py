"""The viewer as a person meets it: headless Chromium opens the page, looks, clicks, slides, uploads. Run by hand:

    python tools/infer.py SCENE/color --out OUT
    python tests/browser/view.py OUT --scene SCENE [--pictures docs/viewer]

Needs Debian's `chromium` and viser. Each check is printed with what was measured; the first that fails ends the run.
Chromium renders in software here: its seconds are an upper bound for a machine with a graphics card.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image
from websockets.sync.client import connect

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jrs.io.ply import read_ply, write_ply  # noqa: E402
from jrs.visualization.cloud import GROUND  # noqa: E402
from tests._data import tool  # noqa: E402
from tests.browser.chromium import Browser  # noqa: E402

PANEL = 890                                     # x at which the panel begins in a page of 1280
DRAWN = 0.01                                    # share of the scene's pixels from which on a cloud counts as drawn
MILLION = 1_000_000


def main() -> None:
    """Run all checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, metavar='OUT', help='an output of tools/infer.py')
    parser.add_argument('--scene', type=Path, required=True, help='the scene folder that it was made from')
    parser.add_argument('--predictions', type=Path, help='prediction files of that scene: they are looked at on its mesh')
    parser.add_argument('--pictures', type=Path, help='folder for screenshots')
    parser.add_argument('--skip-million', action='store_true', help='leave out the large cloud')
    args = parser.parse_args()
    with served(args.out, args.scene, '--truth', args.scene) as address, Browser() as browser:
        refused(address)
        look(browser, address, args)
        upload(browser, args)
    if args.predictions:
        on_the_mesh(args)
    if not args.skip_million:
        million(args.out)
    print('all checks passed')


@contextmanager
def served(*words) -> Iterator[str]:
    """Run the command; yield the address that it prints."""
    process = subprocess.Popen(tool('view', *words, '--port', 0), stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if (found := re.search(r'Look at: (http://\S+)', line)) is not None:
                break
        else:
            raise SystemExit('the viewer did not start')
        yield found.group(1)
    finally:
        process.terminate()
        process.wait(60)


def refused(address: str) -> None:
    """Files of the disk are not served, however they are asked for."""
    for path in ('/etc/passwd', '/../../../../../../etc/passwd', '/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd', '/cloud.ply'):
        try:
            urllib.request.urlopen(address + path)
        except urllib.error.HTTPError as error:
            assert error.code == 404, error
        else:
            raise AssertionError(f'{path} was served')
    print('foreign paths: 404')


def look(browser: Browser, address: str, args: argparse.Namespace) -> None:
    """Load, click, slide, compare."""
    print(f'first picture: {first_picture(browser, address):.1f} s, {payload(address) / 1e6:.2f} MB by socket')
    close_notice(browser)
    save(browser, args, 'photo')
    names = {entry['class'] for entry in json.loads((args.out / 'instances.json').read_text())['instances']}
    choose(browser, 'Colours', 'instance')
    settle(browser)
    before = scene(browser)
    words = click_an_instance(browser)
    name = re.search(r'\n(.+) — number (\d+), score', words)
    assert name and name.group(1) in names, words
    print(f'a click named: {name.group(0).strip()}')
    browser.wait_for('document.body.innerText.includes("mask pixels")')         # the views that see it follow its name
    settle(browser)
    save(browser, args, 'instance')
    assert changed(before, scene(browser)) > 0.002
    browser.click(600, 20)                                                      # beside everything: nothing is selected
    settle(browser)
    before = scene(browser)
    slide(browser, 'Leave out least sure', 0.7)
    browser.wait_for('!document.body.innerText.match(/([0-9,]+) of \\1 points/)')
    settle(browser)
    print(f'a slider changed {changed(before, scene(browser)):.1%} of the picture: '
          f'{re.search(r"[0-9,]+ of [0-9,]+ points", browser.text()).group()}')
    assert changed(before, scene(browser)) > 0.01
    slide(browser, 'Leave out least sure', 0.0)
    choose(browser, 'Beside it', 'true instances')
    browser.wait_for('document.body.innerText.includes("true instances,")')
    settle(browser)
    both = scene(browser)
    assert all(drawn(half) > DRAWN for half in (both[:, :PANEL // 2], both[:, PANEL // 2:]))
    save(browser, args, 'beside')
    left = scene(browser)
    browser.drag((450, 620), (580, 600))                                        # both turn under one camera
    settle(browser)
    turned = scene(browser)
    assert all(changed(left[:, part], turned[:, part]) > 0.01 for part in (slice(0, 400), slice(500, 890)))
    assert all(drawn(half) > DRAWN for half in (turned[:, :PANEL // 2], turned[:, PANEL // 2:]))
    print('true instances stand beside, and turn with the predictions')
    save(browser, args, 'turned')


def upload(browser: Browser, args: argparse.Namespace) -> None:
    """Photos that are sent are reconstructed and shown."""
    photos = sorted((args.scene / 'color').iterdir())[:3]
    root = browser.call('DOM.getDocument')['root']['nodeId']
    for count, photo in enumerate(photos, start=1):
        node = browser.call('DOM.querySelector', nodeId=root, selector='input[type=file]')['nodeId']
        browser.call('DOM.setFileInputFiles', files=[str(photo)], nodeId=node)
        browser.wait_for(f'document.body.innerText.includes("{count} file")')
    press(browser, 'Reconstruct')
    seen, start = set(), time.monotonic()
    while 'done: 3 views' not in (text := browser.text()):
        assert time.monotonic() - start < 120, text
        seen |= set(re.findall(r'reading the weights|reading the photos|reconstructing \d+ views|writing', text))
    browser.wait_for('[...document.querySelectorAll("input")].some(box => box.value == "upload_001")')
    print(f'3 photos uploaded and reconstructed in {time.monotonic() - start:.1f} s; progress said: {sorted(seen)}')
    assert seen
    settle(browser)
    assert drawn(scene(browser)) > DRAWN
    save(browser, args, 'upload')


def on_the_mesh(args: argparse.Namespace) -> None:
    """Predictions on a mesh stand beside the truth, cut open; a click says which true instance fits best."""
    with served(args.predictions, '--scenes', args.scene.parent) as address, Browser() as browser:
        first_picture(browser, address)
        close_notice(browser)
        choose(browser, 'Colours', 'instance')
        slide(browser, 'Score from', 0.2)
        slide(browser, 'Cut off from above', 0.45)
        place = box(browser, 'Cameras', 'input[type=checkbox]')
        browser.click(place['x'] + place['w'] / 2, place['y'] + place['h'] / 2)
        choose(browser, 'Beside it', 'true instances')
        browser.wait_for('document.body.innerText.includes("true instances,")')
        browser.drag((450, 300), (450, 500))                                    # from above
        settle(browser)
        words = click_an_instance(browser, PANEL // 2)
        assert 'best true instance: ' in words or 'no true instance' in words, words
        print('on the mesh a click said: ' + re.sub(r'\s+', ' ', re.search(
            r'\n(.+ — number (?:.|\n)+?)\n(?:seen in|no view)', words).group(1)))
        settle(browser)
        save(browser, args, 'mesh')


def million(out: Path) -> None:
    """Time and bytes of a cloud of a million points, whole and thinned."""
    vertices, _ = read_ply(out / 'cloud.ply')
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(vertices['x']), size=MILLION)
    grown = {name: values[chosen] for name, values in vertices.items()}
    for axis in 'xyz':
        grown[axis] = (grown[axis] + rng.normal(0, np.ptp(vertices[axis]) / 2000, MILLION)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        big = Path(folder) / 'million'
        big.mkdir()
        write_ply(big / 'cloud.ply', grown)
        for name in ('instances.json', 'cameras.json'):
            (big / name).write_bytes((out / name).read_bytes())
        for limit in (MILLION, 500_000):
            with served(big, '--max-points', limit) as address, Browser() as browser:
                seconds = first_picture(browser, address)
                print(f'1 M points, at most {limit:,} drawn: first picture {seconds:.1f} s, {payload(address) / 1e6:.1f} MB')
                assert ('are drawn' in browser.text()) == (limit < MILLION)


def first_picture(browser: Browser, address: str) -> float:
    """Open the page; return the seconds until a cloud is drawn."""
    start = time.monotonic()
    browser.open(address)
    browser.wait_for('(document.body || {innerText: ""}).innerText.includes("Point size")')
    while drawn(scene(browser)) < DRAWN:
        assert time.monotonic() - start < 240, 'no cloud is drawn'
        time.sleep(0.1)
    return time.monotonic() - start


def payload(address: str) -> int:
    """Return the bytes that a browser gets by socket before anybody does anything."""
    import viser
    count = 0
    with connect(address.replace('http', 'ws'), subprotocols=[f'viser-v{viser.__version__}'], max_size=None) as socket:
        with suppress(TimeoutError):
            while True:
                count += len(socket.recv(timeout=4))
    return count


def scene(browser: Browser) -> np.ndarray:
    """Return the part of the page that shows the scene, (h, w, 3) int, below the notices."""
    return browser.picture()[170:, :PANEL].astype(int)


def drawn(picture: np.ndarray) -> float:
    """Return the share of pixels of (h, w, 3) that are not the empty background or white."""
    empty = (np.abs(picture - GROUND).max(-1) < 8) | (picture.min(-1) > 250)
    return float((~empty).mean())


def changed(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of pixels of two pictures (h, w, 3) that differ visibly."""
    return float((np.abs(first - second).max(-1) > 24).mean())


def settle(browser: Browser, seconds: float = 30) -> None:
    """Wait until two pictures in a row are alike."""
    last, start = scene(browser), time.monotonic()
    while time.monotonic() - start < seconds:
        time.sleep(0.7)
        now = scene(browser)
        if changed(last, now) < 1e-4:
            return
        last = now


def click_an_instance(browser: Browser, right: int = PANEL) -> str:
    """Click coloured pixels, left of `right`, until one names an instance; return what the page says then."""
    picture = scene(browser)[:, :right]
    coloured = np.argwhere(np.ptp(picture, axis=-1) > 90)
    for y, x in coloured[np.random.default_rng(1).permutation(len(coloured))[:25]]:
        browser.click(float(x), float(y + 170))
        time.sleep(1.5)
        if '— number' in (text := browser.text()):
            return text
    raise AssertionError('no click named an instance')


def box(browser: Browser, label: str, selector: str) -> dict:
    """Return the rectangle of the control of the row that a label begins."""
    script = f'''(() => {{
        const rows = [...document.querySelectorAll("label, span, div")].filter(e => e.children.length == 0
            && e.innerText && e.innerText.trim().startsWith({json.dumps(label)}));
        for (let row of rows) {{
            for (let up = 0; row && up < 6; up++, row = row.parentElement) {{
                const found = row.querySelector({json.dumps(selector)});
                if (found) {{ const r = found.getBoundingClientRect(); return {{x: r.x, y: r.y, w: r.width, h: r.height}}; }}
            }}
        }}
        return null; }})()'''
    found = browser.value(script)
    assert found, f'no control called {label!r}'
    return found


def choose(browser: Browser, label: str, option: str) -> None:
    """Open a list and take one of its entries."""
    place = box(browser, label, 'input')
    browser.click(place['x'] + place['w'] / 2, place['y'] + place['h'] / 2)
    script = f'''(() => {{ const found = [...document.querySelectorAll("[role=option]")].find(e =>
        e.innerText.trim() == {json.dumps(option)} && e.offsetParent); if (!found) return null;
        const r = found.getBoundingClientRect(); return {{x: r.x + r.width / 2, y: r.y + r.height / 2}}; }})()'''
    browser.wait_for(f'!!{script}')
    place = browser.value(script)
    browser.click(place['x'], place['y'])
    time.sleep(1)


def slide(browser: Browser, label: str, share: float) -> None:
    """Move a slider to a share of its way."""
    place = box(browser, label, '.mantine-Slider-track, [class*=Slider-track]')
    y = place['y'] + place['h'] / 2
    browser.click(place['x'] + place['w'] * min(max(share, 0.005), 0.995), y)
    time.sleep(1)


def press(browser: Browser, label: str) -> None:
    """Press a button, wherever the panel is scrolled to."""
    browser.value(f'[...document.querySelectorAll("button")].find(e => e.innerText.trim() == {json.dumps(label)}).click()')


def close_notice(browser: Browser) -> None:
    """Close what the page says of software rendering: it is of this machine."""
    browser.value('document.querySelectorAll(".mantine-Notification-closeButton").forEach(e => e.click())')
    time.sleep(1)


def save(browser: Browser, args: argparse.Namespace, name: str) -> None:
    """Keep a screenshot where one is asked for."""
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
        Image.fromarray(browser.picture()).save(args.pictures / f'{name}.jpg', quality=82)


if __name__ == '__main__':
    main()
