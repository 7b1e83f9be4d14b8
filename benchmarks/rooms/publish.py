"""Keeps what the numbers of finished runs on built-in rooms come from: settings, record, curves and scores; no weights.

    python benchmarks/rooms/publish.py work_dirs/*_rooms_seed*                # into benchmarks/results/rooms/<run>/
    python benchmarks/rooms/publish.py RUN --weights weights/rooms_tiny_all24_fada         # and its weights, with a card
    python benchmarks/rooms/page.py                                           # writes docs/rooms.md of all that is there

Of a run folder it takes what differs in `config.py` from a published run that is like it (`settings.py`), `diff.txt`,
`run.json` with the identity (of the packages only those that make numbers), `curve.csv` (means of all terms over 20
iterations each), and of every test `results.json` and, where it keeps its matches, its scores over draws of the rooms
(`resampled.csv`), of which the page makes intervals.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.rooms.settings import RESULTS, SETTINGS_FILE, settings_text  # noqa: E402
from jrs.config import read_config  # noqa: E402
from jrs.engine.hooks import TERMS_FILE, read_lines  # noqa: E402
from jrs.engine.record import read_record  # noqa: E402
from jrs.errors import DataError  # noqa: E402
from jrs.io.atomic import atomic_write  # noqa: E402
from jrs.io.weights import read_metadata, read_state, save_weights  # noqa: E402
from jrs.report.identity import read_identity  # noqa: E402
from jrs.report.intervals import RESAMPLED_FILE, resampled_of, table_of  # noqa: E402

WINDOW = 20                                    # iterations of a line of the curve
PACKAGES = ('torch', 'numpy', 'scipy', 'mmengine', 'mmcv-lite', 'opencv-python-headless', 'pillow')


def main() -> None:
    """Publish every folder that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', type=Path, nargs='+', help='finished run folders')
    parser.add_argument('--out', type=Path, default=RESULTS)
    parser.add_argument('--name', help='what the one run is called there; default: as its folder')
    parser.add_argument('--weights', type=Path, metavar='DIR', help='put the weights of the one run there')
    args = parser.parse_args()
    if (args.weights or args.name) and len(args.runs) != 1:
        parser.error('--weights and --name take one run')
    for run in args.runs:
        for path in publish(run, args.out / (args.name or run.name)):
            print(path)
    if args.weights:
        print(publish_weights(args.runs[0], args.weights))


def publish(run: Path, out: Path) -> list[Path]:
    """Write what is kept of a run folder to `out`, of one where nothing was trained its tests; returns the files.

    Raises:
        DataError: the run is not finished.
    """
    record = read_record(run)
    files = {f'{path.parent.name}/results.json': path.read_text(encoding='utf-8').rstrip() + '\n'
             for path in sorted(run.glob('test*/results.json'))}
    files |= {f'{path.parent.name}/{RESAMPLED_FILE}': table_of(draws) for path in sorted(run.glob('test*/results.json'))
              if (draws := resampled_of(path.parent))}
    if record.get('finished'):
        record['versions'] = {name: record['versions'][name] for name in PACKAGES if name in record['versions']}
        record['identity'] = read_identity(run)             # None of runs from before there was one
        files |= {'run.json': json.dumps(record, indent=1) + '\n', 'curve.csv': curve(run / TERMS_FILE),
                  'diff.txt': (run / 'diff.txt').read_text(encoding='utf-8'),
                  SETTINGS_FILE: settings_text(read_config(run / 'config.py')._cfg_dict, out)}
    elif record or not files:
        raise DataError(f'{run} is not a finished run: run.json {"does not say so" if record else "is missing"}.')
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out / name, 'w') as file:
            file.write(text)
    return [out / name for name in files]


def publish_weights(run: Path, out: Path) -> Path:
    """Write the weights of a run and their config to `out`; their card also says how they were made and what they reach."""
    record = read_record(run)
    metrics = json.loads((run / 'test' / 'results.json').read_text(encoding='utf-8'))['metrics']
    card = read_metadata(run / 'weights.safetensors') | dict(
        command=' '.join(['python', *record['command']]), hours=record['hours'], machine=record['device'],
        metrics={name: value for name, value in metrics.items() if 'class/' not in name and name.count('/') == 1})
    save_weights(read_state(run / 'weights.safetensors').ours, out / 'weights.safetensors', card)
    with atomic_write(out / 'config.py', 'w') as file:
        file.write((run / 'config.py').read_text(encoding='utf-8'))
    return out / 'weights.safetensors'


def curve(path: Path) -> str:
    """Return the terms of a run as CSV: one line per WINDOW iterations, the last of them and the means of all terms."""
    lines = [json.loads(line) for line in read_lines(path)]
    names = list(lines[0])[1:]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['iteration', *names])
    for start in range(0, len(lines), WINDOW):
        part = lines[start:start + WINDOW]
        writer.writerow([part[-1]['iteration'] + 1, *(f'{mean(line[name] for line in part):.5g}' for name in names)])
    return text.getvalue()


if __name__ == '__main__':
    main()
