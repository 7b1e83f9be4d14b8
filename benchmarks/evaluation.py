"""CPU time of scoring instances: in memory, and from prediction files as anybody's are scored (one core).

    python benchmarks/evaluation.py memory --json benchmarks/results/evaluation_cpu.json
    python benchmarks/evaluation.py files --scenes 39 --json benchmarks/results/evaluation_cpu.json

`memory`: 10 scenes of 100,000 vertices and 100 masks each, class-aware and class-agnostic. `files`: ScanNet200's validation
size, 312 scenes of 100,000 vertices and 50 text masks, through `tools/evaluate.py`; files are written to a temporary folder
first (10 MB a scene) and `--scenes` fewer are scaled up. Each call prints one line of JSON; `--json FILE` appends it to a
list. CPU seconds, because wall time says little on a machine that others use: its load is noted.
"""

from __future__ import annotations

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse  # noqa: E402
import contextlib  # noqa: E402
import io  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import publish  # noqa: E402
from jrs.benchmarks import Benchmark, get_benchmark  # noqa: E402
from jrs.cli.evaluate import main as evaluate_files  # noqa: E402
from jrs.evaluation.instance_ap import assign, evaluate  # noqa: E402
from jrs.io.submission import SceneSubmission, submission_format, write_submission, write_vertex_numbers  # noqa: E402

SCENES, VERTICES, OBJECTS = 312, 100_000, 40


def make_scene(seed: int, num_masks: int, benchmark: Benchmark) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return vertex ids (N,), masks (P, N) bool, class ids (P,) and scores (P,) of a scene like a real one.

    Objects of 100 to some thousands of vertices lie scattered along the list of vertices; a third of it is void. Masks are
    objects with 3 % to 60 % of their vertices lost and as many others gained, a quarter of them under another class.
    """
    rng = np.random.default_rng(seed)
    owner = np.repeat(rng.permutation(1000) % (3 * OBJECTS // 2), VERTICES // 1000)              # runs of 100 vertices
    classes = rng.choice(benchmark.class_ids, OBJECTS)
    vertex_ids = np.where(owner < OBJECTS, classes[owner % OBJECTS] * 1000 + owner + 1, 0)
    masks = np.zeros((num_masks, VERTICES), dtype=bool)
    labels = np.zeros(num_masks, dtype=np.int64)
    for row, mask in enumerate(masks):
        target, loss = rng.integers(OBJECTS), rng.uniform(0.03, 0.6)
        mask[:] = owner == target
        inside = np.flatnonzero(mask)
        mask[rng.choice(inside, int(loss * len(inside)), replace=False)] = False
        mask[rng.integers(0, VERTICES, int(loss * len(inside)))] = True
        labels[row] = classes[target] if rng.random() < 0.75 else rng.choice(benchmark.class_ids)
    return vertex_ids, masks, labels, rng.random(num_masks)


def timed(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Return the least and the median CPU seconds of `work` over some repeats."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return dict(cpu_s=min(seconds), median_cpu_s=float(np.median(seconds)))


def memory(args: argparse.Namespace) -> dict:
    """Measure 10 scenes of 100 masks, from masks to AP."""
    benchmark = get_benchmark(args.benchmark)
    scenes = [make_scene(seed, 100, benchmark) for seed in range(10)]
    packed = [(ids, np.packbits(masks, axis=1), *rest) for ids, masks, *rest in scenes]
    found = {}
    for kind, data in (('bool', scenes), ('packed', packed)):
        for name, agnostic in (('class_aware', False), ('class_agnostic', True)):
            def score(data=data, agnostic=agnostic):
                return evaluate([assign(*scene, benchmark) for scene in data], benchmark, agnostic)
            found[f'{name}_{kind}'] = timed(score, args.repeats) | {'AP': score().means['AP']}
    return found


def files(args: argparse.Namespace) -> dict:
    """Measure scoring of prediction files: reading and all."""
    benchmark = get_benchmark(args.benchmark)
    with tempfile.TemporaryDirectory() as folder:
        truth, predictions = Path(folder) / 'truth', Path(folder) / 'predictions'
        for scene in range(args.scenes):
            ids, masks, labels, scores = make_scene(scene, 50, benchmark)
            write_vertex_numbers(truth / f'scene{scene:04d}_00.txt', ids)
            write_submission(predictions, f'scene{scene:04d}_00', submission_format(benchmark.submission_format),
                             SceneSubmission(np.packbits(masks, axis=1), labels, scores, VERTICES))
        words = ['--predictions', str(predictions), '--ground-truth', str(truth), '--benchmark', args.benchmark]

        def score():
            with contextlib.redirect_stdout(io.StringIO()):
                evaluate_files(words)
        seconds = timed(score, args.repeats)
    return dict(scenes=args.scenes, **seconds, cpu_s_of_312_scenes=seconds['cpu_s'] * SCENES / args.scenes)


def main() -> None:
    """Measure, print a line of JSON, append it to a list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=('memory', 'files'))
    parser.add_argument('--benchmark', default='scannet200')
    parser.add_argument('--scenes', type=int, default=SCENES, help='of `files`; 312 need 3.2 GB of disk')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--json', type=Path, help='append the measurement to this list')
    args = parser.parse_args()
    publish(dict(memory=memory, files=files)[args.what](args), args.json, numpy=np.__version__)


if __name__ == '__main__':
    main()
