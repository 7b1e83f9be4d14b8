"""A thousand views of one room through `tools/infer.py --windows`: peak memory, a kill, and cameras against the truth.

    python benchmarks/long_walk.py                              # 8 loops of 126 views, windows of 24, overlap 6
    python benchmarks/long_walk.py --anchors 4 --walk /tmp/walk --json benchmarks/results/long_walk_cpu.json

A camera goes several times around a room of the built-in generator that no weights have seen, each time on another loop and
looking at other things. The command runs on its first 60 views, then on all of them with the weights of the project; it is
killed when a fifth of the windows is there, and run again. Errors of cameras, over all views, each of the window that gives
it to the result:

    before      in the frame and unit of its own window, nothing done; one similarity from all centres to the true ones
    joined      as `cameras.json` has it; one similarity from all centres to the true ones
    apart       each window by a similarity of its own from its centres to the true ones: no joining can be better by much;
                their rotations are as good as so few centres fix them
    spread_m    the distance of the true centres from their mean: what a similarity reaches for cameras that say nothing

`rmse_m` is the root mean square distance of centres, `rotation_median` the median angle between relative rotations of all
pairs of views (`jrs.evaluation.cameras`), `first_windows_m` the RMSE of the first 1, 2, 4, … windows with a similarity of
their own: how errors add up along the chain.

`true` does the same with true depth and cameras in the place of the network, each window in a frame and unit of its own:
what is left is the joining's. `noisy` has errors besides, drawn anew in each window: of each view 3 % of its depth as a
whole, 2 % of each pixel, 0.5 degrees of its rotation and 2 % of the median depth of its place.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import publish  # noqa: E402
from jrs.engine.inference import Scene, in_first_camera  # noqa: E402
from jrs.engine.joined import join_windows  # noqa: E402
from jrs.engine.windows import Plan, StoredWindows, run_windows  # noqa: E402
from jrs.evaluation.cameras import camera_scores  # noqa: E402
from jrs.geometry.alignment import Similarity, camera_centres, fit_similarity, move_cameras  # noqa: E402
from jrs.geometry.joining import IDENTITY  # noqa: E402
from jrs.io.images import LoadedPhotos, SourceViews  # noqa: E402
from jrs.structures import Reconstruction  # noqa: E402
from jrs.synth.camera_path import CameraPath, camera_path  # noqa: E402
from jrs.synth.layout import build_room  # noqa: E402
from jrs.synth.renderer import Renderer, at_pixels, develop  # noqa: E402

SIZE = (84, 112)                                # what the committed weights were trained at
FIRST_VIEWS = 60                                # whose memory is compared
ROOM = 1000                                     # a seed that no preset uses
NOISE = dict(view=0.03, pixel=0.02, degrees=0.5, place=0.02)


class TrueGeometry:
    """True depth and cameras in the place of a network: each window in the frame of its first view, in a unit of its own.

    Args:
        cameras: `cam_from_world` (V, 4, 4), metres; views are called by their numbers.
        intrinsics: (3, 3), of all views.
        depth: (V, H, W), metres, 0 = none.
        view, pixel, degrees, place: errors of each view's depth, of each pixel's, of its rotation and of its centre, shares
            of the depth or degrees, one sigma.
    """

    def __init__(self, cameras: np.ndarray, intrinsics: np.ndarray, depth: np.ndarray, view: float = 0.0, pixel: float = 0.0,
                 degrees: float = 0.0, place: float = 0.0) -> None:
        self.cameras, self.intrinsics, self.depth = cameras, intrinsics, depth
        self.view, self.pixel, self.degrees, self.place = view, pixel, degrees, place

    def predicts(self, head: str) -> bool:
        """Return True: cameras and depth are there."""
        return True

    def __call__(self, photos: LoadedPhotos) -> Scene:
        """Return a window of views."""
        chosen = [int(name) for name in photos.names]
        random, count = np.random.default_rng(chosen[0]), len(chosen)
        depth = self.depth[chosen] * np.exp(self.view * random.normal(size=(count, 1, 1)))
        depth *= 1 + self.pixel * random.normal(size=depth.shape)
        turns = Rotation.from_rotvec(np.radians(self.degrees) * random.normal(size=(count, 3))).as_matrix()
        shifts = self.place * np.median(depth) * random.normal(size=(count, 3))
        cameras = self.cameras[chosen].copy()
        cameras[:, :3] = turns @ cameras[:, :3]
        cameras[:, :3, 3] += shifts
        unit = np.exp(random.uniform(-1, 1))
        cameras[:, :3, 3] *= unit
        found = Reconstruction(photos.images, torch.from_numpy(depth * unit).float(), None,
                               torch.from_numpy(self.intrinsics).float().expand(count, 3, 3),
                               torch.from_numpy(cameras), view_names=photos.names)
        return Scene(in_first_camera(found), photos, (), {}, {})


def walk(loops: int, views: int, seed: int = ROOM) -> tuple[CameraPath, Renderer]:
    """Return loops of so many views each around one room, by one camera, and what renders them."""
    random = np.random.default_rng(seed)
    room = build_room(random)
    while len(room.plan.parts) > 1:                                             # closed loops are of rooms of one part
        room = build_room(random)
    paths = [camera_path(room, views, SIZE, random) for _ in range(loops)]
    poses = np.concatenate([path.world_from_cam for path in paths])
    return CameraPath(paths[0].intrinsics, SIZE, poses), Renderer(room)


def render(path: CameraPath, renderer: Renderer, folder: Path) -> np.ndarray:
    """Write photos/NUMBER.png and depth.npy (V, H, W), metres, 0 = none, unless they are there; return the depth."""
    if (folder / 'depth.npy').exists():
        return np.load(folder / 'depth.npy')
    (folder / 'photos').mkdir(parents=True)
    depth = []
    for view in range(len(path.world_from_cam)):
        seen, index = renderer.trace_view(path, view)
        Image.fromarray(develop(renderer.colour(path, view, seen, index), 1.15)).save(folder / 'photos' / f'{view}.png')
        depth.append(np.nan_to_num(at_pixels(seen), posinf=0.0))
    np.save(folder / 'depth.npy', np.stack(depth))
    return np.stack(depth)


def infer(photos: Path, out: Path, plan: Plan, killed_at: int | None = None, *more: object) -> dict:
    """Run `tools/infer.py`, kill it when window `killed_at` is there; return its peak memory and CPU seconds.

    Raises:
        SystemExit: it fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, ROOT / 'tools' / 'infer.py', photos, '--out', out, '--windows', plan.size, '--overlap',
             plan.overlap, *(['--anchors', plan.anchors] if plan.anchors else []), '--no-glb', '--device', 'cpu', *more]
    process, peak, killed = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL), 0.0, False
    while process.poll() is None:
        peak = max(peak, peak_gb(process.pid))
        if killed_at is not None and not killed and (out / 'windows' / f'{killed_at:04d}.npz').exists():
            process.kill()
            killed = True
        time.sleep(0.02)
    if process.returncode != (-signal.SIGKILL if killed_at is not None else 0):
        raise SystemExit(f'tools/infer.py ended with {process.returncode}')
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return dict(peak_gb=round(peak, 3), cpu_s=round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1))


def peak_gb(process: int) -> float:
    """Return the most resident memory that a process has had since it began its program; 0 once it is gone."""
    try:
        lines = Path(f'/proc/{process}/status').read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith('VmHWM')), 0.0)


def cameras_of(store: StoredWindows, plan: Plan, similarities: list[Similarity]) -> np.ndarray:
    """Return the camera of each view (V, 4, 4), of the window that gives it to the result, moved by that window's own."""
    parts = []
    for number, ((first, _), (start, stop)) in enumerate(zip(plan.spans, plan.owned, strict=True)):
        with store.open(number) as arrays:
            parts.append(move_cameras(arrays['cam_from_world'][start - first:stop - first], similarities[number]))
    return np.concatenate(parts)


def written(out: Path) -> np.ndarray:
    """Return the cameras (V, 4, 4) of a result, in the order of the views."""
    cameras = json.loads((out / 'cameras.json').read_text())['cameras']
    return np.array([camera['cam_from_world'] for camera in sorted(cameras, key=lambda camera: int(camera['name']))])


def apart(store: StoredWindows, plan: Plan, truth: np.ndarray) -> list[Similarity]:
    """Return for each window the similarity from the centres of its views to the true ones."""
    found = []
    for number, span in enumerate(plan.spans):
        with store.open(number) as arrays:
            own = arrays['cam_from_world'][:span[1] - span[0]]                  # anchors are behind them
            found.append(fit_similarity(camera_centres(own), camera_centres(truth[slice(*span)])))
    return found


def rmse(cameras: np.ndarray, truth: np.ndarray, aligned: bool = False) -> float:
    """Return the root mean square distance of centres (V, 4, 4), unless they are `aligned` after one similarity."""
    own, true = camera_centres(cameras), camera_centres(truth)
    moved = own if aligned else fit_similarity(own, true).apply(own)
    return float(np.sqrt(np.square(moved - true).sum(axis=1).mean()))


def errors(store: StoredWindows, plan: Plan, joined: np.ndarray, truth: np.ndarray) -> dict:
    """Return the errors of `joined` cameras (V, 4, 4), and of those before."""
    before, alone = (cameras_of(store, plan, some) for some in ([IDENTITY] * len(plan.spans), apart(store, plan, truth)))
    kinds = dict(before=(before, False), joined=(joined, False), apart=(alone, True))
    found = {name: dict(rmse_m=rmse(cameras, truth, aligned), rotation_median=_rotation(cameras, truth))
             for name, (cameras, aligned) in kinds.items()}
    counts = [2 ** power for power in range(len(plan.spans).bit_length())] + [len(plan.spans)]
    ends = {count: plan.owned[count - 1][1] for count in counts}
    return found | dict(first_windows_m={count: rmse(joined[:end], truth[:end]) for count, end in ends.items()})


def _rotation(cameras: np.ndarray, truth: np.ndarray) -> float:
    return camera_scores(cameras, truth)['rotation_median']


def with_true_geometry(model: TrueGeometry, photos: Path, out: Path, plan: Plan, width: int = SIZE[1]) -> dict:
    """Return the errors of windows of true geometry, joined by what the command joins by."""
    store = StoredWindows(out, {})
    run_windows(model, SourceViews(photos, width), plan, store, say=lambda line: None)
    joined = join_windows(store, plan, say=lambda line: None)
    return errors(store, plan, cameras_of(store, plan, joined.similarities), model.cameras)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--loops', type=int, default=8)
    parser.add_argument('--views', type=int, default=126, help='of each loop')
    parser.add_argument('--windows', type=int, default=24, help='views of a window')
    parser.add_argument('--overlap', type=int, default=6)
    parser.add_argument('--anchors', type=int, default=0, help='views of the first window in all others')
    parser.add_argument('--walk', type=Path, help='the views are written here and stay, or are those of an earlier run')
    parser.add_argument('--json', type=Path, help='append the record to this list')
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan, began = Plan(args.loops * args.views, args.windows, args.overlap, args.anchors), time.process_time()
    folder = Path(tempfile.mkdtemp(prefix='long_walk_'))
    try:
        place = args.walk or folder
        path, renderer = walk(args.loops, args.views)
        truth, depth, photos = np.linalg.inv(path.world_from_cam), render(path, renderer, place), place / 'photos'
        rendered = time.process_time() - began
        memory = dict(first=infer(photos, folder / 'first', plan, None, '--max-views', FIRST_VIEWS),
                      killed=infer(photos, folder / 'all', plan, len(plan.spans) // 5),
                      resumed=infer(photos, folder / 'all', plan))
        settings = json.loads((folder / 'all' / 'windows' / 'settings.json').read_text())
        figures = dict(network=errors(StoredWindows(folder / 'all', settings), plan, written(folder / 'all'), truth))
        for name, noise in dict(true={}, noisy=NOISE).items():
            model = TrueGeometry(truth, path.intrinsics, depth, **noise)
            figures[name] = with_true_geometry(model, photos, folder / name, plan)
    finally:
        shutil.rmtree(folder)
    centres = camera_centres(truth)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    publish(dict(views=plan.views, windows=len(plan.spans), size=plan.size, overlap=plan.overlap, anchors=plan.anchors,
                 input=SIZE, memory=memory,
                 spread_m=float(np.sqrt(np.square(centres - centres.mean(axis=0)).sum(axis=1).mean())),
                 rotation_median_of_none=camera_scores(truth, truth)['rotation_median_identity'], **figures,
                 render_s=round(rendered, 1), cpu_s=round(time.process_time() + used.ru_utime + used.ru_stime, 1)),
            args.json, torch=torch.__version__)


if __name__ == '__main__':
    main()
