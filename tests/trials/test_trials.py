"""A small batch through a part says what its contract does not allow; parts that keep it pass."""

from __future__ import annotations

import re

import pytest

from jrs import registry
from jrs.contracts.examples import EXAMPLES
from jrs.trials import faults_of
from tests.test_registered import TINY

NOT_TRIED = {'Criterion', 'PointHead', 'ScenePreprocessor', 'SegVGGT',      # no config key takes them
             'PretrainedTeacher', 'SceneDataset', 'MixedDataset', 'SafeCheckpoint', 'SceneImages'}      # need files, a run
SIZES = dict(Pi3Geometry=dict(dim=16, patch_size=8, depth=1), Pi3XGeometry=dict(dim=16, patch_size=8),
             MUSt3RGeometry=dict(patch_size=8), InstanceFeatureHead=dict(embedding_dim=16))
OWN = [(slot, name) for slot, parts in TINY.items() for name in parts if name not in NOT_TRIED]


def made(kind: str, text: str) -> type:
    """Return the class of an example's text, which is not left registered."""
    slot = registry.SLOTS[kind.partition('.')[0].lower()]
    before = dict(slot.module_dict)
    scope: dict = {}
    try:
        exec(text, scope)
    finally:
        slot._module_dict.clear()
        slot._module_dict.update(before)
    return scope[EXAMPLES[kind].class_name]


def slot_of(kind: str) -> registry.Slot:
    slot = registry.SLOTS[kind.partition('.')[0].lower()]
    slot.names()
    return slot


@pytest.mark.parametrize(('slot', 'name'), OWN)
def test_the_parts_of_jrs_and_of_its_plugins_keep_their_contracts(slot, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {key: value for key, value in (TINY[slot][name] or {}).items() if key not in ('type', 'embedding_dim')}
    part = registry.SLOTS[slot].lookup(name, name)
    assert faults_of(part, registry.SLOTS[slot], {**sizes, **SIZES.get(name, {})}) == []
    assert list(tmp_path.iterdir()) == []                                   # a trial leaves no file behind


@pytest.mark.parametrize('kind', EXAMPLES)
def test_an_example_works_and_has_at_most_15_lines(kind):
    slot, example = slot_of(kind), EXAMPLES[kind]
    assert faults_of(made(kind, example.whole), slot) == []
    lines = [line for line in example.part.splitlines() if line.strip() and not re.match('import|from', line)]
    assert len(lines) <= 15 and max(map(len, example.whole.splitlines())) <= 125


BROKEN = [      # kind, what is changed in its example, into what, what the trial says
    ('BACKBONES', 'of_views(0, tokens)', 'of_views(0, tokens.flip(1))', 'another order'),
    ('BACKBONES', '[tokens] * 4', '[tokens.flip(1)] * 4', 'another order'),
    ('BACKBONES', '[tokens] * 4', '[tokens.flip(0)] * 4', 'scenes are mixed'),
    ('BACKBONES', '[tokens] * 4', '[tokens + torch.rand_like(tokens)] * 4', 'random'),
    ('BACKBONES', '[tokens] * 4', '[tokens] * 3', '3 taps, and feature_layers names 4'),
    ('BACKBONES', '[tokens] * 4, index', '[tokens] * 4, index + 1', 'patch_index must hold'),
    ('BACKBONES', '4, index, grid', '4, index, grid[::-1]', 'patch_grid'),
    ('BACKBONES', 'of_views(0,', 'of_views(1,', r'indices \[1\]'),
    ('BACKBONES', 'self(images', 'self.detached(images', 'AttributeError'),
    ('BACKBONES', '.mT.unflatten', '.detach().mT.unflatten', 'no gradient'),
    ('BACKBONES', 'yield LayerState.of_views(0, tokens)',
     'yield LayerState(0, tokens.flatten(1, 2), index, index > -1, tokens.shape[1])', 'view_index of layer 0 names'),
    ('BACKBONES', "self.__dict__.pop('taps')", 'self.taps', 'still holds'),
    ('ATTENTIONS', 'key, value, allowed)', 'key, value, allowed)[:, :, 1:]', r'not \(B, heads, N, head width\)'),
    ('QUERIES', 'QueryPredictions(', 'QueryPredictions(view_attention=torch.ones(1, 2, self.num_queries, 2), embedding=',
     'do not sum to 1'),
    ('QUERIES', 'return state + self', 'layer.tokens.mul_(2)\n        return state + self', 'writes into the tokens'),
    ('QUERIES', 'self.projection(state', 'self.projection(state.detach()', 'no gradient reaches tokens, attention'),
    ('HEADS.camera_head', 'super().__init__(dim_in, 9)', 'super().__init__(dim_in, 8)', r'not \(B, V, 9\)'),
    ('HEADS.depth_head', 'maps[:, :, 0].exp()', '-maps[:, :, 0].exp()', 'depth must be above 0'),
    ('HEADS.depth_head', '1 + maps', 'maps', 'confidence must be above 1'),
    ('HEADS.point_head', '.movedim(2, -1)', '', r'not \(B, V, H, W, 3\)'),
    ('HEADS.feature_head', 'down_ratio = 2', "down_ratio, leaves = 2, ('fine',)", "map 'fine' that it leaves is None"),
    ('HEADS.feature_head', '// self.down_ratio', '* 2', 'larger than the images'),
    ('HEADS.class_head', 'num_classes + 1)', 'num_classes)', r'not \(B, Q, K \+ 1\)'),
    ('PRETEXTS', "'loss_small", "'small", 'begin with loss_'),
    ('TEACHERS', 'depth > 0)', 'depth)', 'valid must be bool'),
    ('INSERTIONS', '(num_layers - 1,)', '(num_layers,)', 'not a tuple of numbers in'),
    ('ALIGNMENTS', '.sum(dim=-1)', '.sum()', r'not \(L, Q, G\)'),
    ('ALIGNMENTS', '(attention - target).abs()', '(target * (target / attention).log())', 'not finite'),
    ('COSTS', '.sigmoid() @', '.sigmoid() @ 1 /', 'Error'),
    ('COSTS', 'return self.weight * spill', 'return self.weight * spill.T', r'not \(Q, G\)'),
    ('COSTS', 'return self.weight * spill', 'return spill', 'with twice the weight the cost is not twice'),
    ('COSTS', 'self, weight):\n        self.weight = weight', 'self):\n        self.weight = 1', 'takes no `weight`'),
    ('MATCHERS', "cost[pairs[-1][0]] = float('inf')", 'pass', 'gave query . to the instances'),
    ('MATCHERS', 'range(min(cost.shape))', 'range(cost.shape[1] + 1)', 'IndexError'),
    ('LOSSES.instances', 'return match.mean(spill', 'return (spill', 'not a scalar'),
    ('LOSSES.instances', 'return match.mean(spill', 'return match.mean(spill.detach()', 'no gradient'),
    ('LOSSES.instances', 'return match.mean(spill / max(1, masks.count(target.flat_valid)))',
     'return spill.mean() if len(spill) else None', 'does not change with Match.weights'),
    ('LOSSES.instances', "reads = 'instances'", "reads = 'instances'\n    def __init__(self, weight):\n        pass",
     "needs 'weight'"),
    ('LOSSES.features', 'if spread else None', '', 'Error'),
    ('LOSSES.geometry', '.clamp_min(1)', '', 'not finite'),
    ('POSTPROCESSORS.postprocessor', 'descending=True', 'descending=False', 'best first'),
    ('POSTPROCESSORS.postprocessor', 'label[best]', 'label[best] + 9', 'class indices'),
    ('POSTPROCESSORS.transfer', "f'the first {self.views}'", '4', 'words by name'),
    ('DATASETS', "np.load(self.path)['images'][frame.index]", 'np.random.randint(0, 255, (16, 24, 3), np.uint8)',
     'the same request gives other images'),
    ('TRANSFORMS.views', 'rng.integers(', 'np.random.default_rng().integers(', 'use `rng` only'),
    ('TRANSFORMS.views', '.astype(np.uint8)', '', 'not uint8'),
    ('TRANSFORMS.image', 'return results', "results['flip'] = True\n        return results", 'moves or normalises pixels'),
    ('TRANSFORMS.image', 'np.random.uniform(', 'np.random.default_rng().uniform(', 'np.random or random'),
    ('SAMPLERS.batches', 'count(self.position *', 'count(0 *', 'it does not go on as it did'),
    ('SAMPLERS.batches', 'draw % self.num_scenes', 'draw', 'of 3 scenes it asks for'),
    ('SAMPLERS.batches', ', draw, *', ', 0, *', 'one `draw`'),
    ('SAMPLERS.view_choice', 'num_views, replace', '1, replace', 'for 2 views'),
    ('METRICS', 'dict(instances=found, best=best)', "dict(best=str(best) + '!')", 'numbers by name'),
    ('METRICS', 'return dict(', 'dict(', 'Sureness.compute_metrics returned None'),
    ('METRICS', 'return dict(instances=found, best=best)', "return dict(pair='one, two')", "'sureness/pair': 'one, two'"),
    ('METRICS', 'return dict(instances=found,',
     'self.calls = getattr(self, "calls", 0) + 1\n        return dict(calls=self.calls,', 'must start afresh'),
    ('HOOKS', "float(outputs['loss'])", "float(outputs['los'])", "KeyError: 'los'"),
]


@pytest.mark.parametrize(('kind', 'old', 'new', 'words'), BROKEN)
def test_a_part_that_breaks_its_contract_is_told_what_is_wrong(kind, old, new, words):
    text = EXAMPLES[kind].whole
    assert old in text
    found = faults_of(made(kind, text.replace(old, new)), slot_of(kind))
    assert re.search(words, '\n'.join(found)), found


def test_order_of_views_may_matter_where_a_backbone_says_so():
    """A memory of the views before: beyond which is first, as MUSt3R has it."""
    text = EXAMPLES['BACKBONES'].whole.replace('yield LayerState', 'tokens = tokens.cumsum(dim=1)\n        yield LayerState')
    assert 'another order' in '\n'.join(faults_of(made('BACKBONES', text), slot_of('BACKBONES')))
    told = text.replace("scale, has", "order_matters, scale, has").replace("'multiples of 8', ", "'multiples of 8', True, ")
    assert faults_of(made('BACKBONES', told), slot_of('BACKBONES')) == []


def test_tokens_of_all_views_may_be_mixed_in_any_order_that_the_index_vectors_tell():
    text = EXAMPLES['BACKBONES'].whole.replace('yield LayerState.of_views(0, tokens)', '''views, count = tokens.shape[1:3]
        order = torch.randperm(views * count, generator=torch.Generator().manual_seed(0))
        yield LayerState(0, tokens.flatten(1, 2)[:, order], OF_VIEW[order], order > -1, views)''')
    true, false = (text.replace('OF_VIEW', words) for words in ('(order.sort()[0] // count)', '(order.sort()[0] % views)'))
    assert faults_of(made('BACKBONES', true), registry.BACKBONES) == []
    assert re.search('another order', '\n'.join(faults_of(made('BACKBONES', false), registry.BACKBONES)))


def test_a_patch_size_that_only_the_built_backbone_knows_is_told():
    text = EXAMPLES['BACKBONES'].whole.replace('patch_size, num', 'patches, num').replace(
        'super().__init__(3, 32, 8, stride=8)', 'super().__init__(3, 32, 8, stride=8)\n        self.patch_size = 8')
    assert re.search('data sets ask for it before', '\n'.join(faults_of(made('BACKBONES', text), registry.BACKBONES)))


def test_a_constructor_that_needs_more_says_how_to_give_it():
    text = EXAMPLES['ALIGNMENTS'].whole.replace('scale=1.0', 'scale, other')
    assert "needs 'scale', 'other'. Give the class `example = dict(scale" in faults_of(made('ALIGNMENTS', text),
                                                                                       registry.ALIGNMENTS)[0]
    text = text.replace('def __init__', 'example = dict(scale=1.0, other=2)\n\n    def __init__')
    assert faults_of(made('ALIGNMENTS', text), registry.ALIGNMENTS) == []


def test_a_backbone_of_full_size_asks_for_an_example():
    vggt = registry.BACKBONES.lookup('VGGT', 'model.backbone')
    large = type('Large', (vggt,), dict(example={}))
    assert 'million parameters, more than 50. Give the class `example' in faults_of(large, registry.BACKBONES)[0]
    assert faults_of(vggt, registry.BACKBONES) == []
