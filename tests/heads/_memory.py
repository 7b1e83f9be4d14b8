"""What a head takes, measured: for the backward pass and at its peak without one."""

from __future__ import annotations

import torch
from torch import nn

from jrs.structures import FeatureTaps
from tests.engine.test_memory import peak_bytes


def some_taps(views: int, size: tuple[int, int], patch_size: int, dim_in: int) -> FeatureTaps:
    """One tap of a scene: five special tokens, then the patches."""
    grid = tuple(side // patch_size for side in size)
    tokens = 5 + grid[0] * grid[1]
    tap = torch.randn(1, views, tokens, dim_in, requires_grad=True)
    return FeatureTaps([tap], torch.arange(5, tokens), grid, size)


def saved_bytes(head: nn.Module, features: FeatureTaps) -> int:
    """Return the bytes that the backward pass needs, beside the parameters, the taps and maps that are read."""
    given = {value.untyped_storage().data_ptr() for value in (*head.parameters(), *features.taps, *features.maps.values())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        head.train()(features)
    return sum(storage.nbytes() for storage in kept.values())


def alive_bytes(head: nn.Module, features: FeatureTaps) -> int:
    """Return the bytes that are alive at a time without a backward pass."""
    head.eval()
    with torch.no_grad():
        head(features)                                                 # what is made once
        return peak_bytes(lambda: head(features))


def check_memory(head: nn.Module, views: int, size: tuple[int, int], share: float) -> None:
    """Compare `head.memory` with what is measured, for a backbone with the five special tokens of `some_taps`."""
    features = some_taps(views, size, head.patch_size, head.point_decoder.projects.in_features)
    said, pixels = head.memory(views, size, torch.device('cpu')), size[0] * size[1]
    ends = views * (4 * 2 * pixels + said.outputs)                      # depth and confidence stay, and the rest
    saved, alive = views * (said.saved + said.kept), said.chunk + ends
    measured = saved_bytes(head, features), alive_bytes(head, features)
    for what, one, other in zip(('saved', 'alive'), (saved, alive), measured, strict=True):
        print(f'{what}: said {one / 1e6:.2f} MB, measured {other / 1e6:.2f} MB')
        assert abs(one - other) < share * other, (what, one, other)
