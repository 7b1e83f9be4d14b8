"""`tools/prepare.py`: raw scans, built-in rooms, photos or a video -> scene folders; checks scene folders."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from jrs.cli.parser import Parser
from jrs.errors import ConfigError, DataError
from jrs.io.progress import Bar

# Data sets and rooms are imported where they are needed: with torch they take seconds, and `--help` should not.
if TYPE_CHECKING:
    from jrs.datasets.prepare.driver import Summary

_say = Bar()
OF_WEIGHTS = 'tiny'                              # rooms that the weights of the project were trained on
EXAMPLES = """examples:
  python tools/prepare.py rooms --preset tiny --out data/rooms/tiny --jobs 2 --verify
  python tools/prepare.py rooms --preset tiny --depth sensor --poses drift --out data/rooms/tiny_sensor
  python tools/prepare.py scannet --raw /data/scannet --out data/scannet --jobs 16
  python tools/prepare.py scannetpp --raw /data/scannetpp --out data/scannetpp --jobs 16
  python tools/prepare.py images walk.mp4 --out data/mine --name kitchen --max-views 48
  python tools/prepare.py superpoints data/own
  python tools/prepare.py check data/scannet/scene0011_00

A run that was stopped continues when the same command is given again. The layout of a scene folder is described in
jrs/datasets/scene.py.
"""


def main(argv: list[str] | None = None) -> None:
    """Run the command; raises a JrsError for `jrs.cli.run` to print."""
    options = _parser().parse_args(argv)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog='tools/prepare.py', description=__doc__, epilog=EXAMPLES,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar='scannet | scannetpp | rooms | images | superpoints | check')
    scannet = commands.add_parser('scannet', help='raw ScanNet v2 scans -> scene folders')
    scannet.add_argument('--raw', type=Path, required=True, help='folder with the scans, the label table (tsv) and '
                         'the lists scannetv2_train.txt, scannetv2_val.txt, scannetv2_test.txt')
    scannet.add_argument('--out', type=Path, required=True, help='folder of the data set, e.g. data/scannet')
    scannet.add_argument('--every', type=int, help='take frames whose number in the recording is a multiple of this '
                         '(default: 10, which configs of ScanNet count on)')
    scannet.add_argument('--frames', type=Path, metavar='DIR', help='read frames that the ScanNet exporter wrote, '
                         'DIR/<scan>/color depth pose intrinsic, instead of .sens files; without this option they are '
                         'read where a scan folder has them and no .sens')
    scannet.add_argument('--masks', default='rendered', metavar='rendered | official', help='2D instances: rendered from '
                         'the labelled mesh with a depth test (default), or the official _2d-instance-filt.zip of a scan, '
                         'whose images were filtered, are not tested against the depth and do not quite fit the mesh')
    scannet.add_argument('--min-mask-pixels', type=int, help='smaller masks of a view are marked "ignore" '
                         '(default: 20 pixels of 640 x 480, in proportion to the image, at least 4)')
    scannet.set_defaults(run=_scannet)
    scannetpp = _add_scannetpp(commands)
    rooms = commands.add_parser('rooms', help='generate the built-in rooms as scene folders')
    rooms.add_argument('--preset', required=True, help='size of the rooms, e.g. debug or tiny; a wrong name lists all')
    rooms.add_argument('--out', type=Path, required=True, help='folder of the data set, e.g. data/rooms/tiny')
    rooms.add_argument('--rooms', type=int, help='generate this many rooms only (default: all of the preset)')
    rooms.add_argument('--style', help='how rooms look: usual or shifted (default: as the preset); shifted = '
                       'another palette, other sizes and shapes, for tests on rooms unlike those of training')
    rooms.add_argument('--depth', help='exact or sensor (default: as the preset); sensor = noise and holes')
    rooms.add_argument('--poses', help='exact or drift (default: as the preset); drift = slowly wrong poses')
    rooms.add_argument('--verify', action='store_true', help='compare the rooms with the frozen ones: to the byte, or, made '
                       'by other library versions, within a tolerance')
    rooms.add_argument('--keep-raw', action='store_true', help='keep the raw scans in OUT/raw')
    rooms.set_defaults(run=_rooms)
    _add_images(commands)
    for command in (scannet, scannetpp, rooms):
        command.add_argument('--jobs', type=int, default=1, help='processes (default: %(default)s)')
    superpoints = commands.add_parser(
        'superpoints', help='compute superpoints where scenes have none',
        description="Scene folders whose mesh has no superpoints get them: ScanNet's over-segmentation of the mesh, which "
        'methods on points need. Preparing ScanNet++ does so by itself; scenes that were prepared before and own scans get '
        'them here.')
    superpoints.add_argument('folder', type=Path, help='scene folder, or folder of a data set')
    superpoints.set_defaults(run=_superpoints)
    check = commands.add_parser('check', help='read every file of a scene or a data set and explain the first fault')
    check.add_argument('folder', type=Path, help='scene folder, or folder of a data set')
    check.set_defaults(run=_check)
    return parser


def _add_scannetpp(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser('scannetpp', help='raw ScanNet++ scenes -> scene folders')
    command.add_argument('--raw', type=Path, required=True, help='folder with data/<scene>, splits and metadata')
    command.add_argument('--out', type=Path, required=True, help='folder of the data set, e.g. data/scannetpp')
    command.add_argument('--camera', default='iphone', metavar='iphone | dslr', help='whose pictures become views; those of '
                         'both are undistorted (default: %(default)s)')
    command.add_argument('--every', type=int, help='take frames whose number is a multiple of this; an iPhone\'s are '
                         'numbered as in the video and about each tenth is posed (default: 10; all pictures of a DSLR)')
    command.add_argument('--depth', metavar='sensor | rendered', help='LiDAR depth, or depth of the mesh (default: LiDAR '
                         'where there is some; a DSLR has none)')
    command.add_argument('--min-mask-pixels', type=int, help='as of scannet')
    command.set_defaults(run=_scannetpp)
    return command


def _add_images(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        'images', help='photos or a video -> a scene folder without ground truth',
        description='Photos or a video -> a scene folder without cameras, depth, instances and mesh. tools/infer.py reads '
        'photos and videos directly, and scene folders too: this command is for pictures that are read again and again.')
    command.add_argument('source', nargs='+', metavar='PHOTOS_OR_VIDEO', help='a folder of photos, photos, or one video')
    command.add_argument('--out', type=Path, required=True, help='folder of the data set, e.g. data/mine')
    command.add_argument('--name', help='of the scene (default: the name of the folder or of the first file)')
    command.add_argument('--every', type=int, default=1, help='take each n-th photo or frame')
    command.add_argument('--max-views', type=int, help='at most so many, evenly spaced (default: all photos, 24 frames of a '
                         'video)')
    command.set_defaults(run=_images)


def _images(options: argparse.Namespace) -> None:
    from jrs.datasets.prepare.images import prepare_images
    _finish(prepare_images(options.source, options.out, options.name, options.every, options.max_views, _say), options.out)


def _scannetpp(options: argparse.Namespace) -> None:
    from jrs.datasets.prepare.scannetpp import prepare_scannetpp
    _finish(prepare_scannetpp(options.raw, options.out, options.camera, options.every, options.jobs,
                              options.min_mask_pixels, options.depth, _say), options.out)


def _scannet(options: argparse.Namespace) -> None:
    from jrs.datasets.prepare.scannet import prepare_scannet
    _finish(prepare_scannet(options.raw, options.out, options.every, options.jobs, options.min_mask_pixels, _say,
                            options.frames, options.masks), options.out)


def _rooms(options: argparse.Namespace) -> None:
    from jrs.datasets.prepare.scannet import prepare_scannet
    from jrs.synth import find_preset, generate, write_mark
    departures = find_preset(options.preset, _departures(options)).departures
    if options.verify and departures:
        raise ConfigError(f'--verify knows only the rooms of a preset as it is, not with {departures}.')
    if _same_rooms(options):
        _say(f'{options.out}: the rooms are there')
    else:
        raw = options.out / 'raw'
        generate(options.preset, raw, options.jobs, rooms=options.rooms, progress=_say, departures=departures)
        write_mark(options.out, _wanted_rooms(options), complete=False)
        _finish(prepare_scannet(raw, options.out, every=1, jobs=options.jobs, progress=_say), options.out)
        write_mark(options.out, _wanted_rooms(options), complete=True)
        if not options.keep_raw:
            shutil.rmtree(raw)
    _remark_on_held_out(options)
    if options.verify:
        _verify(options)


def _remark_on_held_out(options: argparse.Namespace) -> None:
    """Say where rooms that are held out are among those that the weights of the project were trained on."""
    from jrs.synth import PRESETS
    tiny = PRESETS[OF_WEIGHTS]
    fewer = options.rooms is not None and options.rooms < tiny.train + tiny.val
    if fewer and options.preset == OF_WEIGHTS and options.style is None:
        _say(f'The rooms held out here are among the first {tiny.train} of {OF_WEIGHTS!r}, on which the weights of the '
             'project were trained. To score what starts from those, take all rooms, or --preset tiny_demo.')


def _verify(options: argparse.Namespace) -> None:
    """Say how near the rooms are to the frozen ones; raise when some are others."""
    from jrs.synth import TOLERANCE, compare
    found = compare(options.preset, sorted(path.parent for path in options.out.glob('*/scene.json')))
    _say(f'{options.out}: ' + ', '.join(f'{len(names)} {how}' for how, names in found.items()))
    if found['different']:
        raise DataError(f'{len(found["different"])} rooms are not the frozen ones ({", ".join(found["different"][:5])} …): '
                        f'results on them cannot be compared with others. Allowed is: {TOLERANCE}.')


def _departures(options: argparse.Namespace) -> dict[str, str]:
    given = {name: getattr(options, name) for name in ('style', 'depth', 'poses')}
    return {name: value for name, value in given.items() if value is not None}


def _wanted_rooms(options: argparse.Namespace) -> dict:
    from jrs.synth import GENERATOR_VERSION, find_preset
    departures = find_preset(options.preset, _departures(options)).departures
    return {'preset': options.preset, 'rooms': options.rooms, 'generator_version': GENERATOR_VERSION, **departures}


def _same_rooms(options: argparse.Namespace) -> bool:
    """Return whether the rooms asked for are all there; raise when the folder is for others."""
    from jrs.synth import read_mark
    there, wanted = read_mark(options.out), _wanted_rooms(options)
    if not there:
        return False
    complete = there.pop('complete', False)
    if there != wanted:
        raise DataError(f'{options.out} is for the rooms {there}; asked for are {wanted}. Use another --out, or remove '
                        'the folder.')
    return complete


def _check(options: argparse.Namespace) -> None:
    from jrs.datasets.prepare.check import check_folder
    _say(f'{check_folder(options.folder, _say)} scenes are sound')


def _superpoints(options: argparse.Namespace) -> None:
    from jrs.datasets.prepare.superpoints import add_superpoints
    _say(f'{add_superpoints(options.folder, _say)} scenes got superpoints')


def _finish(summary: Summary, out: Path) -> None:
    _say(f'{out}: {len(summary.written)} scenes written, {len(summary.kept)} were there, {len(summary.failed)} failed')
    if summary.failed:
        lines = '\n'.join(f'  {name}: {fault}' for name, fault in sorted(summary.failed.items()))
        raise DataError(f'{len(summary.failed)} scans could not be prepared:\n{lines}')
