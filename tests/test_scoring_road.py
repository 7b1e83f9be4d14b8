"""The whole road of a score: generated room -> raw scan -> scene folder -> true 2D masks -> mesh vertices -> official AP."""

import math

import pytest
import torch

from jrs.datasets.dataset import SceneDataset
from jrs.datasets.prepare.scannet import prepare_scannet
from jrs.evaluation.metrics import InstanceAPMetric
from jrs.models.targets import instance_targets
from jrs.structures import Instances, Reconstruction
from jrs.synth.presets import Preset
from jrs.synth.scan import label_table, write_scan
from tests._data import forget_runs

ROOM = Preset('road', 1, 1, 60, (84, 112))


@pytest.fixture(scope='module')
def batch(tmp_path_factory):
    """All views of one generated room, as a test batch at the network's size."""
    from jrs.io import scannet
    folder = tmp_path_factory.mktemp('road')
    raw = folder / 'raw'
    raw.mkdir()
    write_scan(raw, 3, ROOM, seed=0)
    scannet.write_label_table(raw / scannet.LABEL_TABLE, label_table())
    scannet.write_list(raw / 'scannetv2_val.txt', ['scene0003_00'])
    prepare_scannet(raw, folder / 'rooms', every=1)
    return SceneDataset(folder='rooms', split='val', benchmark='scannet200', width=112, data_root=str(folder),
                        mode='test')[0]


def true_instances(batch, step: int) -> Instances:
    """The true masks at 1/step of the images' size, as if a perfect model had predicted them."""
    height, width = batch.images.shape[-2:]
    targets = instance_targets(batch, (height // step, width // step))[0]
    count = len(targets.labels)
    return Instances(targets.masks, targets.labels, torch.linspace(1.0, 0.9, count), torch.arange(count))


def scores(batch, instances: Instances) -> dict[str, float]:
    forget_runs()
    metric = InstanceAPMetric(benchmark='scannet200', transfer=dict(type='PosedTransfer', depth_tolerance_m=0.10))
    views, _, height, width = batch.images.shape[1:]
    scene = Reconstruction(batch.images[0], torch.ones(views, height, width), torch.ones(views, height, width),
                           torch.eye(3).expand(views, 3, 3), torch.eye(4).expand(views, 4, 4), None, instances,
                           batch.view_names[0])
    metric.process(batch, [scene])
    return metric.evaluate(size=1)


def test_true_masks_of_a_generated_room_reach_ap50_of_95_percent(batch):
    found = scores(batch, true_instances(batch, 1))
    assert found['instance/AP50'] >= 0.95 and found['instance/agnostic_AP50'] >= 0.95, found
    assert found['instance/oracle_AP50'] == found['instance/AP50'], found


def test_halved_masks_still_hit_nearly_every_object(batch):
    found = scores(batch, true_instances(batch, 2))
    assert found['instance/AP50'] >= 0.85 and found['instance/agnostic_AP25'] >= 0.9, found


def test_masks_of_other_instances_and_masks_of_other_views_score_nothing(batch):
    wrong = true_instances(batch, 2)
    wrong.masks = wrong.masks.roll(1, dims=0)
    assert scores(batch, wrong)['instance/AP50'] < 0.2
    wrong.masks = wrong.masks.roll(20, dims=1)
    found = scores(batch, wrong)
    assert found['instance/agnostic_AP50'] < 0.2 and not math.isnan(found['instance/agnostic_AP50'])
