"""Puts the repository root on the path, so that tests can import `tests.…`, and keeps torch to one thread."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault('OMP_NUM_THREADS', '1')
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture(scope='session')
def debug_data(tmp_path_factory):
    """Data root whose `rooms/debug` has two scenes to train on and one to validate; read only, one for all workers."""
    from tests._data import make_data
    own = tmp_path_factory.mktemp('prepare')
    parallel = 'PYTEST_XDIST_WORKER' in os.environ
    return make_data(own.parent.parent if parallel else own.parent, own)


def pytest_terminal_summary(terminalreporter):
    """Say how many golden files passed; a skipped one is not a pass."""
    passed, failed, skipped = (golden_files(terminalreporter, outcome) for outcome in ('passed', 'failed', 'skipped'))
    if passed or failed or skipped:
        terminalreporter.write_line(f'golden files: {len(passed - failed)} passed, {len(failed)} failed, '
                                    f'{len(skipped)} skipped')


def golden_files(terminalreporter, outcome: str) -> set[str]:
    """Return the names of golden files with a test of that outcome; skips are reported when a test is set up."""
    when = 'setup' if outcome == 'skipped' else 'call'
    return {report.nodeid.partition('[')[2].rstrip(']').partition('-')[0] for report in terminalreporter.getreports(outcome)
            if '/golden/' in report.nodeid and report.when == when}


@pytest.fixture
def fresh(monkeypatch):
    """A process that has loaded no plugin; undoes what a test registers and imports."""
    from jrs import plugins
    from jrs.registry import SLOTS, owner_of
    monkeypatch.setattr(plugins, '_manager', None)
    modules, parts = set(sys.modules), {slot: set(slot._module_dict) for slot in SLOTS.values()}
    yield
    for slot, before in parts.items():
        for name in set(slot._module_dict) - before:
            if owner_of(slot._module_dict[name]) not in ('jrs', 'mmengine'):
                del slot._module_dict[name]
    for name in set(sys.modules) - modules:
        if name.startswith(plugins.NAMESPACE):
            del sys.modules[name]
