"""Who started this process, and where it stands among the others: from the variables of torchrun and of Slurm."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from jrs.errors import ConfigError

LAUNCHERS = ('none', 'pytorch', 'slurm')
STARTS = dict(pytorch='torchrun --nproc_per_node N', slurm='srun')
OTHERS = ('OMPI_COMM_WORLD_SIZE', 'MV2_COMM_WORLD_SIZE', 'PMI_SIZE')       # of mpirun, which we cannot join
PORTS = range(20000, 32000)                    # below those that systems hand out by themselves
STEPS = 8                                      # ports per Slurm job, so that steps of neighbouring jobs differ


@dataclass(frozen=True)
class Place:
    """Where a process stands in its job.

    Attributes:
        launcher: one of `LAUNCHERS`.
        rank, size: this process and all of them.
        local_rank: among those of this machine.
        address, port: where process 0 is met; empty and 0 for a process on its own.
    """

    launcher: str = 'none'
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = ''
    port: int = 0


def add_launcher_option(parser: argparse.ArgumentParser) -> None:
    """Add --launcher to a command that several processes can run together."""
    parser.add_argument('--launcher', choices=LAUNCHERS, help='who started the processes of this job; default: as torchrun '
                        'and srun say in the environment. A shell inside an allocation of Slurm counts as one process')


def find_place(launcher: str | None = None, environ: Mapping[str, str] = os.environ) -> Place:
    """Return the place of this process.

    Args:
        launcher: one of `LAUNCHERS`; None takes who the environment says.
        environ: its variables.

    Raises:
        ConfigError: `launcher` has not started this process, or is none where there are several; or a variable is missing.
    """
    found = _started_by(environ)
    if launcher in (None, 'none') and found == 'none':
        _refuse_strangers(environ)
        return Place()
    place = dict(pytorch=_torchrun_place, slurm=_slurm_place)[found](environ) if found != 'none' else Place()
    if launcher is None or launcher == found:
        return place
    if launcher == 'none':
        if place.size > 1:
            raise ConfigError(f'--launcher none is for one process, and {STARTS[found].split()[0]} started {place.size}: '
                              f'each would write the same files. Leave --launcher out, or say {found}.')
        return Place()
    if launcher == 'slurm' and found == 'pytorch':
        raise ConfigError('--launcher slurm is for processes that srun starts, and torchrun started this one: leave '
                          '--launcher out, or say pytorch.')
    mark = dict(pytorch='RANK', slurm='SLURM_PROCID')[launcher]
    if mark not in environ or launcher == 'slurm' and environ.get('ENVIRONMENT') == 'BATCH' and not _in_step(environ):
        reason = f'{mark} is not set here' if mark not in environ else 'this is the batch script itself, not a step of srun'
        raise ConfigError(f'--launcher {launcher} is for processes that {STARTS[launcher].split()[0]} starts ({reason}): '
                          f'{STARTS[launcher]} tools/train.py CONFIG.')
    return dict(pytorch=_torchrun_place, slurm=_slurm_place)[launcher](environ)


def refuse_several_processes(command: str, environ: Mapping[str, str] = os.environ) -> None:
    """Raise a ConfigError where torchrun, srun or mpirun started more than one of `command`."""
    size = find_place(None, environ).size
    if size > 1:
        raise ConfigError(f'{command} runs in one process, and {size} were started together: each would do the same '
                          f'and write the same files. Start it as: python {command} …')


def _started_by(environ: Mapping[str, str]) -> str:
    """Return the launcher that the variables speak of.

    A batch script and a shell of salloc have Slurm's variables too, without those of a step; a shell of `srun --pty` is a
    step, and the tasks beside it are shells.
    """
    if 'RANK' in environ and 'WORLD_SIZE' in environ and ('MASTER_ADDR' in environ or environ['WORLD_SIZE'] != '1'):
        return 'pytorch'
    if 'RANK' not in environ and _number(environ, 'WORLD_SIZE', 1) > 1:
        raise ConfigError(f'WORLD_SIZE={environ["WORLD_SIZE"]} is set and RANK is not: torchrun sets both. Start with '
                          f'{STARTS["pytorch"]} tools/train.py CONFIG, or unset WORLD_SIZE.')
    if _in_step(environ) and 'SLURM_PROCID' in environ and 'SLURM_PTY_PORT' not in environ and _tasks(environ) > 1:
        return 'slurm'
    return 'none'


def _in_step(environ: Mapping[str, str]) -> bool:
    return any(name in environ for name in ('SLURM_STEP_ID', 'SLURM_STEPID', 'SLURM_STEP_NUM_TASKS'))


def _tasks(environ: Mapping[str, str]) -> int:
    return _number(environ, 'SLURM_STEP_NUM_TASKS' if 'SLURM_STEP_NUM_TASKS' in environ else 'SLURM_NTASKS')


def _refuse_strangers(environ: Mapping[str, str]) -> None:
    """Raise a ConfigError where mpirun started several processes."""
    for name in OTHERS:
        if _number(environ, name, 1) > 1:
            raise ConfigError(f'{environ[name]} processes were started together ({name}), by none of the launchers that are '
                              f'known: {" or ".join(STARTS.values())}.')


def _torchrun_place(environ: Mapping[str, str]) -> Place:
    return _checked(Place('pytorch', _number(environ, 'RANK'), _number(environ, 'WORLD_SIZE'),
                          _number(environ, 'LOCAL_RANK', 0), _text(environ, 'MASTER_ADDR'), _number(environ, 'MASTER_PORT')))


def _slurm_place(environ: Mapping[str, str]) -> Place:
    """Return a task's place; MASTER_ADDR and MASTER_PORT win where the job script exports them."""
    rank, size, local = _number(environ, 'SLURM_PROCID'), _tasks(environ), _number(environ, 'SLURM_LOCALID', 0)
    nodes = next((environ[name] for name in ('SLURM_STEP_NODELIST', 'SLURM_JOB_NODELIST', 'SLURM_NODELIST')
                  if environ.get(name)), '')
    address = environ.get('MASTER_ADDR') or ('127.0.0.1' if _one_machine(environ) else first_host(nodes))
    if 'MASTER_PORT' in environ:
        port = _number(environ, 'MASTER_PORT')
    else:
        job = _number(environ, 'SLURM_JOB_ID' if 'SLURM_JOB_ID' in environ else 'SLURM_JOBID')
        step = _number(environ, 'SLURM_STEP_ID' if 'SLURM_STEP_ID' in environ else 'SLURM_STEPID', 0)
        port = slurm_port(job, step)
    return _checked(Place('slurm', rank, size, local, address, port))


def _one_machine(environ: Mapping[str, str]) -> bool:
    """Return whether all tasks are on this machine, whose name need not be known to any resolver then."""
    return (environ.get('SLURM_STEP_NUM_NODES') or environ.get('SLURM_NNODES')) == '1'


def slurm_port(job: int, step: int) -> int:
    """Return the port where the tasks of a step meet: others for other steps and for jobs of near numbers."""
    return PORTS[(STEPS * job + step % STEPS) % len(PORTS)]


def first_host(nodes: str) -> str:
    """Return the first name of a list as Slurm writes it: ``rack[2-3]n[01-16,20],login`` begins with ``rack2n01``."""
    first = re.fullmatch(r'((?:[\w.-]|\[\d[\d,-]*\])+)(,.*)?', nodes)
    if first is None:
        raise ConfigError(f'no host can be read from the node list of Slurm: {nodes!r} (SLURM_STEP_NODELIST or '
                          'SLURM_JOB_NODELIST). Export MASTER_ADDR in the job script, the machine of task 0.')
    return re.sub(r'\[(\d+)[^]]*\]', r'\1', first[1])


def _checked(place: Place) -> Place:
    if not 0 <= place.rank < place.size:
        raise ConfigError(f'the environment says process {place.rank} of {place.size}: ranks are 0 to {place.size - 1}.')
    return place


def _text(environ: Mapping[str, str], name: str) -> str:
    if not environ.get(name):
        starts = ' and '.join(start.split()[0] for start in STARTS.values())
        raise ConfigError(f'this is one of several processes, and {name} is not set; {starts} set all that is needed.')
    return environ[name]


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and not environ.get(name):
        return default
    text = _text(environ, name)
    if not text.isdecimal():
        raise ConfigError(f'the variable {name} must be a whole number of at least 0, got {text!r}.')
    return int(text)
