"""A hand-held walk: a closed loop around a room of one part, or from the first of two parts around the second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jrs.synth.floor_plan import FloorPlan
from jrs.synth.layout import BuiltRoom

Random = np.random.Generator
CLEARANCE = 0.22                                            # metres kept from furniture, sideways …
HEADROOM = 0.3                                              # … and downwards: 0.85 m is too tall for a camera at 1.15
ATTEMPTS = 300
PITCH = (-37.0, 9.0)                                        # degrees, up is positive
DENSE = 40                                                  # points of a curve per way-point
METRES, DEGREES = 0.16, 9.0                                 # that cost a walk the same
STEP = 0.35                                                 # metres from an opening to the way-points beside it
LOWERED = (2.0, 12.0)                                       # degrees below a thing: scans show floor, not ceiling
TURN = 50.0                                                 # degrees from one gaze to the next, one sigma


@dataclass(frozen=True)
class CameraPath:
    """Cameras of one scan: intrinsics (3, 3) with pixel centres at integers, size (H, W), world_from_cam (V, 4, 4)."""

    intrinsics: np.ndarray
    size: tuple[int, int]
    world_from_cam: np.ndarray


def camera_path(room: BuiltRoom, num_views: int, size: tuple[int, int], random: Random) -> CameraPath:
    """Return `num_views` cameras on one walk through the room, in the room's frame.

    The cameras are spread so that metres and degrees between neighbours together are the same all along the walk.
    """
    height, width = size
    focal = width / 2 / np.tan(np.radians(random.uniform(58.0, 68.0)) / 2)
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    points, parts = _way_points(room, random)
    gaze = _gaze(room, points, parts, random)
    closed = len(room.plan.parts) == 1
    dense = curve(np.hstack([points, gaze]), closed)                                    # (D, 5)
    chosen = _evenly(dense, num_views, closed)                                          # (V, 5)
    positions = chosen[:, :3] + _tremble(num_views, random, (0.03, 0.03, 0.03))
    positions = np.clip(positions, 0.15, room.size - [0.15, 0.15, 0.35])
    angles = np.hstack([chosen[:, 3:], np.zeros((num_views, 1))]) + _tremble(num_views, random, (3.0, 3.0, 3.0))
    return CameraPath(intrinsics, size, np.stack([look(*camera) for camera in zip(positions, angles, strict=True)]))


def curve(points: np.ndarray, closed: bool) -> np.ndarray:
    """Return the uniform Catmull-Rom curve through rows (n, C): (n * DENSE or so, C).

    A closed curve comes back to the first row, in a fourth column (yaw, degrees) up to whole turns.
    """
    if closed:
        turns = np.zeros(points.shape[1])
        if len(turns) > 3:
            turns[3] = points[-1, 3] - points[0, 3] + _turned(points[0, 3] - points[-1, 3])
        rows = np.vstack([points[-1] - turns, points, points[0] + turns, points[1] + turns])
    else:
        rows = np.vstack([points[0], points, points[-1]])
    before, start, end, after = (rows[shift:len(rows) - 3 + shift, None] for shift in range(4))     # (segments, 1, C)
    t = (np.arange(DENSE) / DENSE)[:, None]                                             # (DENSE, 1)
    dense = 0.5 * (2 * start + (end - before) * t + (2 * before - 5 * start + 4 * end - after) * t**2
                   + (3 * start - before - 3 * end + after) * t**3)                     # (segments, DENSE, C)
    return np.vstack([dense.reshape(-1, points.shape[1]), rows[-2]])


def _turned(degrees: float) -> float:
    """Return an angle between -180 and 180 degrees."""
    return (degrees + 180.0) % 360.0 - 180.0


def _evenly(dense: np.ndarray, num_views: int, closed: bool) -> np.ndarray:
    """Return (V, 5) rows of a dense curve (D, 5) that are equally far from each other in metres and degrees of yaw."""
    steps = np.abs(np.diff(dense, axis=0))
    effort = np.linalg.norm(steps[:, :3], axis=1) / METRES + steps[:, 3] / DEGREES
    done = np.concatenate([[0.0], np.cumsum(effort)])                                   # (D,)
    wanted = done[-1] * np.arange(num_views) / max(num_views - (not closed), 1)
    return np.stack([np.interp(wanted, done, column) for column in dense.T], axis=1)


def _way_points(room: BuiltRoom, random: Random) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 3) whose curve keeps clear of furniture, the clearest of ATTEMPTS, and the part of each (n,)."""
    best, best_hits, closed = None, None, len(room.plan.parts) == 1
    for attempt in range(ATTEMPTS):
        tried = attempt / ATTEMPTS                          # smaller and higher loops when nothing else is left
        points, parts = _loop(room.plan, 0, tried, random) if closed else _walk(room.plan, tried, random)
        hits = blocked(room, curve(points, closed)[::4]).sum()
        if best is None or hits < best_hits:
            best, best_hits = (points, parts), hits
        if hits == 0:
            break
    return best


def _loop(plan: FloorPlan, part: int, tried: float, random: Random, start: float | None = None
          ) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 3) around the middle of a part, from an angle on, and the part of each (n,)."""
    count = int(random.integers(5, 8)) if start is None else int(random.integers(4, 6))
    start = random.uniform(0, 2 * np.pi) if start is None else start
    angle = start + 2 * np.pi * np.arange(count) / count * (1 if random.random() < 0.5 else -1)
    radius = random.uniform(0.45, 0.85, count) * (1.0 - 0.7 * tried) * 0.5
    height = random.uniform(1.15 + 0.5 * tried, 1.75, count)
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None]         # (n, 2)
    low, high = plan.parts[part]
    return np.hstack([(low + high) / 2 + around * (high - low), height[:, None]]), np.full(count, part)


def _walk(plan: FloorPlan, tried: float, random: Random) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 3) around the first part, through the opening and around the second, and the part of each (n,).

    The point before the opening belongs to the second part: there the camera looks ahead.
    """
    x, y = plan.opening.mean(axis=0)
    middles, sizes = plan.parts.mean(axis=1), plan.parts[:, 1] - plan.parts[:, 0]
    first, second = ((np.array([x, y]) - middle) / size for middle, size in zip(middles, sizes, strict=True))
    there, there_parts = _loop(plan, 0, tried, random, np.arctan2(first[1], first[0]))
    back, back_parts = _loop(plan, 1, tried, random, np.arctan2(second[1], second[0]))
    passage = np.array([[x - STEP, y, there[0, 2]], [x + STEP, y, back[0, 2]]])
    return np.vstack([there[::-1], passage, back]), np.concatenate([there_parts, [1, 1], back_parts])


def blocked(room: BuiltRoom, positions: np.ndarray, clearance: float = CLEARANCE) -> np.ndarray:
    """Return whether positions (V, 3) are within `clearance` of inner walls or of furniture as tall as the camera: (V,)."""
    bounds = np.concatenate([room.bounds[room.num_stuff:], np.array(room.plan.inner).reshape(-1, 2, 3)])
    low, high = bounds[:, 0], bounds[:, 1]                                              # (O, 3)
    flat = positions[:, None, :2]                                                       # (V, 1, 2)
    near = ((flat > low[:, :2] - clearance) & (flat < high[:, :2] + clearance)).all(axis=2)        # (V, O)
    return (near & (high[:, 2] > positions[:, 2:] - HEADROOM)).any(axis=1)


def _gaze(room: BuiltRoom, points: np.ndarray, parts: np.ndarray, random: Random) -> np.ndarray:
    """Return yaw and pitch per way-point, (n, 2) degrees, yaw without jumps: towards a thing of the way-point's part.

    Far things are looked at more often than near ones, and things ahead more often than those behind.
    """
    centres = room.bounds[room.num_stuff:].mean(axis=1)                                 # (O, 3)
    low, high = room.plan.parts[:, 0], room.plan.parts[:, 1]                            # (parts, 2)
    inside = ((centres[:, None, :2] > low) & (centres[:, None, :2] < high)).all(axis=2)        # (O, parts)
    rows = []
    for point, part in zip(points, parts, strict=True):
        things = centres[inside[:, part]]
        if not len(things):
            things = np.array([[*(low[part] + high[part]) / 2, 0.8]])
        offset = things - point
        distance = np.linalg.norm(offset[:, :2], axis=1)
        yaw, pitch = np.degrees(np.arctan2(offset[:, 1], offset[:, 0])), np.degrees(np.arctan2(offset[:, 2], distance))
        turn = _turned(yaw - rows[-1][0]) if rows else np.zeros(len(yaw))
        weight = distance**1.5 * np.exp(-0.5 * (turn / TURN) ** 2) + 1e-9
        chosen = random.choice(len(things), p=weight / weight.sum())
        rows.append((rows[-1][0] + turn[chosen] if rows else yaw[chosen], pitch[chosen] - random.uniform(*LOWERED)))
    return np.array(rows)


def _tremble(num_views: int, random: Random, sigmas: tuple[float, float, float]) -> np.ndarray:
    """Return smooth closed noise (V, 3) with the given standard deviations: four low frequencies per axis."""
    phase = 2 * np.pi * np.arange(num_views)[:, None, None] / num_views
    frequency = np.array([2.0, 3.0, 5.0, 8.0])[None, :, None]
    shift, weight = random.uniform(0, 2 * np.pi, (1, 4, 3)), random.normal(size=(1, 4, 3)) / np.sqrt(2)
    return (weight * np.sin(frequency * phase + shift)).sum(axis=1) * sigmas            # (V, 3)


def look(position: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Return world_from_cam (4, 4), OpenCV axes, world z up, from a position (3,) and (3,) yaw, pitch, roll, degrees."""
    yaw, pitch, roll = np.radians([angles[0], np.clip(angles[1], *PITCH), angles[2]])
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    pose = np.eye(4)
    pose[:3, 0] = np.cos(roll) * right + np.sin(roll) * down
    pose[:3, 1] = np.cos(roll) * down - np.sin(roll) * right
    pose[:3, 2], pose[:3, 3] = forward, position
    return pose
