"""Packed masks are the masks, at one bit per pixel."""

import numpy as np
import pytest
import torch

from jrs.structures import Instances, PackedMasks, count_bits, pack_above, pack_bits, unpack_bits


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
