"""How far an attention distribution over views is from a target distribution: the choices of FADA.

An alignment is any callable (attention, target) -> divergence, so a plugin's needs `__call__` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from jrs.errors import ConfigError, did_you_mean
from jrs.functional import js_divergence, kl_divergence
from jrs.registry import ALIGNMENTS

Alignment = Callable[[Tensor, Tensor], Tensor]


@ALIGNMENTS.register_module()
class JensenShannon:
    """Jensen-Shannon divergence, natural logarithm, between 0 and ln 2: the paper's choice (Eq. 8)."""

    def __call__(self, attention: Tensor, target: Tensor) -> Tensor:
        """Return the divergence (...) of `attention` (..., V) from `target` (..., V); rows over V sum to 1."""
        return js_divergence(attention, target)


@ALIGNMENTS.register_module()
class KullbackLeibler:
    """Kullback-Leibler divergence in one direction (baselines.md section 4.1).

    Args:
        direction: `forward` = KL(target || attention), `reverse` = KL(attention || target).
        floor: least probability of a view; both distributions are floored and renormalised.

    Raises:
        ConfigError: another direction, or a floor that is not positive.
    """

    def __init__(self, direction: str = 'forward', floor: float = 1e-6) -> None:
        if direction not in ('forward', 'reverse'):
            raise ConfigError(f'KullbackLeibler has no direction {direction!r}.'
                              + did_you_mean(direction, ('forward', 'reverse')))
        if floor <= 0:
            raise ConfigError(f'KullbackLeibler needs a floor above 0, got {floor}: a view without the instance has '
                              'probability 0, where the divergence is infinite. The default is 1e-6.')
        self.direction = direction
        self.floor = floor

    def __call__(self, attention: Tensor, target: Tensor) -> Tensor:
        """Return the divergence (...) of `attention` (..., V) from `target` (..., V); rows over V sum to 1."""
        first, second = (target, attention) if self.direction == 'forward' else (attention, target)
        return kl_divergence(first, second, self.floor)
