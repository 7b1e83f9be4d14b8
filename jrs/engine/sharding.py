"""Sharding of the trained model by torch's `fully_shard`: each process keeps a part of weights, gradients and moments.

Checkpoints hold whole tensors under the same names as without sharding, so that a run can go on either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from jrs.errors import ConfigError
from jrs.layers.block import Block
from jrs.layers.cross_attention import CrossBlock


def shard(model: nn.Module) -> nn.Module:
    """Shard the parameters of `model` over all processes, in place; its optimizer is built after this.

    The blocks of the backbone and of the queries are gathered one by one when they run; everything else is one group that
    is gathered at the start of a pass. Every process must run the model as often as every other.

    Raises:
        ConfigError: there is only one process.
    """
    if get_world_size() == 1:
        raise ConfigError("train.sharding='fully_shard' needs several processes: torchrun --nproc_per_node N tools/train.py "
                          'CONFIG. Set it to None for one process.')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    mesh = init_device_mesh(device, (get_world_size(),))
    parts = [model.backbone, *([] if model.queries is None else [model.queries])]
    hides = getattr(model.queries, 'hide', None) is not None           # reads weights of its blocks outside their pass
    kinds = (Block,) if hides else (Block, CrossBlock)
    for unit in [module for part in parts for module in part.modules() if isinstance(module, kinds)]:
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(model, 'reconstruct')
    return model.to(device)


def is_sharded(model: nn.Module) -> bool:
    """Return whether `shard` was called on `model`."""
    return isinstance(model, FSDPModule)


def whole(value: Any) -> Any:
    """Return nested containers with whole tensors on the CPU in place of sharded ones: None except in the first process.

    All processes must call this with the same structure.
    """
    if isinstance(value, DTensor):
        full = value.detach().full_tensor()
        return full.cpu() if get_rank() == 0 else None
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    return [whole(item) for item in value] if isinstance(value, (list, tuple)) else value


def whole_states(model: nn.Module, optim_wrapper) -> dict[str, dict]:
    """Return `state_dict` and `optimizer` of a checkpoint for a sharded model, nothing for others."""
    if not is_sharded(model):
        return {}
    return dict(state_dict=whole(model.state_dict()), optimizer=whole(optim_wrapper.state_dict()))


def spread_states(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: dict) -> None:
    """Replace whole tensors of a checkpoint by this process's parts, where the model is sharded."""
    if not is_sharded(model):
        return
    own = model.state_dict()
    checkpoint['state_dict'] = {name: _spread(value, own[name]) for name, value in checkpoint['state_dict'].items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    for index, moments in checkpoint.get('optimizer', {}).get('state', {}).items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameters[index].shape:
                moments[name] = _spread(value, parameters[index])


def _spread(value: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
