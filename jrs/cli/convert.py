"""``tools/convert.py``: official checkpoints -> one safetensors file with its origin and licence; checks of key lists."""

from __future__ import annotations

import argparse
import hashlib
import math
import operator
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor, nn

from jrs import __version__
from jrs.cli.options import add_copy_option
from jrs.cli.parser import Parser, config_argument
from jrs.config import load_config, parse_override
from jrs.engine.build import FRESH
from jrs.errors import ConfigError, WeightsError
from jrs.finite import refuse_nonfinite
from jrs.io.lean_build import build_on_meta
from jrs.io.tensor_file import write_tensors
from jrs.io.weights import (
    BROKEN,
    LOW_RANK,
    WeightsState,
    compare_keys,
    encode_metadata,
    first_of,
    in_our_layout,
    in_our_names,
    our_names,
    read_metadata,
    read_state,
)
from jrs.layers.lora import merged_weight
from jrs.places import config_named
from jrs.registry import MODELS, build
from jrs.schema import without_teacher

EXAMPLES = """examples:
  python tools/convert.py model.pt --out weights/vggt_1b.safetensors                        VGGT-1B, without its track head
  python tools/convert.py segvggt_scannet200.pt --out weights/segvggt.safetensors --merge-lora
  python tools/convert.py --keys KEYS.txt configs/segvggt/all24_fada.py                     is a model's list of keys right?

A key list has `name shape` per line, such as `depth_head.norm.weight (2048,)`; further shapes after a `|` are as good. In
`blocks.{0..23}.ls{1,2}.gamma [1024]` braces stand for each of the numbers. Lines that begin with `#` are passed over.
"""
CONFIG = 'configs/segvggt/all24_fada.py'
TRACK_HEAD = 'track_head.'
RELEASED_ALPHA = 32.0                           # of both SegVGGT files, which do not hold it (segvggt_release.md section 2)
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
NON_COMMERCIAL = 'non-commercial; read the licence where the file comes from before use'
VGGT_CARD = dict(origin='facebook/VGGT-1B (https://huggingface.co/facebook/VGGT-1B)',
                 licence=f'VGGT licence: {NON_COMMERCIAL}',
                 trained_on='many public 3D data sets, see the VGGT paper')
SEGVGGT_CARD = dict(origin='JinyuanQu/SegVGGT (https://huggingface.co/JinyuanQu/SegVGGT)', licence=NON_COMMERCIAL)
MAX_KEYS = 1 << 14                              # that a line of a key list may stand for; models have thousands
BENCHMARK_OF = {18: 'scannet20', 198: 'scannet200'}     # by number of classes of the released files


@dataclass(frozen=True)
class Contents:
    """What a weights file holds, read off names and shapes.

    Attributes:
        released: named as in the files of VGGT and SegVGGT; False for ours.
        num_classes: K; 0 without a class head.
        num_queries: Q; 0 without queries.
        rank: of the low-rank factors; 0 where there are none, or merged ones.
        num_keys: tensors in the file.
        num_parameters: values in the file.
        num_track_keys: those of the track head, which are left out.
    """

    released: bool
    num_classes: int
    num_queries: int
    rank: int
    num_keys: int
    num_parameters: int
    num_track_keys: int

    @property
    def kind(self) -> str:
        """What the file is, in words."""
        who = 'released SegVGGT' if self.released and self.num_queries else 'VGGT' if self.released else 'model of jrs'
        parts = [f'K = {self.num_classes} classes, Q = {self.num_queries} queries'] if self.num_queries else []
        if self.num_queries or self.rank or not self.released:
            parts.append(f'LoRA of rank {self.rank}' if self.rank else 'no LoRA (none, or merged)')
        if self.released and not self.num_queries:
            parts.append(f'{"with" if self.num_track_keys else "without"} track head')
        return f'{who}: {", ".join(parts)}; {self.num_keys} keys, {self.num_parameters:,} parameters'


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/convert.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('file', nargs='?', type=Path, metavar='IN', help='a checkpoint: safetensors, a file of torch.save, '
                         'or the .index.json of several')
    add_copy_option(options)
    options.add_argument('--out', type=Path, metavar='FILE.safetensors', help='the file to write')
    options.add_argument('--origin', help='where the weights come from; known for the official files')
    options.add_argument('--licence', help='terms of the weights; known for the official files')
    options.add_argument('--merge-lora', action='store_true', help='add the low-rank factors to the weights they adapt')
    options.add_argument('--lora-alpha', type=float, help='alpha of the LoRA in the file; default: what the file says, else '
                         f'{RELEASED_ALPHA:g}, that of the released SegVGGT')
    options.add_argument('--dtype', choices=DTYPES, help='store as this type; default: as in the file')
    options.add_argument('--config', type=config_argument, default=CONFIG,
                         help='experiment whose architecture the file must have (default: '
                         'configs/segvggt/all24_fada.py); LoRA, and of released files classes and queries, are read off it')
    options.add_argument('--keys', type=config_argument, nargs=2, metavar=('LIST', 'CONFIG'),
                         help='compare the model of CONFIG with a key list; '
                         'no weights are read or written')
    options.add_argument('--profile', default='paper', help='scale of the config (default: %(default)s)')
    options.add_argument('--cfg-options', nargs='+', default=[], metavar='a.b=c', help='overrides of the config')
    return options


def main(argv: list[str] | None = None) -> int:
    """Convert a file, or compare a key list; returns the exit code."""
    args = parser().parse_args(argv)
    overrides = dict(parse_override(item) for item in args.cfg_options)
    if not math.isfinite(args.lora_alpha or 0):
        raise ConfigError(f'--lora-alpha must be a finite number, got {args.lora_alpha}.')
    if args.keys:
        return check_keys(Path(args.keys[0]), load_config(args.keys[1], args.profile, overrides))
    if args.file is None or args.out is None:
        raise ConfigError('Name a file and --out FILE.safetensors, or --keys LIST CONFIG; --help shows examples.')
    if args.out.suffix != '.safetensors':
        raise ConfigError(f'--out must end in .safetensors, got {args.out}.')
    convert(args, load_config(args.config, args.profile, overrides))
    return 0


def convert(args: argparse.Namespace, cfg: Config) -> None:
    """Write `args.out` from `args.file`, which must hold the architecture of `cfg`."""
    known = build_on_meta(lambda: build(MODELS, without_teacher(cfg.model), 'model'))[0].state_dict()
    found = read_state(args.file, known, args.copy)
    contents, state = look_into(found)
    check_against(state, contents, cfg, args.file)
    print(f'{args.file} is a {contents.kind}{stored_types(state)}')
    refuse_nonfinite(state, f'{args.file} holds broken weights', BROKEN, WeightsError)
    card = make_card(args, contents, cfg) | (dict(copy=found.copy) if found.copy else {})
    low_rank = {}
    if args.merge_lora and contents.rank:
        low_rank = {key: state.pop(key) for key in list(state) if key.endswith(LOW_RANK)}
        scale = card['lora']['alpha'] / contents.rank
        card |= dict(lora=None, merged_lora=card['lora'])
    announced = {name: tensor.to('meta', _stored_dtype(tensor, args.dtype)) for name, tensor in state.items()}

    def finish(name: str, announcement: Tensor) -> Tensor:
        tensor, adapted = state[name], name.removesuffix('.weight')
        if f'{adapted}.lora_a' in low_rank:
            tensor = merged_weight(tensor, low_rank[f'{adapted}.lora_a'], low_rank[f'{adapted}.lora_b'], scale)
        stored = tensor.to(announcement.dtype)
        refuse_nonfinite({name: stored}, f'{args.file} as {announcement.dtype}', 'Its values are too large for this type, '
                         'or for --lora-alpha: nothing is written.', WeightsError)
        return stored

    write_tensors(args.out, announced, encode_metadata(card), finish)
    print(f'written: {args.out}, {len(state)} tensors, {args.out.stat().st_size / 1e9:.2f} GB; licence: {card["licence"]}')


def stored_types(state: Mapping[str, Tensor]) -> str:
    """Return which types weights (...) are stored in where not all are float32, else ''."""
    kinds = Counter(str(tensor.dtype).removeprefix('torch.') for tensor in state.values())
    words = ', '.join(f'{kind} ({count})' for kind, count in kinds.items())
    return '' if set(kinds) <= {'float32'} else f'; stored as {words}'


def look_into(found: WeightsState) -> tuple[Contents, dict[str, Tensor]]:
    """Return what the tensors of a file are, and the tensors under our names without the track head.

    Args:
        found: its tensors, of any shape. Read off are K from `class_head.2.bias` (K + 1,), Q from
            `queries.tokens` (1, Q, C) and the rank from the first `*.lora_a` (rank, C); what is absent is 0.
    """
    released = found.released
    state = {name: tensor for name, tensor in found.ours.items() if not name.startswith(TRACK_HEAD)}
    classes, queries = state.get('class_head.2.bias'), state.get('queries.tokens')
    low_rank = [key for key in state if key.endswith('.lora_a')]
    contents = Contents(
        released=any(key.startswith('aggregator.') for key in released),
        num_classes=len(classes) - 1 if classes is not None and classes.ndim else 0,
        num_queries=queries.shape[1] if queries is not None and queries.ndim == 3 else 0,
        rank=state[low_rank[0]].shape[0] if low_rank else 0, num_keys=len(released),
        num_parameters=sum(tensor.numel() for tensor in released.values()),
        num_track_keys=sum(key.startswith(TRACK_HEAD) for key in released))
    return contents, state


def check_against(state: Mapping[str, Tensor], contents: Contents, cfg: Config, path: Path) -> None:
    """Raise a WeightsError that names the first keys which are missing, left over, or of another shape.

    Args:
        state: our name -> weight; its shape is compared with that in the model of `cfg`, so (Q, C) is not (1, Q, C).
        contents: what `look_into` found.
        cfg: the experiment that the weights should be of.
        path: their file, for the message.
    """
    own = {key: tuple(value.shape) for key, value in architecture(contents, cfg).state_dict().items()}
    report, lacking = compare_keys(own, state, fresh=())
    wrong = [f'{key}: {tuple(state[key].shape)} instead of {shape}' for key, shape in own.items()
             if key in state and state[key].shape != shape]
    unknown = [f'{key}: unknown' for key in report.left_over]
    faults = [first_of(found, 3) for found in ([f'{key}: missing' for key in lacking], unknown, wrong) if found]
    if faults:
        looks = f'It looks like a {contents.kind}. ' if report.used else ''
        raise WeightsError(f'{path} is none of the files that are known: {"; ".join(faults)}. {looks}Other sizes need '
                           '--config (and --profile) of the experiment that they belong to.')


def architecture(contents: Contents, cfg: Config) -> nn.Module:
    """Return the model of `cfg` without values; LoRA, and of released files classes and queries, as the file has them."""
    parts = {name: cfg.model.get(name) for name in ('type', 'backbone', 'camera_head', 'depth_head', 'geometry_head',
                                                    'scale_head', 'queries', 'feature_head', 'class_head')}
    if contents.rank or 'lora' in parts['backbone']:
        parts['backbone'] = dict(parts['backbone'], lora=dict(rank=contents.rank, alpha=1.0) if contents.rank else None)
    num_classes = cfg.model.get('num_classes', 0)
    if contents.released and contents.num_queries:
        parts['queries'] = dict(parts['queries'] or {}, num_queries=contents.num_queries)
        num_classes = contents.num_classes
    elif contents.released:
        parts.update(queries=None, feature_head=None, class_head=None)
    return build_on_meta(lambda: build(MODELS, parts, 'model', num_classes=num_classes))[0]


def make_card(args: argparse.Namespace, contents: Contents, cfg: Config) -> dict:
    """Return the metadata of the new file: what official files are known as, what the old one says, the command line."""
    card = {'origin': 'not stated', 'licence': 'not stated', 'trained_on': 'not stated'}
    usual = Path(cfg.filename).resolve() == Path(config_named(CONFIG)).resolve()
    if contents.released and usual and args.profile == 'paper' and not args.cfg_options:
        card |= SEGVGGT_CARD | segvggt_training(contents) if contents.num_queries else VGGT_CARD
    stated = read_metadata(args.file)
    card |= stated | {name: value for name in ('origin', 'licence') if (value := getattr(args, name))}
    alpha = args.lora_alpha or (stated.get('lora') or {}).get('alpha') or (RELEASED_ALPHA if contents.released else None)
    if contents.rank and alpha is None:
        raise WeightsError(f'{args.file} does not say the alpha of its LoRA: give --lora-alpha, as in the config '
                           '(model.backbone.lora.alpha) that it was trained with.')
    return card | dict(lora=dict(rank=contents.rank, alpha=alpha) if contents.rank else None,
                       num_classes=contents.num_classes, num_queries=contents.num_queries,
                       converted_from=describe_file(args.file), converted_by=f'jrs {__version__}')


def segvggt_training(contents: Contents) -> dict:
    """Return what the released SegVGGT with this many classes was trained on."""
    benchmark = BENCHMARK_OF.get(contents.num_classes)
    data = {'scannet20': 'ScanNetv2', 'scannet200': 'ScanNet200'}.get(benchmark, 'data that the file does not name')
    return dict(trained_on=f'{data}, starting from VGGT-1B') | (dict(benchmark=benchmark) if benchmark else {})


def describe_file(path: Path) -> dict:
    """Return name, size in bytes and SHA-256 of a file."""
    with path.open('rb') as file:
        return dict(name=path.name, bytes=path.stat().st_size, sha256=hashlib.file_digest(file, 'sha256').hexdigest())


def check_keys(list_file: Path, cfg: Config) -> int:
    """Print how the parameters of the model of `cfg` and a key list differ; 0 where nothing but known additions do."""
    listed = read_key_list(list_file)
    model = build_on_meta(lambda: build(MODELS, without_teacher(cfg.model), 'model'))[0]
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    report, lacking = compare_keys(own, listed, FRESH)
    wrong = [f'{key}: list {" or ".join(map(str, listed[key]))}, model {own[key]}' for key in report.used
             if own[key] not in listed[key]]
    rows = {'of another shape': wrong, 'missing in the list': lacking, 'unknown to the model': report.left_over,
            'skipped: of heads that the model does not have': report.skipped,
            'start fresh: the list has none of their kind': [key for key in report.missing if key not in lacking]}
    for words, keys in rows.items():
        print(f'{len(keys):6} {words}{": " if keys else ""}{first_of(keys, 3)}')
    print(f'{len(report.used) - len(wrong):6} agree in name and shape')
    return int(bool(not report.used or wrong or lacking or report.left_over))


def read_key_list(path: Path) -> dict[str, list[tuple[int, ...]]]:
    """Return our name -> allowed shapes of a key list, as the specification writes them.

    Raises:
        WeightsError: no such file, or a line that is no `name shape`.
    """
    if not path.is_file():
        raise WeightsError(f'There is no key list {path}.')
    listed = {}
    for number, line in enumerate(path.read_text(encoding='utf-8-sig', errors='replace').splitlines(), start=1):
        if not line.strip() or line.startswith('#'):
            continue
        shapes = re.findall(r'[([]([\d, ]*)[])]', line)
        if not shapes or not re.match(r'([\w.]|{[\d,.]+})+ ', line):
            raise WeightsError(f'{path}, line {number}, is not `name shape`, such as `depth_head.norm.weight (2048,)`: '
                               f'{line[:80]}')
        try:
            allowed = [tuple(map(int, re.findall(r'\d+', shape))) for shape in shapes]
            listed.update(dict.fromkeys(expand(line.split()[0]), allowed))
        except (ValueError, OverflowError) as error:
            raise WeightsError(f'{path}, line {number}: {error}.') from error
    empty = {key: torch.empty(shapes[0], device='meta') for key, shapes in listed.items()}
    converted = in_our_layout(empty)
    if converted is not None:
        listed = {key: listed[key] if value is empty.get(key) else [tuple(value.shape)] for key, value in converted.items()}
    return in_our_names(listed, our_names(listed), path, operator.eq)


def expand(pattern: str) -> list[str]:
    """Return the keys that a pattern stands for: `a.{0..2}.b` and `a.{0,2}.b`, several braces in all combinations."""
    before, brace, rest = pattern.partition('{')
    if not brace:
        return [pattern]
    numbers, _, after = rest.partition('}')
    first, dots, last = numbers.partition('..')
    chosen = range(int(first), int(last) + 1) if dots else numbers.split(',')
    ends = expand(after)
    if max(len(chosen), 1) * max(len(ends), 1) > MAX_KEYS:
        raise ValueError(f'{pattern[:80]} stands for more than {MAX_KEYS} keys')
    return [f'{before}{number}{end}' for number in chosen for end in ends]


def _stored_dtype(tensor: Tensor, name: str | None) -> torch.dtype:
    return DTYPES[name] if name and tensor.is_floating_point() else tensor.dtype
