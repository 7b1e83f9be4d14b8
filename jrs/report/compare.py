"""Training runs side by side: one self-contained page, and the same scalars for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from jrs.engine.console import HEADLINE
from jrs.io.atomic import atomic_write
from jrs.io.names import distinct
from jrs.report.differences import ABSENT, differences, value_text
from jrs.report.runs import LAST, TRAINING, Run, Series
from jrs.visualization import html
from jrs.visualization.curves import Curve, chart, smoothed, thinned

SHARE = 40                                      # smoothing window: one part in 40 of the longest run
DASHES = ('', '6 3', '2 2')                     # one per eight runs: there are no more colours that differ clearly
HUES = 8
MOST_SCALARS = 1000                             # of a curve in TensorBoard, which itself shows no more
GRID = 'display:grid;gap:14px 22px;grid-template-columns:repeat(auto-fill,minmax(340px,1fr))'


def comparison_page(runs: Sequence[Run], window: int | None = None) -> str:
    """Return the page. `window`: iterations in the running mean of terms; None = one part in 40 of the longest run."""
    window = window or default_window(runs)
    parts = [_legend(runs), '<h2>Final metrics</h2>', *_metric_tables(runs), '<h2>Curves</h2>', *_curves(runs, window),
             '<h2>Differences of the configs</h2>', _config_table(runs), '<h2>Time, memory, code</h2>', _record_table(runs)]
    facts = {'runs': len(runs), 'differences': f'to {runs[0].name}', 'curves of terms': smoothing_text(window)}
    return html.page('Comparison of runs', '\n'.join(parts), facts, '\n'.join(all_notes(runs)))


def default_window(runs: Sequence[Run]) -> int:
    """Return how many iterations a running mean takes where nobody says."""
    return max(1, max(run.iterations for run in runs) // SHARE)


def smoothing_text(window: int) -> str:
    """Return how terms are smoothed, in words."""
    return 'not smoothed' if window == 1 else f'running mean over {window} iterations, drawn at its middle'


def all_notes(runs: Sequence[Run]) -> list[str]:
    """Return what a reader has to know before comparing: what runs lack, and where they are not alike."""
    notes = [note for run in runs for note in run.notes]
    notes += _only_some('terms', [run for run in runs if run.terms], [run.terms for run in runs if run.terms])
    notes += _only_some('metrics', [run for run in runs if run.scores], [run.scores for run in runs if run.scores])
    for words, values in (('updates', [run.record.get('update', 'not recorded') for run in runs]),
                          ('commits', [run.record.get('commit') for run in runs]),
                          ('devices', [run.record.get('device') for run in runs]),
                          ('scores', [run.scored for run in runs if run.scores])):
        if len(set(values)) > 1:
            notes.append(f'{words} differ: {", ".join(str(value) for value in dict.fromkeys(values))}')
    return notes


def _only_some(what: str, runs: Sequence[Run], found: Sequence[Mapping]) -> list[str]:
    """Return one line per set of runs that have something which the others do not."""
    owners: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for names in found for name in names):
        having = [run.name for run, names in zip(runs, found, strict=True) if name in names]
        if len(having) < len(runs):
            owners.setdefault(', '.join(having), []).append(name)
    return [f'{what} of {having} only: {_shown(names)}' for having, names in owners.items()]


def _shown(names: Sequence[str], most: int = 8) -> str:
    return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')


def metric_rows(runs: Sequence[Run], names: Sequence[str], values: Sequence[Mapping[str, float]]) -> list[list[str]]:
    """Return one row per name: the value of each run, and behind each but the first its difference to the first."""
    rows = []
    for name in names:
        first = values[0].get(name)
        row = [name, _number(first)]
        for other in (found.get(name) for found in values[1:]):
            row += [_number(other), _number(None if None in (first, other) else other - first, sign='+')]
        rows.append(row)
    return rows


def metric_head(runs: Sequence[Run], what: str) -> list[str]:
    """Return the headings of `metric_rows`."""
    return [what, runs[0].name, *(text for run in runs[1:] for text in (run.name, 'difference'))]


def final_terms(runs: Sequence[Run]) -> list[dict[str, float]]:
    """Return of each run the mean of every term over its last iterations."""
    return [{name: run.final_term(name) for name in run.terms} for run in runs]


def write_scalars(runs: Sequence[Run], folder: Path) -> None:
    """Write terms (not smoothed), learning rates and metrics of each run to `folder/<run>` for TensorBoard.

    Event files that an earlier comparison left there are replaced.
    """
    from torch.utils.tensorboard import SummaryWriter
    words = [run.name.replace('/', '_') for run in runs]
    for run, word in zip(runs, distinct(words, [run.name for run in runs]), strict=True):
        own = folder / word
        for stale in own.glob('events.out.tfevents.*'):
            stale.unlink()
        with SummaryWriter(str(own)) as writer:
            for kind in ('terms', 'training', 'metrics'):
                for name, series in getattr(run, kind).items():
                    for step, value in zip(thinned(series.x, MOST_SCALARS), thinned(series.y, MOST_SCALARS), strict=True):
                        writer.add_scalar(f'{kind}/{name}', value, int(step))


def write_page(path: Path, text: str) -> None:
    """Write the page whole or not at all."""
    with atomic_write(path, 'w') as file:
        file.write(text)


def _colour(index: int) -> str:
    return f'hsl({(212 + index % HUES * 360 // HUES * 3) % 360} 62% {(48, 42)[index % 2]}%)'


def _legend(runs: Sequence[Run]) -> str:
    items = ''.join(f'<span style="color:{_colour(index)};white-space:nowrap">━ {escape(run.name)}'
                    f'{" (dashed)" if index >= HUES else ""}</span>' for index, run in enumerate(runs))
    return f'<p style="display:flex;flex-wrap:wrap;gap:4px 20px;max-width:none;font-weight:600">{items}</p>'


def _metric_tables(runs: Sequence[Run]) -> list[str]:
    names = list(dict.fromkeys(name for run in runs for name in run.scores))
    headline = [name for name in HEADLINE if name in names]
    scores = [run.scores for run in runs]
    terms = list(dict.fromkeys(name for run in runs for name in run.terms))
    sources = '; '.join(f'{run.name}: {run.scored}' for run in runs)
    tables = [f'<p class="soft">Scored by: {escape(sources)}. Shares between 0 and 1.</p>',
              html.table(metric_head(runs, 'metric'), metric_rows(runs, headline, scores))]
    others = [name for name in names if name not in headline]
    if others:
        tables.append(_folded(f'{len(others)} further metrics',
                              html.table(metric_head(runs, 'metric'), metric_rows(runs, others, scores))))
    tables.append(f'<h3>Terms, mean of the last {LAST} iterations</h3>')
    tables.append(html.table(metric_head(runs, 'term'), metric_rows(runs, terms, final_terms(runs))))
    return tables


def weighted_terms(runs: Sequence[Run], window: int) -> str:
    """Return a chart per weighted training term, smoothed over `window` iterations."""
    names = dict.fromkeys(name for run in runs for name in run.terms if name.startswith('loss'))
    return _group(runs, f'Weighted terms ({smoothing_text(window)})', list(names), 'terms', window)


def _curves(runs: Sequence[Run], window: int) -> list[str]:
    parts = dict.fromkeys(name for run in runs for name in run.terms if not name.startswith('loss'))
    metrics = dict.fromkeys(name for run in runs for name in run.metrics)
    headline = [name for name in HEADLINE if name in metrics]
    rates = dict.fromkeys(name for run in runs for name in run.training if name not in TRAINING)
    return [
        weighted_terms(runs, window),
        _group(runs, f'Parts of terms ({smoothing_text(window)})', list(parts), 'terms', window, folded=True),
        _group(runs, 'Learning rates', list(rates), 'training'),
        _group(runs, 'Metrics of the validations while training', headline, 'metrics'),
        _group(runs, 'Further metrics', [name for name in metrics if name not in headline], 'metrics', folded=True),
        _group(runs, 'Gradient norm, seconds per iteration, memory, as logged', TRAINING, 'training', folded=True)]


def _group(runs: Sequence[Run], heading: str, names: Sequence[str], kind: str, window: int = 1,
           folded: bool = False) -> str:
    drawn = {name: {index: getattr(run, kind)[name] for index, run in enumerate(runs) if name in getattr(run, kind)}
             for name in names}
    charts = ''.join(chart(name, [_curve(runs, index, series, window) for index, series in found.items()])
                     for name, found in drawn.items() if any(len(series.x) for series in found.values()))
    if not charts:
        return ''
    grid = f'<div style="{GRID}">{charts}</div>'
    return _folded(heading, grid) if folded else f'<h3>{escape(heading)}</h3>{grid}'


def _curve(runs: Sequence[Run], index: int, series: Series, window: int) -> Curve:
    x, y = smoothed(series.x, series.y, window)
    return Curve(runs[index].name, x, y, _colour(index), DASHES[index // HUES % len(DASHES)])


def _config_table(runs: Sequence[Run]) -> str:
    changes = [{path: pair for path, *pair in differences(runs[0].config, run.config)} for run in runs[1:]]
    paths = dict.fromkeys(path for change in changes for path in change)
    if not paths:
        return '<p class="soft">No difference.</p>'
    rows = []
    for path in paths:
        first = next(change[path][0] for change in changes if path in change)
        others = [_setting(change[path][1]) if path in change else '=' for change in changes]
        rows.append([path, _setting(first), *others])
    return html.table(['setting', *(run.name for run in runs)], rows)


def _record_table(runs: Sequence[Run]) -> str:
    """One column per run: what it took, and on what."""
    def of(name: str) -> list[object]:
        return [run.record.get(name, ABSENT) for run in runs]
    pace = [run.training['time'].y.mean() if 'time' in run.training else None for run in runs]
    rows = [['folder', *(run.path for run in runs)], ['iterations', *(run.iterations for run in runs)],
            ['finished', *('yes' if run.record.get('finished') else 'no' for run in runs)],
            ['hours, all resumes', *(_number(value) for value in _numbers(of('hours')))],
            ['CPU-hours, all resumes', *(_number(value) for value in _numbers(of('cpu_hours')))],
            ['seconds per iteration', *(_number(value) for value in pace)],
            ['peak memory (GB)', *(_number(value) for value in _numbers(of('peak_memory_gb')))]]
    rows += [[name, *('–' if value is ABSENT else value for value in of(name))]
             for name in ('update', 'processes', 'accumulation', 'device', 'cores', 'commit')]
    return html.table(['', *(run.name for run in runs)], rows)


def _setting(value: object) -> html.Raw:
    return html.Raw(f'<div style="white-space:normal;min-width:140px;max-width:420px">{escape(value_text(value))}</div>')


def _numbers(values: Sequence[object]) -> list[float | None]:
    return [value if isinstance(value, (int, float)) else None for value in values]


def _number(value: float | None, sign: str = '') -> str:
    return '–' if value is None else f'{value:{sign}.4g}' if abs(value) >= 1e4 else f'{value:{sign}.4f}'


def _folded(summary: str, content: str) -> str:
    return f'<details><summary>{escape(summary)}</summary>{content}</details>'
