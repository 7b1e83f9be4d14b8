"""From the rows of tables to the work that fills them: what trains once serves every row, column and table that needs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from mmengine.config import Config

from jrs.config import bases_of, load_config, parse_override, read_config
from jrs.datasets.scene import read_split
from jrs.datasets.splits import SUFFIX, split_names, subset_name
from jrs.engine.build import how_to_get, look_for
from jrs.engine.update import update_of
from jrs.errors import ConfigError, DataError, JrsError
from jrs.io.atomic import atomic_write
from jrs.io.submission_arrays import SUFFIX as ARRAYS
from jrs.places import own_file, project
from jrs.report.gaps import (
    Gap,
    no_accelerator,
    no_config,
    no_ground_truth,
    no_predictions,
    no_published_weights,
    no_training,
    other_gap,
)
from jrs.report.identity import NO_NUMBERS, digest, own_code, scoring_identity, training_identity
from jrs.report.naming import default_work_dir
from jrs.report.released import TRAINED, Place, ReleasedWeights, check_fits, places_of
from jrs.report.tables import BENCHMARKS, SCORING, TIMING_TABLES, UNTRAINED, Row, Table
from jrs.report.timings import GivenTiming
from jrs.report.work import TIMINGS, Given, Preparation, Scoring, Submission, Timing, Training, Work, shown, slug
from jrs.schema import sets_of, without_teacher
from jrs.synth import PRESETS, read_mark


@dataclass(frozen=True)
class Variant:
    """A scale and the overrides of one value of a sweep; `name` is '' where there is only one."""

    profile: str
    overrides: tuple[str, ...]
    name: str


@dataclass(frozen=True)
class Experiment:
    """What `--profile` and `--cfg-options` make of a config, for one seed."""

    config: str
    profile: str
    options: tuple[str, ...]
    seed: int

    @property
    def stem(self) -> str:
        """The name of the config."""
        return Path(self.config).stem

    def with_options(self, *options: str) -> Experiment:
        """Return it with further overrides."""
        return replace(self, options=(*self.options, *options))


@dataclass(frozen=True)
class Settings:
    """What all work of a plan shares.

    Attributes:
        seeds: every training is made once per seed.
        work_dirs: run folders go here.
        predictions: root of other methods' prediction files.
        variants: scales and values of a sweep.
        accelerator: whether full-size timings can run here.
        jobs: processes that generate rooms.
        timings: rows of Tables 5 and 6 that were measured elsewhere, by table and name of the row.
        released: published weights that fill rows beside what is trained.
        train: False = nothing is trained; what is finished counts.
    """

    seeds: tuple[int, ...]
    work_dirs: Path
    predictions: Path
    variants: tuple[Variant, ...]
    accelerator: bool
    jobs: int
    timings: Mapping[tuple[int, str], GivenTiming] = field(default_factory=dict)
    released: tuple[ReleasedWeights, ...] = ()
    train: bool = True


@dataclass
class Cell:
    """What fills the columns of one benchmark in one row, in one variant.

    Attributes:
        table, row, benchmark, variant: where it stands.
        work: by seed.
        gaps: why there is no work.
        released: the published weights that it is of, None for what is trained here.
        place: 0, or counts the rows of published weights below that of a training.
        beside: whether there are such rows.
    """

    table: Table
    row: Row
    benchmark: str
    variant: Variant
    work: dict[int, Work] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    released: ReleasedWeights | None = None
    place: int = 0
    beside: bool = False

    @property
    def origin(self) -> str:
        """Where its numbers come from, where rows differ in that."""
        if self.released is not None:
            return f'released weights: {self.released.label}'
        return TRAINED if self.beside else ''

    @property
    def left_out(self) -> bool:
        """Whether it was asked not to train what it would need."""
        trainings = [training for work in self.work.values() if (training := getattr(work, 'training', None)) is not None]
        return any(no_training() in training.gaps for training in trainings)

    def filled(self, any_code: bool) -> bool:
        """Return whether nothing is left to do for it."""
        return not self.gaps and all(work.settled(any_code) for work in self.work.values())


@dataclass
class Plan:
    """All cells, and what must be prepared before their work."""

    cells: list[Cell]
    preparations: list[Preparation]

    def chains(self) -> list[list[Work]]:
        """Return work that depends on one another, in order: each training with what scores it, or one thing alone."""
        chains: dict[int, list[Work]] = {}
        for cell in self.cells:
            for work in cell.work.values():
                first = getattr(work, 'training', None) or work
                chain = chains.setdefault(id(first), [first])
                chain.extend([work] if all(work is not other for other in chain) else [])
        return list(chains.values())


def variants(profiles: list[str], overrides: list[str], sweeps: list[str]) -> tuple[Variant, ...]:
    """Return every profile with every combination of the swept values, ``path=v1,v2`` each."""
    axes = [[f'{path}={value}' for value in values] for path, values in map(split_sweep, sweeps)]
    found = list(product(profiles, *axes))
    return tuple(Variant(profile, (*overrides, *values),
                         ', '.join([*([profile] if len(profiles) > 1 else []), *values]) if len(found) > 1 else '')
                 for profile, *values in found)


def split_sweep(text: str) -> tuple[str, list[str]]:
    """Split ``path=v1,v2`` at the commas outside brackets."""
    path, _ = parse_override(text)
    values, depth = [''], 0
    for letter in text.partition('=')[2]:
        depth += (letter in '([{') - (letter in ')]}')
        if letter == ',' and depth == 0:
            values.append('')
        else:
            values[-1] += letter
    return path, values


class Planner:
    """Makes a plan; equal trainings and scorings are one object."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.trainings: dict[str, Training] = {}
        self.scorings: dict[Path, Scoring] = {}
        self.timings: dict[tuple, Timing] = {}
        self.preparations: dict[Path, Preparation] = {}
        self.configs: dict[Experiment, Config] = {}
        self.fitting: set[tuple[Path, str]] = set()            # files of weights and models that go together

    def plan(self, tables: list[Table]) -> Plan:
        """Return the work for `tables`."""
        filled = self._filled_by_weights(tables)
        cells = [cell for table in tables for row in table.rows for variant in self._variants_of(table, row)
                 for cell in self._cells(table, row, variant, filled)]
        rooms_first = sorted(self.preparations.values(), key=lambda preparation: preparation.command[0] != 'prepare')
        return Plan(cells, rooms_first)

    def _given(self, table: Table, row: Row) -> GivenTiming | None:
        """Return the times of a row that were measured elsewhere, None where none were."""
        return self.settings.timings.get((table.id, row.cells[0]))

    def _variants_of(self, table: Table, row: Row) -> tuple[Variant, ...]:
        """Return the variants of a row: times from elsewhere are of no scale of ours and stand once, with the first."""
        given = self._given(table, row)
        return self.settings.variants[:1] if given is not None and given.new else self.settings.variants

    def _filled_by_weights(self, tables: list[Table]) -> dict[tuple[int, str], list[ReleasedWeights]]:
        """Return (id of a row, benchmark) -> the published weights that fill it.

        Raises:
            ConfigError: weights of no row. WeightsError: weights that are not of the model of their row.
        """
        places = [Place(table, row, benchmark, self._trained_as(row.configs[benchmark])) for table in tables
                  for row in table.rows for benchmark in row.configs if self._takes_weights(table, row, benchmark)
                  ] if self.settings.released else []
        found: dict[tuple[int, str], list[ReleasedWeights]] = {}
        for weights in self.settings.released:
            for place in places_of(weights, places, tables):
                self._check_fits(weights, place.row.configs[place.benchmark])
                found.setdefault((id(place.row), place.benchmark), []).append(weights)
        return found

    def _check_fits(self, weights: ReleasedWeights, config: str) -> None:
        for variant in self.settings.variants:
            one = self._experiment(config, variant)
            model = dict(self._config(one).model, teacher=None)
            if (key := (weights.file, digest(model))) not in self.fitting:
                check_fits(weights, model, one.config, one.profile)
                self.fitting.add(key)

    def _takes_weights(self, table: Table, row: Row, benchmark: str) -> bool:
        return (table.id not in TIMING_TABLES and row.kind != 'external'
                and Path(config_path(row.configs[benchmark])).is_file())

    def _trained_as(self, config: str) -> frozenset[str]:
        """Return the names of a config and of that whose training makes its weights."""
        one = self._experiment(config, self.settings.variants[0])
        try:
            training = [] if one.stem in UNTRAINED else [Path(self._training(one).config).stem]
        except DataError:
            training = []                                      # its cell will say so
        return frozenset([one.stem, *training])

    def _experiment(self, config: str, variant: Variant) -> Experiment:
        """Return the experiment of the first seed."""
        return Experiment(config_path(config), variant.profile, variant.overrides, self.settings.seeds[0])

    def _cells(self, table: Table, row: Row, variant: Variant,
               filled: Mapping[tuple[int, str], list[ReleasedWeights]]) -> list[Cell]:
        """Return the cells of a row in one variant, then those of published weights."""
        released = [self._cell_of_weights(Cell(table, row, benchmark, variant, released=weights, place=number))
                    for benchmark in row.configs
                    for number, weights in enumerate(filled.get((id(row), benchmark), ()), start=1)]
        own = [self._cell(table, row, benchmark, variant) for benchmark in row.configs
               if not (released and Path(row.configs[benchmark]).stem in UNTRAINED)]
        for cell in own:
            cell.beside = bool(released)
        return [*own, *released]

    def _cell_of_weights(self, cell: Cell) -> Cell:
        """Return the cell with the work that fills it."""
        one = self._experiment(cell.row.configs[cell.benchmark], cell.variant)
        try:
            cell.work = {one.seed: self._scoring(cell.table, one, None, cell.released)}
        except DataError as error:
            cell.gaps = (other_gap(error),)
        return cell

    def _cell(self, table: Table, row: Row, benchmark: str, variant: Variant) -> Cell:
        cell = Cell(table, row, benchmark, variant)
        given = self._given(table, row)
        if given is not None and variant == self.settings.variants[0]:
            cell.work = {0: Given(title=f'{row.label} of Table {table.id}, {given.origin}', folder=given.file, timing=given)}
            return cell
        config = config_path(row.configs[benchmark])
        try:
            if table.id in TIMING_TABLES:
                cell.work = {0: self._timing(table, row, config, variant)}
            elif row.kind == 'external' or not Path(config).is_file():
                cell.work = {0: self._submission(table, row, benchmark, config)}
            else:
                cell.work = self._scorings(table, config, variant)
        except DataError as error:
            cell.gaps = (other_gap(error),)
        return cell

    def _scorings(self, table: Table, config: str, variant: Variant) -> dict[int, Work]:
        experiments = [Experiment(config, variant.profile, variant.overrides, seed) for seed in self.settings.seeds]
        if Path(config).stem in UNTRAINED:
            return {experiments[0].seed: self._scoring(table, experiments[0], None)}
        return {one.seed: self._scoring(table, one, self._training(one)) for one in experiments}

    def _scoring(self, table: Table, one: Experiment, training: Training | None,
                 released: ReleasedWeights | None = None) -> Scoring:
        """Return the scoring, on what the table scores, of a training's weights, or of published ones.

        These are `released`, or where both are None those that the config starts from.
        """
        changed = one.with_options(*(f'{path}={value}' for path, value in SCORING.get(table.id, {}).items()))
        if table.subset:
            split = self._base_split(one, table.subset)
            gaps = self._gaps(one.with_options(f'test_dataset.split={split}'), 'test_dataset')
            changed = changed.with_options(f'test_dataset.split={self._subset(one, split, bool(gaps))}')
        else:
            gaps = self._gaps(one, 'test_dataset')
        run, checkpoint = self._run_folder(one, ()), str(own_file(self._config(one).get('weights') or 'none'))
        own_name = [f'table{table.id}'] if changed != one else []
        named = self._that_matter(scoring_identity, one)
        if training is not None:
            run, checkpoint = training.folder, training.weights
            own_name += [one.stem] if one.stem != Path(training.config).stem else []
            named = [option for option in named if option not in training.named]
        if released is not None:
            run, checkpoint = run.with_name(f'{one.stem}_{one.profile}_weights-{released.sha256[:8]}'), released.file
        folder = run / ('_'.join(['test', *own_name]) + _suffix(named))
        identity = scoring_identity(self._config(changed), None)
        if folder in self.scorings and self.scorings[folder].identity != identity:
            folder = folder.with_name(f'{folder.name}_{digest(identity)[:8]}')
        if folder not in self.scorings:
            self.scorings[folder] = Scoring(
                title=f'score {run.name}, {folder.name}', folder=folder, config=one.config,
                gaps=gaps or (() if training or released else self._published_gaps(one)), profile=one.profile, seed=one.seed,
                overrides=changed.options, identity=identity, checkpoint=Path(checkpoint), training=training)
        return self.scorings[folder]

    def _training(self, one: Experiment) -> Training:
        """Return the training that makes a config's weights, named after the most general config that trains the same."""
        cfg = self._config(one)
        identity = training_identity(cfg)
        key = json.dumps(identity, sort_keys=True)
        if key not in self.trainings:
            named = tuple(self._that_matter(training_identity, one))
            while (parent := self._same_training(one, identity)) is not None:
                one = parent
            folder = self._run_folder(one, named)
            if folder in {other.folder for other in self.trainings.values()}:      # two configs of one name
                folder = folder.with_name(f'{folder.name}_{digest(identity)[:8]}')
            self.trainings[key] = Training(
                title=f'train {folder.name}', folder=folder,
                gaps=self._gaps(one, 'train_dataset', 'val_dataset') if self.settings.train else (no_training(),),
                config=one.config, profile=one.profile, seed=one.seed, overrides=one.options, named=named, identity=identity,
                update=update_of(cfg), paper_update=update_of(read_config(one.config)))
        return self.trainings[key]

    def _same_training(self, one: Experiment, identity: dict) -> Experiment | None:
        """Return the experiment that this one inherits from where it trains the same network."""
        bases = bases_of(one.config)
        if len(bases) != 1:
            return None
        parent = replace(one, config=shown(bases[0]))
        try:
            return parent if training_identity(self._config(parent)) == identity else None
        except ConfigError:
            return None                                        # an override that only the child has

    def _that_matter(self, identity_of: Callable, one: Experiment) -> list[str]:
        """Return the overrides without which `identity_of` the experiment would be another; where data lie is none."""
        options = [option for option in dict.fromkeys(one.options) if not option.startswith('data_root=')]
        whole = self._identity(identity_of, one)
        return [option for option in options if whole != self._identity(
            identity_of, replace(one, options=tuple(other for other in one.options if other != option)))]

    def _identity(self, identity_of: Callable, one: Experiment) -> dict | None:
        try:
            cfg = self._config(one)
        except ConfigError:
            return None                                        # without an override that makes another one possible
        return training_identity(cfg) if identity_of is training_identity else scoring_identity(cfg, None)

    def _config(self, one: Experiment) -> Config:
        if one not in self.configs:
            options = dict(map(parse_override, (f'seed={one.seed}', *one.options)))
            self.configs[one] = load_config(one.config, one.profile, options)
        return self.configs[one]

    def _run_folder(self, one: Experiment, named: Iterable[str]) -> Path:
        return self.settings.work_dirs / default_work_dir(one.config, one.profile, one.seed, named).name

    def _gaps(self, one: Experiment, *datasets: str) -> tuple[Gap, ...]:
        """Return what is missing; rooms that can be generated are planned instead."""
        cfg = self._config(one)
        if any([self._generates(cfg, name) for name in datasets]):
            return ()
        if 'train_dataset' not in datasets:
            cfg = Config(dict(cfg._cfg_dict, weights=None, model=without_teacher(cfg.model)))   # scoring reads neither
        try:
            _, missing = look_for(cfg, *datasets)
        except JrsError as error:
            return (other_gap(error),)
        return tuple(Gap(shown(one.what), one.fault, f'{", ".join(one.paths)}: {one.fault}') for one in missing)

    def _published_gaps(self, one: Experiment) -> tuple[Gap, ...]:
        """Return why published weights cannot be scored."""
        cfg = self._config(one)
        weights = cfg.get('weights')
        if not weights:
            return (no_published_weights(one.profile),)
        fault = f'no file {weights}. {how_to_get(cfg, weights)}'
        return () if own_file(weights).is_file() else (Gap(str(weights), fault, fault),)

    def _generates(self, cfg: Config, name: str) -> bool:
        """Return whether a data set is rooms that are not all there; plans to generate them."""
        return any([self._generates_set(cfg, settings) for settings in sets_of(cfg[name])])

    def _generates_set(self, cfg: Config, settings: Mapping) -> bool:
        root = Path(cfg.data_root) / settings.get('folder', '')
        there = read_split(root, settings.get('split', '')) is not None
        if 'rooms' not in root.parts or root.name not in PRESETS or there and _complete(root):
            return False
        words = ('prepare', 'rooms', '--preset', root.name, '--out', str(root), '--jobs', str(self.settings.jobs))
        self.preparations.setdefault(root, Preparation(title=f'generate {root}', folder=root, command=words))
        return True

    def _base_split(self, one: Experiment, split: str) -> str:
        """Return the split that ten scenes are drawn from; rooms have only those that their config names."""
        settings = self._config(one).test_dataset
        return settings.split if 'rooms' in Path(settings.folder).parts else split

    def _subset(self, one: Experiment, split: str, incomplete: bool) -> str:
        """Return the name of the list of ten scenes; plans to write it where the scenes are there."""
        cfg = self._config(one)
        root, name = Path(cfg.data_root) / cfg.test_dataset.folder, subset_name(split)
        path = root / f'{name}.txt'
        if not incomplete and read_split(root, name) is None:
            self.preparations.setdefault(path, Preparation(
                title=f'draw {path}', folder=root, command=('reproduce', '--scene-list', str(path))))
        return name

    def _submission(self, table: Table, row: Row, benchmark: str, config: str) -> Submission:
        """Return the scoring of prediction files, for methods whose code or config is not here."""
        benchmark = benchmark or 'scannet200'
        part = f'{benchmark}_{subset_name(table.subset)}' if table.subset else benchmark
        predictions, truth = (self.settings.predictions / name / part for name in (slug(row.method), 'ground_truth'))
        gaps = [] if _has_scenes(predictions) else [no_predictions(predictions, '' if row.kind == 'external' else config)]
        gaps += [] if _has_scenes(truth) else [no_ground_truth(truth)]
        agnostic = table.columns[0].measure.key.startswith('instance/agnostic')
        return Submission(
            title=f'evaluate {row.method} on {part}', predictions=predictions, ground_truth=truth,
            gaps=tuple(gaps), class_agnostic=agnostic,
            folder=self.settings.work_dirs / 'predictions' / slug(row.method) / part,
            benchmark=BENCHMARKS[benchmark][1], identity=submission_identity(predictions, truth))

    def _timing(self, table: Table, row: Row, config: str, variant: Variant) -> Timing:
        frames = int(row.cells[0]) if table.id == 5 else 100
        key = (table.id, config, variant)
        if key not in self.timings:
            here = variant.profile != 'paper' or self.settings.accelerator
            gaps = () if Path(config).is_file() else (no_config(config),)
            self.timings[key] = Timing(
                title=f'time table {table.id}, {Path(config).stem}', folder=TIMINGS, table=table.id, config=config,
                gaps=gaps or (() if here else (no_accelerator(),)), profile=variant.profile,
                overrides=variant.overrides, frames=())
        self.timings[key].frames = (*self.timings[key].frames, frames)
        return self.timings[key]


def config_path(name: str) -> str:
    """Return a config's path as commands name it; those of the project are found from any folder."""
    return name if Path(name).is_file() or Path(name).is_absolute() else shown(project() / name)


def submission_identity(predictions: Path, ground_truth: Path) -> dict:
    """Return the identity of prediction files: names, sizes and times, and the code that scores them."""
    files = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
             for folder in (predictions, ground_truth) for path in sorted(folder.rglob('*')) if path.is_file()]
    return dict(files=digest(files), code=own_code(NO_NUMBERS))


def write_subset(path: Path) -> list[str]:
    """Write the list of ten scenes of a split (`jrs.datasets.splits`); returns their names.

    Raises:
        DataError: the split's own list is not there.
    """
    names = split_names(path.parent, path.stem)
    if names is None or not path.name.endswith(f'{SUFFIX}.txt'):
        split = path.stem.removesuffix(SUFFIX)
        raise DataError(f'{path}: a list of scenes is <split>{SUFFIX}.txt beside <split>.txt; there is no '
                        f'{path.parent / split}.txt.')
    with atomic_write(path, 'w') as file:
        file.write(''.join(f'{name}\n' for name in names))
    return names


def _has_scenes(folder: Path) -> bool:
    return any(path for suffix in ('.txt', ARRAYS) for path in folder.glob(f'*{suffix}'))


def _complete(root: Path) -> bool:
    """Return whether rooms were generated to the end; a folder without a mark is somebody's own."""
    return read_mark(root).get('complete', True)


def _suffix(options: Iterable[str]) -> str:
    """Return overrides as `default_work_dir` writes them into a name, '_' before them."""
    return default_work_dir('', '', 0, options).name.removeprefix(default_work_dir('', '', 0).name)
