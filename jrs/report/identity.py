"""What makes a run's numbers: settings, code, plugins, weights, data, seed. Runs of one identity need to run only once.

Training and scoring have an identity each: what only scoring reads (test data, metrics, post-processing, the code of
both) does not make a trained network another one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from jrs.datasets.splits import split_names
from jrs.discovery import plugin_name
from jrs.engine.update import update_of
from jrs.io.atomic import atomic_write
from jrs.io.weights_file import parts_of
from jrs.places import BUNDLED, PACKAGE, own_file
from jrs.plugins import manager
from jrs.schema import DEVICE, device_settings, sets_of, value_at

Identity = dict[str, Any]

IDENTITY_FILE = 'identity.json'
ABSENT = 'absent'                              # weights or data that are not on this machine: nothing to compare with
SOURCES = PACKAGE
NO_NUMBERS = ('cli', 'report', 'viewer', 'visualization', 'synth', 'datasets/prepare')      # these mark what they make
AFTER_TRAINING = ('evaluation', 'postprocess')
TRAINING_SECTIONS = ('model', 'train_dataset', 'batches', 'train', 'optimizer', 'parameter_groups', 'hooks')
SCORING_SECTIONS = ('model', 'test_dataset', 'metrics')
NOT_OF_TRAINING = ('model.postprocessor', 'model.reconstruction', 'model.teacher.checkpoint', 'batches.slots',
                   'batches.max_images', 'train.accumulate', 'train.workers', 'train.log_every', 'train.validate_every',
                   'train.save_every', 'train.timeout', 'hooks.pictures')      # slots and images: `update`
NOT_OF_SCORING = ('model.teacher', 'model.matcher', 'model.losses', 'model.weights', 'model.alignment')
WHOLE_FILE = 64 * 2**20                        # larger files are read once and remembered by size and time


def training_identity(cfg: Mapping) -> Identity:
    """Return the identity of training `cfg`, a resolved experiment; its plugins must be loaded.

    How many processes share an update is not of it: they train the same.
    """
    teacher = cfg['model'].get('teacher') or {}
    return dict(config=digest(_sections(cfg, TRAINING_SECTIONS, NOT_OF_TRAINING)), update=str(update_of(cfg)),
                code=own_code((*NO_NUMBERS, *AFTER_TRAINING)), plugins=plugins_digest(cfg.get('plugins') or ()),
                weights=weights_digest(cfg.get('weights'), teacher.get('checkpoint')),
                data=data_digest(cfg, 'train_dataset'), seed=cfg['seed'])


def scoring_identity(cfg: Mapping, checkpoint: str | Path | None, copy: str | None = None) -> Identity:
    """Return the identity of scoring a file of weights (None: an untrained model) on ``cfg['test_dataset']``.

    `copy` is which copy of the model in the file, None its default.
    """
    weights, geometry = weights_digest(checkpoint), value_at(cfg['model'], 'reconstruction.geometry.checkpoint')
    return dict(config=digest(_sections(cfg, SCORING_SECTIONS, NOT_OF_SCORING)), code=own_code(NO_NUMBERS),
                plugins=plugins_digest(cfg.get('plugins') or ()), weights=weights if copy is None else f'{weights} {copy}',
                data=data_digest(cfg, 'test_dataset'), seed=cfg['seed'],
                **({} if geometry is None else {'geometry': weights_digest(geometry)}))


def other_parts(have: Mapping | None, want: Mapping) -> list[str]:
    """Return which parts of two identities differ; what is not on this machine cannot differ. Without a record: all."""
    if not have:
        return list(want)
    return [part for part in want if want[part] != ABSENT and have.get(part) != want[part]]


def write_identity(work_dir: Path, identity: Identity, resume: bool = False) -> None:
    """Write `identity.json`; a run that goes on with another identity is of both, and equal to neither."""
    before = read_identity(work_dir) if resume else None
    if before:
        identity = {part: value if before.get(part) == value else f'{before.get(part)} then {value}'
                    for part, value in identity.items()}
    with atomic_write(work_dir / IDENTITY_FILE, 'w') as file:
        json.dump(identity, file, indent=1)


def read_identity(work_dir: Path) -> Identity | None:
    """Return what `identity.json` says, None where there is none."""
    path = work_dir / IDENTITY_FILE
    return json.loads(path.read_text(encoding='utf-8-sig')) if path.is_file() else None


def code_digest(left_out: Collection[str] = (), root: Path = SOURCES) -> str:
    """Return the digest of the sources and tables below `root`, without the folders that are left out."""
    files = {path.relative_to(root).as_posix(): path for kind in ('*.py', '*.tsv') for path in root.rglob(kind)
             if root == BUNDLED or BUNDLED not in path.parents}         # configs and plugins count where they are used
    folders = tuple(f'{name}/' for name in left_out)
    return digest([(name, _sha256(path)) for name, path in sorted(files.items()) if not name.startswith(folders)])


@functools.cache
def own_code(left_out: tuple[str, ...]) -> str:
    """Return the digest of this program's code as this process found it."""
    return code_digest(left_out)


def plugins_digest(names: Iterable[str]) -> str:
    """Return the digest of the sources of loaded plugins."""
    sources = []
    for name in sorted(map(plugin_name, names)):
        place = manager().places[name]
        sources.append((name, code_digest(root=place) if place.is_dir() else _sha256(place)))
    return digest(sources)


def data_digest(cfg: Mapping, name: str) -> str:
    """Return the digest of a data set: the marks in its folder, the scenes of its split and the sizes of their files.

    Of a folder that holds no scene folders, whose data set lists scenes of its own layout, the names in it stand for these.
    That of a mixture is of all its sets.
    """
    digests = [_digest_of_set(cfg, settings) for settings in sets_of(cfg[name])]
    return digests[0] if len(digests) == 1 else ABSENT if ABSENT in digests else digest(digests)


def _digest_of_set(cfg: Mapping, settings: Mapping) -> str:
    root = Path(cfg['data_root']) / settings.get('folder', '')
    scenes = split_names(root, settings.get('split', ''))
    if scenes is None and (not root.is_dir() or any(root.glob('*/scene.json'))):
        return ABSENT
    marks = [(path.name, path.read_text(encoding='utf-8-sig')) for path in sorted(root.glob('*.json'))]
    if scenes is None:
        return digest([marks, sorted(path.name for path in root.iterdir())])
    sizes = [(scene, [_size(root / scene / file) for file in ('scene.json', 'mesh.ply')]) for scene in scenes]
    return digest([marks, sizes])


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's contents, 'absent' where there is none.

    Of an index of weights in several parts it is that of their digests. That of a large file is kept in
    ``$XDG_CACHE_HOME/jrs/digests.json`` (``~/.cache``) and made again when its size or time changes.
    """
    path = Path(path)
    if not path.is_file():
        return ABSENT
    if (parts := parts_of(path)) != [path]:
        return hashlib.sha256('\n'.join(map(file_digest, parts)).encode()).hexdigest()
    facts = path.stat()
    if facts.st_size <= WHOLE_FILE:
        return _sha256(path)
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'jrs' / 'digests.json'
    known = json.loads(cache.read_text(encoding='utf-8-sig')) if cache.is_file() else {}
    mark = [facts.st_size, facts.st_mtime_ns]
    if known.get(str(path.resolve()), [None])[:2] != mark:
        known[str(path.resolve())] = [*mark, _sha256(path)]
        with atomic_write(cache, 'w') as file:
            json.dump(known, file, indent=1)
    return known[str(path.resolve())][2]


def weights_digest(*files: str | Path | None) -> str:
    """Return the digest of files of weights (None: of none), 'absent' as soon as one of them is."""
    digests = [None if file is None else file_digest(own_file(file)) for file in files]
    return ABSENT if ABSENT in digests else digest(digests)


def _sections(cfg: Mapping, names: Iterable[str], left_out: Collection[str]) -> dict:
    return {name: _plain(cfg[name], name, left_out) for name in names} | _unusual_precision(cfg)


def _unusual_precision(cfg: Mapping) -> dict:
    """Return the precision on CUDA where it is not the usual one, which no identity names."""
    precision = device_settings(cfg)['precision']
    return {} if precision == DEVICE['precision'] else {'precision': dict(precision)}


def _plain(value: Any, path: str, left_out: Collection[str]) -> Any:
    """Return plain containers without the paths that are left out."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f'{path}.{key}', left_out) for key, item in value.items()
                if f'{path}.{key}' not in left_out}
    return [_plain(item, path, left_out) for item in value] if isinstance(value, (list, tuple)) else value


def digest(value: Any) -> str:
    """Return the digest of plain values, in which the order of keys is nothing."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
