"""Named terms, weights written once, scenes that contribute, and gradients for distributed training."""

import pytest
import torch
from mmengine.model import BaseModel

from jrs.errors import ConfigError, PluginError
from jrs.losses.criterion import Criterion
from jrs.losses.instance import ClassLoss, MaskBCELoss
from jrs.registry import LOSSES
from jrs.structures import InstanceTargets, Match, Predictions, QueryPredictions
from tests.losses.test_geometry import batch as geometry_batch

LOSS_CONFIG = {'classes': dict(type='ClassLoss'), 'bce': dict(type='MaskBCELoss'), 'dice': dict(type='MaskDiceLoss'),
               'fada': dict(type='ViewAttentionLoss'), 'camera': None}
WEIGHTS = {'classes': 0.5, 'bce': 1.0, 'dice': 1.0, 'fada': 0.5, 'camera': 5.0, 'depth': 1.0}


def alignment(attention, target):
    return (attention - target).abs().sum(dim=-1)


def queries(scenes, count=4, views=3, layers=2):
    leaves = [torch.randn(scenes, count, 8), torch.randn(scenes, count, 5), torch.randn(scenes, count, views, 4, 4),
              torch.rand(layers, scenes, count, views)]
    return QueryPredictions(*(leaf.requires_grad_() for leaf in leaves))


def target(instances, views=3):
    return InstanceTargets(torch.arange(instances) % 4, torch.rand(instances, views, 4, 4) < 0.5,
                           torch.full((instances, views), 1 / views))


def match(instances, auxiliary=()):
    return Match(torch.arange(instances), torch.arange(instances), list(auxiliary))


def test_terms_are_the_weighted_means_over_scenes_that_contribute():
    predictions = Predictions([], queries=queries(3))
    targets, matches = [target(2), target(0), target(3)], [match(2), match(0), match(3)]
    terms = Criterion(LOSS_CONFIG, WEIGHTS, alignment)(predictions, targets, None, matches)
    assert set(terms) == {'loss_classes', 'loss_bce', 'loss_dice', 'loss_fada'}
    scenes = [predictions.queries.scene(index) for index in range(3)]
    classes = [ClassLoss()(*scene) for scene in zip(scenes, targets, matches, strict=True)]
    masks = [MaskBCELoss()(scenes[index], targets[index], matches[index]) for index in (0, 2)]
    torch.testing.assert_close(terms['loss_classes'], 0.5 * torch.stack(classes).mean())
    torch.testing.assert_close(terms['loss_bce'], torch.stack(masks).mean())


def test_terms_without_any_instance_are_zero_and_reach_every_prediction():
    predictions = Predictions([], queries=queries(2))
    terms = Criterion(LOSS_CONFIG, WEIGHTS, alignment)(predictions, [target(0)] * 2, None, [match(0)] * 2)
    for name in ('loss_bce', 'loss_dice', 'loss_fada'):
        assert terms[name] == 0 and terms[name].requires_grad
    sum(terms.values()).backward()
    for leaf in (predictions.queries.mask_logits, predictions.queries.view_attention, predictions.queries.embedding):
        assert leaf.grad is not None and leaf.grad.abs().sum() == 0
    assert predictions.queries.class_logits.grad.abs().sum() > 0


def test_auxiliary_levels_add_equal_terms_with_their_own_matches_except_for_alignment():
    predictions = Predictions([], queries=queries(2))
    level = queries(2)
    level.view_attention = None
    targets, matches = [target(2), target(1)], [match(2), match(1)]
    criterion = Criterion(LOSS_CONFIG, WEIGHTS, alignment)
    final = criterion(predictions, targets, None, matches)
    swapped = Match(torch.tensor([3, 2]), torch.tensor([0, 1]))
    alone = Criterion({**LOSS_CONFIG, 'fada': None}, WEIGHTS)(
        Predictions([], queries=level), targets, None, [swapped, match(1)])
    predictions.queries.auxiliary = [level]
    both = criterion(predictions, targets, None, [match(2, [swapped]), match(1, [match(1)])])
    for name in ('classes', 'bce', 'dice'):
        torch.testing.assert_close(both[f'loss_{name}'], final[f'loss_{name}'] + alone[f'loss_{name}'])
        torch.testing.assert_close(both[f'{name}/final'], (final[f'loss_{name}'] / WEIGHTS[name]).detach())
    torch.testing.assert_close(both['loss_fada'], final['loss_fada'])
    mean = Criterion(LOSS_CONFIG, WEIGHTS, alignment, levels='mean')(
        predictions, targets, None, [match(2, [swapped]), match(1, [match(1)])])
    for name in ('classes', 'bce', 'dice'):
        torch.testing.assert_close(mean[f'loss_{name}'], both[f'loss_{name}'] / 2)
    torch.testing.assert_close(mean['loss_fada'], final['loss_fada'])
    with pytest.raises(ConfigError, match="model.levels must be 'sum' or 'mean'.*'max'"):
        Criterion(LOSS_CONFIG, WEIGHTS, alignment, levels='max')


def test_geometric_parts_are_logged_but_not_added_to_the_objective():
    predictions, geometry = geometry_batch()
    terms = Criterion({'camera': dict(type='CameraLoss'), 'depth': dict(type='DepthLoss')}, WEIGHTS)(
        predictions, geometry=geometry)
    total, log = BaseModel.parse_losses(None, terms)
    torch.testing.assert_close(total, terms['loss_camera'] + terms['loss_depth'])
    assert {'camera/translation', 'camera/rotation', 'camera/field_of_view', 'depth/confidence', 'depth/regression',
            'depth/gradient'} < set(log)
    assert not terms['depth/gradient'].requires_grad
    expected = 5 * (terms['camera/translation'] + terms['camera/rotation'] + 0.5 * terms['camera/field_of_view'])
    torch.testing.assert_close(terms['loss_camera'].detach(), expected)


def test_a_loss_may_read_features_scene_by_scene():
    class Spread:
        reads = 'features'

        def __call__(self, features, target):
            return features.abs().mean() if len(target.labels) else None

    LOSSES.register_module(module=Spread)
    try:
        features = torch.randn(2, 3, 8, 4, 4, requires_grad=True)
        criterion = Criterion({'spread': dict(type='Spread')}, {'spread': 2.0})
        terms = criterion(Predictions([], features=features), [target(0), target(2)])
        torch.testing.assert_close(terms['loss_spread'], 2 * features[1].abs().mean())
        assert criterion(Predictions([], features=features), [target(0)] * 2)['loss_spread'].requires_grad
    finally:
        LOSSES.module_dict.pop('Spread')


def test_a_missing_weight_names_the_near_spelling():
    with pytest.raises(ConfigError, match=r"model.losses.depht has no weight.*Did you mean 'depth'"):
        Criterion({'depht': dict(type='DepthLoss')}, WEIGHTS)


def test_a_loss_may_set_its_own_weight_and_leaves_the_shared_one_to_the_cost():
    predictions, targets, matches = Predictions([], queries=queries(1)), [target(2)], [match(2)]
    shared = Criterion(LOSS_CONFIG, WEIGHTS, alignment)(predictions, targets, None, matches)
    own = {**LOSS_CONFIG, 'fada': dict(type='ViewAttentionLoss', weight=5.0)}
    terms = Criterion(own, WEIGHTS, alignment)(predictions, targets, None, matches)
    torch.testing.assert_close(terms['loss_fada'], 10 * shared['loss_fada'])
    torch.testing.assert_close(terms['loss_bce'], shared['loss_bce'])
    alone = Criterion(own, {name: value for name, value in WEIGHTS.items() if name != 'fada'}, alignment)
    assert alone.weights['fada'] == 5.0


def test_a_loss_with_a_weight_of_its_own_making_is_refused(monkeypatch):
    class Heavy:
        reads = 'geometry'

        def __init__(self, weight=1.0):
            self.weight = weight

        def __call__(self, predictions, target):
            return self.weight
    LOSSES.names()
    monkeypatch.setitem(LOSSES._module_dict, 'Heavy', Heavy)
    with pytest.raises(ConfigError, match='model.losses.heavy.weight is what the criterion multiplies.*Heavy takes'):
        Criterion({'heavy': dict(type='Heavy', weight=2.0)}, WEIGHTS)


def test_a_name_that_would_be_added_twice_is_refused():
    with pytest.raises(ConfigError, match='must not contain "loss"'):
        Criterion({'closs': dict(type='DepthLoss')}, {'closs': 1.0})


def test_a_loss_that_does_not_say_what_it_reads_is_refused():
    with pytest.raises(PluginError, match="lacks reads, __call__"):
        Criterion({'depth': object()}, WEIGHTS)


def test_missing_inputs_say_what_to_set():
    predictions, _ = geometry_batch()
    with pytest.raises(ConfigError, match="'depth' reads geometry.*model.teacher"):
        Criterion({'depth': dict(type='DepthLoss')}, WEIGHTS)(predictions)
    with pytest.raises(ConfigError, match="'bce' reads queries"):
        Criterion({'bce': dict(type='MaskBCELoss')}, WEIGHTS)(predictions)


def ragged(elements, queries_of=(4, 2, 3)):
    """Predictions of scenes that differ in queries and in mask elements."""
    return QueryPredictions(
        embedding=[torch.randn(count, 8, requires_grad=True) for count in queries_of],
        class_logits=[torch.randn(count, 5, requires_grad=True) for count in queries_of],
        mask_logits=[torch.randn(count, 1, 1, size, requires_grad=True)
                     for count, size in zip(queries_of, elements, strict=True)],
        elements=[torch.arange(count) for count in queries_of])


def ragged_target(instances, elements):
    return InstanceTargets(torch.arange(instances), torch.rand(instances, 1, 1, elements) < 0.5, torch.ones(instances, 1))


@pytest.mark.parametrize(('reduction', 'weights'), [('mean_present', (1 / 2, 1 / 2)), ('mean_all', (1 / 3, 1 / 3)),
                                                    ('sum', (1, 1))])
def test_scenes_of_different_sizes_count_as_the_loss_says_and_the_last_level_by_its_scale(reduction, weights):
    elements = (6, 9, 5)
    last, level = ragged(elements), ragged(elements)
    last.auxiliary = [level]
    targets, pairs = [ragged_target(count, size) for count, size in zip((2, 0, 3), elements, strict=True)], (2, 0, 3)
    loss = dict(type='MaskBCELoss', scene_reduction=reduction, last_scale=4.0, aux_scale=0.5)
    terms = Criterion(dict(bce=loss), dict(bce=1.0))(
        Predictions([], queries=last), targets, None, [match(count, [match(count)]) for count in pairs])
    expected = sum(scale * weight * MaskBCELoss()(part.scene(index), targets[index], match(pairs[index]))
                   for part, scale in ((last, 4.0), (level, 0.5)) for index, weight in zip((0, 2), weights, strict=True))
    torch.testing.assert_close(terms['loss_bce'], expected)


def test_pooled_classes_are_one_weighted_mean_over_the_queries_of_all_scenes():
    elements = (6, 9, 5)
    predictions = ragged(elements)
    targets = [ragged_target(count, size) for count, size in zip((2, 0, 3), elements, strict=True)]
    terms = Criterion(dict(classes=dict(type='ClassLoss', scene_reduction='pooled')), dict(classes=1.0))(
        Predictions([], queries=predictions), targets, None, [match(2), match(0), match(3)])
    wanted = torch.tensor([0, 1, 4, 4, 4, 4, 0, 1, 2])                          # 4 = no object
    losses = torch.nn.functional.cross_entropy(torch.cat(predictions.class_logits), wanted, reduction='none')
    weight = torch.where(wanted == 4, 0.1, 1.0)
    torch.testing.assert_close(terms['loss_classes'], (weight * losses).sum() / weight.sum())


def test_scenes_of_different_sizes_without_an_instance_still_reach_every_prediction():
    elements = (6, 9, 0)
    predictions = ragged(elements)
    terms = Criterion(dict(bce=dict(type='MaskBCELoss')), dict(bce=1.0))(
        Predictions([], queries=predictions), [ragged_target(0, size) for size in elements], None, [match(0)] * 3)
    assert terms['loss_bce'] == 0
    terms['loss_bce'].backward()
    for leaf in (*predictions.embedding, *predictions.class_logits, *predictions.mask_logits):
        assert leaf.grad is not None and leaf.grad.abs().sum() == 0


def test_a_reduction_that_a_term_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="MaskBCELoss.scene_reduction .*'mean_all'.*'pooled'"):
        MaskBCELoss(scene_reduction='pooled')
