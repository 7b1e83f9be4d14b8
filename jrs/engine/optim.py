"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch

import torch
from mmengine.logging import print_log
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from torch import nn

from jrs.errors import ConfigError, NonFiniteError
from jrs.registry import OPTIMIZERS, build


def parameter_groups(model: nn.Module, groups: Mapping[str, Mapping]) -> list[dict]:
    """Return optimizer groups: each trainable parameter joins the first group with a matching name pattern.

    Args:
        model: its parameters that require gradients are grouped.
        groups: name -> ``dict(parameters=[patterns], lr=..., **options)``; patterns are shell style (``backbone.*``).

    Raises:
        ConfigError: a trainable parameter matches no group, or a group matches nothing.
    """
    active = {name: group for name, group in groups.items() if group is not None}
    members: dict[str, list] = {name: [] for name in active}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[_group_of(parameter_name, active)].append(parameter)
    result = []
    for name, group in active.items():
        options = {key: value for key, value in group.items() if key not in ('parameters', 'optional')}
        if members[name]:
            count = sum(parameter.numel() for parameter in members[name])
            print_log(f'optimizer group {name!r}: {len(members[name])} tensors, {count:,} parameters, {options}', 'current')
            result.append(dict(params=members[name], name=name, **options))
        elif not group.get('optional'):
            raise ConfigError(f'parameter_groups.{name} matches no trainable parameter: {group["parameters"]}. '
                              'Correct the patterns, or set the group to None.')
    return result


def _group_of(parameter: str, groups: Mapping[str, Mapping]) -> str:
    for name, group in groups.items():
        if any(fnmatch(parameter, pattern) for pattern in group['parameters']):
            return name
    raise ConfigError(f'no group of parameter_groups takes the trainable parameter {parameter!r}; '
                      f'the patterns are { {name: list(group["parameters"]) for name, group in groups.items()} }.')


class FiniteOptimWrapper(OptimWrapper):
    """mmengine's wrapper, whose clipping stops at a gradient that is NaN or infinite, before it reaches the weights."""

    def _clip_grad(self) -> None:
        try:
            super()._clip_grad()
        except RuntimeError as error:
            bad = [f'group {group.get("name", "all")!r}, shape {tuple(parameter.grad.shape)}'
                   for group in self.optimizer.param_groups for parameter in group['params']
                   if parameter.grad is not None and not parameter.grad.isfinite().all()]
            raise NonFiniteError(f'{len(bad)} gradients are not finite ({"; ".join(bad[:3])}). The weights are still those '
                                 'before this step: go on with --resume and a lower learning rate.') from error


def build_optimizer(model: nn.Module, optimizer: Mapping, groups: Mapping[str, Mapping], clip_norm: float | None,
                    accumulate: int) -> OptimWrapper:
    """Return mmengine's wrapper around the optimizer that the config describes."""
    built = build(OPTIMIZERS, optimizer, 'optimizer', params=parameter_groups(model, groups))
    clip = dict(max_norm=clip_norm, error_if_nonfinite=True) if clip_norm else None
    return FiniteOptimWrapper(built, accumulative_counts=accumulate, clip_grad=clip)


def build_schedule(optimizer: torch.optim.Optimizer, iterations: int, warmup: float, final: float) -> list:
    """Return linear warm-up over the share `warmup` of `iterations`, then cosine decay to the factor `final`."""
    begin = round(iterations * warmup)
    begin = begin if begin > 1 else 0              # mmengine's LinearLR over one step never leaves its start factor
    schedule = [CosineAnnealingLR(optimizer, T_max=max(1, iterations - begin), eta_min_ratio=final, begin=begin,
                                  end=iterations, by_epoch=False)]
    if begin:
        schedule.insert(0, LinearLR(optimizer, start_factor=1e-3, begin=0, end=begin, by_epoch=False))
    return schedule
