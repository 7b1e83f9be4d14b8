"""Named terms x named weights -> what training minimises, and the parts of it that are worth a curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

from torch import Tensor

from jrs.errors import ConfigError, did_you_mean
from jrs.losses.over_scenes import SceneOfQueries, reduced
from jrs.registry import LOSSES, build, check_shape
from jrs.signatures import accepted_keys
from jrs.structures import GeometryTargets, InstanceTargets, Match, Predictions, QueryPredictions


@LOSSES.register_module()
class Criterion:
    """Evaluates the named losses and weighs them.

    A loss says in its class attribute ``reads`` what it is called with:

    - ``instances``: (QueryPredictions, InstanceTargets, Match) of one scene -> scalar, None when the scene has nothing
      to say. Deeply supervised levels count like the final one, unless the loss sets ``every_level = False``; how scenes
      and levels are put together may be said by the loss (`InstanceTerm`).
    - ``features``: (instance features (V, D, h, w), InstanceTargets) of one scene -> scalar or None.
    - ``geometry``: (Predictions, GeometryTargets) of the batch -> scalar, or a mapping with ``total`` and parts
      for the log.

    Args:
        losses: name -> config of a part of ``LOSSES``; None turns a term off. `weight` in it is this term's own multiplier,
            the matching cost of its name keeps the shared one.
        weights: name -> multiplier, shared with the matching cost of the same name; not asked for a loss that sets its own.
        alignment: divergence between distributions over views, offered to the losses that ask for it.
        levels: 'sum' or 'mean' over the final prediction and the auxiliary ones of deeply supervised queries.
        path: where this criterion stands in the config, for messages.

    Raises:
        ConfigError: another word for `levels`; a loss has no weight, or has `loss` in its name, or its constructor takes a
            `weight` too.
    """

    reads = 'everything'

    def __init__(self, losses: Mapping[str, dict | None], weights: Mapping[str, float],
                 alignment: Callable[[Tensor, Tensor], Tensor] | None = None, levels: str = 'sum',
                 path: str = 'model') -> None:
        if levels not in ('sum', 'mean'):
            raise ConfigError(f"{path}.levels must be 'sum' or 'mean', over supervised levels, got {levels!r}.")
        self.levels = levels
        losses = {name: loss for name, loss in losses.items() if loss is not None}
        self.weights = {name: _weight_of(name, loss, weights, path) for name, loss in losses.items()}
        self.losses = {name: build(LOSSES, _without_weight(loss), f'{path}.losses.{name}', alignment=alignment)
                       for name, loss in losses.items()}
        self.reads_instances = any(loss.reads != 'geometry' for loss in self.losses.values())

    def __call__(self, predictions: Predictions, instance_targets: list[InstanceTargets] | None = None,
                 geometry: GeometryTargets | None = None, matches: list[Match] | None = None) -> dict[str, Tensor]:
        """Return the weighted terms as ``loss_<name>``, and unweighted parts as ``<name>/<part>`` for the log.

        Every ``loss_<name>`` is connected to the predictions, also when no scene contributes and it is 0, so that
        distributed training finds a gradient for each parameter.

        Args:
            predictions: of B scenes.
            instance_targets: one per scene; None when no loss reads instances or features.
            geometry: None when no loss reads geometry.
            matches: one per scene, with one more per auxiliary level of the queries.

        Raises:
            ConfigError: a loss reads what is None.
        """
        terms, parts = {}, {}
        queries = predictions.queries
        scenes = None                          # of all terms: each time a scene is picked is a step of the backward pass
        if queries is not None and instance_targets is not None:
            scenes = [queries.scene(index) for index in range(len(instance_targets))]
        for name, loss in self.losses.items():
            if loss.reads == 'geometry':
                values = self._of_geometry(name, predictions, geometry)
            elif loss.reads == 'features':
                values = self._of_features(name, predictions, instance_targets)
            else:
                values = self._of_instances(name, queries, scenes, instance_targets, matches)
            terms[f'loss_{name}'] = self.weights[name] * values.pop('total')
            parts.update({f'{name}/{part}': value.detach() for part, value in values.items()})
        return {**terms, **parts}

    def _of_geometry(self, name: str, predictions: Predictions, geometry: GeometryTargets | None) -> dict[str, Tensor]:
        if geometry is None:
            raise ConfigError(f'The loss {name!r} reads geometry, and there is none: set model.teacher '
                              '(GroundTruthTeacher or PretrainedTeacher), or set this loss to None.')
        value = self.losses[name](predictions, geometry)
        values = dict(value) if isinstance(value, Mapping) else {'total': value}
        check_shape(values.get('total'), (), 'a scalar', f'The loss {name!r}', self.losses[name])
        return values

    def _of_scene(self, name: str, *inputs: object) -> Tensor | None:
        value = self.losses[name](*inputs)
        if value is not None:
            check_shape(value, (), 'a scalar', f'The loss {name!r}', self.losses[name])
        return value

    def _of_features(self, name: str, predictions: Predictions,
                     targets: list[InstanceTargets] | None) -> dict[str, Tensor]:
        if targets is None or predictions.features is None:
            raise ConfigError(f'The loss {name!r} reads instance features and true instances: it needs '
                              'model.feature_head and data with instances, or set this loss to None.')
        values = [self._of_scene(name, features, target)
                  for features, target in zip(predictions.features, targets, strict=True)]
        mean = reduced(values, 'mean_present')
        return {'total': connected_zero(predictions.features) if mean is None else mean}

    def _of_instances(self, name: str, queries: QueryPredictions | None, scenes: list[QueryPredictions] | None,
                      targets: list[InstanceTargets] | None, matches: list[Match] | None) -> dict[str, Tensor]:
        loss = self.losses[name]
        if scenes is None or matches is None:
            raise ConfigError(f'The loss {name!r} reads queries matched to true instances: it needs model.queries, '
                              'model.matcher and data with instances, or set this loss to None.')
        final = self._of_level(name, list(zip(scenes, targets, matches, strict=True)), queries, 'last_scale')
        if not queries.auxiliary or not getattr(loss, 'every_level', True):
            return {'total': final}
        total = final
        for level, level_queries in enumerate(queries.auxiliary):
            of_level = [(scene.auxiliary[level], target, match.auxiliary[level])
                        for scene, target, match in zip(scenes, targets, matches, strict=True)]
            total = total + self._of_level(name, of_level, level_queries, 'aux_scale')
        return {'total': total if self.levels == 'sum' else total / (1 + len(queries.auxiliary)), 'final': final}

    def _of_level(self, name: str, scenes: Sequence[SceneOfQueries], source: QueryPredictions, scale: str) -> Tensor:
        """Return the value of one supervised level; where no scene has one, 0 connected to every tensor of `source`."""
        loss = self.losses[name]
        reduction = getattr(loss, 'scene_reduction', 'mean_present')
        if reduction == 'pooled':
            value = loss.pooled(scenes)
        else:
            value = reduced([self._of_scene(name, *scene) for scene in scenes], reduction)
        return connected_zero(source) if value is None else getattr(loss, scale, 1.0) * value


def _weight_of(name: str, loss: object, weights: Mapping[str, float], path: str) -> float:
    """Return what the loss called `name` is multiplied by: its own `weight`, else the shared one."""
    if 'loss' in name:
        raise ConfigError(f'{path}.losses.{name}: a name must not contain "loss", because everything that is logged '
                          'under such a name is added to the objective. Choose another.')
    if isinstance(loss, Mapping) and 'weight' in loss:
        if 'weight' in (accepted_keys(LOSSES.lookup(loss.get('type'), f'{path}.losses.{name}')) or ()):
            raise ConfigError(f'{path}.losses.{name}.weight is what the criterion multiplies this loss by, and the '
                              f'constructor of {loss["type"]} takes a `weight` too: call that one otherwise.')
        return loss['weight']
    if name not in weights:
        raise ConfigError(f'{path}.losses.{name} has no weight: {path}.weights does not name {name!r}.'
                          + did_you_mean(name, weights))
    return weights[name]


def _without_weight(loss: object) -> object:
    return {key: value for key, value in loss.items() if key != 'weight'} if isinstance(loss, Mapping) else loss


def connected_zero(source: object) -> Tensor:
    """Return 0 with a gradient path to every floating tensor in `source`: a tensor, a list or a dataclass of tensors."""
    if isinstance(source, Tensor):
        return 0 * source[(slice(0, 1),) * source.ndim].float().sum()          # a slice: a side of the tensor may be 0
    values = source if isinstance(source, list) else [getattr(source, f.name) for f in fields(source)]
    return sum(connected_zero(value) for value in values if _holds_tensors(value))


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Tensor) or isinstance(value, list) and all(isinstance(item, Tensor) for item in value)
