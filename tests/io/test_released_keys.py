import os
import re
from pathlib import Path

import pytest
import torch

from jrs.io.released_keys import our_key, released_key
from jrs.models.segvggt import SegVGGT

SPEC = Path(os.environ.get('JRS_SPEC', Path(__file__).resolve().parents[3] / 'shared' / 'spec'))
needs_spec = pytest.mark.skipif(not SPEC.exists(), reason=f'no key lists in {SPEC}; set JRS_SPEC to their folder')
PAIRS = {
    'queries.tokens': 'aggregator.instance_query_token',
    'queries.cross_blocks.11.attn.q_proj.weight': 'aggregator.instance_cross_blocks.11.attn.q_proj.weight',
    'queries.self_blocks.3.attn.qkv.bias': 'aggregator.instance_query_self_attn.3.attn.qkv.bias',
    'queries.projection.weight': 'aggregator.instance_queries_proj.weight',
    'class_head.2.bias': 'semantic_head.scratch.output_instance.2.bias',
    'feature_head.scratch.output_conv1.weight': 'semantic_head.scratch.output_conv1.weight',
    'camera_head.trunk.0.attn.qkv.weight': 'camera_head.trunk.0.attn.qkv.weight',
    'backbone.patch_embed.blocks.0.attn.qkv.weight': 'aggregator.patch_embed.blocks.0.attn.qkv.weight',
    'backbone.frame_blocks.0.attn.qkv.weight': 'aggregator.frame_blocks.0.attn.qkv.linear.weight',
    'backbone.global_blocks.9.attn.proj.lora_b': 'aggregator.global_blocks.9.attn.proj.lora.lora_B.weight',
    'backbone.global_blocks.9.attn.q_norm.weight': 'aggregator.global_blocks.9.attn.q_norm.weight',
}


@pytest.mark.parametrize(('ours', 'released'), PAIRS.items(), ids=PAIRS)
def test_names_map_both_ways(ours, released):
    assert released_key(ours, lora=True) == released
    assert our_key(released) == ours


def test_a_file_without_low_rank_factors_has_plain_names():
    plain = 'aggregator.frame_blocks.0.attn.qkv.weight'
    assert released_key('backbone.frame_blocks.0.attn.qkv.weight', lora=False) == plain
    assert our_key(plain) == 'backbone.frame_blocks.0.attn.qkv.weight'


def _full_model(num_classes: int) -> SegVGGT:
    with torch.device('meta'):
        return SegVGGT(backbone=dict(type='VGGT', lora=dict(rank=32, alpha=32.0)), queries=dict(type='InsertedQueries'),
                       camera_head=dict(type='CameraHead'), depth_head=dict(type='DepthHead'),
                       feature_head=dict(type='InstanceFeatureHead'), class_head=dict(type='QueryClassHead'),
                       num_classes=num_classes)


def _listed(name: str, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Read `name shape`, or `name shape | shape with 198 classes`, per line."""
    entries = {}
    for line in (SPEC / name).read_text().splitlines():
        key, _, shapes = line.partition(' ')
        alternatives = [tuple(map(int, re.findall(r'\d+', shape))) for shape in re.findall(r'\(.*?\)', shapes)]
        entries[key] = alternatives[-1 if num_classes == 198 else 0]
    return entries


@needs_spec
@pytest.mark.parametrize(('num_classes', 'num_parameters'), [(18, 1654251655), (198, 1654257595)])
def test_the_full_model_has_exactly_the_released_keys_and_shapes(num_classes, num_parameters):
    state = _full_model(num_classes).state_dict()
    ours = {released_key(key, lora=True): tuple(value.shape) for key, value in state.items()}
    assert ours == _listed('segvggt_keys.txt', num_classes)
    assert {our_key(key) for key in ours} == set(state)
    assert sum(value.numel() for value in state.values()) == num_parameters


@needs_spec
def test_every_geometry_key_of_plain_vggt_is_found_by_our_name():
    ours = {key for key in _full_model(18).state_dict() if not key.endswith(('lora_a', 'lora_b'))}
    geometry = {key for key in _listed('vggt_keys.txt', 18) if not key.startswith(('point_head.', 'track_head.'))}
    assert {our_key(key) for key in geometry} <= ours
    assert all(released_key(our_key(key), lora=False) == key for key in geometry)
