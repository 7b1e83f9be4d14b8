"""``tools/infer.py``: photos or a video -> cameras, depth, point cloud, object instances, report."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from jrs.cli.options import add_copy_option, positive
from jrs.cli.parser import Parser, config_argument
from jrs.errors import DataError, JrsError
from jrs.io.known_scale import FORMS
from jrs.io.names import check_names, distinct_names, expanded, readable
from jrs.places import command_words

if TYPE_CHECKING:                              # torch is imported when there is work
    from jrs.engine.inference import Reconstructor, Scene
    from jrs.io.images import LoadedPhotos

STREAM_WINDOW = 16                             # views
EXAMPLES = """examples:
  python tools/infer.py photos/ --out outputs/mine                          the weights that come with the project
  python tools/infer.py walk.mp4 --out outputs/walk --max-views 32
  python tools/infer.py photos/ --out outputs/mine --config configs/segvggt/all24_fada.py --checkpoint segvggt_scannet200.pt
  python tools/infer.py photos/ --out outputs/mine --cameras cameras.json --depth depth/
  python tools/infer.py photos/ --out outputs/mine --checkpoint work_dirs/RUN/weights.safetensors \\
      --classes "chair, guitar, fire extinguisher" --vocabulary words/mine.yaml
  python tools/infer.py photos/ --out outputs/large --windows 24 --overlap 6
  python tools/infer.py walk.mp4 --out outputs/walk --stream 16 --checkpoint work_dirs/stream_vggt_fada/weights.safetensors

written to OUT: cloud.ply and instances.ply (colour, instance, class per point), scene.glb, cameras.json, instances.json,
masks/NAME.png (16-bit instance ids at the original size), views/NAME.jpg (what the network saw) and report.html, which
needs nothing else and names files that were not read, with the reason; `jrs view OUT` opens all of it in a browser.
docs/photos.md says what is read, and how. NAME is that of the photo without suffix; bytes that are no text become %XX,
equal names get -2, -3, …: cameras.json has the file of each.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/infer.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('source', nargs='+', metavar='PHOTOS_OR_VIDEO', help='a folder of photos, photos, or one video')
    options.add_argument('--out', type=Path, required=True, help='folder for the results')
    options.add_argument('--config', type=config_argument,
                         help='experiment of the weights; default: config.py beside the checkpoint')
    add_copy_option(options)
    options.add_argument('--checkpoint', help='weights; default: the file that comes with the project, '
                         'weights/rooms_tiny_all24_fada/weights.safetensors of the repository, from any working folder')
    options.add_argument('--profile', default='paper', help='scale of --config: paper, rooms_small, rooms, debug')
    words = options.add_argument_group('words', 'of a model whose classes are words (docs/words.md)')
    words.add_argument('--classes', metavar='"A, B, ..."', help='words to look for, commas between; default: those of its '
                       'training. The report and instances.json say which of them no training saw')
    words.add_argument('--vocabulary', type=Path, metavar='FILE', help='where these words are (tools/vocabulary.py); '
                       "default: the config's")
    views = options.add_argument_group('views')
    views.add_argument('--max-views', type=positive, help='at most so many, evenly spaced; default: all photos, '
                       'a few frames of a video')
    views.add_argument('--every', type=positive, default=1, help='take each n-th photo or frame')
    views.add_argument('--width', type=positive, help='width of the network input, or the side from which '
                       'a backbone with a rule of its own finds the size; default: as the config tests')
    views.add_argument('--stream', type=positive, nargs='?', const=STREAM_WINDOW, metavar='WINDOW',
                       help='views come one at a time, all frames of a video: each sees the first and the last WINDOW '
                       f'ones (default {STREAM_WINDOW}); results are written after each WINDOW views, to OUT/window_0000 '
                       'and so on; memory does not grow. For models that see earlier views only (plugins/stream_vggt)')
    views.add_argument('--windows', type=positive, metavar='SIZE',
                       help='hundreds of photos, or all frames of a video, in windows of SIZE views: one forward pass each, '
                       'memory of one window. Windows are kept in OUT/windows as they are ready, joined by a similarity on '
                       'the views that they share, and written as one result; windows.json has scale and residual of each '
                       'join. The same command goes on after a kill')
    views.add_argument('--overlap', type=positive, metavar='VIEWS',
                       help='views that a window shares with the next (default a quarter of SIZE)')
    views.add_argument('--anchors', type=positive, default=0, metavar='VIEWS', help='views of the first window that every '
                       'other holds too, so that errors of joins do not add up: for a walk that stays where these views '
                       'look (default 0)')
    known = options.add_argument_group('what is known', 'every view needs its own, by the name of the photo without suffix; '
                                       'a backbone that takes priors (Pi3X) is told, and in every result what is given '
                                       'replaces what is predicted')
    known.add_argument('--cameras', type=Path, metavar='FILE', help='a cameras.json as results have it: intrinsics of the '
                       'original photos, cam_from_world, "scale" metric or arbitrary; points keep its world')
    known.add_argument('--depth', type=Path, metavar='DIR', help='a folder of NAME.png (16 bits, millimetres) or NAME.npy '
                       '(in the unit of --cameras, else metres), 0 = no reading; any size of the photo\'s aspect')
    known.add_argument('--scale-from', metavar='WHAT', help='bring the result to metres, whatever its unit was: '
                       f'{FORMS[0]} (what two pixels of the photos see is so far apart), {FORMS[1]} (what a pixel sees is '
                       f'so far in front of the camera), {FORMS[2]} (as --depth has it) or {FORMS[3]} (a cameras.json in '
                       'metres of at least two views)')
    result = options.add_argument_group('result')
    result.add_argument('--confidence', type=_percent, default=20.0, metavar='PERCENT',
                        help='leave out so many percent of the points, the least sure ones (default 20)')
    result.add_argument('--max-points', type=positive, default=500_000, help='points in the cloud (default 500000)')
    result.add_argument('--min-score', type=_finite, default=0.2, help='leave out instances below this score (default 0.2)')
    result.add_argument('--agnostic', action='store_true', help='objects of any kind, without classes')
    result.add_argument('--keep-all', action='store_true', help="every instance that the config's own ranking keeps")
    result.add_argument('--colmap', action='store_true', help="also COLMAP's text model and transforms.json with "
                        'upright pictures, in colmap/, as trainers of splats and NeRFs read them')
    result.add_argument('--objects', action='store_true', help='also a folder per instance in OUT/objects: its crop of each '
                        'photo with the mask as alpha, its points')
    result.add_argument('--no-glb', action='store_true', help='leave out scene.glb (which needs trimesh)')
    options.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N, mps')
    return options


def main(argv: list[str] | None = None) -> None:
    """Reconstruct and write everything; one line per stage."""
    args = parser().parse_args(argv)
    check_before_work(args)
    from jrs.engine.writer import one_writer
    with one_writer(args.out, command_words('infer', argv)):
        infer(args)


def infer(args: argparse.Namespace) -> None:
    """Do what `main` says, in a folder that nobody else writes to."""
    from jrs.engine.inference import Reconstructor
    from jrs.io.known_geometry import known_geometry, not_used, read_cameras
    from jrs.io.known_scale import check_scale_source, parse_scale_source
    from jrs.io.vocabulary import split_names
    start = time.perf_counter()
    cameras = None if args.cameras is None else read_cameras(args.cameras)
    source = None if args.scale_from is None else parse_scale_source(args.scale_from)
    if source is not None and (args.depth is not None if cameras is None else cameras.scale == 'metric'):
        raise DataError('--scale-from: what --cameras and --depth give is in metres already, and so is the result. Leave '
                        'out one or the other.')

    def say(words: str) -> None:
        print(f'[{time.perf_counter() - start:6.1f} s] {words}', flush=True)

    reconstruct = Reconstructor(args.config, args.checkpoint, args.profile, args.device, args.width, args.agnostic,
                                args.min_score, args.keep_all, args.copy,
                                None if args.classes is None else split_names(args.classes), args.vocabulary)
    say(f'weights: {reconstruct.weights["file"]} ({reconstruct.weights["origin"]})')
    if args.stream:
        infer_stream(args, reconstruct, say)
        return
    if args.windows:
        infer_windows(args, reconstruct, say)
        return
    photos = reconstruct.load(args.source[0] if len(args.source) == 1 else args.source, args.max_views, args.every)
    height, width = photos.images.shape[-2:]
    say(f'{len(photos.names)} views, network input {width} x {height}')
    check_names(args.out, [f'{name}.png' for name in photos.names])
    for remark in photos.remarks:
        say(remark)
    if source is not None:
        check_scale_source(source, photos)
    known = None
    if cameras is not None or args.depth is not None:
        known = known_geometry(photos, cameras, args.depth)
        say(f'given: {reconstruct.about(known)["given"]}')
        for line in not_used(photos, cameras, args.depth):
            say(line)
    scene = reconstruct(photos, known=known)
    say(f'reconstructed on {reconstruct.device}: {_found(scene)}')
    if source is not None:
        scene = scene.in_metres(source)
        say(f'scale: {scene.facts["scale"]}')
    written = _save(args, scene, args.out)
    if scene.left_out:
        say(f'left out: {scene.left_out}')
    say('written: ' + ', '.join(str(path) for path in written))
    print(f'\n{scene.advice}\n\nLook at: {written[-1]}')


def infer_stream(args: argparse.Namespace, reconstruct: Reconstructor, say: Callable[[str], None]) -> None:
    """Reconstruct view by view; write each window when it is complete, and what views took in `stream.json`."""
    from jrs.engine.stream import stream_windows
    from jrs.io.atomic import atomic_write
    from jrs.io.images import as_video, list_photos
    source = args.source[0] if len(args.source) == 1 else args.source
    if as_video(source) is None:
        check_names(args.out, [f'{name}.png' for name in distinct_names(list_photos(source))])
    views = reconstruct.each_view(source, args.max_views, args.every)
    records = []
    for window in stream_windows(reconstruct, _remarked(views, say), args.stream, say):
        written = _save(args, window.scene, args.out / f'window_{window.number:04d}')
        records.append(window.record())
        with atomic_write(args.out / 'stream.json', 'w') as file:
            file.write(json.dumps(dict(window=args.stream, windows=records), indent=1) + '\n')
        say(f'window {window.number}: {len(window.seconds)} views, {mean(window.seconds):.3f} s per view, '
            f'{_found(window.scene)}; written: {written[-1]}')
        del window                                                              # its memory is given back before the next
    print(f'\n{reconstruct.advice}\n\nLook at: {written[-1]}')


def infer_windows(args: argparse.Namespace, reconstruct: Reconstructor, say: Callable[[str], None]) -> None:
    """Reconstruct the windows that are not there yet, join all, and write them as one result."""
    from jrs.engine.inference import default_weights
    from jrs.engine.joined import join_windows, write_joined
    from jrs.engine.windows import Plan, StoredWindows, check_joinable, run_windows, settings_of
    check_joinable(reconstruct)
    overlap = _overlap(args)
    plan = Plan(args.windows, args.windows, overlap, args.anchors)
    views = reconstruct.views(args.source[0] if len(args.source) == 1 else args.source, args.max_views, args.every, overlap,
                              plan.anchored)
    plan = dataclasses.replace(plan, views=len(views))
    check_names(args.out, [f'{name}.png' for name in views.names])
    say(f'{len(views)} views in {len(plan.spans)} windows of {args.windows}, {overlap} shared with the next')
    checkpoint = default_weights() if args.checkpoint is None else expanded(args.checkpoint)
    store = StoredWindows(args.out, settings_of(reconstruct, checkpoint, views, plan, dict(copy=args.copy)))
    run_windows(reconstruct, views, plan, store, say)
    joined = join_windows(store, plan, say)
    written = write_joined(args.out, reconstruct, views, store, plan, joined, args.confidence, args.max_points,
                           not args.no_glb, _title(args))
    count = 'geometry only, no queries' if joined.merged is None else f'{len(joined.merged.scores)} instances'
    say(f'joined: {count}; written: ' + ', '.join(str(path) for path in written))
    print(f'\n{reconstruct.advice}\n\nLook at: {written[-1]}')


def _overlap(args: argparse.Namespace) -> int:
    return args.overlap or max(args.windows // 4, 1)


def _remarked(views: Iterable[LoadedPhotos], say: Callable[[str], None]) -> Iterator[LoadedPhotos]:
    """Yield views that come one at a time; say what people should know of them, each thing once."""
    said = set()
    for view in views:
        for remark in view.remarks:
            if remark not in said:
                say(remark)
                said.add(remark)
        yield view


def _found(scene: Scene) -> str:
    return f'{len(scene.instances.scores)} instances' if scene.instances is not None else 'geometry only, no queries'


def _save(args: argparse.Namespace, scene: Scene, out: Path) -> list[Path]:
    return scene.save(out, args.confidence, args.max_points, not args.no_glb, args.colmap,
                      title=_title(args), objects=args.objects)


def _title(args: argparse.Namespace) -> str:
    return f'Reconstruction of {readable(Path(args.source[0]).name or args.source[0])}'


def check_before_work(args: argparse.Namespace) -> None:
    """Raise for what would only be noticed after the long part.

    Raises:
        DataError: source, cameras or depth do not exist or do not go with a stream, the source holds no photo or what is
            none, or the output is a file.
        WeightsError: there is no such checkpoint. JrsError: trimesh is not installed.
    """
    for source in args.source:
        if not source or not expanded(source).exists():
            raise DataError(f'There is no file or folder {source or repr(source)}.')
    if args.checkpoint is not None:
        from jrs.io.weights_file import check_file
        check_file(expanded(args.checkpoint))
    if args.depth is not None and not args.depth.is_dir():
        raise DataError(f'There is no folder {args.depth} of depth images (--depth).')
    if args.cameras is not None and not args.cameras.is_file():
        raise DataError(f'There is no file {args.cameras} of cameras (--cameras).')
    if args.stream and (args.depth is not None or args.cameras is not None):
        raise DataError('Known cameras and depth are of a scene at once: leave out --stream, or --cameras and --depth.')
    if args.stream and args.scale_from is not None:
        raise DataError('--scale-from compares a scene at once, and the windows of a stream share one unit: leave out '
                        '--stream or --scale-from.')
    check_windows(args)
    if args.vocabulary is not None and args.agnostic:
        raise DataError('--vocabulary names words to look for; it does not go with --agnostic, objects of any kind.')
    if args.classes is not None and (args.agnostic or not args.classes.replace(',', '').strip()):
        raise DataError('--classes names words to look for, such as --classes "chair, fire extinguisher"; it does not go '
                        'with --agnostic, objects of any kind.')
    if args.out.exists() and not args.out.is_dir():
        raise DataError(f'--out {args.out} is a file; name a folder.')
    refuse_results_as_photos(args.source, args.out)
    if not args.no_glb and find_spec('trimesh') is None:
        raise JrsError('scene.glb needs trimesh: pip install trimesh, or add --no-glb.')
    from jrs.io.images import as_video, find_photos
    if as_video(args.source) is None:
        find_photos(args.source[0] if len(args.source) == 1 else args.source)


def check_windows(args: argparse.Namespace) -> None:
    """Raise a DataError for options that do not go with --windows, or an overlap that does not fit into them."""
    if not args.windows:
        for name in ('overlap', 'anchors'):
            if getattr(args, name):
                raise DataError(f'--{name} is of windows: give --windows SIZE too, or leave it out.')
        return
    others = {'--stream': args.stream, '--cameras': args.cameras, '--depth': args.depth, '--scale-from': args.scale_from,
              '--colmap': args.colmap, '--objects': args.objects}
    if given := [name for name, value in others.items() if value]:
        raise DataError(f'{", ".join(given)}: not with --windows, which joins what windows predict and writes cloud, '
                        'cameras, masks, instances and the report. Leave out one or the other.')
    if not 1 <= _overlap(args) < args.windows:
        raise DataError(f'--overlap must be less than the {args.windows} views of a window, and a window has 2 or more; got '
                        f'{_overlap(args)}. Windows are joined by what they share, and each must bring new views.')


def refuse_results_as_photos(sources: Sequence[str], out: Path) -> None:
    """Raise a DataError where photos lie in a folder of `out` that is written anew: they would be gone."""
    for source in sources:
        place = expanded(source)
        place = (place if place.is_dir() else place.parent).resolve()
        parts = place.relative_to(out.resolve()).parts if place.is_relative_to(out.resolve()) else ()
        parts = parts[1:] if parts and parts[0].startswith('window_') else parts
        if parts[:1] in (('masks',), ('views',), ('objects',)) or parts[:2] == ('colmap', 'images'):
            raise DataError(f'{source} is in a folder of results, {place}, which is written anew: the photos would be lost. '
                            'Choose another --out, or copy them elsewhere.')


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f'must be a finite number, got {text}')
    return value


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f'must be in [0, 100), got {text}')
    return value
