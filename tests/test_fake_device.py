"""The whole program on an accelerator that is not there (benchmarks/fake_device.py): no operation mixes devices.

Also what makes the host wait for the device, by function: a new `.item()` on the way of every step shows here. It cannot
show kernels, time, autocast, and branches for CUDA alone.
"""

import json
import subprocess
import sys

import pytest

from tests._data import ROOT

BUDGET = 40                                    # CPU-seconds of the whole process
BATCH = 'jrs/structures.py:<lambda>'           # `Moves.to`

TRAINING_WAITS = {                             # two scenes: 7 waits, 2 of them for the costs of the scenes
    'tolist jrs/models/targets.py:instance_targets': 1,         # how many instances are seen, in all scenes
    'item jrs/losses/regression.py:__call__': 1,                # how many pixels of the teacher are valid
    'nonzero jrs/losses/regression.py:_valid_of': 1,            # which; not where all are, as of a model that teaches
    'item jrs/models/segvggt.py:_check_finite': 1,
    'item jrs/engine/optim.py:step': 1}                         # the norm of all gradients
TRAINING_COPIES = {
    f'host to device, not waited for {BATCH}': 9,
    'device to host jrs/matching/hungarian.py:total_cost': 2,
    'host to device jrs/matching/hungarian.py:__call__': 4}     # pairs of two scenes
INFERENCE_WAITS = {                            # of one scene
    'tolist jrs/finite.py:nonfinite': 1,                        # all predictions
    'tolist jrs/postprocess/instances.py:__call__': 2}          # how many queries are ranked, how many instances are left
INFERENCE_COPIES = {f'host to device {BATCH}': 7}


@pytest.fixture(scope='module')
def cases() -> dict[str, dict]:
    """What each case of tests/_fake_device.py said."""
    done = subprocess.run([sys.executable, '-m', 'tests._fake_device'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]
    return {line['case']: line for line in lines}


def test_no_operation_mixes_devices_and_every_gradient_arrives(cases):
    assert len(cases) > 30
    faults = {name: case['fault'] for name, case in cases.items() if case['fault'] and name != 'planted'}
    assert not faults, '\n'.join(f'{name}: {fault}' for name, fault in faults.items())


def test_a_tensor_that_was_left_on_the_cpu_is_found(cases):
    assert 'FakeTensorDeviceMismatchError' in cases['planted']['fault']


def test_a_training_step_waits_where_it_has_to_and_copies_no_constants(cases):
    found = cases['main']['found']['training']
    assert (found['syncs'], found['constants']) == (TRAINING_WAITS, {})
    assert found['copies'] == TRAINING_COPIES
    assert sum(found['syncs'].values()) <= 12


def test_a_reconstruction_waits_three_times_and_copies_no_constants(cases):
    found = cases['main']['found']['inference']
    assert (found['syncs'], found['constants']) == (INFERENCE_WAITS, {})
    assert found['copies'] == INFERENCE_COPIES
    assert sum(found['syncs'].values()) <= 3


def test_no_part_copies_constants_in_a_pass(cases):
    copied = {name: case['noted']['constants'] for name, case in cases.items() if case['noted']['constants']}
    assert set(copied) <= {'losses', 'metrics'}                 # the test's own inputs; choices that the host has made


def test_all_of_it_is_quick(cases):
    assert sum(case['seconds'] for case in cases.values()) < BUDGET
