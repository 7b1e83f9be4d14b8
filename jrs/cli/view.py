"""``tools/view.py``: results in a browser: clouds, cameras, instances; two side by side; own photos."""

from __future__ import annotations

import argparse
import ipaddress
import signal
import sys
import tempfile
import threading
from pathlib import Path

from jrs.benchmarks import get_benchmark
from jrs.cli.options import positive
from jrs.cli.parser import Parser, config_argument
from jrs.errors import ConfigError, DataError

EXAMPLES = """examples:
  python tools/view.py outputs/mine                                          an output of tools/infer.py
  python tools/view.py outputs/mine outputs/other                            two of them, one beside the other
  python tools/view.py outputs/mine --truth data/rooms/tiny/scene0175_00     beside the true instances
  python tools/view.py data/rooms/tiny/scene0175_00                          a scene folder
  python tools/view.py predictions/ --scenes data/rooms/tiny                 what tools/test.py --save-predictions wrote
  python tools/view.py                                                       nothing yet: photos are uploaded in the page

The page is served to this machine alone, until Ctrl-C. No file outside the folders is read for it. Needs viser:
pip install "jrs[viewer]".
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/view.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('folders', nargs='*', type=Path, metavar='OUT', help='outputs of tools/infer.py, scene folders, '
                         'data sets of such, or folders of prediction files')
    options.add_argument('--scenes', type=Path, metavar='DIR', help='data set of scene folders whose meshes prediction '
                         'files are of, such as data/scannet')
    options.add_argument('--truth', type=Path, metavar='SCENE', help='scene folder whose true instances can stand beside '
                         'the outputs of tools/infer.py')
    options.add_argument('--benchmark', default='scannet200', help='whose class ids and files predictions have '
                         '(default scannet200)')
    options.add_argument('--max-points', type=positive, default=500_000, help='a larger cloud is thinned for display, and '
                         'the page says so (default 500000)')
    options.add_argument('--host', default='127.0.0.1', help='address to serve at (default 127.0.0.1: this machine alone; '
                         '0.0.0.0: everybody who reaches this machine may look, and upload)')
    options.add_argument('--port', type=_port, default=8080, help='default 8080, or the next free one')
    group = options.add_argument_group('photos that are uploaded in the page', 'are reconstructed with')
    group.add_argument('--no-upload', action='store_true', help='take none')
    group.add_argument('--config', type=config_argument,
                       help='experiment of the weights; default: config.py beside the checkpoint')
    group.add_argument('--checkpoint', help='weights; default: those that come with the project')
    group.add_argument('--profile', default='paper', help='scale of --config')
    group.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N, mps')
    group.add_argument('--max-views', type=positive, help='at most so many views of an upload')
    return options


def main(argv: list[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))        # the temporary folder goes, too
    with tempfile.TemporaryDirectory(prefix='jrs-view-') as folder:
        page = serve(args, Path(folder))
        try:
            print(f'Look at: http://{"127.0.0.1" if args.host == "0.0.0.0" else args.host}:{page.port}   (Ctrl-C ends it)',
                  flush=True)
            threading.Event().wait()
        finally:
            page.stop()


def serve(args: argparse.Namespace, folder: Path):
    """Return the page of `args`, served; uploads and their results lie in `folder`.

    Raises:
        ConfigError: there is nothing to look at. DataError: a folder holds no result. JrsError: viser is not installed.
    """
    from jrs.viewer.page import start_page
    from jrs.viewer.read import find_sources
    from jrs.viewer.session import Session
    from jrs.viewer.upload import Uploads
    if not args.folders and args.no_upload:
        raise ConfigError('Nothing to view: name a folder, or leave --no-upload out to send photos from the page.')
    if args.truth is not None and not (args.truth / 'scene.json').is_file():
        raise DataError(f'--truth {args.truth} is no scene folder: it has no scene.json.')
    sources = find_sources(args.folders, args.scenes, get_benchmark(args.benchmark), args.truth)
    for source in sources:
        print(f'  {source.name}', flush=True)
    if not is_loopback(args.host):
        print(f'Served at {args.host}: whoever reaches this machine can look at these results'
              f'{"" if args.no_upload else " and let it reconstruct photos"}.', flush=True)
    uploads = None if args.no_upload else Uploads(folder, lambda: _reconstructor(args), args.max_views)
    return start_page(Session(sources, args.max_points), args.host, args.port, uploads)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def _reconstructor(args: argparse.Namespace):
    from jrs.engine.inference import Reconstructor
    return Reconstructor(args.config, args.checkpoint, args.profile, args.device)


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f'must be in 0 .. 65535 (0: any free one), got {text}')
    return value
