"""Stand-ins for the official files at toy size: their names, their wrappings, seeded values."""

from __future__ import annotations

import torch
from mmengine.config import Config
from torch import Tensor, nn

from jrs.config import load_config
from jrs.io.released_keys import released_key
from jrs.registry import MODELS, build
from tests._data import MAIN
from tests.seeded_weights import seeded_array

LORA = dict(rank=2, alpha=4, dropout=0.0)
TRACK_HEAD = {'track_head.tracker.fmap_norm.weight': torch.ones(4), 'point_head.norm.weight': torch.ones(64)}
GEOMETRY = ('backbone.', 'camera_head.', 'depth_head.')


def toy_config(**overrides) -> Config:
    """Return all24_fada at size debug, without a teacher."""
    return load_config(MAIN, 'debug', {'model.teacher': None, **overrides})


def toy_model(**overrides) -> nn.Module:
    """Return the model of `toy_config` with seeded weights, in evaluation mode."""
    model = build(MODELS, toy_config(**overrides).model, 'model').eval()
    for name, value in model.state_dict().items():
        value.copy_(torch.from_numpy(seeded_array(name, value.shape, 5)))
    return model


def segvggt_file(num_classes: int = 198, lora: dict | None = LORA) -> dict[str, Tensor]:
    """Return a state with the names of a released SegVGGT; `lora` None gives those of a merged file."""
    model = toy_model(**{'model.backbone.lora': lora, 'model.num_classes': num_classes})
    return {released_key(name, lora=lora is not None): value for name, value in model.state_dict().items()}


def vggt_file() -> dict[str, Tensor]:
    """Return a state with the names of VGGT-1B, its point and track heads included."""
    state = {released_key(name, lora=False): value for name, value in toy_model().state_dict().items()
             if name.startswith(GEOMETRY)}
    return state | TRACK_HEAD


def outputs(model: nn.Module, num_views: int = 2) -> dict[str, Tensor]:
    """Return everything that a model predicts for seeded images."""
    from tests._data import random_batch
    with torch.no_grad():
        found = model.eval().predict_all(random_batch(num_views))
    named = {f'pose {step}': pose for step, pose in enumerate(found.pose_encodings)}
    named |= {'depth': found.depth, 'depth_conf': found.depth_conf}
    if found.queries is not None:
        named |= {'class_logits': found.queries.class_logits, 'mask_logits': found.queries.mask_logits}
    return named
