"""Batches travel packed and are unpacked bit for bit; packed masks are the masks, at one bit per pixel."""

import numpy as np
import pytest
import torch

from jrs.errors import PluginError
from jrs.structures import (
    MAPS,
    Instances,
    InstanceTable,
    InstanceTargets,
    Match,
    PackedMasks,
    QueryPredictions,
    SceneBatch,
    count_bits,
    maps_read,
    pack_above,
    pack_bits,
    unit_images,
    unpack_bits,
)


def masks(count=5, views=3, size=(5, 7), seed=0):
    return torch.rand(count, views, *size, generator=torch.Generator().manual_seed(seed)) < 0.4


@pytest.mark.parametrize('count', [1, 7, 8, 9, 64, 65])
def test_bits_round_trip_and_are_numpys_little_order(count):
    flags = masks(2, 3, (1, count)).flatten(2)
    bits = pack_bits(flags)
    assert bits.dtype == torch.uint8 and bits.shape == (2, 3, -(-count // 8))
    assert torch.equal(unpack_bits(bits, count), flags)
    assert (bits.numpy() == np.packbits(flags.numpy(), axis=-1, bitorder='little')).all()
    assert torch.equal(count_bits(bits), flags.sum(-1))


def test_every_byte_packs_and_counts():
    every = (torch.arange(256)[:, None] >> torch.arange(8) & 1).bool()
    assert torch.equal(pack_bits(every)[:, 0], torch.arange(256, dtype=torch.uint8))
    assert torch.equal(count_bits(pack_bits(every)), every.sum(-1))


@pytest.mark.parametrize('threshold', [0.4, 0.5, 0.1])
def test_packing_above_a_threshold_compares_as_torch_does(threshold):
    near = torch.full((40,), threshold).nextafter(torch.arange(40) % 3 - 1.0)
    assert torch.equal(pack_above(near, threshold), pack_bits(near > threshold))
    assert 0 < count_bits(pack_above(near, threshold)) < 40


def test_packed_masks_say_what_the_masks_say():
    dense = masks()
    packed = PackedMasks.pack(dense)
    assert packed.shape == dense.shape and len(packed) == 5
    assert torch.equal(packed.dense(), dense) and torch.equal(torch.stack(list(packed)), dense)
    assert torch.equal(packed.pixels(), dense.sum((-1, -2)))
    assert torch.equal(packed[[3, 3, 0]].dense(), dense[[3, 3, 0]])
    assert torch.equal(packed[1:3].to('cpu').dense(), dense[1:3])
    assert packed[[3, 3, 0]].bits.data_ptr() == packed.bits.data_ptr()


def test_no_instances_keep_the_shape():
    none = PackedMasks.pack(masks()[:0])
    assert none.dense().shape == (0, 3, 5, 7) and none.pixels().shape == (0, 3)


def test_instances_pack_bool_masks_and_select_rows():
    dense = masks()
    instances = Instances(dense, torch.arange(5), torch.linspace(1, 0, 5), torch.arange(5) + 10)
    assert torch.equal(instances.masks, dense) and len(instances) == 5
    chosen = instances.select([4, 1])
    assert torch.equal(chosen.masks, dense[[4, 1]]) and chosen.queries.tolist() == [14, 11]
    instances.masks = ~dense
    assert torch.equal(instances.masks, ~dense)


def packed_batch():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16).expand(1, 2, 3, 16, 16)
    ids = torch.randint(-1, 1000, (1, 2, 16, 16), generator=torch.Generator().manual_seed(0)).short()
    table = InstanceTable(torch.tensor([999]), torch.tensor([3]))
    return SceneBatch(images, ['scene'], [['0', '1']], torch.rand(1, 2, 16, 16), torch.eye(3).expand(1, 2, 3, 3),
                      torch.eye(4).expand(1, 2, 4, 4), ids, [table])


def test_a_packed_batch_unpacks_to_the_same_bits_and_an_unpacked_one_is_left_alone():
    packed = packed_batch()
    batch = packed.unpacked()
    assert torch.equal(batch.images, packed.images.float() / 255) and batch.images.dtype == torch.float32
    assert torch.equal(batch.instance_ids, packed.instance_ids.long()) and batch.instance_ids.dtype == torch.int64
    again = batch.unpacked()
    assert again.images is batch.images and again.instance_ids.data_ptr() == batch.instance_ids.data_ptr()
    assert SceneBatch(batch.images, ['scene'], [['0', '1']]).unpacked().instance_ids is None
    for wrong in (torch.int64, torch.bool):
        with pytest.raises(ValueError, match='uint8 .* or floating'):
            unit_images(packed.images.to(wrong))


@pytest.mark.gpu
def test_images_are_the_same_bits_when_they_are_unpacked_on_the_device():
    packed = packed_batch()
    assert torch.equal(packed.to('cuda').unpacked().images.cpu(), packed.unpacked().images)
    loader = torch.utils.data.DataLoader([packed], batch_size=1, collate_fn=lambda batches: batches[0], pin_memory=True)
    assert next(iter(loader)).images.is_pinned()


def test_pinning_and_moving_reach_every_tensor_and_keep_it_packed(monkeypatch):
    """``DataLoader(pin_memory=True)`` pins what has a `pin_memory`; without one it hands objects on as they are."""
    pinned, moved, real = [], [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda tensor: pinned.append(tensor) or tensor)
    batch = torch.utils.data._utils.pin_memory.pin_memory(packed_batch())
    assert len(pinned) == 7 and batch.images.dtype == torch.uint8 and batch.instance_ids.dtype == torch.int16
    monkeypatch.setattr(torch.Tensor, 'to', lambda tensor, *words, **options: moved.append(options) or
                        real(tensor, *words, **options))
    batch.to('cpu', non_blocking=True)
    assert moved == [dict(non_blocking=True)] * 7


def test_maps_are_those_that_some_part_names_and_all_for_a_part_that_says_nothing():
    depth, nothing = (type('Part', (), dict(reads_maps=names))() for names in (('depth_m',), ()))
    assert maps_read([]) == maps_read([nothing]) == frozenset()
    assert maps_read([nothing, depth]) == {'depth_m'}
    assert maps_read([nothing, object()]) == set(MAPS)
    for wrong in ('depth_m', ('depth',)):
        with pytest.raises(PluginError, match='depth_m, instance_ids'):
            maps_read([type('Odd', (), dict(reads_maps=wrong))()])


@pytest.mark.parametrize('classes', ['softmax', 'sigmoid'])
def test_what_a_scene_could_not_say_has_probability_and_gradient_0(classes):
    from jrs.losses.instance import ClassLoss
    logits = torch.randn(2, 4, 3 + (classes == 'softmax'), requires_grad=True)
    queries = QueryPredictions(torch.zeros(2, 4, 2), class_logits=logits, classes=classes)
    queries.auxiliary = [QueryPredictions(torch.zeros(2, 4, 2), class_logits=logits, classes=classes)]
    possible = torch.tensor([[True, False, True], [True, True, True]])
    queries.say_only(possible)
    each, _ = queries.class_probabilities()
    assert each[0, :, 1].eq(0).all() and (each[0, :, [0, 2]] > 0).all() and queries.auxiliary[0].class_logits[0, 0, 1] < -1e3
    assert queries.class_logits[1].equal(logits[1])
    if classes == 'softmax':
        torch.testing.assert_close(each[0, :, [0, 2]], logits[0, :, [0, 2, 3]].softmax(dim=-1)[:, :2])
        target = InstanceTargets(torch.tensor([2]), torch.zeros(1, 1, 2, 2, dtype=torch.bool), torch.ones(1, 1))
        ClassLoss()(queries.scene(0), target, Match(torch.tensor([1]), torch.tensor([0]))).backward()
        assert logits.grad[0, :, 1].eq(0).all() and logits.grad[0].isfinite().all() and logits.grad[0].abs().sum() > 0
