"""What fills a cell: a training, a scoring, a measurement of time, prediction files; each knows whether it is done."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jrs.engine.update import Update
from jrs.places import installed, project, typed
from jrs.report.gaps import Gap, in_words
from jrs.report.identity import Identity, other_parts, read_identity, weights_digest
from jrs.report.timings import GivenTiming

NEW, CUT_OFF, FINISHED, OTHER = 'not run', 'cut off', 'finished', 'by other'
CODE = {'code', 'plugins'}                     # the parts of an identity that `--any-code` overlooks
WEIGHTS = 'weights.safetensors'
RESULTS = 'results.json'
TIMINGS = Path('benchmarks/results')


@dataclass(kw_only=True)
class Work:
    """One command and where its result lies.

    Attributes:
        title: for people.
        folder: where the result and the log of the command go.
        gaps: what is missing before it can run.
    """

    title: str
    folder: Path
    gaps: tuple[Gap, ...] = ()

    @property
    def fault(self) -> str:
        """What is missing before it can run, in words; '' when nothing is."""
        return in_words(self.gaps)

    def state(self, any_code: bool = False) -> tuple[str, list[str]]:
        """Return NEW, CUT_OFF, FINISHED or OTHER, and the parts in which the identity of what is there differs."""
        raise NotImplementedError

    def words(self, any_code: bool = False) -> list[str]:
        """Return the command line behind `python`."""
        raise NotImplementedError

    def settled(self, any_code: bool) -> bool:
        """Return whether there is nothing to do."""
        return self.state(any_code)[0] == FINISHED

    def processes_within(self, most: int) -> int:
        """Return how many processes do it where `most` may be started."""
        return most


@dataclass(kw_only=True)
class Training(Work):
    """`tools/train.py` for one config, profile, seed and overrides.

    Attributes:
        named: the overrides that its folder is called after.
        update: what its updates are made of, which says how many processes can train it.
        paper_update: the same of its config at the scale of the paper.
    """

    config: str
    profile: str
    seed: int
    overrides: tuple[str, ...]
    named: tuple[str, ...]
    identity: Identity = field(repr=False)
    update: Update
    paper_update: Update

    @property
    def note(self) -> str:
        """What a reader of its numbers must know, '' where nothing."""
        same = self.update == self.paper_update
        return '' if same else f'each update is of {self.update}, at the scale of the paper of {self.paper_update}'

    @property
    def weights(self) -> Path:
        """The file that the training ends with."""
        return self.folder / WEIGHTS

    def state(self, any_code: bool = False) -> tuple[str, list[str]]:
        """See `Work`; a run that was cut off has a checkpoint to go on from."""
        begun = any(self.folder.glob('iter_*.pth'))
        done = self.weights.is_file() and read_json(self.folder / 'run.json').get('finished', False)
        if not begun and not done:
            return NEW, []
        others = other_parts(read_identity(self.folder), self.identity)
        if not _counts(others, any_code):
            return OTHER, others
        return FINISHED if done else CUT_OFF, others

    def processes_within(self, most: int) -> int:
        """See `Work`; they share an update equally."""
        return self.update.processes_within(most)

    def words(self, any_code: bool = False) -> list[str]:
        """See `Work`; what was cut off is resumed."""
        resume = ['--resume'] if self.state(any_code)[0] == CUT_OFF else []
        return [_tool('train'), self.config, '--profile', self.profile, '--work-dir', str(self.folder), *resume,
                '--cfg-options', f'seed={self.seed}', *self.overrides]


@dataclass(kw_only=True)
class Scoring(Work):
    """`tools/test.py` for the weights of a training, or (`training` None) for a file that is there."""

    config: str
    profile: str
    seed: int
    overrides: tuple[str, ...]
    identity: Identity = field(repr=False)     # without weights: they may not exist yet
    checkpoint: Path
    training: Training | None

    def state(self, any_code: bool = False) -> tuple[str, list[str]]:
        """See `Work`; weights by other code make a result by other code."""
        before, others = (FINISHED, []) if self.training is None else self.training.state(any_code)
        found = read_json(self.folder / RESULTS)
        if before != FINISHED or not found:
            return NEW, []
        own = other_parts(found.get('identity'), self.identity | dict(weights=weights_digest(self.checkpoint)))
        if not _counts(own, any_code):
            return OTHER, own
        return FINISHED, list(dict.fromkeys([*others, *own]))

    def words(self, any_code: bool = False) -> list[str]:
        """See `Work`."""
        return [_tool('test'), self.config, str(self.checkpoint), '--profile', self.profile, '--out', str(self.folder),
                '--cfg-options', f'seed={self.seed}', *self.overrides]


@dataclass(kw_only=True)
class Submission(Work):
    """`tools/evaluate.py` for prediction files that a method's own code wrote."""

    predictions: Path
    ground_truth: Path
    benchmark: str
    class_agnostic: bool
    identity: Identity = field(repr=False)

    def state(self, any_code: bool = False) -> tuple[str, list[str]]:
        """See `Work`."""
        if not (self.folder / 'instance_ap.json').is_file():
            return NEW, []
        others = other_parts(read_identity(self.folder), self.identity)
        return FINISHED if _counts(others, any_code) else OTHER, others

    def words(self, any_code: bool = False) -> list[str]:
        """See `Work`."""
        return [_tool('evaluate'), '--predictions', str(self.predictions), '--ground-truth', str(self.ground_truth),
                '--benchmark', self.benchmark, *(['--class-agnostic'] if self.class_agnostic else []),
                '--out', str(self.folder)]


@dataclass(kw_only=True)
class Timing(Work):
    """`tools/benchmark.py` for a table of run times; `frames` are the rows that its records must have.

    It measures noise. Records of a scene and trained weights, which people make, are read before those of noise.
    """

    table: int
    config: str
    profile: str
    overrides: tuple[str, ...]
    frames: tuple[int, ...]

    def row(self, frames: int) -> tuple[dict, dict] | None:
        """Return the newest record of this config, profile and overrides that has so many frames, and its row of them."""
        found = [read_json(path) | dict(path=str(path)) for path in sorted(
            self.folder.glob(f'table{self.table}_*.json'), key=lambda path: path.stat().st_mtime, reverse=True)]
        rows = [(record, row) for record in filter(self._is_ours, found) for row in record['rows']
                if row['input_frames'] == frames]
        return min(rows, key=lambda both: both[1]['on_noise'], default=None)

    def state(self, any_code: bool = False) -> tuple[str, list[str]]:
        """See `Work`; a record is of the machine and day it names, and counts until it is removed."""
        return (FINISHED if all(map(self.row, self.frames)) else NEW), []

    def words(self, any_code: bool = False) -> list[str]:
        """See `Work`."""
        name = timing_name(f'table{self.table}', self.config, self.profile, self.overrides)
        options = ['--cfg-options', *self.overrides] if self.overrides else []
        return [_tool('benchmark'), '--table', str(self.table), '--config', self.config, '--profile', self.profile,
                '--json', str(self.folder / name), *options]

    def _is_ours(self, record: dict) -> bool:
        command = record.get('command', [])
        options = command[command.index('--cfg-options') + 1:] if '--cfg-options' in command else []
        return (Path(record.get('config', '')).stem == Path(self.config).stem and record.get('profile') == self.profile
                and list(self.overrides) == options[:len(self.overrides)] and bool(options) == bool(self.overrides))


@dataclass(kw_only=True)
class Given(Work):
    """A row that somebody measured elsewhere: there is nothing to do."""

    timing: GivenTiming

    def state(self, any_code: bool = False) -> tuple[str, list[str]]:
        """See `Work`."""
        return FINISHED, []

    def words(self, any_code: bool = False) -> list[str]:
        """See `Work`; nobody calls it."""
        return []


@dataclass(kw_only=True)
class Preparation(Work):
    """A command (its first word names the tool) that makes data; done when the plan no longer lists it."""

    command: tuple[str, ...]

    def state(self, any_code: bool = False) -> tuple[str, list[str]]:
        """See `Work`."""
        return NEW, []

    def words(self, any_code: bool = False) -> list[str]:
        """See `Work`."""
        return [_tool(self.command[0]), *self.command[1:]]


def timing_name(what: str, config: str, profile: str, further: Sequence[str]) -> str:
    """Return the name of a record of `tools/benchmark.py`; `further` are overrides, and what else tells it from others."""
    return '_'.join([what, Path(config).stem, profile, *map(slug, further)]) + '.json'


def computed(record: Mapping[str, Any]) -> str:
    """Return how the times of a record were computed, in words: precision, kernels and whether blocks are compiled."""
    settings = record['device_settings']
    precision = ', '.join(f'{part} {name}' for part, name in settings['precision'].items())
    compiled = 'blocks compiled' if settings['compile'] else 'nothing compiled'
    return (f'float32 on CUDA: {precision}; attention: {settings["attention_kernels"]}; {compiled}; '
            f'{record["threads"]} threads')


def command_line(words: list[str], launcher: str = 'none', processes: int = 1) -> list[str]:
    """Return the whole command for this machine; trainings and scorings go through the launcher."""
    if launcher == 'none' or Path(words[0]).stem not in ('train', 'test'):
        return [sys.executable, *words]
    at = words.index('--cfg-options')
    words = [*words[:at], '--launcher', launcher, *words[at:]]
    if launcher == 'slurm':
        return ['srun', sys.executable, *words]
    return [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes), *words]


def as_typed(command: list[str]) -> str:
    """Return a command as a shell line."""
    return shlex.join(typed_words(command))


def typed_words(command: list[str]) -> list[str]:
    """Return a command's words as people type them; the interpreter by the name that finds it here."""
    python = shutil.which('python')
    same = python is not None and Path(python).absolute() == Path(sys.executable).absolute()
    words = ['python' if word == sys.executable and same else shown(word) for word in command]
    return shlex.split(typed(shlex.join(words))) if installed() else words


def shown(path: str | Path) -> str:
    """Return a path relative to the current folder where it lies below it."""
    text = str(path)
    return text.removeprefix(f'{Path.cwd()}/') if text.startswith('/') else text


def slug(text: str) -> str:
    """Return a text as part of a file name: lower case, anything else than letters and digits as '_'."""
    return '_'.join(''.join(letter if letter.isalnum() else ' ' for letter in text.lower()).split())


def read_json(path: Path) -> dict:
    """Return what a JSON file holds, empty where there is none."""
    return json.loads(path.read_text(encoding='utf-8-sig')) if path.is_file() else {}


def _counts(others: list[str], any_code: bool) -> bool:
    """Return whether work counts whose identity differs in the parts `others`."""
    return not others or any_code and set(others) <= CODE


def _tool(name: str) -> str:
    return shown(project() / 'tools' / f'{name}.py')
