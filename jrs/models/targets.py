"""True instances of a batch, in the form that costs and losses read."""

from __future__ import annotations

import torch
from torch import Tensor

from jrs.alignment.visibility import view_visibility
from jrs.errors import DataError
from jrs.functional import places_of
from jrs.geometry.pixels import at_centres
from jrs.structures import InstanceTable, InstanceTargets, SceneBatch

IGNORE = -1                                    # pixels of which neither instance nor background is known


def instance_targets(batch: SceneBatch, mask_size: tuple[int, int], min_pixels: int = 1) -> list[InstanceTargets]:
    """Return the true instances of each scene that its sampled views show.

    Id images are read at the centres of mask pixels, as the oracle and the transfer to vertices do (`at_centres`).

    Args:
        batch: with `instance_ids` (B, V, H, W) and B tables in `instances`.
        mask_size: (h, w) of the mask logits, at most (H, W).
        min_pixels: an instance with fewer mask pixels over all views is left out (its pixels become background).

    Returns:
        B targets on the device of the batch; a scene may have G = 0.

    Raises:
        DataError: the batch has no instances.
        ValueError: masks larger than the images, or `min_pixels` below 1.
    """
    if batch.instance_ids is None or batch.instances is None:
        raise DataError(f'The scenes {", ".join(batch.scene_names)} have no true instances, and training instances '
                        'needs them: prepare the data with instances, or set model.losses to geometric terms only.')
    height, width = batch.instance_ids.shape[-2:]
    if mask_size[0] > height or mask_size[1] > width or min_pixels < 1:
        raise ValueError(f'masks must be at most as large as the images and min_pixels at least 1, got masks '
                         f'{mask_size} for images {(height, width)} and min_pixels {min_pixels}')
    scenes = list(zip(at_centres(batch.instance_ids, mask_size), batch.instances, strict=True))
    seen = [_pixels(ids, table.ids) >= min_pixels for ids, table in scenes]         # (instances of the table,) each
    valid = [ids != IGNORE for ids, _ in scenes]                                    # (V, h, w) each
    facts = torch.stack([torch.stack([kept.sum(), known.all().long()]) for kept, known in zip(seen, valid, strict=True)])
    return [_scene_targets(ids, table, places_of(kept, count), None if all_known else known)
            for (ids, table), kept, known, (count, all_known) in
            zip(scenes, seen, valid, facts.tolist(), strict=True)]                  # one wait for the device


def _pixels(ids: Tensor, wanted: Tensor) -> Tensor:
    """Return how many elements of `ids` (V, h, w) are each of `wanted` (n,): (n,) int64."""
    if not len(wanted):
        return torch.zeros_like(wanted)
    known, flat = wanted.sort().values, ids.flatten()
    place = torch.searchsorted(known, flat).clamp_max(len(known) - 1)
    place = place.where(known[place] == flat, len(known))                           # the last one for all others
    counts = known.new_zeros(len(known) + 1).scatter_add_(0, place, torch.ones_like(place))
    return counts[torch.searchsorted(known, wanted)]


def _scene_targets(ids: Tensor, table: InstanceTable, kept: Tensor, valid: Tensor | None) -> InstanceTargets:
    """ids (V, h, w), which rows (G,) of the table -> the targets of one scene."""
    masks = ids == table.ids[kept][:, None, None, None]                 # (G, V, h, w) bool
    return InstanceTargets(labels=table.labels[kept], masks=masks, view_visibility=view_visibility(masks), valid=valid,
                           ids=table.ids[kept])
