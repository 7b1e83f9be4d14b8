"""Commands are run once, side by side where asked; a failure is told and stops nothing else."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from jrs.engine.update import Update
from jrs.engine.writer import one_writer
from jrs.errors import DataError
from jrs.report.gaps import Gap
from jrs.report.identity import write_identity
from jrs.report.runner import LOG, Runner, gpus_of_cluster, make_room, write_slurm_jobs
from jrs.report.work import FINISHED, NEW, Scoring, Training, Work, command_line


class Script(Work):
    """A Python program that writes a file."""

    def __init__(self, folder, name, code='', fault=''):
        Work.__init__(self, title=name, folder=folder, gaps=(Gap('data', fault),) if fault else ())
        self.result, self.code = folder / name, code

    def state(self, any_code=False):
        return (FINISHED if self.result.is_file() else NEW), []

    def words(self, any_code=False):
        return ['-c', f'{self.code}\nopen({str(self.result)!r}, "a").write("x")']


class Run(Script, Training):
    """A script that passes for a training."""

    def __init__(self, folder, code=''):
        Script.__init__(self, folder, 'weights', code)
        self.identity, self.update = dict(seed=0), Update(1, None)


@pytest.fixture
def runner(tmp_path):
    def made(**changes):
        lines = []
        made = Runner(**dict(launcher='none', processes=1, jobs=1, one_thread=True, any_code=False, logs=tmp_path / 'logs',
                             say=lines.append) | changes)
        made.lines = lines
        return made
    return made


def test_what_is_finished_or_cannot_run_is_left_alone(runner, tmp_path):
    there, blocked, missing = Script(tmp_path, 'a'), Script(tmp_path, 'b', fault='no data'), Script(tmp_path, 'c')
    there.result.touch()
    first = runner()
    first.run([[there], [blocked], [missing]])
    assert not there.result.read_text() and not blocked.result.exists() and missing.result.read_text() == 'x'
    assert not first.failures and first.lines[0] == '[1/1] c'
    runner().run([[missing]])
    assert missing.result.read_text() == 'x'


def test_sigterm_is_passed_on_to_what_runs_and_nothing_more_is_begun(runner, tmp_path):
    begun, saved = tmp_path / 'begun', tmp_path / 'saved'
    code = (f'import signal, sys, time\nsignal.signal(15, lambda *_: (open({str(saved)!r}, "w"), sys.exit(143)))\n'
            f'open({str(begun)!r}, "w"); time.sleep(60)')
    long, later, one = Script(tmp_path, 'long', code), Script(tmp_path, 'later'), runner()

    def stop_once_begun():
        while not begun.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=stop_once_begun, daemon=True).start()
    with pytest.raises(SystemExit) as end:
        one.run([[long, later]])
    assert end.value.code == 143 and saved.exists() and not long.result.exists() and not later.result.exists()
    assert any('passed on to 1 running' in line for line in one.lines)


def test_a_failure_says_its_error_and_the_others_go_on(runner, tmp_path):
    code = "print('words'); print('DataError: no such scene'); print('a hint below'); raise SystemExit(3)"
    bad, good = Script(tmp_path, 'bad', code), Script(tmp_path, 'good')
    silent = Script(tmp_path, 'silent', 'raise SystemExit(4)')
    ran = runner()
    ran.run([[bad], [good], [silent]])
    assert good.result.is_file() and set(ran.failures) == {id(bad), id(silent)}
    assert ran.failures[id(bad)].startswith('DataError: no such scene (exit code 3;')
    assert 'without a word' in ran.failures[id(silent)]
    assert 'a hint below' in (tmp_path / 'logs' / LOG).read_text()


def test_nothing_is_scored_after_a_training_that_failed(runner, tmp_path):
    training = Run(tmp_path / 'run', 'raise SystemExit(1)')
    scoring = Scoring(title='score', folder=tmp_path / 'run/test', config='c', profile='debug', seed=0, overrides=(),
                      identity={}, checkpoint=training.weights, training=training)
    ran = runner()
    ran.run([[training, scoring]])
    assert set(ran.failures) == {id(training)} and not scoring.folder.exists()


def test_two_jobs_run_at_the_same_time_with_one_thread_each(runner, tmp_path):
    meet = f'''
import os, time, pathlib
here = pathlib.Path({str(tmp_path)!r})
assert os.environ["OMP_NUM_THREADS"] == "1"
(here / f"started_{{os.getpid()}}").touch()
end = time.monotonic() + 20
while len(list(here.glob("started_*"))) < 2:
    assert time.monotonic() < end
    time.sleep(0.02)'''
    ran = runner(jobs=2)
    ran.run([[Script(tmp_path, 'a', meet)], [Script(tmp_path, 'b', meet)]])
    assert not ran.failures
    assert any('left' in line for line in ran.lines)


def test_a_run_folder_that_another_process_writes_to_is_left_alone(runner, tmp_path):
    """Neither started nor, being of another identity, moved aside."""
    training = Run(tmp_path / 'run')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'iter_1.pth').touch()
    with one_writer(tmp_path / 'run', ['tools/train.py', 'mine.py']):
        ran = runner()
        ran.run([[training]])
    assert 'belongs to process' in ran.failures[id(training)] and 'mine.py' in ran.failures[id(training)]
    assert not training.result.exists() and not (tmp_path / 'run.other1').exists()
    runner().run([[training]])
    assert training.result.is_file()


def training(folder, slots=4, **identity):
    return Training(title='train', folder=folder, config='mine.py', profile='debug', seed=0, overrides=('a.b=1',), named=(),
                    identity=dict(config='1', code='1') | identity, update=Update(slots, 48), paper_update=Update(8, 48))


def test_a_run_of_another_identity_is_moved_aside_and_kept(tmp_path):
    said = []
    for content in ('first', 'second'):
        (tmp_path / 'run').mkdir()
        (tmp_path / 'run/weights.safetensors').write_text(content)
        (tmp_path / 'run/run.json').write_text(json.dumps(dict(finished=True)))
        write_identity(tmp_path / 'run', dict(config='1', code='2'))
        make_room(training(tmp_path / 'run'), True, said.append)
        assert (tmp_path / 'run').is_dir() and not said
        make_room(training(tmp_path / 'run'), False, said.append)
        assert not (tmp_path / 'run').exists() and 'by other code' in said.pop()
    assert (tmp_path / 'run.other1/weights.safetensors').read_text() == 'first'
    assert (tmp_path / 'run.other2/weights.safetensors').read_text() == 'second'


def test_batch_scripts_resume_by_themselves(runner, tmp_path):
    one = training(tmp_path / 'run')
    scripts = write_slurm_jobs([[one]], runner(launcher='slurm', processes=4), tmp_path / 'slurm', gpus=0)
    text = scripts[0].read_text()
    assert '#SBATCH --ntasks=4' in text and f'srun {sys.executable}' in text
    assert f'$(ls {tmp_path}/run/iter_*.pth > /dev/null 2>&1 && echo --resume) --launcher slurm' in text
    assert '#SBATCH --requeue' in text and '#SBATCH --open-mode=append' in text and '#SBATCH --signal=TERM@' in text
    assert 'gpu' not in text
    scripts = write_slurm_jobs([[one]], runner(launcher='slurm', processes=4), tmp_path / 'slurm', gpus=2)
    assert '#SBATCH --gpus-per-task=2\n' in scripts[0].read_text()


def test_scripts_of_equal_names_are_apart_and_folders_of_any_name_are_quoted(runner, tmp_path):
    jobs = [[training(tmp_path / name / 'my run')] for name in 'ab']
    scripts = write_slurm_jobs(jobs, runner(launcher='slurm', processes=4), tmp_path / 'my 5%j', gpus=0)
    assert [path.name for path in scripts] == ['my_run.sh', 'my_run-2.sh'] and 'a/my run' in scripts[0].read_text()
    assert f"#SBATCH --output='{tmp_path}/my 5%%j/my_run-%j.log'\n" in scripts[0].read_text()
    with pytest.raises(DataError, match='no line of a script'):
        write_slurm_jobs(jobs, runner(launcher='slurm', processes=4), tmp_path / 'a\nb', gpus=0)


@pytest.mark.parametrize(('answer', 'gpus'), [('(null)', 0), ('gpu:a100:8(S:0-1)', 1), ('(null)\ngpu:4', 1), (None, 1)])
def test_jobs_ask_for_gpus_where_the_cluster_has_them(answer, gpus, tmp_path, monkeypatch):
    if answer is not None:
        (tmp_path / 'sinfo').write_text(f'#!/bin/sh\necho "{answer}"\n')
        (tmp_path / 'sinfo').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/bin' if answer is not None else str(tmp_path))
    said = []
    assert gpus_of_cluster(said.append) == gpus and '--slurm-gpus' in said[0]


@pytest.mark.parametrize(('slots', 'asked', 'started'), [(8, 8, 8), (8, 3, 2), (1, 4, 1), (6, 5, 3)])
def test_a_training_is_started_with_as_many_processes_as_share_its_update(slots, asked, started, runner, tmp_path):
    one = training(tmp_path / f'run{slots}', slots)
    scripts = write_slurm_jobs([[one]], runner(launcher='slurm', processes=asked), tmp_path / 'slurm', gpus=0)
    assert f'#SBATCH --ntasks={started}\n' in scripts[0].read_text()
    given = command_line(one.words(), 'pytorch', one.processes_within(asked))
    assert given[given.index('--nproc_per_node') + 1] == str(started)
    assert Script(tmp_path, 'scoring').processes_within(asked) == asked
