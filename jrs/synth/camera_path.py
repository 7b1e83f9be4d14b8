"""A hand-held walk around a room: a closed loop that looks at far objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jrs.synth.layout import BuiltRoom

Random = np.random.Generator
CLEARANCE = 0.22                                            # metres kept from furniture, sideways …
HEADROOM = 0.3                                              # … and downwards: 0.85 m is too tall for a camera at 1.15
ATTEMPTS = 150
PITCH = (-37.0, 9.0)                                        # degrees, up is positive


@dataclass(frozen=True)
class CameraPath:
    """Cameras of one scan: intrinsics (3, 3) with pixel centres at integers, size (H, W), world_from_cam (V, 4, 4)."""

    intrinsics: np.ndarray
    size: tuple[int, int]
    world_from_cam: np.ndarray


def camera_path(room: BuiltRoom, num_views: int, size: tuple[int, int], random: Random) -> CameraPath:
    """Return `num_views` cameras on one closed loop through the room, in the room's frame."""
    height, width = size
    focal = width / 2 / np.tan(np.radians(random.uniform(58.0, 68.0)) / 2)
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    time = np.arange(num_views) / num_views
    points = _way_points(room, random)
    positions = closed_curve(points, time) + _tremble(num_views, random, (0.03, 0.03, 0.03))
    positions = np.clip(positions, 0.15, room.size - [0.15, 0.15, 0.35])
    targets = closed_curve(_look_at(room, points, random), time)
    poses = [look(position, target, jitter) for position, target, jitter in
             zip(positions, targets, _tremble(num_views, random, (3.0, 3.0, 3.0)), strict=True)]
    return CameraPath(intrinsics, size, np.stack(poses))


def closed_curve(points: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return the closed uniform Catmull-Rom curve through points (n, 3) at time (V,) in [0, 1): (V, 3)."""
    count = len(points)
    at = time * count
    index = np.floor(at).astype(int)
    t = (at - index)[:, None]                                                           # (V, 1)
    before, start, end, after = (points[(index + shift) % count] for shift in (-1, 0, 1, 2))
    return 0.5 * (2 * start + (end - before) * t + (2 * before - 5 * start + 4 * end - after) * t**2
                  + (3 * start - before - 3 * end + after) * t**3)


def _way_points(room: BuiltRoom, random: Random) -> np.ndarray:
    """Return 5 to 7 points on an ellipse whose curve keeps clear of furniture; the clearest of ATTEMPTS."""
    best, best_hits, dense = None, None, np.arange(96) / 96
    for attempt in range(ATTEMPTS):
        count = int(random.integers(5, 8))
        angle = random.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count
        tried = attempt / ATTEMPTS                          # smaller and higher loops when nothing else is left
        radius = random.uniform(0.45, 0.85, count) * (1.0 - 0.7 * tried) * 0.5
        low = 1.15 + 0.5 * tried
        points = np.stack([room.size[0] * (0.5 + radius * np.cos(angle)), room.size[1] * (0.5 + radius * np.sin(angle)),
                           random.uniform(low, 1.75, count)], axis=1)                   # (count, 3)
        hits = blocked(room, closed_curve(points, dense)).sum()
        if best is None or hits < best_hits:
            best, best_hits = points, hits
        if hits == 0:
            break
    return best


def blocked(room: BuiltRoom, positions: np.ndarray, clearance: float = CLEARANCE) -> np.ndarray:
    """Return whether positions (V, 3) are within `clearance` of furniture that reaches up to the camera: (V,)."""
    low, high = room.bounds[room.num_stuff:, 0], room.bounds[room.num_stuff:, 1]        # (O, 3)
    flat = positions[:, None, :2]                                                       # (V, 1, 2)
    near = ((flat > low[:, :2] - clearance) & (flat < high[:, :2] + clearance)).all(axis=2)        # (V, O)
    return (near & (high[:, 2] > positions[:, 2:] - HEADROOM)).any(axis=1)


def _look_at(room: BuiltRoom, points: np.ndarray, random: Random) -> np.ndarray:
    """Return a target per way-point, (n, 3): the middle of a thing, with probability ~ its squared distance."""
    centres = room.bounds[room.num_stuff:].mean(axis=1)                                 # (O, 3)
    if not len(centres):
        return room.size * [1.0, 1.0, 0.4] - points * [1.0, 1.0, 0.0]
    targets = []
    for point in points:
        distance = np.linalg.norm(centres - point, axis=1)
        targets.append(centres[random.choice(len(centres), p=distance**2 / (distance**2).sum())])
    return np.stack(targets)


def _tremble(num_views: int, random: Random, sigmas: tuple[float, float, float]) -> np.ndarray:
    """Return smooth closed noise (V, 3) with the given standard deviations: four low frequencies per axis."""
    phase = 2 * np.pi * np.arange(num_views)[:, None, None] / num_views
    frequency = np.array([2.0, 3.0, 5.0, 8.0])[None, :, None]
    shift, weight = random.uniform(0, 2 * np.pi, (1, 4, 3)), random.normal(size=(1, 4, 3)) / np.sqrt(2)
    return (weight * np.sin(frequency * phase + shift)).sum(axis=1) * sigmas            # (V, 3)


def look(position: np.ndarray, target: np.ndarray, jitter: np.ndarray) -> np.ndarray:
    """Return world_from_cam (4, 4), OpenCV axes, world z up: looks at `target`; jitter (3,) = yaw, pitch, roll, degrees."""
    x, y, z = target - position
    yaw = np.arctan2(y, x) + np.radians(jitter[0])
    pitch = np.degrees(np.arctan2(z, np.hypot(x, y))) + jitter[1]
    pitch, roll = np.radians(np.clip(pitch, *PITCH)), np.radians(jitter[2])
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    pose = np.eye(4)
    pose[:3, 0] = np.cos(roll) * right + np.sin(roll) * down
    pose[:3, 1] = np.cos(roll) * down - np.sin(roll) * right
    pose[:3, 2], pose[:3, 3] = forward, position
    return pose
