from types import SimpleNamespace

import pytest
import torch

from jrs.config import load_config
from jrs.errors import ConfigError
from jrs.queries.inserted import HideUnlikelyTokens, InsertedQueries
from jrs.registry import MODELS, QUERIES, build
from jrs.structures import LayerState
from tests._data import MAIN, random_batch
from tests.test_registered import SIZE

DIM, LAYERS, VIEWS, PER_VIEW = 16, 4, 3, 5                         # one special token and four patches per view


def _queries(**options) -> InsertedQueries:
    torch.manual_seed(0)
    cfg = dict(type='InsertedQueries', num_queries=6, num_heads=4, embedding_dim=8, token_std=1.0, init_values=0.5)
    return build(QUERIES, {**cfg, **options}, 'model.queries', dim=DIM, num_layers=LAYERS)


def _states(num_scenes=2, order=None):
    generator = torch.Generator().manual_seed(3)
    special = torch.arange(VIEWS * PER_VIEW) % PER_VIEW == 0
    for index in range(LAYERS):
        tokens = torch.randn(num_scenes, VIEWS, PER_VIEW, DIM, generator=generator)
        tokens = tokens if order is None else tokens[:, order]
        yield LayerState(index, tokens.flatten(1, 2), torch.arange(VIEWS).repeat_interleave(PER_VIEW), ~special, VIEWS)


def _run(queries, track_views=True, **options):
    state = queries.start(2, track_views)
    for layer in _states(**options):
        state = queries.read(state, layer)
    return queries.finish(state)


def test_predictions_have_the_contracts_shapes_and_rows_sum_to_one():
    predictions = _run(_queries())
    assert predictions.embedding.shape == (2, 6, 8) and predictions.embedding.dtype == torch.float32
    assert predictions.view_attention.shape == (LAYERS, 2, 6, VIEWS)
    torch.testing.assert_close(predictions.view_attention.sum(-1), torch.ones(LAYERS, 2, 6))


def test_view_attention_is_collected_on_request_only():
    queries = _queries()
    silent = _run(queries, track_views=False)
    assert silent.view_attention is None
    torch.testing.assert_close(silent.embedding, _run(queries).embedding, rtol=1e-5, atol=1e-5)


def test_permuting_views_permutes_view_attention_and_leaves_the_embedding():
    queries, order = _queries(), [2, 0, 1]
    straight, permuted = _run(queries), _run(queries, order=order)
    torch.testing.assert_close(permuted.view_attention, straight.view_attention[..., order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted.embedding, straight.embedding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('insertion', 'layers'), [
    (None, {'0', '1', '2', '3'}), (dict(type='EarlyLayers'), {'0', '1'}), (dict(type='LateLayers'), {'2', '3'}),
    (dict(type='InterleavedLayers'), {'1', '3'}), (dict(type='ListedLayers', layers=[2]), {'2'})])
def test_insertion_decides_which_layers_are_read(insertion, layers):
    queries = _queries(insertion=insertion)
    assert set(queries.cross_blocks) == set(queries.self_blocks) == layers
    state = queries.start(2, True)
    for layer in _states():
        before, state = state, queries.read(state, layer)
        assert (state is not before) == (str(layer.index) in layers)
    assert len(queries.finish(state).view_attention) == len(layers)


def test_keys_carry_layer_numbers():
    queries = _queries(insertion=dict(type='ListedLayers', layers=[1, 3]),
                       self_insertion=dict(type='ListedLayers', layers=[2]))
    prefixes = {'.'.join(key.split('.')[:2]) for key in queries.state_dict()}
    assert prefixes == {'tokens', 'cross_blocks.1', 'cross_blocks.3', 'self_blocks.2', 'projection.weight',
                        'projection.bias'}


def test_queries_start_at_the_stated_deviation():
    torch.manual_seed(0)
    tokens = InsertedQueries(dim=64, num_layers=1, num_heads=4).tokens
    assert tokens.shape == (1, 400, 64) and tokens.std().item() == pytest.approx(1e-6, rel=0.05)


def test_gradients_reach_every_parameter_and_checkpointing_does_not_change_them():
    gradients = []
    for checkpointing in (False, True):
        queries = _queries(activation_checkpointing=checkpointing).train()
        predictions = _run(queries)
        weight = torch.linspace(-1, 1, VIEWS)
        (predictions.embedding.square().sum() + (predictions.view_attention.log() * weight).sum()).backward()
        gradients.append({name: parameter.grad for name, parameter in queries.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and torch.equal(gradient, gradients[1][name]), name
        # A constant added to all keys, and one added to all of a head's query-key products, cancel in the softmax.
        assert gradient.abs().max() > 0 or name.endswith(('k_norm.bias', 'k_proj.bias')), name


def test_one_view_gets_all_the_mass():
    queries = _queries()
    state = queries.start(1, True)
    for layer in _states(1):
        one_view = LayerState(layer.index, layer.tokens[:, :PER_VIEW], layer.view_index[:PER_VIEW],
                              layer.is_patch[:PER_VIEW], 1)
        state = queries.read(state, one_view)
    torch.testing.assert_close(queries.finish(state).view_attention, torch.ones(LAYERS, 1, 6, 1))


def _similarity_block(similarity):
    """A block whose query-key product for query 0 and token t is `similarity[t]`."""
    attn = SimpleNamespace(q_proj=lambda x: x, k_proj=lambda x: x)
    tokens = torch.zeros(1, len(similarity), 2)
    tokens[0, :, 0] = torch.tensor(similarity)
    return SimpleNamespace(attn=attn), torch.tensor([[[1.0, 0.0]]]), tokens


def _allowed(similarity, is_patch, threshold=0.5):
    block, queries, tokens = _similarity_block(similarity)
    index = torch.arange(len(similarity)) // (len(similarity) // 2)
    layer = LayerState(0, tokens, index, torch.tensor(is_patch), 2)
    return HideUnlikelyTokens(threshold)(queries, layer, block)[0, 0].tolist()


def test_unlike_patches_are_hidden_but_never_special_tokens_nor_those_at_the_threshold():
    patch = [False, True, True, False, True, True]
    assert _allowed([-5., -5., 5., -5., 0., -1.], patch) == [True, False, True, True, True, False]


def test_one_view_may_be_hidden_entirely_but_not_all_patches():
    patch = [False, True, True, False, True, True]
    assert _allowed([1., -5., -5., 1., 5., 5.], patch) == [True, False, False, True, True, True]
    assert _allowed([1., -5., -5., 1., -5., -5.], patch) == [True] * 6


def test_masked_attention_changes_all_layers_but_the_first():
    plain, masked = _run(_queries()), _run(_queries(mask_attention=dict(threshold=0.5)))
    assert torch.equal(plain.view_attention[0], masked.view_attention[0])
    assert not torch.allclose(plain.view_attention[1], masked.view_attention[1], atol=1e-3)


@pytest.mark.parametrize('options', [True, dict(treshold=0.4)])
def test_wrong_mask_attention_is_a_config_error(options):
    with pytest.raises(ConfigError, match='mask_attention'):
        _queries(mask_attention=options)


def test_supervised_layers_are_predicted_as_if_they_were_the_last_one_and_only_in_training():
    queries = _queries(supervised_layers=[0, 2]).train()
    found = _run(queries)
    assert len(found.auxiliary) == 2 and not _run(queries.eval()).auxiliary
    torch.testing.assert_close(found.embedding, _run(_queries()).embedding, rtol=0, atol=0)
    shallow = build(QUERIES, dict(type='InsertedQueries', num_queries=6, num_heads=4, embedding_dim=8), 'model.queries',
                    dim=DIM, num_layers=1)
    shallow.load_state_dict({name: value for name, value in queries.state_dict().items() if name in shallow.state_dict()})
    state = shallow.start(2, track_views=True)
    first = shallow.finish(shallow.read(state, next(_states())))
    torch.testing.assert_close(found.auxiliary[0].embedding, first.embedding, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.auxiliary[0].view_attention, first.view_attention, rtol=1e-5, atol=1e-6)
    assert found.auxiliary[1].view_attention.shape == (3, 2, 6, VIEWS)
    assert _run(queries.train(), track_views=False).auxiliary[0].view_attention is None


@pytest.mark.parametrize('layers', [[3], [4], [1]])
def test_a_layer_that_cannot_be_supervised_is_refused(layers):
    insertion = dict(type='ListedLayers', layers=[0, 2, 3])
    with pytest.raises(ConfigError, match=r'before the last, \[0, 2\]; got'):
        _queries(insertion=insertion, supervised_layers=layers)


def test_supervised_layers_teach_a_model_and_are_matched_each_by_its_own():
    cfg = load_config(MAIN, 'debug', {'model.queries.supervised_layers': [0, 1]})
    model = build(MODELS, dict(cfg.model, teacher=None, losses=dict(cfg.model.losses, camera=None, depth=None)), 'model')
    batch = random_batch(2, size=SIZE)
    plain = build(MODELS, dict(cfg.model, teacher=None, losses=dict(cfg.model.losses, camera=None, depth=None),
                               queries=dict(cfg.model.queries, supervised_layers=[])), 'model')
    plain.load_state_dict(model.state_dict())
    terms, without = (one.train()(batch, mode='loss') for one in (model, plain))
    assert terms['loss_mask_dice'] > 2 * without['loss_mask_dice']                 # three levels, summed
    torch.testing.assert_close(terms['mask_dice/final'], without['loss_mask_dice'])  # of weight 1
    torch.testing.assert_close(terms['loss_fada'], without['loss_fada'])           # sees all layers already
