import pytest
import torch

from jrs.errors import ConfigError, NonFiniteError
from jrs.masks import mask_logits
from jrs.postprocess import instances as instances_module
from jrs.postprocess.distinct import unlike_masks
from jrs.registry import POSTPROCESSORS, build
from jrs.structures import QueryPredictions, SceneContext

QUERIES, CLASSES, VIEWS, DIM = 9, 4, 5, 6


def _postprocess(**options):
    return build(POSTPROCESSORS, {'type': 'QueryMasks', 'min_pixels': 3, **options}, 'model.postprocessor')


def _scene(seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(VIEWS, DIM, 4, 6, generator=generator)
    embedding = torch.randn(QUERIES, DIM, generator=generator)
    return QueryPredictions(embedding, 2 * torch.randn(QUERIES, CLASSES + 1, generator=generator)), features


def _one_mask(logits, class_logits=(2.0, 0.0)):
    """One query, one class; logits (V, h, w)."""
    return QueryPredictions(torch.zeros(1, 2), torch.tensor([class_logits]), torch.as_tensor(logits)[None])


def _assert_same(actual, expected):
    assert torch.equal(actual.queries, expected.queries) and torch.equal(actual.labels, expected.labels)
    assert torch.equal(actual.masks, expected.masks)
    torch.testing.assert_close(actual.scores, expected.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize('mode', ['pairs', 'best_class', 'objectness'])
@pytest.mark.parametrize('views', [1, 2, 3])
def test_chunks_of_views_do_not_change_the_instances(mode, views):
    queries, features = _scene()
    chunked = _postprocess(mode=mode, max_logits=views * QUERIES * 24)(SceneContext(queries, features))
    whole = _postprocess(mode=mode)(SceneContext(queries, features))
    assert 0 < len(whole.scores)
    _assert_same(chunked, whole)


def test_given_mask_logits_and_features_give_the_same():
    queries, features = _scene()
    from_features = _postprocess()(SceneContext(queries, features))
    queries.mask_logits = mask_logits(queries.embedding, features)
    _assert_same(_postprocess()(SceneContext(queries)), from_features)


def test_never_more_logits_at_a_time_than_allowed(monkeypatch):
    largest = []

    def spy(embedding, features):
        logits = mask_logits(embedding, features)
        largest.append(logits.numel())
        return logits
    monkeypatch.setattr(instances_module, 'mask_logits', spy)
    queries, features = _scene()
    _postprocess(max_logits=2 * QUERIES * 24)(SceneContext(queries, features))
    assert max(largest) == 2 * QUERIES * 24 < QUERIES * VIEWS * 24


def test_a_slow_loop_gives_the_same_pairs():
    queries, features = _scene(3)
    logits = mask_logits(queries.embedding, features)
    probability = queries.class_logits.softmax(-1)
    rows = []
    for query in range(QUERIES):
        inside = logits[query][logits[query] > 0].sigmoid()
        mask = logits[query].sigmoid() > 0.4
        for label in range(CLASSES):
            score = probability[query, label] * inside.sum() / (len(inside) + 1e-6)
            if score > 0.05 and mask.sum() > 3:
                rows.append((score.item(), query, label))
    rows.sort(reverse=True)
    found = _postprocess(min_score=0.05)(SceneContext(queries, features))
    assert list(zip(found.queries.tolist(), found.labels.tolist(), strict=True)) == [row[1:] for row in rows]
    torch.testing.assert_close(found.scores, torch.tensor([row[0] for row in rows]))
    assert torch.equal(found.masks, (logits.sigmoid() > 0.4)[found.queries])


def test_a_mask_needs_strictly_more_than_min_pixels():
    logits = torch.full((2, 3, 3), -9.0)
    logits[:, 0] = 9.0                                              # six pixels, three in each view
    assert len(_postprocess(min_pixels=6)(SceneContext(_one_mask(logits))).scores) == 0
    assert len(_postprocess(min_pixels=5)(SceneContext(_one_mask(logits))).scores) == 1


def test_quality_looks_above_zero_and_the_mask_above_the_threshold():
    logits = torch.full((1, 2, 4), -9.0)
    logits[0, 0] = torch.tensor([3.0, 1.0, -0.1, -0.1])             # sigmoid(-0.1) = 0.475
    found = _postprocess(min_pixels=0)(SceneContext(_one_mask(logits)))
    assert found.masks.sum() == 4
    expected = torch.tensor([2.0, 0.0]).softmax(0)[0] * torch.tensor([3.0, 1.0]).sigmoid().mean()
    assert found.scores.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_mask_without_positive_logits_scores_zero_and_is_dropped():
    assert len(_postprocess(min_pixels=0)(SceneContext(_one_mask(torch.full((1, 3, 3), -0.1)))).scores) == 0


def test_top_pairs_are_chosen_before_mask_quality():
    logits = torch.stack([torch.full((1, 3, 3), 0.1), torch.full((1, 3, 3), 9.0)])
    queries = QueryPredictions(torch.zeros(2, 2), torch.tensor([[2.0, 0.0], [1.5, 0.0]]), logits)
    for mode in ('pairs', 'best_class', 'objectness'):
        assert _postprocess(mode=mode, top_pairs=2)(SceneContext(queries)).queries.tolist() == [1, 0]
        assert _postprocess(mode=mode, top_pairs=1)(SceneContext(queries)).queries.tolist() == [0]


def test_a_query_may_appear_with_several_classes_in_pairs_only():
    queries, features = _scene()
    pairs = _postprocess()(SceneContext(queries, features))
    assert len(pairs.queries) > len(pairs.queries.unique())
    for mode in ('best_class', 'objectness'):
        once = _postprocess(mode=mode)(SceneContext(queries, features))
        assert len(once.queries) == len(once.queries.unique())
    assert (once.labels == 0).all()


def test_nothing_kept_gives_empty_instances_of_the_right_shape():
    queries, features = _scene()
    empty = _postprocess(min_pixels=10 ** 6)(SceneContext(queries, features))
    assert empty.masks.shape == (0, VIEWS, 4, 6) and empty.masks.dtype == torch.bool
    assert empty.scores.shape == empty.labels.shape == empty.queries.shape == (0,)


def test_half_precision_inputs_are_scored_in_float32():
    queries, features = _scene()
    half = QueryPredictions(queries.embedding.bfloat16(), queries.class_logits.bfloat16())
    rounded = QueryPredictions(half.embedding.float(), half.class_logits.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = _postprocess()(SceneContext(half, features.bfloat16()))
    assert found.scores.dtype == torch.float32
    _assert_same(found, _postprocess()(SceneContext(rounded, features.bfloat16().float())))


def test_wrong_mode_and_missing_masks_say_what_to_do():
    with pytest.raises(ConfigError, match="'objectness'"):
        _postprocess(mode='all')
    with pytest.raises(ValueError, match='got neither'):
        _postprocess()(SceneContext(_scene()[0]))


def of_points(**fields):
    """Two queries over three elements, which stand for 10, 1 and 5 points."""
    logits = torch.tensor([[3.0, 3, -3], [-3, 3, 3]]).view(2, 1, 1, 3)
    return SceneContext(QueryPredictions(torch.zeros(2, 1), torch.tensor([[4.0, 0, 0], [0, 3, 0]]), logits,
                                         element_points=torch.tensor([10, 1, 5]), **fields))


def test_elements_that_stand_for_points_are_counted_as_points():
    assert _postprocess(min_pixels=10, mode='best_class')(of_points()).queries.tolist() == [0]
    assert _postprocess(min_pixels=11, mode='best_class')(of_points()).queries.tolist() == []
    assert _postprocess(min_pixels=5, mode='best_class')(of_points()).queries.tolist() == [0, 1]


def test_a_score_head_multiplies_the_class_probability_and_quality_can_be_left_out():
    plain = _postprocess(min_pixels=0, mode='best_class', mask_quality=False)(of_points())
    found = _postprocess(min_pixels=0, mode='best_class', mask_quality=False)(of_points(scores=torch.tensor([0.25, 2.0])))
    assert found.queries.tolist() == [1, 0]
    torch.testing.assert_close(found.scores, plain.scores.flip(0) * torch.tensor([2.0, 0.25]))
    quality = _postprocess(min_pixels=0, mode='best_class')(of_points())
    torch.testing.assert_close(quality.scores, plain.scores * torch.tensor(3.0).sigmoid(), atol=1e-5, rtol=1e-5)


def test_a_query_like_one_that_is_surer_is_left_out_and_an_empty_one_is_like_nobody():
    masks = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0.0]]) * 2 - 1
    scores = torch.tensor([0.5, 0.6, 0.9, 0.1, 0.2])
    assert unlike_masks(masks > 0, scores, 0.66).tolist() == [1, 3, 4, 2]                   # 2 of 3 elements in common
    assert unlike_masks(masks > 0, scores, 0.67).tolist() == [1, 0, 3, 4, 2]
    assert unlike_masks(masks[:0] > 0, scores[:0], 0.5).tolist() == []
    logits = torch.stack([scores.log(), (1 - scores).log()], dim=1)
    queries = QueryPredictions(torch.zeros(5, 2), logits, masks[:, None, None])
    for options, expected in ((dict(query_overlap=0.66), [1, 3]), ({}, [1, 0, 3])):
        found = _postprocess(min_pixels=1, mask_quality=False, **options)(SceneContext(queries))
        assert found.queries.tolist() == expected
        torch.testing.assert_close(found.scores, scores[expected])
    with pytest.raises(ConfigError, match=r'query_overlap must be an IoU in \(0, 1\]'):
        _postprocess(query_overlap=75)
    queries.scores = torch.full((5,), 0.25)
    found = _postprocess(min_pixels=1, mask_quality=False, score_head=False, score_decimals=0)(SceneContext(queries))
    assert found.scores.tolist() == [1.0, 0.0, 0.0]                     # 0.6, 0.5 (to the even one), 0.1, in this order


class Last:
    """Keeps the last pair with another score."""

    def __call__(self, probabilities, rows, labels, scores):
        self.seen = probabilities
        return torch.tensor([len(scores) - 1]), torch.tensor([0.875])


def test_suppression_sees_the_mask_probabilities_and_says_which_pairs_stay():
    part = Last()
    found = _postprocess(min_pixels=0, mode='best_class', suppression=part)(of_points())
    assert found.queries.tolist() == [1] and found.labels.tolist() == [1] and found.scores.tolist() == [0.875]
    assert found.masks.flatten().tolist() == [False, True, True]
    torch.testing.assert_close(part.seen, of_points().queries.mask_logits.flatten(1).sigmoid())


def test_classes_that_know_nothing_of_each_other_are_ranked_by_their_own_probability():
    logits = torch.tensor([[2.0, 1.5], [-1.0, 0.5]])
    queries = QueryPredictions(torch.zeros(2, 2), logits, torch.full((2, 1, 3, 3), 20.0), classes='sigmoid')
    for mode, expected in (('pairs', [2.0, 1.5, 0.5, -1.0]), ('best_class', [2.0, 0.5]), ('objectness', [2.0, 0.5])):
        found = _postprocess(mode=mode)(SceneContext(queries))
        torch.testing.assert_close(found.scores, torch.tensor(expected).sigmoid())
    assert found.labels.tolist() == [0, 0]
    assert _postprocess(mode='best_class')(SceneContext(queries)).labels.tolist() == [0, 1]


def test_logits_that_are_not_finite_are_refused_and_counted():
    queries, features = _scene()
    queries.class_logits[3, 1] = float('nan')
    with pytest.raises(NonFiniteError, match=r'not finite: class_logits 1 of 45 values \(1 NaN\)'):
        _postprocess()(SceneContext(queries, features))
    for value in (float('nan'), float('inf'), -float('inf')):
        logits = torch.zeros(2, 2, 3)
        logits[1, 0, 1] = value
        with pytest.raises(NonFiniteError, match='mask_logits 1 of 12 values, of 1 queries, the first of them 0'):
            _postprocess()(SceneContext(_one_mask(logits)))


@pytest.mark.parametrize('max_logits', [24, 2 ** 20])
def test_finite_embeddings_whose_masks_overflow_are_refused(max_logits):
    queries, features = _scene()
    queries.embedding[4:6] *= 1e30
    with pytest.raises(NonFiniteError, match=r'mask_logits \d+ of 1080 values, of 2 queries, the first of them 4'):
        _postprocess(max_logits=max_logits)(
            SceneContext(queries, features * 1e20))


@pytest.mark.parametrize('name', ['mask_threshold', 'min_score', 'min_pixels'])
def test_a_threshold_that_nothing_compares_with_is_refused(name):
    with pytest.raises(ConfigError, match=f'thresholds must be finite numbers.*{name} nan'):
        _postprocess(**{name: float('nan')})
