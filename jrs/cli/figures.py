"""``tools/figures.py``: the paper's Figures 3 to 7 from checkpoints, scene folders and prediction files."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import Config

from jrs.cli.attention import Checkpoint, chosen, load, named_checkpoints, scene_name
from jrs.cli.options import add_config_options, config_from, positive
from jrs.cli.parser import Parser
from jrs.errors import ConfigError, DataError
from jrs.places import command_words

if TYPE_CHECKING:
    from jrs.engine.attention import ShownInstance
    from jrs.report.figures.clouds import Room
    from jrs.report.figures.sheet import Row

EXAMPLES = """examples:
  python tools/figures.py 3 configs/segvggt/all24_fada.py FADA=RUN/weights.safetensors none=OTHER/weights.safetensors \\
      --profile rooms --class window chair                                     where queries look, with and without FADA
  python tools/figures.py 4 CONFIG FADA=… none=… --profile rooms --class table             the same over two layers
  python tools/figures.py 5 CONFIG RUN/weights.safetensors --profile rooms --scene scene0175_00
  python tools/figures.py 6 CONFIG RUN/weights.safetensors --profile rooms --scene scene0175_00 scene0185_00
  python tools/figures.py 7 CONFIG ours=RUN/weights.safetensors theirs=predictions/ --profile rooms --scene scene0175_00

each writes OUT/figureN.png and .pdf at print size (174 mm wide, 300 dpi) and .csv with the numbers behind it. Data come from
CONFIG's test_dataset; a checkpoint with a config.py beside it is built from that. In 6 and 7 a folder of prediction files
(as tools/evaluate.py reads them: docs/external.md) stands for a method as a checkpoint does.

3 and 4: the query of an instance is the one of its best-scored prediction (--query matcher: the training matcher's), maps
are means over heads, layers stand where the paper's 15th and 23rd of 24 do (3 shows the later one). 5: three views chosen
for sufficient separation, the rule stands below it. 6: a prediction has the colour of the true instance that it hits with
IoU 0.25 or more. 7: the enlarged instances are those on which the two methods differ most, or --instance.
"""
CAPTIONS = {
    '3': 'Where the query of an instance looks at layer {layers}: attention, mean over heads, black is none, brightest its '
         'largest values over all views of a scene; outlined is the true mask, a number is the share that falls on a view.',
    '4': 'Where the query of an instance looks at the layers {layers}: attention, mean over heads, black is none, brightest '
         'its largest values over all views; outlined is the true mask, a number is the share that falls on a view.',
    '6': 'Instances on the mesh. A prediction has the colour of the true instance that it hits with IoU 0.25 or more, '
         'others colours of their own; predictions with a score below {min_score:g} are left out; grey is no instance.',
    '7': 'Instances on the mesh; boxed regions are enlarged below, with the IoU of the best prediction of the instance in '
         'their middle. Colours are those of the true instance that is hit with IoU 0.25 or more; scores from '
         '{min_score:g}.'}


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/figures.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    figures = options.add_subparsers(dest='figure', required=True, metavar='3|4|5|6|7')
    for number, words in (('3', 'attention over classes'), ('4', 'attention over layers')):
        one = _figure(figures, number, words)
        one.add_argument('--instance', type=int, nargs='+', metavar='ID', help='ids of instances of --scene')
        one.add_argument('--class', dest='classes', nargs='+', metavar='NAME', help='or a large instance of each of these '
                         'classes, of --scene or of the first scene of the test split that shows one')
        one.add_argument('--scene', help='scene of the test split; default: the first')
        one.add_argument('--query', choices=('score', 'matcher'), default='score', help='whose attention an instance has')
        one.add_argument('--layers', type=int, nargs='+', metavar='LAYER', help='counted from 0')
        one.add_argument('--views', type=positive, default=6, help='how many views are drawn: half of them where most of '
                         'the instance is seen, the others spread evenly (default 6)')
    five = _figure(figures, '5', 'three views of a scene: input, depth, features, masks, true masks')
    five.add_argument('--scene', help='scene of the test split; default: the first')
    five.add_argument('--min-score', type=float, default=0.2, help='leave out instances below this score (default 0.2)')
    for number, words in (('6', 'prediction beside truth in 3D'), ('7', 'two methods, regions enlarged')):
        one = _figure(figures, number, words)
        one.add_argument('--scene', nargs='+' if number == '6' else None, help='of the test split; default: the first')
        one.add_argument('--min-score', type=float, default=0.2, help='leave out predictions below it (default 0.2)')
        one.add_argument('--yaw', type=float, default=30.0, help='degrees to the right of the mean viewing direction')
        one.add_argument('--pitch', type=float, default=40.0, help='degrees from above')
        if number == '7':
            one.add_argument('--regions', type=positive, default=2, help='how many are enlarged (default 2)')
            one.add_argument('--instance', type=int, nargs='+', metavar='ID', help='enlarge these instances of the scene')
    return options


def _figure(figures: argparse._SubParsersAction, number: str, words: str) -> argparse.ArgumentParser:
    one = figures.add_parser(number, help=words, description=words, epilog=EXAMPLES,
                             formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(one)
    kinds = '[LABEL=]WEIGHTS_OR_PREDICTIONS' if number in '67' else '[LABEL=]WEIGHTS'
    one.add_argument('weights', nargs='+', metavar=kinds, help='checkpoints, or the word \'untrained\'' + (
        ', or folders of prediction files' if number in '67' else ''))
    one.add_argument('--out', type=Path, default=Path('outputs/figures'), help='folder (default outputs/figures)')
    one.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N, mps')
    return one


def main(argv: list[str] | None = None) -> None:
    """Draw one figure."""
    args = parser().parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        raise DataError(f'--out {args.out} is a file; name a folder.')
    if args.figure == '5' and len(args.weights) > 1:
        raise ConfigError('Figure 5 is of one checkpoint; call it once for each, with another --out.')
    from jrs.engine.writer import one_writer
    from jrs.report.figures.sheet import write_numbers, write_sheet
    with one_writer(args.out, command_words('figures', argv)):
        rows, numbers, caption = DRAWERS[args.figure](args)
        stem = args.out / f'figure{args.figure}'
        written = [*write_sheet(stem, rows, caption), write_numbers(stem.with_name(f'{stem.name}.csv'), numbers)]
        print('written: ' + ', '.join(map(str, written)))


def dataset_of(cfg: Config):
    """Return the test split of an experiment.

    Raises:
        DataError: it is not there.
    """
    from jrs.engine.build import check_ready
    cfg.weights, cfg.model.teacher = None, None
    return check_ready(cfg, 'test_dataset')['test_dataset']


def item_of(dataset, scene: str | None):
    """Return the batch of one scene of a split, None = the first.

    Raises:
        DataError: the split has no such scene.
    """
    return dataset[dataset.metainfo['scene_names'].index(scene_name(dataset, scene))]


def draw_attention(args: argparse.Namespace) -> tuple[Sequence[Row], list[dict], str]:
    """Return rows, numbers and caption of Figure 3 or 4."""
    from jrs.benchmarks import class_name
    from jrs.engine.attention import paper_layers, study
    from jrs.engine.inference import class_names
    from jrs.models.attention import inserted_layers
    from jrs.report.figures.queries import class_rows, layer_rows, query_numbers
    cfg = config_from(args)
    checkpoints, dataset = named_checkpoints(args.weights, cfg), dataset_of(cfg)
    names = class_names(cfg, {})
    show = chosen(dataset, args.scene, args.instance, args.classes or (), names)
    found: dict[str, list[ShownInstance]] = {}
    layers: dict[str, tuple[int, ...]] = {}
    for checkpoint in checkpoints:
        print(f'{checkpoint.label}: {checkpoint.file}', flush=True)
        model = load(checkpoint, args.device)
        inserted = inserted_layers(model)
        if absent := sorted(set(args.layers or ()) - set(inserted)):
            raise ConfigError(f'--layers: the queries of {checkpoint.label} do not read at the layers {absent}; they read '
                              f'at {list(inserted)}.')
        layers[checkpoint.label] = tuple(args.layers or paper_layers(inserted, model.backbone.num_query_layers)[:2])
        scenes = (item_of(dataset, scene) for scene in show)
        found[checkpoint.label] = study(model, scenes, show, layers[checkpoint.label], by=args.query)[1]
    first = next(iter(found.values()))
    items = [(class_name(names, item.label), {label: shown[place] for label, shown in found.items()})
             for place, item in enumerate(first)]
    if args.figure == '3':
        layers = {label: read[-1:] for label, read in layers.items()}
        rows = class_rows(items, {label: read[0] for label, read in layers.items()}, args.views)
    else:
        rows = [row for name, shown in items for row in layer_rows(name, shown, layers, args.views)]
    said = {label: ' and '.join(map(str, read)) for label, read in layers.items()}
    same = len(set(said.values())) == 1
    words = said.popitem()[1] if same else '; '.join(f'{read} of {label}' for label, read in said.items())
    return rows, query_numbers(items, layers), CAPTIONS[args.figure].format(layers=f'{words} (counted from 0)')


def draw_views(args: argparse.Namespace) -> tuple[Sequence[Row], list[dict], str]:
    """Return rows, numbers and caption of Figure 5."""
    import dataclasses

    import torch

    from jrs.engine.inference import choose_ranking, class_names
    from jrs.models.targets import instance_targets
    from jrs.postprocess.distinct import distinct_instances
    from jrs.report.figures.views import COLOURS, SEPARATION, separated_views, separation, view_rows
    cfg = config_from(args)
    checkpoint, = named_checkpoints(args.weights, cfg)
    batch = item_of(dataset_of(cfg), args.scene)
    if batch.cam_from_world is None or batch.depth_m is None or batch.instance_ids is None:
        raise DataError(f'{batch.scene_names[0]}: Figure 5 needs true cameras, depth and instances; the scene lacks some.')
    choose_ranking(checkpoint.cfg, agnostic=False, keep_all=False)
    model = load(checkpoint, args.device)
    batch = batch.to(next(model.parameters()).device)
    with torch.no_grad():
        scene = model.reconstruct(batch)[0].to('cpu')
    batch = batch.to('cpu').unpacked()
    if scene.instances is not None:
        scene = dataclasses.replace(scene, instances=distinct_instances(scene.instances, args.min_score))
    size = scene.instances.packed.size if scene.instances is not None else tuple(batch.images.shape[-2:])
    truth = instance_targets(batch, size)[0]
    shares = truth.masks.flatten(2).float().mean(-1).numpy()                                # (G, V)
    views, apart = separated_views(separation(batch.cam_from_world[0].numpy(), batch.depth_m[0].numpy()), shares)
    drawing = view_rows(scene, truth, views, class_names(cfg, {}))
    return drawing.rows, drawing.numbers, f'{batch.scene_names[0]}. {SEPARATION} Here: {apart:.2f}. {COLOURS}'


def draw_rooms(args: argparse.Namespace) -> tuple[Sequence[Row], list[dict], str]:
    """Return rows, numbers and caption of Figure 6."""
    from jrs.report.figures.clouds import comparison_rows, room_numbers
    rooms = read_rooms(args, args.scene or [None])
    return (comparison_rows(rooms, args.yaw, args.pitch), [row for room in rooms for row in room_numbers(room)],
            CAPTIONS['6'].format(min_score=args.min_score))


def draw_regions(args: argparse.Namespace) -> tuple[Sequence[Row], list[dict], str]:
    """Return rows, numbers and caption of Figure 7."""
    from jrs.report.figures.clouds import enlarged_rows, room_numbers, telling_regions
    if len(args.weights) != 2:
        raise ConfigError(f'Figure 7 compares two methods, got {len(args.weights)}.')
    room, = read_rooms(args, [args.scene])
    shot = room.shot(args.yaw, args.pitch)
    numbers = telling_regions(room, shot, args.regions)
    if args.instance:
        known = {number: place for place, number in enumerate(room.true_numbers.tolist(), start=1)}
        if absent := sorted(set(args.instance) - set(known)):
            raise DataError(f'--instance {absent}: {room.name} has no such instance of a scored class; it has '
                            f'{sorted(known)}.')
        numbers = [known[number] for number in args.instance]
    if not numbers:
        raise DataError(f'{room.name}: no true instance is seen well from this side; choose another --yaw or --pitch.')
    return enlarged_rows(room, shot, numbers), room_numbers(room, numbers), CAPTIONS['7'].format(min_score=args.min_score)


def read_rooms(args: argparse.Namespace, scenes: Sequence[str | None]) -> list[Room]:
    """Return the scenes with what each method says of them.

    Raises:
        ConfigError: two methods have one label. DataError: a scene or a file is missing or broken.
    """
    from jrs.benchmarks import get_benchmark
    from jrs.evaluation.saving import ONCE
    from jrs.report.figures.clouds import read_room
    cfg = config_from(args)
    dataset = dataset_of(cfg)
    names = [scene_name(dataset, scene) for scene in scenes]
    methods = [_method(word, cfg) for word in args.weights]
    labels = [label for label, _ in methods]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ConfigError(f'two methods are called {twice[0]!r}: name them, LABEL=PATH.')
    with tempfile.TemporaryDirectory() as made:
        folders: dict[str, Path] = {}
        for number, (label, source) in enumerate(methods):
            if not isinstance(source, Path):
                print(f'{label}: {source.file}', flush=True)
                path = Path(made) / str(number)
                predict(source, cfg, dataset, names, path, args.device)
                source = path / ONCE if (path / ONCE).is_dir() else path
            folders[label] = source
        benchmark = get_benchmark(cfg.test_dataset.benchmark)
        return [read_room(dataset.root / name, folders, benchmark, args.min_score) for name in names]


def _method(word: str, cfg: Config) -> tuple[str, Path | Checkpoint]:
    """Return label and folder of predictions of a ``[LABEL=]PATH``, or the checkpoint where it is none."""
    label, equals, path = word.partition('=')
    label, folder = (label, Path(path)) if equals and not Path(word).exists() else (Path(word).name, Path(word))
    if folder.is_dir():
        return label, folder
    checkpoint, = named_checkpoints([word], cfg)
    return checkpoint.label, checkpoint


def predict(checkpoint: Checkpoint, cfg: Config, dataset, names: Sequence[str], folder: Path, device: str) -> None:
    """Write prediction files of a checkpoint to `folder`, as tools/test.py --save-predictions does."""
    import torch

    from jrs.cli.test import instance_metrics
    from jrs.registry import METRICS, build
    metric = dict(next(reversed(instance_metrics(cfg, 'a figure').values())), predictions=str(folder), oracle=False)
    scorer = build(METRICS, metric, 'metrics')
    scorer.dataset_meta = dataset.metainfo
    model = load(checkpoint, device)
    for name in names:
        batch = item_of(dataset, name)
        with torch.no_grad():
            found = model.reconstruct(batch.to(next(model.parameters()).device))
        scorer.process(batch, [scene.to('cpu') for scene in found])


DRAWERS: Mapping = {'3': draw_attention, '4': draw_attention, '5': draw_views, '6': draw_rooms, '7': draw_regions}
