"""Takes every config of a method that sees images the whole road at debug size: two steps of training, test.py on what they
made, infer.py on photos; prints a line each. A command, not a test: 1 to 5 CPU-seconds a config.

    python tests/soak/image_rows.py [--photos DIR] [--data DATA_ROOT] [CONFIG ...]

Without configs it takes those of configs/baselines that do not see points, and those of plugins/must3r.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
ROW = '{:28} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6}'


def main() -> int:
    """Run; returns 1 when a step of a config fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', type=Path, nargs='*', metavar='CONFIG')
    parser.add_argument('--photos', type=Path, help='default: pictures of a room of the data')
    parser.add_argument('--data', type=Path, help='holds rooms/debug; default: made here')
    args = parser.parse_args()
    folder, failed = Path(tempfile.mkdtemp(prefix='image_rows_')), []
    print(ROW.format('config', 'loss', 'then', 'AP25', 'Abs Rel', 'masks', 'CPU-s'), flush=True)
    try:
        data = args.data or made_data(folder)
        photos = args.photos or next(data.glob('rooms/debug/*/color'))
        for config in args.configs or image_configs():
            try:
                print(ROW.format(config.stem, *take(config, data, photos, folder / config.stem)), flush=True)
            except Exception:                       # the others are still to be tried
                failed.append(config.stem)
                print(f'{config.stem:28} failed: {traceback.format_exc()}', flush=True)
    finally:
        shutil.rmtree(folder)
    print(f'failed: {", ".join(failed)}' if failed else 'none failed')
    return int(bool(failed))


def image_configs() -> list[Path]:
    """Return the configs of methods that see images, but for SegVGGT's own."""
    baselines = sorted((ROOT / 'configs' / 'baselines').glob('*.py'))
    return [path for path in baselines if not sees_points(path)] + sorted((ROOT / 'plugins/must3r/configs').glob('*.py'))


def sees_points(config: Path) -> bool:
    """Return whether a config is of a method on points, two-stage included."""
    from jrs.config import load_config
    return 'point_clouds' in load_config(config, 'debug').plugins


def made_data(folder: Path) -> Path:
    """Return a data root with three small rooms."""
    from tests._data import make_data
    (folder / 'raw').mkdir()
    return make_data(folder, folder / 'raw')


def take(config: Path, data: Path, photos: Path, run: Path) -> tuple[str, ...]:
    """Train two steps, score, and look at three photos; return what there is to see of it.

    Raises:
        RuntimeError: a command failed; with what it printed.
    """
    start, root = time.process_time(), f'data_root={data}'
    must('train', config, '--profile', 'debug', '--work-dir', run, '--cfg-options', root, 'train.iterations=2',
         'hooks.pictures=None', 'batches.views=(2,2)', 'batches.max_images=2', 'batches.slots=1')
    must('test', config, run / 'weights.safetensors', '--profile', 'debug', '--cfg-options', root,
         'test_dataset.max_views=2', 'test_dataset.folder=rooms/debug')         # also where it is rooms of another style
    must('infer', photos, '--checkpoint', run / 'weights.safetensors', '--out', run / 'seen', '--max-views', 3, '--keep-all',
         '--device', 'cpu')
    losses = [json.loads(line)['loss'] for line in (run / 'terms.jsonl').read_text(encoding='utf-8').splitlines()]
    metrics = json.loads((run / 'test' / 'results.json').read_text(encoding='utf-8'))['metrics']
    found = run / 'seen' / 'instances.json'
    masks = len(json.loads(found.read_text(encoding='utf-8'))['instances']) if found.is_file() else None
    scores = [metrics.get(key) for key in ('instance/agnostic_AP25', 'depth/abs_rel')]
    return (*(f'{loss:.3f}' for loss in losses), *('–' if score is None else f'{score:.3f}' for score in scores),
            '–' if masks is None else str(masks), f'{time.process_time() - start:.0f}')


def must(name: str, *words) -> None:
    """Run a command of jrs in this process, quietly."""
    from tests._data import command
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = command(name, *words)
    if code != 0:
        raise RuntimeError(f'jrs {name} {" ".join(map(str, words))} ended with {code}:\n{said.getvalue()[-3000:]}')


if __name__ == '__main__':
    raise SystemExit(main())
