"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatch

import torch
from mmengine.logging import print_log
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from jrs.errors import ConfigError, NonFiniteError
from jrs.registry import OPTIMIZERS, build
from jrs.signatures import accepted_keys


def parameter_groups(model: nn.Module, groups: Mapping[str, Mapping], decay_vectors: bool = True) -> list[dict]:
    """Return optimizer groups: each trainable parameter joins the first group with a matching name pattern.

    Args:
        model: its parameters that require gradients are grouped.
        groups: name -> ``dict(parameters=[patterns], lr=..., **options)``; patterns are shell style (``backbone.*``).
        decay_vectors: False puts parameters of one dimension (biases, norms, LayerScale) into a group `<name>_vectors` of
            their own, which has no weight decay.

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
        if members[name] and decay_vectors:
            result.append(dict(params=members[name], name=name, **options))
        elif members[name]:
            matrices, vectors = ([one for one in members[name] if (one.ndim < 2) == small] for small in (False, True))
            result += [dict(params=matrices, name=name, **options)] if matrices else []
            result += [dict(options, params=vectors, name=f'{name}_vectors', weight_decay=0.0)] if vectors else []
        elif not group.get('optional'):
            raise ConfigError(f'parameter_groups.{name} matches no trainable parameter: {group["parameters"]}. '
                              'Correct the patterns, or set the group to None.')
    for group in result:
        options = {key: value for key, value in group.items() if key not in ('params', 'name')}
        print_log(f'optimizer group {group["name"]!r}: {len(group["params"])} tensors, '
                  f'{sum(one.numel() for one in group["params"]):,} parameters, {options}', 'current')
    return result


def _group_of(parameter: str, groups: Mapping[str, Mapping]) -> str:
    for name, group in groups.items():
        if any(fnmatch(parameter, pattern) for pattern in group['parameters']):
            return name
    raise ConfigError(f'no group of parameter_groups takes the trainable parameter {parameter!r}; '
                      f'the patterns are { {name: list(group["parameters"]) for name, group in groups.items()} }.')


class FiniteOptimWrapper(OptimWrapper):
    """mmengine's wrapper, which stops at a gradient that is NaN or infinite, before it reaches the weights.

    Args:
        optimizer: it updates.
        clip_norm: largest norm of all gradients together, or of those of a part; None = no limit.
        names: parameter -> name, for messages.
        parts: parameter -> what it is clipped together with; None = all together.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, clip_norm: float | None = None,
                 names: Mapping[nn.Parameter, str] | None = None, parts: Mapping[nn.Parameter, str] | None = None) -> None:
        super().__init__(optimizer)
        self.clip_norm, self.names, self.parts = clip_norm, names or {}, parts

    def step(self, **settings) -> None:
        """Clip, and update the weights.

        Raises:
            NonFiniteError: a gradient is not finite; with several processes in all of them, as they share it.
        """
        parameters = [value for group in self.optimizer.param_groups for value in group['params'] if value.grad is not None]
        norm = nn.utils.get_total_norm([value.grad for value in parameters])
        size = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if not math.isfinite(size):
            raise NonFiniteError(self._bad_gradients())
        if self.clip_norm and self.parts is None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        elif self.clip_norm:
            for part in dict.fromkeys(self.parts[value] for value in parameters):
                nn.utils.clip_grad_norm_([value for value in parameters if self.parts[value] == part], self.clip_norm)
        self.message_hub.update_scalar('train/grad_norm', size)
        super().step(**settings)

    def _bad_gradients(self) -> str:
        bad = [f'{self.names.get(value, "a parameter")}, group {group.get("name", "all")!r}, shape {tuple(value.grad.shape)}'
               for group in self.optimizer.param_groups for value in group['params']
               if value.grad is not None and not _local(value.grad).isfinite().all()]
        return (f'{len(bad)} gradients are not finite ({"; ".join(bad[:3])}). The weights are still those before this step: '
                'go on with --resume and a lower learning rate.')


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def build_optimizer(model: nn.Module, optimizer: Mapping, groups: Mapping[str, Mapping], clip_norm: float | None,
                    clip_by: str = 'all', decay_vectors: bool = True) -> OptimWrapper:
    """Return mmengine's wrapper around the optimizer that the config describes.

    Args:
        model: it trains.
        optimizer: config of one.
        groups: see `parameter_groups`, as `decay_vectors`.
        clip_norm: see `FiniteOptimWrapper`.
        clip_by: what has that norm: 'all' gradients, those of each of `groups`, or of each of the model's 'modules'
            (backbone, queries, each head).
    """
    built = build(OPTIMIZERS, with_fused(optimizer), 'optimizer', params=parameter_groups(model, groups, decay_vectors))
    names = {value: name for name, value in model.named_parameters()}
    parts = None
    if clip_by == 'modules':
        parts = {value: name.partition('.')[0] for value, name in names.items()}
    elif clip_by == 'groups':
        active = {name: group for name, group in groups.items() if group is not None}
        parts = {value: _group_of(name, active) for value, name in names.items() if value.requires_grad}
    return FiniteOptimWrapper(built, clip_norm, names, parts)


def with_fused(optimizer: Mapping) -> Mapping:
    """Return the config of an optimizer with its fused kernel on CUDA, where it has one and the config says nothing.

    What torch takes otherwise copies all parameters that are trained: 4.6 GB of the paper's model. Numbers differ by
    rounding (1e-9 relative in 20 steps), so that it is no setting of an experiment.
    """
    said = {'fused', 'foreach', 'capturable', 'differentiable'} & set(optimizer)
    part = OPTIMIZERS.get(optimizer['type']) if isinstance(optimizer.get('type'), str) else None
    if said or part is None or not torch.cuda.is_available() or 'fused' not in (accepted_keys(part) or ()):
        return optimizer
    return {**optimizer, 'fused': True}


def build_schedule(optimizer: torch.optim.Optimizer, iterations: int, warmup: float, final: float) -> list:
    """Return linear warm-up over the share `warmup` of `iterations` (updates), then cosine decay to the factor `final`."""
    begin = round(iterations * warmup)
    begin = begin if begin > 1 else 0              # mmengine's LinearLR over one step never leaves its start factor
    schedule = [CosineAnnealingLR(optimizer, T_max=max(1, iterations - begin), eta_min_ratio=final, begin=begin,
                                  end=iterations, by_epoch=False)]
    if begin:
        schedule.insert(0, LinearLR(optimizer, start_factor=1e-3, begin=0, end=begin, by_epoch=False))
    return schedule
