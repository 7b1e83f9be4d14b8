"""Each ablation of Tables 3, 4 and 7 does what its row says: which weights move, which layers read, which terms exist."""

from __future__ import annotations

import math
import re

import pytest
import torch

from jrs.config import load_config
from jrs.registry import ALIGNMENTS, INSERTIONS, MODELS, build
from jrs.report.tables import load_tables
from jrs.structures import InstanceTargets, QueryPredictions
from tests._data import MAIN, ROOT, forget_runs

SEGVGGT = MAIN.parent
ATTENTION = r'backbone\.(frame|global)_blocks\.\d+\.attn\.(qkv|proj)\.'
LORA = {'model.backbone.lora': dict(rank=2, alpha=2), 'model.backbone.freeze.patch_embed': True}
INSERTED = {'all24_fada': range(24), 'early12_fada': range(12), 'late12_fada': range(12, 24),
            'interleaved12_fada': range(1, 24, 2)}


def changed_by_two_steps(name: str, data, work_dir, **overrides) -> tuple[set[str], set[str]]:
    """Return the names of the parameters that two debug steps change, and of all parameters."""
    from jrs.engine.build import build_runner
    forget_runs()
    cfg = load_config(SEGVGGT / f'{name}.py', 'debug', {
        'data_root': str(data), 'train.iterations': 2, 'hooks.pictures': None, 'batches.views': (2, 2),
        'batches.max_images': 2, 'batches.aspect_ratio': (0.75, 0.75), **overrides})
    runner = build_runner(cfg, work_dir)
    before = {key: value.detach().clone() for key, value in runner.model.named_parameters()}
    runner.train()
    return {key for key, value in runner.model.named_parameters() if not torch.equal(value, before[key])}, set(before)


def test_at_paper_scale_the_frozen_row_has_no_lora_and_the_joint_one_keeps_dino():
    frozen, joint = (load_config(SEGVGGT / f'{name}.py').model.backbone for name in ('all24_frozen', 'all24_fada'))
    assert frozen.lora is None and frozen['freeze'] == dict(patch_embed=True, blocks=True)
    assert joint.lora == dict(rank=32, alpha=32, dropout=0.0) and joint['freeze'] == dict(patch_embed=True, blocks=False)


def test_the_frozen_row_changes_no_weight_of_the_backbone_and_every_other_one(debug_data, tmp_path):
    changed, names = changed_by_two_steps('all24_frozen', debug_data, tmp_path,
                                          **{'model.backbone.freeze.patch_embed': True})
    assert changed == {name for name in names if not name.startswith('backbone.')}
    assert {name.partition('.')[0] for name in names - changed} == {'backbone'}


def test_the_joint_row_changes_lora_and_all_but_dino_and_the_weights_under_lora(debug_data, tmp_path):
    changed, names = changed_by_two_steps('all24_fada', debug_data, tmp_path, **LORA)
    kept = {name for name in names if name.startswith('backbone.patch_embed.')
            or re.fullmatch(ATTENTION + '(weight|bias)', name)}
    assert names - changed == kept
    lora = {name for name in changed if '.lora_' in name}
    assert len(lora) == 2 * 4 * 2 * 2 and all(re.fullmatch(ATTENTION + 'lora_[ab]', name) for name in lora)   # kinds, layers
    assert {name.partition('.')[2].partition('.')[0] for name in changed if name.startswith('backbone.')} == {
        'frame_blocks', 'global_blocks', 'camera_token', 'register_token'}


@pytest.mark.parametrize('name', INSERTED)
def test_queries_read_exactly_the_layers_of_the_row(name):
    inserted = build(INSERTIONS, load_config(SEGVGGT / f'{name}.py').model.queries.insertion, 'model.queries.insertion')
    assert inserted(24) == tuple(INSERTED[name])
    model = debug_model(name)
    owned = {int(key.split('.')[2]) for key in model.state_dict() if key.startswith('queries.cross_blocks.')}
    assert owned == set(inserted(4)) and len(owned) == (4 if name == 'all24_fada' else 2)
    assert {int(key.split('.')[2]) for key in model.state_dict() if key.startswith('queries.self_blocks.')} == owned
    from tests._data import random_batch
    assert len(model.forward_images(random_batch(2).images, track_views=True).queries.view_attention) == len(owned)


@pytest.mark.parametrize(('name', 'cost', 'loss'), [
    ('all24_fada', True, True), ('all24_fada_loss_only', False, True), ('all24_fada_cost_only', True, False),
    ('all24_no_fada', False, False)])
def test_alignment_is_where_the_row_has_it_and_only_there(name, cost, loss):
    model = debug_model(name)
    assert ('ViewAttentionCost' in {type(part).__name__ for part in model.matcher.costs.values()}) == cost
    assert ('ViewAttentionLoss' in {type(part).__name__ for part in model.criterion.losses.values()}) == loss
    first, second = (model.matcher.total_cost(queries_that_look_at(view), TARGET) for view in (0, 1))
    assert torch.equal(first, second) != cost                       # who looks where matters to the matcher, or does not


@pytest.mark.parametrize(('name', 'reduction', 'per_view'), [
    ('all24_fada', 'mean', True), ('all24_fada_sum', 'sum', True), ('all24_fada_undivided', 'mean', False),
    ('all24_fada_sum_undivided', 'sum', False)])
def test_each_reading_of_the_lost_formula_is_what_its_row_says(name, reduction, per_view):
    model = debug_model(name)
    loss, cost = model.criterion.losses['fada'], model.matcher.costs['fada']
    assert (loss.reduction, loss.per_view, cost.per_view) == (reduction, per_view, per_view)
    assert model.criterion.weights['fada'] == cost.weight == 0.5


# By hand: the instance lies in view 1 of two; the query looks at both alike. Floored and renormalised, e = 1e-6:
# the target becomes (e, 1) / (1 + e), the attention stays (1/2, 1/2).
E = 1e-6
BY_HAND = {
    'all24_fada': 0.75 * math.log(4 / 3),                           # JS: the middle is (1/4, 3/4); nothing is floored
    'all24_fada_kl_forward': math.log(2) + E * math.log(E) / (1 + E) - math.log(1 + E),      # 0.693132
    'all24_fada_kl_reverse': math.log(1 + E) - math.log(2) - math.log(E) / 2}                # 6.214609


@pytest.mark.parametrize('name', BY_HAND)
def test_a_divergence_with_a_zero_is_what_one_gets_by_hand(name):
    alignment = build(ALIGNMENTS, load_config(SEGVGGT / f'{name}.py').model.alignment, 'model.alignment')
    attention, target = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0])
    assert alignment(attention, target).item() == pytest.approx(BY_HAND[name], rel=1e-5)
    disjoint = dict(all24_fada=math.log(2)).get(name, (1 - E) / (1 + E) * -math.log(E))
    assert alignment(torch.tensor([1.0, 0.0]), target).item() == pytest.approx(disjoint, rel=1e-5)
    assert alignment(target, target).item() == pytest.approx(0, abs=1e-7)


def test_the_pretrained_row_takes_an_official_vggt_file_as_it_is(tmp_path):
    from jrs.engine.inference import load_model
    from tests._released import outputs, toy_model, vggt_file
    cfg = load_config(ROOT / 'configs' / 'geometry' / 'vggt_pretrained.py', 'debug', {'model.teacher': None})
    torch.save(vggt_file(), tmp_path / 'model.pt')                  # names of VGGT-1B, with heads that the row does not have
    found, expected = outputs(load_model(cfg, tmp_path / 'model.pt')), outputs(toy_model())
    assert set(expected) - set(found) == {'class_logits', 'mask_logits'}
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_every_config_that_the_paper_s_tables_name_for_segvggt_exists():
    named = {path for table in load_tables(range(1, 10)) for row in table.rows for path in row.configs.values()
             if re.match(r'configs/(segvggt|geometry|baselines/vggt_mask2former)', path)}
    missing = sorted(path for path in named if not (ROOT / path).is_file())
    assert len(named) >= 14 and not missing, missing


TARGET = InstanceTargets(torch.tensor([0]), torch.ones(1, 2, 4, 4, dtype=torch.bool), torch.tensor([[1.0, 0.0]]))


def queries_that_look_at(view: int) -> QueryPredictions:
    attention = torch.nn.functional.one_hot(torch.tensor(view), 2).float().expand(4, 3, 2)          # (L, Q, V)
    return QueryPredictions(torch.zeros(3, 16), class_logits=torch.zeros(3, 199), mask_logits=torch.zeros(3, 2, 4, 4),
                            view_attention=attention)


def debug_model(name: str) -> torch.nn.Module:
    return build(MODELS, load_config(SEGVGGT / f'{name}.py', 'debug', {'model.teacher': None}).model, 'model')
