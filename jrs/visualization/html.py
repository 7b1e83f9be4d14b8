"""Pieces of one self-contained HTML page: pictures and point clouds travel inside it, nothing is loaded from outside."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from jrs.geometry.cloud import PointCloud
from jrs.visualization.cloud import scene_frame
from jrs.visualization.overlays import BACKGROUND
from jrs.visualization.pictures import Picture

_HERE = Path(__file__).parent
MAX_VIEWER_POINTS = 80000


def page(title: str, body: str, facts: Mapping[str, object], notice: str = '', subtitle: str = '') -> str:
    """Return a complete page. `body` is HTML; all other texts are escaped."""
    terms = ''.join(f'<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>' for name, value in facts.items())
    style, script = ((_HERE / name).read_text(encoding='utf-8-sig') for name in ('page.css', 'viewer.js'))
    text = (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>\n'
            f'<body><main><h1>{escape(title)}</h1>' + (f'<p class="soft">{escape(subtitle)}</p>' if subtitle else '') +
            f'<dl class="facts">{terms}</dl>' + (f'<p class="notice">{escape(notice)}</p>' if notice else '') +
            f'\n{body}\n</main><script>{script}</script></body></html>\n')
    return text.encode('utf-8', 'backslashreplace').decode('utf-8')            # a path can have bytes that are no text


def image(picture: Picture, alt: str, lossless: bool = False, quality: int = 86) -> str:
    """Return an <img> with the picture inside, JPEG or (`lossless`) PNG."""
    kind, options = ('.png', []) if lossless else ('.jpg', [cv2.IMWRITE_JPEG_QUALITY, quality])
    data = cv2.imencode(kind, np.ascontiguousarray(picture[..., ::-1]), options)[1].tobytes()
    mime = 'image/png' if lossless else 'image/jpeg'
    return f'<img src="data:{mime};base64,{_text(data)}" alt="{escape(alt, quote=True)}" loading="lazy">'


def figure(picture: Picture, caption: str, lossless: bool = False) -> str:
    """Return a picture with a caption below."""
    return f'<figure>{image(picture, caption, lossless)}<figcaption>{escape(caption)}</figcaption></figure>'


def picture_grid(columns: Sequence[str], rows: Sequence[Sequence[str]], widest: int = 320) -> str:
    """Return cells of HTML on a grid with one heading per column."""
    heads = ''.join(f'<div class="head">{escape(name)}</div>' for name in columns)
    cells = ''.join(f'<div>{cell}</div>' for row in rows for cell in row)
    style = f'grid-template-columns:repeat({len(columns)},minmax(0,{widest}px))'
    return f'<div class="grid" style="{style}">{heads}{cells}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; columns of numbers stand right, `Raw` cells are taken as HTML."""
    numeric = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(head))]
    opened = ['<{} class="number">' if number else '<{}>' for number in numeric]
    top = ''.join(f'{tag.format("th")}{escape(name)}</th>' for name, tag in zip(head, opened, strict=True))
    cells = [[f'{tag.format("td")}{_cell(value)}</td>' for value, tag in zip(row, opened, strict=True)] for row in rows]
    body = ''.join(f'<tr>{"".join(row)}</tr>' for row in cells)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


class Raw(str):
    """A text that is HTML already."""


def chip(colour: Sequence[int]) -> Raw:
    """Return a small square of that colour."""
    return Raw(f'<span class="chip" style="background:{css_colour(colour)}"></span>')


def css_colour(colour: Sequence[int]) -> str:
    """Return (3,) 0..255 as CSS."""
    return '#' + ''.join(f'{int(value):02x}' for value in colour)


def cloud_viewer(cloud: PointCloud, palette: np.ndarray, cam_from_world, camera_lines: np.ndarray,
                 pitch: float = 25.0) -> str:
    """Return an interactive cloud: drag turns, wheel zooms, shift-drag moves; colours by photo or instance.

    Args:
        cloud: at most `MAX_VIEWER_POINTS` of its points are used.
        palette: (M, 3) uint8 colour per instance.
        cam_from_world: (V, 4, 4), for the first view of the scene.
        camera_lines: (n, 2, 3) line segments that draw the cameras, world.
        pitch: degrees from above at the start.
    """
    axes, centre, radius = scene_frame(cloud.points, cam_from_world)
    cloud = cloud.thinned(MAX_VIEWER_POINTS)
    low = cloud.points.min(0) if len(cloud.points) else np.zeros(3)
    extent = np.maximum(cloud.points.max(0) - low, 1e-9) if len(cloud.points) else np.ones(3)
    data = {'positions': _text(np.rint((cloud.points - low) / extent * 65535).astype('<u2').tobytes()),
            'normals': _text(np.rint(cloud.normals * 127).astype(np.int8).tobytes()),
            'colours': _text(cloud.colours.tobytes()), 'ids': _text(cloud.instances.astype('<u2').tobytes()),
            'low': low.tolist(), 'extent': extent.tolist(), 'palette': [list(BACKGROUND), *palette.tolist()],
            'cameras': np.round(camera_lines.reshape(-1), 5).tolist(), 'axes': axes.tolist(), 'centre': centre.tolist(),
            'radius': radius, 'spacing': radius * 2.2 / max(len(cloud.points), 1) ** 0.5, 'yaw': 0.0,
            'pitch': float(np.radians(pitch))}
    buttons = ''.join(f'<button type="button" data-toggle="{name}">{words}</button>' for name, words in
                      (('byInstance', 'instance colours'), ('cull', 'look into rooms'), ('cameras', 'cameras')))
    return (f'<div class="cloud"><canvas tabindex="0" aria-label="point cloud"></canvas><div class="bar">{buttons}</div>'
            f'<div class="hint">drag: turn · wheel (after a click): zoom · shift-drag: move · double click: back</div>'
            f'<script type="application/json">{json.dumps(data, separators=(",", ":"))}</script></div>')


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode('ascii')


def _cell(value: object) -> str:
    if isinstance(value, Raw):
        return value
    return f'{value:.3g}' if isinstance(value, float) else escape(str(value))
