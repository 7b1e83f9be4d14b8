"""The whole program on an accelerator that is not there (benchmarks/fake_device.py): no operation mixes devices.

Also what makes the host wait for the device, by function: a new `.item()` on the way of every step shows here. It cannot
show kernels, time, autocast, and branches for CUDA alone.
"""

import json
import subprocess
import sys

import pytest

from tests._data import ROOT

OPERATIONS = 185_000                           # of the whole process, to stay under 40 s of a quiet core: 4,700 a second
BATCH = 'jrs/structures.py:<lambda>'           # `Moves.to`

TRAINING_WAITS = {                             # two scenes: 7 waits, 2 of them for the costs of the scenes
    'tolist jrs/models/targets.py:instance_targets': 1,         # how many instances are seen, in all scenes
    'item jrs/losses/regression.py:__call__': 1,                # how many pixels of the teacher are valid
    'nonzero jrs/losses/regression.py:_valid_of': 1,            # which; not where all are, as of a model that teaches
    'item jrs/finite.py:refuse_nonfinite_terms': 1,
    'item jrs/engine/optim.py:step': 1}                         # the norm of all gradients
TRAINING_COPIES = {
    f'host to device, not waited for {BATCH}': 9,
    'device to host jrs/matching/hungarian.py:total_cost': 2,
    'host to device jrs/matching/hungarian.py:__call__': 4}     # pairs of two scenes
INFERENCE_WAITS = {                            # of one scene
    'tolist jrs/finite.py:nonfinite': 1,                        # all predictions
    'tolist jrs/postprocess/instances.py:__call__': 2}          # how many queries are ranked, how many instances are left
POINTS_WAITS = {                               # a method on points, two levels; voxels and targets depend on content
    'nonzero plugins/point_clouds/voxels.py:sorted_level': 2,   # what no batch of ours has: wrong voxels, and equal ones
    'tolist plugins/point_clouds/voxels.py:padded_extent': 1,
    'nonzero plugins/point_clouds/voxels.py:_neighbours': 26,   # who meets at 13 places of a kernel, of each level
    'nonzero plugins/point_clouds/voxels.py:_coarser': 1,
    'unique plugins/point_clouds/voxels.py:_coarser': 1,
    'nonzero plugins/point_clouds/voxels.py:<listcomp>': 8,     # the members of cells
    'bincount plugins/point_clouds/voxels.py:_group': 2,        # not on CUDA
    'bincount plugins/point_clouds/pooling.py:points_per_superpoint': 6,
    'item plugins/point_clouds/batch.py:superpoint_mode': 1,
    'unique plugins/point_clouds/batch.py:superpoint_mode': 1,
    'boolean index plugins/point_clouds/batch.py:superpoint_mode': 2,
    'item plugins/point_clouds/batch.py:superpoint_majority': 1,
    'unique plugins/point_clouds/batch.py:superpoint_majority': 1,
    'boolean index plugins/point_clouds/batch.py:superpoint_majority': 2,
    'boolean index plugins/point_clouds/batch.py:_rows': 2,
    'boolean index plugins/point_clouds/batch.py:_scene_targets': 8,
    'nonzero plugins/point_clouds/losses.py:__call__': 4,       # pairs that teach the score head: two scenes, two levels
    'item jrs/finite.py:refuse_nonfinite_terms': 1,
    'item jrs/engine/optim.py:step': 1}
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


def test_a_method_on_points_waits_where_content_decides_and_copies_no_constants(cases):
    training, inference = (cases['points']['found'][name] for name in ('training', 'inference'))
    assert (training['syncs'], training['constants'], inference['constants']) == (POINTS_WAITS, {}, {})
    assert sum(inference['syncs'].values()) < sum(training['syncs'].values())


def test_hiding_unlikely_tokens_makes_nobody_wait(cases):
    assert cases['masked']['noted']['syncs'] == {}


def test_no_part_copies_constants_in_a_pass(cases):
    copied = {name: case['noted']['constants'] for name, case in cases.items() if case['noted']['constants']}
    assert set(copied) <= {'losses', 'metrics'}                 # the test's own inputs; choices that the host has made


def test_all_of_it_is_quick(cases):
    """By what it does, since how long that takes is up to the machine and to what else runs there."""
    counts = {name: case['operations'] for name, case in cases.items()}
    assert sum(counts.values()) < OPERATIONS, sorted(counts.items(), key=lambda item: -item[1])[:10]
