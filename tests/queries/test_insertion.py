import pytest

from jrs.errors import ConfigError
from jrs.registry import INSERTIONS, build

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
    with pytest.raises(ConfigError, match='0 .. 7'):
        _layers(8, type='ListedLayers', layers=layers)
