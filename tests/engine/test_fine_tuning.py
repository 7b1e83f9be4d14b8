"""Training starts from VGGT-1B with fresh queries, or from a released SegVGGT with its LoRA kept or merged."""

import pytest
import torch

from jrs.config import load_config
from jrs.engine.build import build_model, check_ready
from jrs.engine.inference import load_model
from jrs.errors import WeightsError
from jrs.places import own_file
from jrs.registry import MODELS, build
from tests._data import ROOT, command
from tests._released import GEOMETRY, LORA, outputs, segvggt_file, toy_config, toy_model, vggt_file

WITH_LORA = {'model.backbone.lora': LORA}
NO_INSTANCES = {f'model.{part}': None for part in ('queries', 'feature_head', 'class_head', 'matcher', 'alignment',
                                                   'postprocessor')}


def saved(state, path):
    torch.save(state, path)
    return str(path)


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def test_from_vggt_the_geometry_is_unchanged_at_step_0(tmp_path):
    path = saved(vggt_file(), tmp_path / 'model.pt')
    cfg = toy_config(weights=path, **WITH_LORA)
    plain_cfg = toy_config(weights=path, **NO_INSTANCES)
    plain_cfg.model.losses = None
    fine_tuned, plain = outputs(build_model(cfg)), outputs(build_model(plain_cfg))
    assert set(fine_tuned) - set(plain) == {'class_logits', 'mask_logits'}
    assert all(torch.equal(fine_tuned[name], value) for name, value in plain.items())
    assert plain['depth'].std() > 0 and all(torch.equal(outputs(toy_model())[name], plain[name]) for name in plain)


def test_from_vggt_what_is_new_starts_as_in_a_model_that_was_never_loaded(tmp_path):
    cfg = toy_config(weights=saved(vggt_file(), tmp_path / 'model.pt'), **WITH_LORA)
    loaded, untouched = build_model(cfg), build(MODELS, cfg.model, 'model')
    assert not any(value.is_meta for value in loaded.state_dict().values())
    for (name, value), other in zip(loaded.named_parameters(), untouched.parameters(), strict=True):
        assert value.requires_grad == other.requires_grad, name
        if name.startswith(GEOMETRY) and '.lora_' not in name:
            continue
        if other.numel() > 500:
            assert value.std().item() == pytest.approx(other.std().item(), rel=0.2), name
        elif other.std(correction=0) == 0:                          # norms, LayerScale
            assert torch.equal(value, other), name
    assert all((value == 0).all() for name, value in loaded.named_parameters() if name.endswith('lora_b'))


def test_the_same_seed_gives_the_same_fresh_parts(tmp_path):
    cfg = toy_config(weights=saved(vggt_file(), tmp_path / 'model.pt'), **WITH_LORA)
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_model(cfg).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]['queries.tokens'], states[2]['queries.tokens'])


def test_from_the_release_lora_is_kept(tmp_path):
    path = saved({'model': segvggt_file()}, tmp_path / 'segvggt.pt')
    model = build_model(toy_config(weights=path, **WITH_LORA))
    reference = toy_model(**WITH_LORA)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in reference.state_dict().items())
    assert largest_difference(outputs(model), outputs(reference)) == 0
    assert not model.backbone.frame_blocks[0].attn.qkv.weight.requires_grad
    assert model.backbone.frame_blocks[0].attn.qkv.lora_a.requires_grad


@pytest.mark.parametrize('lora', [None, LORA], ids=['no lora', 'fresh lora'])
def test_from_the_release_lora_is_merged_with_equal_outputs(tmp_path, monkeypatch, lora):
    path = saved(segvggt_file(), tmp_path / 'segvggt.pt')
    assert convert(path, tmp_path / 'merged.safetensors', '--merge-lora', '--lora-alpha', LORA['alpha']) == 0
    cfg = toy_config(**{'weights': str(tmp_path / 'merged.safetensors'), 'model.backbone.lora': lora})
    before = outputs(toy_model(**WITH_LORA))
    assert largest_difference(before, outputs(build_model(cfg))) < 1e-5
    assert largest_difference(before, outputs(load_model(cfg, tmp_path / 'merged.safetensors'))) < 1e-5
    plain = outputs(toy_model())
    assert max((before[name] - plain[name]).abs().max() for name in plain) > 1e-2           # the factors matter


def test_factors_are_never_dropped_in_silence(tmp_path):
    path = saved(segvggt_file(), tmp_path / 'segvggt.pt')
    with pytest.raises(WeightsError, match='low-rank factors.*does not take.*--merge-lora'):
        build_model(toy_config(weights=path))


def test_another_alpha_than_that_of_the_file_is_refused(tmp_path):
    path = saved(segvggt_file(), tmp_path / 'segvggt.pt')
    assert convert(path, tmp_path / 'w.safetensors', '--lora-alpha', 4) == 0
    build_model(toy_config(weights=str(tmp_path / 'w.safetensors'), **WITH_LORA))
    with pytest.raises(WeightsError, match='alpha of 4, and the model has 2'):
        build_model(toy_config(**{'weights': str(tmp_path / 'w.safetensors'), 'model.backbone.lora': dict(LORA, alpha=2)}))


def test_the_file_stays_as_it_is_while_a_model_that_maps_it_learns(tmp_path):
    path = tmp_path / 'model.pt'
    saved(vggt_file(), path)
    content = path.read_bytes()
    model = build_model(toy_config(weights=str(path)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert path.read_bytes() == content
    path.unlink()
    assert all(value.isfinite().all() for value in model.state_dict().values())


def convert(path, out, *words):
    return command('convert', path, '--out', out, '--profile', 'debug', *words)


def test_weights_of_the_project_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(ROOT / 'configs' / 'segvggt' / 'all24_fada.py', 'rooms')
    assert check_ready(cfg) == {}
    own = tmp_path / cfg.weights
    assert own_file(cfg.weights) == ROOT / cfg.weights
    own.parent.mkdir(parents=True)
    own.touch()                                                        # what lies in the current folder comes first
    assert own_file(cfg.weights).resolve() == own
