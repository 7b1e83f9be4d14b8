"""Who started a process is read from the environment; what would make two processes write the same is refused."""

from __future__ import annotations

import json
import multiprocessing

import pytest

from jrs.cli import COMMANDS, LAUNCHED
from jrs.engine.processes import device_index
from jrs.errors import ConfigError
from jrs.launch import Place, find_place, first_host, slurm_port
from tests._data import ROOT, command
from tests.engine._ranks import BATCH, SHELL, free_port, srun, torchrun


def task(rank: int, **changes: str) -> dict[str, str]:
    return srun(rank, 2, 41) | changes


def test_the_launcher_is_taken_from_the_environment():
    assert find_place(None, torchrun(1, 2, 29500)) == Place('pytorch', 1, 2, 1, 'localhost', 29500)
    assert find_place(None, task(1)) == Place('slurm', 1, 2, 1, '127.0.0.1', slurm_port(41, 1))
    far = task(5, SLURM_STEP_NUM_TASKS='8', SLURM_LOCALID='1', SLURM_STEP_NUM_NODES='4', SLURM_STEP_NODELIST='n[07-09,12]')
    assert find_place(None, far) == Place('slurm', 5, 8, 1, 'n07', slurm_port(41, 1))
    assert find_place(None, far | dict(MASTER_ADDR='ib07', MASTER_PORT='1234')) == Place('slurm', 5, 8, 1, 'ib07', 1234)
    assert find_place(None, far | torchrun(1, 2, 29500)).launcher == 'pytorch'         # one torchrun per task of srun


@pytest.mark.parametrize('environment', [
    {}, SHELL, BATCH, task(0, SLURM_PTY_PORT='4711'), task(0, SLURM_STEP_NUM_TASKS='1'), dict(RANK='0', WORLD_SIZE='1'),
    dict(WORLD_SIZE='1')], ids=['nothing', 'salloc', 'batch script', 'srun --pty', 'step of one task', 'one rank', 'size 1'])
def test_one_process_waits_for_nobody(environment):
    """Slurm's variables are set in a shell inside an allocation too, where no other task will come."""
    assert find_place(None, environment) == find_place('none', environment) == Place()


@pytest.mark.parametrize(('launcher', 'environment', 'said'), [
    ('none', torchrun(0, 2, 1), ['torchrun started 2', 'Leave --launcher out']),
    ('none', task(0), ['srun started 2', 'slurm']),
    ('slurm', torchrun(0, 2, 1) | task(0), ['torchrun started this one']),
    ('pytorch', {}, ['RANK is not set', 'torchrun']),
    ('slurm', SHELL, ['SLURM_PROCID is not set', 'srun']),
    ('slurm', BATCH, ['batch script', 'srun']),
    (None, dict(WORLD_SIZE='2'), ['RANK is not']),
    (None, dict(RANK='0', WORLD_SIZE='2'), ['MASTER_ADDR']),
    (None, dict(RANK='2', WORLD_SIZE='2', MASTER_ADDR='a', MASTER_PORT='1'), ['process 2 of 2']),
    (None, dict(RANK='one', WORLD_SIZE='2', MASTER_ADDR='a', MASTER_PORT='1'), ['RANK', "'one'"]),
    (None, dict(OMPI_COMM_WORLD_SIZE='2'), ['OMPI_COMM_WORLD_SIZE', 'torchrun'])])
def test_a_start_that_cannot_be_meant_is_refused(launcher, environment, said):
    with pytest.raises(ConfigError) as error:
        find_place(launcher, environment)
    assert all(part in str(error.value) for part in said), error.value


def test_variables_set_by_hand_are_enough_where_slurm_is_named():
    given = dict(SLURM_PROCID='1', SLURM_NTASKS='2', SLURM_LOCALID='1', SLURM_JOB_ID='7', SLURM_JOB_NODELIST='a[1-2]')
    assert find_place('slurm', given) == Place('slurm', 1, 2, 1, 'a1', slurm_port(7, 0))


@pytest.mark.parametrize(('nodes', 'host'), [
    ('vm', 'vm'), ('a,b', 'a'), ('node[001-003,007],gpu1', 'node001'), ('n[12]', 'n12'), ('n[3,5-9]', 'n3'),
    ('rack[2-3]n[01-16,20],login', 'rack2n01'), ('gpu-a.site.org', 'gpu-a.site.org'), ('r[0-1]-ib,x', 'r0-ib')])
def test_the_first_host_of_a_node_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize('nodes', ['', '(null)', 'n[', 'n[a-b]'])
def test_a_node_list_without_a_host_is_refused(nodes):
    with pytest.raises(ConfigError, match='MASTER_ADDR'):
        first_host(nodes)


def test_steps_and_neighbouring_jobs_meet_at_ports_of_their_own():
    ports = {slurm_port(job, step) for job in range(1000, 1100) for step in range(8)}
    assert len(ports) == 800 and all(1024 < port < 32768 for port in ports)
    assert 1024 < slurm_port(2**31, 4294967290) < 32768


def test_the_device_is_among_those_that_the_process_sees():
    place = [Place('slurm', rank, 8, rank, 'a', 1) for rank in range(8)]
    assert [device_index(one, 8) for one in place] == list(range(8))
    assert {device_index(one, 1) for one in place} == {0}              # each task is bound to a GPU of its own
    with pytest.raises(ConfigError, match='2 GPUs'):
        device_index(Place('pytorch', 2, 4, 2, 'a', 1), 2)


@pytest.mark.parametrize('name', sorted(set(COMMANDS) - set(LAUNCHED)))
def test_commands_of_one_process_refuse_to_be_started_twice(name, monkeypatch, capsys):
    for environment in (torchrun(1, 2, 1), task(1)):
        with monkeypatch.context() as context:
            for key, value in environment.items():
                context.setenv(key, value)
            assert command(name) == 2
        assert f'tools/{name}.py runs in one process, and 2 were started' in capsys.readouterr().err


def test_two_agents_of_torchrun_on_one_machine_start_one_job(tmp_path, monkeypatch):
    """The processes join the group and say where they stand. The agents are forks: only the processes import torch."""
    from torch.distributed.run import main as torchrun_main
    program = tmp_path / 'join.py'
    program.write_text('''
import json, sys
from pathlib import Path
from jrs.engine.processes import agree, end_processes, start_processes
place = start_processes(None, 60)
found = dict(rank=place.rank, size=place.size, local=place.local_rank, largest=agree(place.rank)[0])
Path(sys.argv[1], f'{place.rank}.json').write_text(json.dumps(found))
end_processes()
''')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    given = ['--nnodes', '2', '--nproc_per_node', '1', '--master_addr', '127.0.0.1', '--master_port', str(free_port())]
    agents = [multiprocessing.get_context('fork').Process(
        target=torchrun_main, args=([*given, '--node_rank', str(node), str(program), str(tmp_path)],)) for node in range(2)]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.join(60)
        agent.kill()                           # the other one waits for it
        agent.join()
    assert [agent.exitcode for agent in agents] == [0, 0]
    found = [json.loads((tmp_path / f'{rank}.json').read_text()) for rank in range(2)]
    assert found == [dict(rank=rank, size=2, local=0, largest=1) for rank in range(2)]
