"""Random numbers by name: rows of a table with one seed start alike in all that they share."""

from itertools import islice, pairwise

import pytest
import torch

from jrs.config import load_config
from jrs.draws import made_alone, own_draws
from jrs.engine.build import build_dataset, build_model, training_loader
from tests._data import ROOT

ROWS = ('segvggt/all24_no_fada', 'segvggt/interleaved12_fada', 'segvggt/all24_frozen', 'baselines/vggt_mask2former_6l',
        'baselines/vggt_mask2former_12l')
ANOTHER_PART = 'queries.'                      # of a decoder that comes after the backbone


def drawn(name):
    with own_draws(name):
        return torch.rand(3).tolist()


def test_what_a_part_draws_is_of_its_name_and_the_seed_and_of_nothing_drawn_before():
    torch.manual_seed(5)
    first, next_after = drawn('a'), torch.rand(1)
    assert torch.initial_seed() == 5
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), next_after)                      # as if nothing had been drawn in the block
    assert drawn('a') == first != drawn('b')
    torch.manual_seed(6)
    assert drawn('a') != first


def test_a_part_within_a_part_draws_by_both_names():
    torch.manual_seed(5)
    with own_draws('outer'):
        inside = drawn('a')
    assert inside != drawn('a')
    with pytest.raises(RuntimeError), own_draws('fails'):
        raise RuntimeError
    assert torch.initial_seed() == 5


def test_a_layer_starts_alike_whichever_others_there_are():
    torch.manual_seed(0)
    some, all_of_them = (made_alone('layers', numbers, lambda: torch.rand(2)) for numbers in ((1, 3), range(4)))
    assert all(torch.equal(some[number], all_of_them[number]) for number in some) and list(some) == ['1', '3']
    assert not torch.equal(all_of_them['0'], all_of_them['1'])


def test_rows_of_a_table_start_alike_in_what_they_share_and_see_the_same_batches(debug_data):
    states, seen = {}, {}
    for row in ROWS:
        cfg = load_config(ROOT / 'configs' / f'{row}.py', 'debug', {'data_root': str(debug_data), 'seed': 3})
        torch.manual_seed(cfg.seed)
        states[row] = build_model(cfg).state_dict()
        batches = islice(training_loader(cfg, build_dataset(cfg, 'train_dataset')), 3)
        seen[row] = [(batch.scene_names, batch.view_names) for batch in batches]
    for one, other in pairwise(ROWS):
        decoders = ['baselines' in row for row in (one, other)]
        shared = [name for name in states[one] if name in states[other]
                  and not (len(set(decoders)) == 2 and name.startswith(ANOTHER_PART))]
        unlike = [name for name in shared if not torch.equal(states[one][name], states[other][name])]
        assert {'class_head', 'feature_head', 'backbone'} <= {name.partition('.')[0] for name in shared} and not unlike
        assert seen[one] == seen[other]
    cfg.seed = 4
    torch.manual_seed(cfg.seed)
    assert not torch.equal(build_model(cfg).class_head.state_dict()['0.weight'], states[ROWS[-1]]['class_head.0.weight'])
