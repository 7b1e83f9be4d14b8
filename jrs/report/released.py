"""Published weights in the rows of tables, beside what is trained here: `reproduce --weights ROW=FILE`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jrs.engine.inference import MERGED
from jrs.errors import ConfigError, WeightsError, did_you_mean
from jrs.io.weights import check_weights
from jrs.registry import MODELS, build
from jrs.report.identity import file_digest
from jrs.report.tables import TIMING_TABLES, Row, Table

TRAINED = 'trained here'
SHOWN = 12                                     # characters of a digest in the name of a row; notes have all


@dataclass(frozen=True)
class ReleasedWeights:
    """A file that fills rows without a training.

    Attributes:
        row: the row as it was named: by its config, or by (part of) its name.
        file: the weights.
        sha256: of the file.
    """

    row: str
    file: Path
    sha256: str

    @property
    def label(self) -> str:
        """What stands behind the name of its row."""
        return f'{self.file.name}, sha256 {self.sha256[:SHOWN]}'

    @property
    def note(self) -> str:
        """The same in full."""
        return f'released weights: {self.file}, sha256 {self.sha256}'


@dataclass(frozen=True)
class Place:
    """A cell that weights can fill.

    Attributes:
        table, row, benchmark: where it stands.
        configs: names of its config, and of that whose training makes its weights.
    """

    table: Table
    row: Row
    benchmark: str
    configs: frozenset[str]


def read_released(words: Iterable[str]) -> tuple[ReleasedWeights, ...]:
    """Return what `--weights` names, ``ROW=FILE`` each.

    Raises:
        ConfigError: a word is not of that form. WeightsError: a file is not there.
    """
    found = []
    for word in dict.fromkeys(words):
        row, equals, file = word.partition('=')
        if not equals or not row.strip() or not file:
            raise ConfigError(f'--weights must be ROW=FILE, such as all24_fada=segvggt_scannet200.pt, got {word!r}.')
        if not Path(file).is_file():
            near = [str(path) for path in Path(file).parent.glob(f'*{Path(file).suffix}')]
            raise WeightsError(f'--weights {word}: there is no file {file}.{did_you_mean(file, near) if near else ""}')
        found.append(ReleasedWeights(row.strip(), Path(file), file_digest(file)))
    return tuple(found)


def places_of(weights: ReleasedWeights, places: list[Place], tables: list[Table]) -> list[Place]:
    """Return the cells that weights fill: those of a config of that name, else of a row called so, else of one like it.

    Raises:
        ConfigError: there is none; says which names are near, or why the row takes no weights.
    """
    name = weights.row.casefold()
    rules = (lambda place: weights.row.removesuffix('.py').rpartition('/')[2] in place.configs,
             lambda place: name in (place.row.label.casefold(), place.row.cells[0].casefold()),
             lambda place: name in place.row.label.casefold())
    for rule in rules:
        found = [place for place in places if rule(place)]
        if found:
            return found
    others = [table for table in tables for row in table.rows if name in row.label.casefold()
              or weights.row in {Path(config).stem for config in row.configs.values()}]
    if others:
        why = ('its times do not depend on weights' if others[0].id in TIMING_TABLES else
               'it is filled from prediction files, since no config of it is here')
        raise ConfigError(f'--weights: the row {weights.row!r} of {others[0].title} takes no weights: {why}.')
    known = {name for place in places for name in (*place.configs, place.row.label)}
    raise ConfigError(f'--weights: no row {weights.row!r}.{did_you_mean(weights.row, known)}')


def check_fits(weights: ReleasedWeights, model: Mapping, config: str, profile: str) -> None:
    """Raise a WeightsError where names or shapes in a file are not those of `model`; values are not read.

    `model` is that of `config` under `profile`, without a teacher.
    """
    try:
        check_weights(lambda: build(MODELS, model, 'model'), weights.file, MERGED)
    except WeightsError as error:
        raise WeightsError(f'--weights {weights.row}, for {config} under profile {profile!r}: {error} A row of several '
                           'benchmarks takes a file for each: name their configs.') from error
