"""One prepared data set for all tests of this room; tests that damage a scene copy it first."""

import pytest

from jrs.datasets.prepare.scannet import prepare_scannet
from tests.datasets._raw_scan import write_raw


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
    """Folder with two scenes, splits train and val, every frame kept but the lost one."""
    root = tmp_path_factory.mktemp('scannet')
    write_raw(root / 'raw', ('scene0000_00', 'scene0001_00'))
    summary = prepare_scannet(root / 'raw', root / 'out', every=1)
    assert summary.failed == {}
    return root / 'out'
