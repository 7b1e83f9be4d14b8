import numpy as np
import pytest

from jrs.errors import ConfigError, PluginError
from jrs.queries.inserted import InsertedQueries
from jrs.queries.insertion import chosen_layers
from jrs.registry import INSERTIONS, build, registering_as

HALVES = {'EarlyLayers': range(12), 'LateLayers': range(12, 24), 'InterleavedLayers': range(1, 24, 2)}


def _layers(num_layers, **cfg):
    return build(INSERTIONS, cfg, 'model.queries.insertion')(num_layers)


def test_all_layers_are_all():
    assert _layers(24, type='AllLayers') == tuple(range(24))


@pytest.mark.parametrize('name', HALVES)
def test_halves_of_24_are_the_12_of_the_paper(name):
    assert _layers(24, type=name) == tuple(HALVES[name])


@pytest.mark.parametrize('name', HALVES)
@pytest.mark.parametrize('num_layers', range(2, 13))
def test_halves_are_half_of_any_backbone(name, num_layers):
    layers = _layers(num_layers, type=name)
    assert len(set(layers)) == num_layers // 2 and set(layers) <= set(range(num_layers))


@pytest.mark.parametrize('name', HALVES)
def test_half_of_one_layer_is_an_error(name):
    with pytest.raises(ConfigError, match='at least 2 layers'):
        _layers(1, type=name)


def test_listed_layers_are_sorted():
    assert _layers(8, type='ListedLayers', layers=[5, 0, 3]) == (0, 3, 5)


@pytest.mark.parametrize('layers', [[], [1, 1], [8], [-1]])
def test_listed_layers_must_exist_once(layers):
    with pytest.raises(ConfigError, match='model.queries.insertion: ListedLayers .* 0 .. 7'):
        InsertedQueries(16, 8, 3, 4, insertion=dict(type='ListedLayers', layers=layers))


class _Returns:
    def __init__(self, found):
        self.found = found

    def __call__(self, num_layers):
        return self.found


@pytest.fixture
def foreign(monkeypatch):
    """A plugin's insertion, registered while a test runs."""
    monkeypatch.setattr(INSERTIONS, '_module_dict', dict(INSERTIONS._module_dict))
    with registering_as('others'):
        return INSERTIONS.register_module(name='Foreign', module=type('Foreign', (_Returns,), {}))


@pytest.mark.parametrize('found', [(0, 9), (4,), (-1, 2), (), None, 3, (2, 1), (1, 1, 2), (0.0, 1.0), (True,), ('1',), 'ab',
                                   [[0, 1]]], ids=repr)
@pytest.mark.parametrize('slot', ['insertion', 'self_insertion'])
def test_layers_that_the_backbone_has_not_are_refused_wherever_an_insertion_comes_from(foreign, slot, found):
    with pytest.raises(PluginError) as error:
        InsertedQueries(16, 4, 3, 4, **{slot: dict(type='Foreign', found=found)})
    for words in (f'model.queries.{slot}', "Foreign of plugin 'others'", repr(found), '0 .. 3'):
        assert words in str(error.value)


def test_any_sequence_of_whole_numbers_chooses_layers(foreign):
    for found in [(0, 2), [0, 2], range(0, 4, 2), np.array([0, 2])]:
        layers = chosen_layers(foreign(found), 4, 'model.queries.insertion')
        assert layers == (0, 2) and all(type(layer) is int for layer in layers)
