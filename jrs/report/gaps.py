"""What keeps cells of tables from being filled, told kind by kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gap:
    """Something that is missing before work can run.

    Attributes:
        need: what, in a few words that many cells share: a folder, a file, a kind of files.
        how: how to get it.
        detail: the same of this one cell, where it says more than `need`.
    """

    need: str
    how: str
    detail: str = ''

    def __str__(self) -> str:
        return self.detail or f'needs {self.need}: {self.how}'


def in_words(gaps: Iterable[Gap]) -> str:
    """Return what is missing as one line, '' where nothing is."""
    return '; '.join(dict.fromkeys(map(str, gaps)))


def by_kind(gaps_of_cells: Iterable[Iterable[Gap]]) -> list[tuple[int, Gap]]:
    """Return each kind of gap once, with how many cells have it, the most frequent first."""
    counts: dict[str, list[Gap]] = {}
    for gaps in gaps_of_cells:
        for need, gap in {gap.need: gap for gap in gaps}.items():
            counts.setdefault(need, []).append(gap)
    return sorted(((len(found), found[0]) for found in counts.values()), key=lambda pair: -pair[0])


def no_predictions(folder: Path, config: str = '') -> Gap:
    """Return that ``<root>/<method>/<benchmark>`` has no prediction files; a row of ours has a `config` to come."""
    files = f'prediction files, {folder.parents[1]}/<method>/<benchmark>/<scene>.txt or .npz'
    detail = f'there are no prediction files ({folder}/<scene>.txt or .npz)'
    if not config:
        return Gap(files, "the method's own code writes them, in the format of the benchmark or as arrays: docs/external.md",
                   detail)
    return Gap(f'a config that does not exist yet, or {files}', "the config comes with the method, the method's own code "
               'writes the files', f'the config {config} does not exist yet, and {detail}')


def no_ground_truth(folder: Path) -> Gap:
    """Return that there is no ground truth to score prediction files with in ``<root>/ground_truth/<benchmark>``."""
    return Gap(f'ground truth, {folder.parent}/<benchmark>/<scene>.txt', 'tools/evaluate.py export-ground-truth writes it',
               f'there is no ground truth ({folder}/<scene>.txt)')


def no_config(config: str) -> Gap:
    """Return that the config that would be timed is not there."""
    return Gap('a config that does not exist yet, to be timed', 'it comes with the method; --timings FILE names times that '
               'were measured elsewhere', f'the config {config} does not exist yet')


def no_accelerator() -> Gap:
    """Return that times of full size cannot be measured here."""
    return Gap('an accelerator, and none is here', 'times at the scale of the paper are measured on a GPU; --timings FILE '
               'names times that were measured elsewhere')


def no_published_weights(profile: str) -> Gap:
    """Return that a row of published weights cannot be filled at another scale than the paper's."""
    return Gap(f'published weights at the size of profile {profile!r}', 'there are none; --weights ROW=FILE names any',
               f'no published weights exist at the size of profile {profile!r}')


def no_training() -> Gap:
    """Return that a training is left out."""
    return Gap('a training', '--no-training leaves it out')


def other_gap(error: Exception) -> Gap:
    """Return an error as a gap of its own kind."""
    text = ' '.join(str(error).split())
    return Gap(text.partition(':')[0][:80], text, text)
