"""VGGT's contract with the model: layer states, taps, freezing, precision."""

import os
import re
import weakref
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from jrs.backbones.vggt import VGGT
from jrs.errors import ConfigError
from jrs.heads.camera import CameraHead
from jrs.heads.depth import DepthHead
from jrs.heads.points import PointHead
from jrs.registry import BACKBONES, build
from tests.seeded_weights import fill_module_

SPEC = Path(os.environ.get('JRS_SPEC', Path(__file__).resolve().parents[3] / 'shared' / 'spec'))
TINY = dict(embed_dim=16, depth=3, num_heads=2, patch_embed='conv', feature_layers=(0, 2))


def tiny(**options) -> VGGT:
    """A VGGT of 3 pairs and width 16, with weights that let every part matter."""
    torch.manual_seed(0)
    backbone = VGGT(**{**TINY, **options})
    fill_module_(backbone, prefix='aggregator.')
    return backbone


def some_images(scenes=2, views=3, height=28, width=42):
    return torch.rand(scenes, views, 3, height, width, generator=torch.Generator().manual_seed(1))


def run(backbone, images):
    states = list(backbone.layers(images))
    return states, backbone.features()


def test_layer_states_tell_which_view_each_token_is_of():
    states, features = run(tiny(), some_images())
    assert [state.index for state in states] == [0, 1, 2]
    num_tokens = 1 + 4 + 2 * 3
    assert states[0].tokens.shape == (2, 3 * num_tokens, 16)
    assert states[0].num_views == 3
    assert states[0].view_index.tolist() == [view for view in range(3) for _ in range(num_tokens)]
    assert states[0].is_patch.tolist() == 3 * ([False] * 5 + [True] * 6)
    assert [tap.shape for tap in features.taps] == 2 * [(2, 3, num_tokens, 32)]
    assert features.patch_index.tolist() == [5, 6, 7, 8, 9, 10]
    assert (features.patch_grid, features.image_size) == ((2, 3), (28, 42))


def test_second_half_of_a_tap_is_the_state_the_queries_saw():
    states, features = run(tiny(), some_images())
    for tap, index in zip(features.taps, (0, 2), strict=True):
        torch.testing.assert_close(tap[..., 16:].flatten(1, 2), states[index].tokens)


def test_geometry_token_is_the_camera_token_of_the_last_tap():
    _, features = run(tiny(), some_images())
    torch.testing.assert_close(features.geometry_tokens, features.taps[-1][:, :, 0])


def test_taps_come_in_the_order_of_feature_layers():
    _, ascending = run(tiny(), some_images())
    _, descending = run(tiny(feature_layers=(2, 0)), some_images())
    torch.testing.assert_close(descending.taps[0], ascending.taps[1])


def test_permuting_all_views_but_the_first_permutes_the_outputs():
    backbone, images, order = tiny().eval(), some_images(views=4), [0, 3, 1, 2]
    _, features = run(backbone, images)
    _, permuted = run(backbone, images[:, order])
    for before, after in zip(features.taps, permuted.taps, strict=True):
        torch.testing.assert_close(after, before[:, order], rtol=1e-4, atol=1e-5)
    _, first_moved = run(backbone, images[:, [1, 0, 2, 3]])
    assert not torch.allclose(first_moved.taps[-1], features.taps[-1][:, [1, 0, 2, 3]], atol=1e-2)


def test_scenes_of_a_batch_do_not_see_each_other():
    images = some_images()
    _, together = run(tiny(), images)
    _, alone = run(tiny(), images[1:])
    torch.testing.assert_close(together.taps[-1][1:], alone.taps[-1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_layers_pass_and_are_not_kept():
    storages = []
    for state in tiny().layers(some_images()):
        storages.append(StorageWeakRef(state.tokens.untyped_storage()))
        del state
        assert all(storage.expired() for storage in storages[:-1])


def test_features_are_handed_over_once():
    backbone = tiny()
    with pytest.raises(RuntimeError, match='run that generator to its end'):
        backbone.features()
    _, features = run(backbone, some_images())
    reference = weakref.ref(features)
    del features
    assert reference() is None
    with pytest.raises(RuntimeError):
        backbone.features()


def test_features_of_an_earlier_call_are_not_handed_over_half_way():
    backbone = tiny()
    list(backbone.layers(some_images()))
    next(iter(backbone.layers(some_images())))
    with pytest.raises(RuntimeError):
        backbone.features()


@pytest.mark.parametrize('shape', [(1, 8, 3, 480, 640), (3, 28, 28), (1, 2, 4, 28, 28), (1, 0, 3, 28, 28)])
def test_wrong_image_shape_is_named(shape):
    message = f'images must be (B, V, 3, H, W) with H and W multiples of 14, got {shape}'
    with pytest.raises(ValueError, match=re.escape(message)):
        next(tiny().layers(torch.zeros(shape)))


def test_one_view_uses_the_tokens_of_the_first_view():
    backbone = tiny()
    _, before = run(backbone, some_images(views=1))
    with torch.no_grad():
        backbone.camera_token[:, 1] = 9.0
        backbone.register_token[:, 1] = 9.0
    _, after = run(backbone, some_images(views=1))
    torch.testing.assert_close(after.taps[-1], before.taps[-1])


@pytest.mark.parametrize('checkpointing', [False, True])
def test_gradients_reach_every_trainable_parameter(checkpointing):
    backbone = tiny(activation_checkpointing=checkpointing).train()
    states, features = run(backbone, some_images())
    loss = sum(tap.square().mean() for tap in features.taps) + states[1].tokens.mean()
    loss.backward()
    missing = [name for name, parameter in backbone.named_parameters()
               if parameter.requires_grad and not (parameter.grad is not None and parameter.grad.abs().sum() > 0)]
    assert not missing


def test_activation_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        backbone = tiny(activation_checkpointing=checkpointing).train()
        run(backbone, some_images())[1].taps[-1].square().mean().backward()
        gradients.append(backbone.frame_blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('checkpointing', [False, True])
def test_residual_stream_stays_float32_under_autocast(checkpointing):
    backbone = tiny(activation_checkpointing=checkpointing).train()
    with torch.autocast('cpu', torch.bfloat16):
        states, features = run(backbone, some_images())
    assert {state.tokens.dtype for state in states} == {torch.float32}
    assert {tap.dtype for tap in features.taps} == {torch.float32}
    _, exact = run(backbone, some_images())
    error = (features.taps[-1] - exact.taps[-1]).norm() / exact.taps[-1].norm()
    assert 0 < error < 0.03
    features.taps[-1].sum().backward()
    assert backbone.frame_blocks[0].attn.qkv.weight.grad.isfinite().all()


def test_backbone_cast_to_half_precision_runs():
    _, features = run(tiny().to(torch.bfloat16), some_images())
    assert features.taps[-1].dtype == torch.bfloat16


def test_frozen_patch_embedding_does_not_learn_and_stays_in_evaluation():
    backbone = tiny(freeze=dict(patch_embed=True)).train()
    assert not backbone.patch_embed.training and backbone.frame_blocks.training
    assert not any(parameter.requires_grad for parameter in backbone.patch_embed.parameters())
    assert all(parameter.requires_grad for parameter in backbone.global_blocks.parameters())


def test_frozen_blocks_freeze_special_tokens_too():
    backbone = tiny(freeze=dict(blocks=True))
    learning = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert learning == ['patch_embed.proj.weight', 'patch_embed.proj.bias']


def test_adapters_learn_while_the_blocks_are_frozen():
    backbone = tiny(freeze=dict(patch_embed=True, blocks=True), lora=dict(rank=2, alpha=2, dropout=0.0))
    learning = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert len(learning) == 2 * 3 * 2 * 2                   # frame and global, pairs, qkv and proj, A and B
    assert all(re.match(r'(frame|global)_blocks\.\d\.attn\.(qkv|proj)\.', name) for name in learning)


def test_adapters_leave_the_output_unchanged_at_first():
    torch.manual_seed(0)
    adapted = VGGT(**TINY, lora=dict(rank=2, alpha=4, dropout=0.0))
    plain = VGGT(**TINY)
    adapted.load_state_dict(plain.state_dict(), strict=False)
    expected, actual = run(plain, some_images())[1], run(adapted, some_images())[1]
    torch.testing.assert_close(actual.taps[-1], expected.taps[-1])


def test_unknown_option_is_met_with_a_suggestion():
    with pytest.raises(ConfigError, match="freeze of VGGT has no option 'patch_embd'. Did you mean 'patch_embed'"):
        tiny(freeze=dict(patch_embd=True))


def test_layer_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match='0 .. 2 with these options'):
        build(BACKBONES, dict(type='VGGT', **{**TINY, 'feature_layers': (0, 3)}), 'model.backbone')


def test_normalisation_constants_are_not_in_checkpoints():
    assert not [name for name in tiny().state_dict() if 'image' in name]


def test_full_size_keys_and_shapes_are_those_of_the_released_checkpoint():
    path = SPEC / 'vggt_keys.txt'
    if not path.is_file():
        pytest.skip(f'{path} is not there; set JRS_SPEC to the folder that has it')
    lines = [line.split(' ', 1) for line in path.read_text().splitlines() if not line.startswith('track_head.')]
    expected = {name: tuple(int(side) for side in re.findall(r'\d+', shape)) for name, shape in lines}
    with torch.device('meta'):
        backbone = VGGT()
        heads = {'camera_head': CameraHead(2048), 'depth_head': DepthHead(2048), 'point_head': PointHead(2048)}
    parts = {'aggregator': backbone, **heads}
    actual = {f'{part}.{name}': tuple(value.shape) for part, module in parts.items()
              for name, value in module.state_dict().items()}
    assert actual == expected
    assert sum(parameter.numel() for module in parts.values() for parameter in module.parameters()) == 1_190_596_120
