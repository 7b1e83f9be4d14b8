"""Where scalars of a run go: one line of a config per tracker, and what is missing is said before the run begins."""

import pytest

from jrs.config import load_config
from jrs.engine import build
from jrs.engine.build import trackers_of
from jrs.errors import ConfigError
from tests._data import MAIN


def test_one_line_adds_a_tracker_and_one_leaves_tensorboard_out(monkeypatch):
    monkeypatch.setattr(build, 'find_spec', lambda package: object())
    cfg = load_config(MAIN, 'debug', {'trackers.wandb.type': 'WandbVisBackend'})
    assert trackers_of(cfg) == [dict(type='TensorboardVisBackend'), dict(type='WandbVisBackend')]
    cfg = load_config(MAIN, 'debug', {'trackers.tensorboard': None})
    assert trackers_of(cfg) == []
    cfg._cfg_dict.pop('trackers')                                      # as configs of older runs are
    assert trackers_of(cfg) == [dict(type='TensorboardVisBackend')]


def test_a_tracker_without_its_package_or_of_another_name_is_refused(monkeypatch):
    monkeypatch.setattr(build, 'find_spec', lambda package: None)
    cfg = load_config(MAIN, 'debug', {'trackers.wandb.type': 'WandbVisBackend'})
    with pytest.raises(ConfigError, match='pip install wandb'):
        trackers_of(cfg)
    with pytest.raises(ConfigError, match='WandbVisBackend'):
        load_config(MAIN, 'debug', {'trackers.wandb.type': 'WandBVisBackend'})
