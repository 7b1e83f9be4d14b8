"""``tools/attention.py``: where the queries of instances look (Figures 3 and 4), in pictures and in numbers."""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mmengine.config import Config

from jrs.benchmarks import class_name
from jrs.cli.options import add_config_options, config_from
from jrs.cli.parser import Parser
from jrs.errors import ConfigError, DataError, WeightsError, find_named
from jrs.places import UNTRAINED, command_words

if TYPE_CHECKING:                               # torch takes seconds, and --help should not
    from torch import nn

    from jrs.engine.attention import ShownInstance
    from jrs.evaluation.attention import AttentionSums

EXAMPLES = """examples:
  python tools/attention.py configs/segvggt/all24_fada.py FADA=RUN/weights.safetensors none=OTHER_RUN/weights.safetensors \\
      --profile rooms --out outputs/attention
  python tools/attention.py configs/segvggt/all24_fada.py untrained --profile debug --scene scene0007_00 --instance 3 \\
      --layers 0 3 --out outputs/attention
  python tools/attention.py ... --class window chair --query score          best-scored predictions of a window and a chair
  python tools/attention.py ... --class all --query score --layers all --views all        every class, layer and view

The query of an instance is the one that the matcher of the checkpoint's own training assigns to it, or with --query score
the one of the best-scored prediction whose mask overlaps this instance more than any other. A checkpoint with a config.py
beside it is built from the model in there, others from CONFIG. Data come from CONFIG. The paper does not say which query
its Figures 3 and 4 show.

written to OUT: attention.html, which needs nothing else; attention.json and attention.csv with the numbers per layer, and in
attention.json their slopes over depth (the change from the first inserted layer to the last of a straight line); maps/ with
a picture per checkpoint and instance (rows = views, columns = layers). With --views all also labels/, as the paper's
supplement has it: a folder per class, in it a picture per layer with every view; with several checkpoints a folder of
each around them. Fewer scenes: --cfg-options test_dataset.limit_scenes=8.
"""
NUMBERS = {                                     # heading of a chart -> the mean that it shows
    'mass on views that show the instance': 'view_mass', 'mass on pixels that show the instance': 'pixel_mass',
    'entropy over views (1 = even)': 'entropy', 'JS divergence from the true visibility': 'js'}
LINES = ('#d9480f', '#1971c2', '#2f9e44', '#9c36b5', '#e8a200', '#0c8599', '#c2255c', '#5f3dc4')
EVEN = '#868e96'
ALL = 'all'
MAX_ROWS = 12                                   # views in a picture; more are shown evenly spaced
NOTES = dict(
    matcher='Attention of the query that the training matcher assigns to each true instance, mean over heads; means over '
            'all matched instances, which are all true ones unless a scene has more of them than there are queries.',
    score='Attention of the query of the best-scored prediction of each true instance, mean over heads; means over the '
          'instances that a prediction is of: the one whose mask it overlaps most.')
NOTE = ('A patch spreads its mass evenly over its pixels. "Even" is attention that gives every token the same weight.')
MAPS_NOTE = ('The outline is the true mask; the number in a cell is the share of the attention that falls on that view. '
             'Colours of a column mean the same in all its rows: black is none.')


@dataclass
class Checkpoint:
    """What is looked at: its name, the file ('untrained' without one), and the config that its model is built from."""

    label: str
    file: str
    cfg: Config


@dataclass
class Evidence:
    """What was found for one checkpoint."""

    checkpoint: Checkpoint
    sums: AttentionSums
    shown: list[ShownInstance]


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/attention.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(options)
    options.add_argument('weights', nargs='+', metavar='[LABEL=]WEIGHTS', help='checkpoints to stand side by side, or the '
                         f'word {UNTRAINED!r}')
    options.add_argument('--out', type=Path, required=True, help='folder for the results')
    options.add_argument('--scene', help='scene of the pictures; default: the first of the test split')
    options.add_argument('--instance', type=int, nargs='+', metavar='ID', help='ids of instances of that scene; default: a '
                         'large one that at most half of the views show')
    options.add_argument('--class', dest='classes', nargs='+', metavar='NAME', help='or of these classes: a large '
                         "instance of each, of --scene or of the first scene of the test split that shows one; 'all': of "
                         'each class that --scene shows; those that no query is of are said, not drawn')
    options.add_argument('--query', choices=('matcher', 'score'), default='matcher', help='whose attention an instance has: '
                         'of the query that the training matcher assigns (default), or of the best-scored prediction')
    options.add_argument('--layers', type=_layer, nargs='+', metavar='LAYER', help='layers of the pictures, counted from 0, '
                         "or 'all' that read; default: those that stand where the paper's 14, 22 and 23 of 24 do")
    options.add_argument('--views', choices=('some', ALL), default='some', help=f'draw at most {MAX_ROWS} views of a scene, '
                         'evenly spaced (default), or all that the test reads, and then also labels/')
    options.add_argument('--heads', action='store_true', help='also a picture per layer with a column for each head')
    options.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N, mps')
    return options


def main(argv: list[str] | None = None) -> None:
    """Look at every checkpoint in turn, then write pictures, numbers and the page."""
    args = parser().parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        raise DataError(f'--out {args.out} is a file; name a folder.')
    from jrs.engine.writer import one_writer
    with one_writer(args.out, command_words('attention', argv)):
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Do what `main` says, in a folder that nobody else writes to."""
    cfg = config_from(args)
    cfg.weights, cfg.model.teacher = None, None
    checkpoints = named_checkpoints(args.weights, cfg)
    from jrs.engine.build import check_ready, scoring_loader
    from jrs.engine.data import say_data
    from jrs.engine.inference import class_names
    ready = check_ready(cfg, 'test_dataset')
    say_data(cfg, ready)
    dataset = ready['test_dataset']
    names = class_names(cfg, {})
    show = chosen(dataset, args.scene, args.instance, args.classes or (), names)
    found = []
    for checkpoint in checkpoints:
        print(f'{checkpoint.label}: {checkpoint.file}, {len(dataset)} scenes', flush=True)
        found.append(look(checkpoint, scoring_loader(dataset, cfg.train.workers), show, args))
    facts = dict(config=args.config, profile=args.profile, split=dataset.split, scenes=len(dataset), query=args.query)
    write_numbers(args.out, found, facts)
    pictures = write_pictures(args.out, found, names, args.views == 'all')
    if args.views == 'all':
        print(f'written: {write_labels(args.out / "labels", found, names)}')
    page = write_page(args.out, found, facts, pictures)
    print(f'{format_numbers(found)}\nwritten: {args.out / "attention.json"}, {args.out / "attention.csv"}, '
          f'{args.out / "maps"}\nLook at: {page}')


def named_checkpoints(words: Sequence[str], cfg: Config) -> list[Checkpoint]:
    """Return what ``[LABEL=]FILE`` names, each with the config beside it, else `cfg`.

    Raises:
        WeightsError: a file is not there. ConfigError: two have one label.
    """
    from jrs.config import load_config
    found = []
    for word in words:
        label, equals, file = word.partition('=')
        if not equals or Path(word).is_file():
            label, file = '', word
        if file != UNTRAINED and not Path(file).is_file():
            raise WeightsError(f'There is no checkpoint {file}. Name a weights file, or {UNTRAINED!r} for the model before '
                               'training.')
        beside = Path(file).parent / 'config.py'
        own = load_config(beside) if file != UNTRAINED and beside.is_file() else cfg
        found.append(Checkpoint(label or default_label(file), file, own))
    labels = [checkpoint.label for checkpoint in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(f'two checkpoints are called {twice[0]!r}: name them, LABEL=FILE.')
    return found


def default_label(file: str) -> str:
    """Return the run folder's name for its `weights.safetensors`, else the name of the file."""
    path = Path(file)
    return path.resolve().parent.name if path.name == 'weights.safetensors' else path.stem


def chosen(dataset, scene: str | None, instances: Sequence[int] | None, classes: Sequence[str] = (),
           class_names: Sequence[str] = ()) -> dict[str, list[int]]:
    """Return scene -> ids of the instances to draw.

    Args:
        dataset: the test split.
        scene: one of it; None = the first, or the first that shows an instance of a class.
        instances: ids.
        classes: names of which an instance each is drawn.
        class_names: all names by class index.

    Raises:
        DataError: the split has no such scene, or the scene no true instances. ConfigError: no such class.
    """
    from jrs.engine.attention import telling_instance
    names, first = dataset.metainfo['scene_names'], scene_name(dataset, scene)
    show: dict[str, list[int]] = {first: list(instances or ())}
    if list(classes) == [ALL]:
        classes = shown_classes(dataset[names.index(first)], class_names)
        scene = first
    for name in classes:
        label = find_named({known: index for index, known in enumerate(class_names)}, name, 'class')
        place, number = of_class(dataset, [scene] if scene else names, label, name)
        show.setdefault(place, []).append(number)
    if not instances and not classes:
        show[first].append(telling_instance(dataset[names.index(first)]))
    return {place: list(dict.fromkeys(numbers)) for place, numbers in show.items() if numbers}


def scene_name(dataset, scene: str | None) -> str:
    """Return the name of a scene of a split, None = the first; a DataError where it has none of that name."""
    names = dataset.metainfo['scene_names']
    if scene is not None and scene not in names:
        raise DataError(f'--scene {scene} is not in the test split, which has: {", ".join(names[:40])}.')
    return scene or names[0]


def shown_classes(batch, class_names: Sequence[str]) -> list[str]:
    """Return the classes of which the views of a batch of one scene show an instance, in the order of the classes."""
    import torch

    from jrs.engine.attention import telling_instances
    labels = [] if batch.instances is None else torch.unique(batch.instances[0].labels).tolist()
    return [class_name(class_names, label) for label in labels if telling_instances(batch, label)]


def of_class(dataset, scenes: Sequence[str], label: int, name: str) -> tuple[str, int]:
    """Return the first of `scenes` that shows an instance of the class with index `label`, and the id of one."""
    from jrs.engine.attention import telling_instances
    names = dataset.metainfo['scene_names']
    for scene in scenes:
        batch = dataset[names.index(scene)]
        if batch.instances is not None and (found := telling_instances(batch, label)):
            return scene, found[0]
    raise DataError(f'--class {name}: no view of {scenes[0] if len(scenes) == 1 else "the test split"} shows one.')


def look(checkpoint: Checkpoint, scenes, show: dict[str, list[int]], args: argparse.Namespace) -> Evidence:
    """Return the evidence of one checkpoint.

    Raises:
        ConfigError: its queries do not read at a layer that is asked for.
    """
    from jrs.engine.attention import paper_layers, study
    from jrs.models.attention import inserted_layers
    model = load(checkpoint, args.device)
    inserted = inserted_layers(model)
    if len(args.layers or ()) > 1 and ALL in args.layers:
        raise ConfigError(f'--layers: {ALL!r} stands alone, or name layers by number.')
    asked = inserted if args.layers == [ALL] else args.layers
    layers = tuple(dict.fromkeys(asked or paper_layers(inserted, model.backbone.num_query_layers)))
    absent = sorted(set(layers) - set(inserted))
    if absent:
        raise ConfigError(f'--layers: the queries of {checkpoint.label} do not read at the layers {absent}; they read at '
                          f'{list(inserted)}.')
    absent = partial(_say_absent, checkpoint.label) if list(args.classes or ()) == [ALL] else None
    return Evidence(checkpoint, *study(model, scenes, show, layers, args.heads, args.query, absent))


def _say_absent(label: str, scene: str, instance: int) -> None:
    print(f'{label}: no query is of instance {instance} of {scene}; it is not drawn', flush=True)


def load(checkpoint: Checkpoint, device: str) -> nn.Module:
    """Return the model of a checkpoint on its device, in evaluation mode."""
    import torch

    from jrs.engine.build import build_model
    from jrs.engine.inference import load_model, pick_device
    if checkpoint.file != UNTRAINED:
        return load_model(checkpoint.cfg, checkpoint.file).to(pick_device(device))
    torch.manual_seed(checkpoint.cfg.seed)
    return build_model(checkpoint.cfg).eval().to(pick_device(device))


def rows_of(evidence: Evidence) -> list[dict]:
    """Return one row of numbers per layer; `even_` is what even attention would have."""
    per_layer, even = evidence.sums.means()
    return [dict(checkpoint=evidence.checkpoint.label, layer=layer, instances=evidence.sums.instances,
                 **{name: _plain(values[index]) for name, values in per_layer.items()},
                 **{f'even_{name}': _plain(value) for name, value in even.items()})
            for index, layer in enumerate(evidence.sums.layers)]


def slopes_of(evidence: Evidence) -> dict:
    """Return how each mean changes with depth (`depth_slope`), None where there is one layer."""
    from jrs.evaluation.attention import depth_slope
    per_layer, _ = evidence.sums.means()
    return dict(checkpoint=evidence.checkpoint.label, **{
        name: _plain(depth_slope(evidence.sums.layers, values)) for name, values in per_layer.items()})


def _plain(value: float) -> float | None:
    """Return a number for JSON: no NaN."""
    return None if math.isnan(value) else float(value)


def write_numbers(out: Path, found: Sequence[Evidence], facts: dict) -> None:
    """Write `attention.json`, with the instances of the pictures, and `attention.csv`."""
    from jrs.io.atomic import atomic_write
    rows = [row for evidence in found for row in rows_of(evidence)]
    models = {item.checkpoint.label: dict(weights=item.checkpoint.file, costs=costs_of(item.checkpoint)) for item in found}
    shown = [dict(checkpoint=evidence.checkpoint.label, **record(item)) for evidence in found for item in evidence.shown]
    with atomic_write(out / 'attention.json', 'w') as file:
        json.dump(dict(facts=facts, checkpoints=models, layers=rows, slopes=list(map(slopes_of, found)), shown=shown), file,
                  indent=1)
    with atomic_write(out / 'attention.csv', 'w') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def costs_of(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the costs by which the checkpoint's matcher assigns queries."""
    return sorted(name for name, cost in checkpoint.cfg.model.matcher.costs.items() if cost is not None)


def record(item: ShownInstance) -> dict:
    """Return the numbers of a drawn instance."""
    return dict(scene=item.scene, instance=item.instance, query=item.query, views=item.view_names,
                visibility=item.visibility.tolist(),
                view_attention={layer: values.tolist() for layer, values in item.view_attention.items()})


def format_numbers(found: Sequence[Evidence]) -> str:
    """Return the table that is printed: one line per layer and checkpoint."""
    names = list(NUMBERS.values())
    width = max(10, *(len(evidence.checkpoint.label) for evidence in found))
    lines = [f'{"checkpoint":{width}} layer ' + ' '.join(f'{name:>10} {"(even)":>8}' for name in names)]
    for row in (row for evidence in found for row in rows_of(evidence)):
        cells = [f'{_number(row[name]):>10} {_number(row[f"even_{name}"]):>8}' for name in names]
        lines.append(f'{row["checkpoint"]:{width}} {row["layer"]:5} ' + ' '.join(cells))
    for slopes in map(slopes_of, found):
        cells = [f'{_number(slopes[name]):>10} {"":8}' for name in names]
        lines.append(f'{slopes["checkpoint"]:{width}} slope ' + ' '.join(cells).rstrip())
    return '\n'.join(lines)


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.4f}'


def write_pictures(out: Path, found: Sequence[Evidence], class_names: Sequence[str],
                   every: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """Write `maps/*.png`, of `every` view or of some; return caption -> label of the checkpoint -> picture."""
    from jrs.io.names import distinct
    from jrs.io.png import write_png8
    pictures: dict[str, dict[str, np.ndarray]] = {}
    drawn: dict[str, np.ndarray] = {}
    for evidence in found:
        label = evidence.checkpoint.label
        for item in evidence.shown:
            name = class_name(class_names, item.label)
            for what, picture in pictures_of(item, every).items():
                drawn[f'{item.scene}_{item.instance}_{label}{what}'] = picture
                caption = f'{name}, instance {item.instance} of {item.scene}{what}'
                pictures.setdefault(caption, {})[f'{label}: query {item.query}'] = picture
    for name, picture in zip(distinct([*map(_word, drawn)], [*drawn]), drawn.values(), strict=True):
        write_png8(out / 'maps' / f'{name}.png', picture)
    return pictures


def _layer(text: str) -> int | str:
    """Return the number of a layer, or the word for all of them."""
    return ALL if text == ALL else int(text)


def _word(text: str) -> str:
    """Return a text as part of a file name."""
    return re.sub(r'[^\w.+-]+', '-', text)


def pictures_of(item: ShownInstance, every: bool = False) -> dict[str, np.ndarray]:
    """Return name -> picture: '' has a column per layer; where heads are kept, each layer has one with a column per head."""
    means = {layer: maps.mean(0) for layer, maps in item.maps.items()}
    pictures = {'': draw(item, {heading(item, layer): maps for layer, maps in means.items()},
                         {heading(item, layer): item.view_attention[layer] for layer in means}, every)}
    for layer, maps in item.maps.items():
        if len(maps) > 1:
            heads = {f'head {head}': values for head, values in enumerate(maps)}
            shares = {name: values.sum((-1, -2)) for name, values in heads.items()}
            pictures[f', layer {layer} by head'] = draw(item, heads, shares, every)
    return pictures


def heading(item: ShownInstance, layer: int) -> str:
    """Return what stands above the column of a layer."""
    return f'layer {layer}: {item.view_attention[layer][item.visibility > 0].sum():.0%} on views that show it'


def draw(item: ShownInstance, maps: dict, view_attention: dict, every: bool = False) -> np.ndarray:
    """Return the picture of one instance, of at most `MAX_ROWS` of its views, or of `every` one."""
    from jrs.visualization.attention import attention_maps_picture
    most = len(item.images) if every else min(len(item.images), MAX_ROWS)
    views = np.unique(np.linspace(0, len(item.images) - 1, most).round().astype(int))
    return attention_maps_picture(
        item.images[views], item.mask[views], [item.view_names[view] for view in views],
        {name: values[views] for name, values in maps.items()},
        {name: values[views] for name, values in view_attention.items()}, item.visibility[views])


def write_labels(folder: Path, found: Sequence[Evidence], class_names: Sequence[str]) -> Path:
    """Write a folder per class, in it a picture per layer with every view; several checkpoints have a folder each around."""
    from jrs.io.names import distinct
    from jrs.io.png import write_png8
    from jrs.visualization.attention import attention_layer_picture
    labels = [_word(evidence.checkpoint.label) for evidence in found]
    for evidence, label in zip(found, distinct(labels, [one.checkpoint.label for one in found]), strict=True):
        around = folder / label if len(found) > 1 else folder
        classes = [class_name(class_names, item.label) for item in evidence.shown]
        for item, name in zip(evidence.shown, distinct([*map(_word, classes)], classes), strict=True):
            for layer, maps in item.maps.items():
                write_png8(around / name / f'layer_{layer:02d}.png', attention_layer_picture(
                    item.images, item.mask, item.view_names, maps.mean(0), item.view_attention[layer], item.visibility))
    return folder


def write_page(out: Path, found: Sequence[Evidence], facts: dict, pictures: dict[str, dict[str, np.ndarray]]) -> Path:
    """Write `attention.html`: curves, maps, numbers.

    Args:
        out: its folder.
        found: what each checkpoint has.
        facts: what stands at the end of the page.
        pictures: caption of an instance -> label of a checkpoint -> picture (H, W, 3) uint8 RGB.
    """
    from jrs.visualization import html
    from jrs.visualization.report import write_report
    rows = [row for evidence in found for row in rows_of(evidence)]
    models = [[item.checkpoint.label, item.checkpoint.file, ', '.join(costs_of(item.checkpoint))] for item in found]
    cells = [['–' if value is None else value for value in row.values()] for row in rows]
    sections = [f'<p>{escape(NOTES[facts["query"]])} {escape(NOTE)}</p>',
                html.table(['checkpoint', 'weights', 'costs of its matcher'], models),
                charts(found), f'<h2>Maps</h2><p class="soft">{escape(MAPS_NOTE)}</p>',
                *(side_by_side(caption, columns) for caption, columns in pictures.items()),
                '<h2>Numbers</h2>', html.table([name.replace('_', ' ') for name in rows[0]], cells)]
    return write_report(out / 'attention.html', 'Where queries look', sections, facts)


def side_by_side(caption: str, pictures: dict[str, np.ndarray]) -> str:
    """Return the `pictures` (H, W, 3) uint8 RGB of one instance as HTML, a column per checkpoint; their labels are above."""
    from jrs.visualization import html
    cells = [html.image(picture, f'{caption}, {label}') for label, picture in pictures.items()]
    widest = max(picture.shape[1] for picture in pictures.values())
    return f'<h3>{escape(caption)}</h3>{html.picture_grid(list(pictures), [cells], widest)}'


def charts(found: Sequence[Evidence]) -> str:
    """Return the curves over layers, one colour per checkpoint; dashed = even attention over the same instances."""
    from jrs.visualization import html
    from jrs.visualization.curves import Curve, chart
    colours = [LINES[index % len(LINES)] for index in range(len(found))]
    parts = []
    for title, name in NUMBERS.items():
        curves = []
        for evidence, colour in zip(found, colours, strict=True):
            per_layer, even = evidence.sums.means()
            layers = np.array(evidence.sums.layers, np.float64)
            curves.append(Curve(evidence.checkpoint.label, layers, per_layer[name], colour))
            curves.append(Curve(f'{evidence.checkpoint.label}, even', layers, np.full(len(layers), even[name]), EVEN, '5 4'))
        curves = [curve for curve in curves if np.isfinite(curve.y).all()]          # NaN without any instance
        parts += [chart(f'{title}, by layer', curves)] if curves else []
    key = [f'<span style="color:{colour}">●</span> {escape(evidence.checkpoint.label)} &nbsp; '
           for evidence, colour in zip(found, colours, strict=True)]
    return (f'<p>{"".join(key)}<span style="color:{EVEN}">╌</span> even attention</p>'
            f'{html.picture_grid([""] * 2, [parts], 480)}')
