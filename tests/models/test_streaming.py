"""Views one at a time: a window says what one pass says, queries read windows or are carried, memory does not grow."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from jrs.config import load_config
from jrs.errors import ConfigError
from jrs.models.streaming import SceneStream
from jrs.registry import MODELS, build
from jrs.structures import SceneBatch
from tests._data import MAIN, ROOT
from tests.seeded_weights import fill_module_

FADA = ROOT / 'plugins' / 'stream_vggt' / 'configs' / 'stream_vggt_fada.py'


def small_model(config=FADA, **overrides) -> nn.Module:
    torch.manual_seed(0)
    overrides = {'model.teacher': None, 'model.postprocessor.min_pixels': 0, **overrides}
    model = build(MODELS, dict(load_config(config, 'debug', overrides).model, num_classes=5), 'model').eval()
    fill_module_(model.backbone)
    return model


def some_images(views: int, size: int = 28) -> Tensor:
    return torch.rand(views, 3, size, size, generator=torch.Generator().manual_seed(1))


def streamed(model, images: Tensor, window: int) -> list:
    found = []
    with SceneStream(model, window) as stream:
        for part in images.split(window):
            for number, image in enumerate(part):
                stream.push(image, str(number))
            found.append(stream.take())
    return found


def test_a_window_says_what_one_pass_over_its_views_says():
    model, images = small_model(), some_images(4)
    found = streamed(model, images, 4)[0]
    whole = model.reconstruct(SceneBatch(images[None], ['s'], [list('0123')]))[0]
    for name in ('images', 'depth', 'depth_conf', 'intrinsics', 'cam_from_world', 'features'):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=1e-4, atol=1e-4)
    assert found.view_names == whole.view_names and len(whole.instances.scores) > 3
    torch.testing.assert_close(found.instances.scores, whole.instances.scores, rtol=1e-4, atol=1e-5)
    assert (found.instances.masks != whole.instances.masks).float().mean() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize('carry', [False, True])
def test_queries_read_each_window_anew_or_are_carried_from_view_to_view(carry, monkeypatch):
    """By hand from one pass over all views, in which nobody sees more than the window."""
    model, images, finished = small_model(**{'model.queries.carry': carry}), some_images(5), []
    usual = model.finish_queries
    monkeypatch.setattr(model, 'finish_queries', lambda *given: finished.append(usual(*given)) or finished[-1])
    streamed(model, images, 2)
    model.backbone.global_attention.window = 2
    layers = list(model.backbone.layers(images[None]))

    def read(state, views):
        for layer in layers:
            chosen = torch.isin(layer.view_index, torch.tensor(views))
            state = model.queries.read(state, replace(layer, tokens=layer.tokens[:, chosen], is_patch=layer.is_patch[chosen],
                                                      view_index=layer.view_index[chosen] - views[0], num_views=len(views)))
        return state
    state = model.queries.start(1)
    for window, views in enumerate(([0, 1], [2, 3], [4])):
        for part in [[view] for view in views] if carry else [views]:
            state = read(state if carry else model.queries.start(1), part)
        expected = model.queries.finish(state)
        torch.testing.assert_close(finished[window].embedding, expected.embedding, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(finished[0].embedding, finished[2].embedding, atol=1e-3)


def bytes_alive() -> int:
    """Return the size of all tensors that exist; what a compiler keeps to stand for others has no memory."""
    gc.collect()
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in gc.get_objects()
                if issubclass(type(value), Tensor) and not issubclass(type(value), FakeTensor) and not value.is_meta}
    return sum(storages.values())


@pytest.mark.parametrize(('carry', 'views'), [(False, 96), (True, 24)])
def test_memory_does_not_grow_from_half_of_a_stream_to_its_end(carry, views):
    """Of 96 views too: what lives after view 48 is as much as after view 96."""
    model = small_model(**{'model.queries.carry': carry, 'model.backbone.depth': 1,
                           'model.backbone.feature_layers': (0, 0, 0, 0)})
    images, alive, held = some_images(4), [], []
    with SceneStream(model, 4) as stream:
        for view in range(views):
            stream.push(images[view % 4], str(view))
            held.append(stream.held_bytes())
            alive += [bytes_alive()] if view + 1 in (views // 2, views) else []
            if view % 4 == 3:
                stream.take()
    assert alive[0] == alive[1] and len(set(held[4:])) == 1 and held[4] == max(held)
    assert held[4] == 5 * held[0]                                               # the first view, and a window
    assert stream.held_bytes() == 0


@pytest.mark.parametrize(('config', 'overrides', 'words'), [
    (MAIN, {}, 'VGGT sees all views at once'),
    (FADA, {'model.camera_head.trunk_attention': None}, 'CameraHead, sees all views at once'),
    (FADA, {'model.scale_head': dict(type='ScaleHead')}, 'gives all views of a scene one scale'),
    (ROOT / 'plugins' / 'pi3' / 'configs' / 'pi3_fada.py',
     {'plugins': ['pi3', 'stream_vggt'], 'model.backbone.global_attention': dict(type='CausalViews')}, 'no reference view')])
def test_a_model_that_cannot_stream_says_which_part_and_what_to_use(config, overrides, words):
    with pytest.raises(ConfigError, match=words):
        SceneStream(small_model(config, **overrides), 4)


def test_a_model_without_queries_or_cameras_streams_what_it_has():
    found = streamed(small_model(FADA.with_name('stream_vggt_geometry.py'), **{'model.camera_head': None,
                                                                               'model.postprocessor': None,
                                                                               'model.losses.camera': None}),
                     some_images(3), 2)
    assert [scene.depth.shape[0] for scene in found] == [2, 1] and found[0].cam_from_world is found[0].instances is None
