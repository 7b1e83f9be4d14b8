"""A model that reads the views of one scene one at a time, and says after each window of them what it knows."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jrs.errors import ConfigError
from jrs.models.segvggt import SegVGGT, check_predictions
from jrs.structures import FeatureTaps, LayerState, Predictions, QueryPredictions, Reconstruction, SceneBatch, unit_images

READY = 'such as plugins/stream_vggt/configs/stream_vggt_fada.py'
OF_VIEWS = ('depth', 'depth_conf', 'features', 'points', 'points_conf', 'intrinsics')          # of Predictions


@dataclass
class _Seen:
    """A view that is not in a finished window yet: its image (1, 1, 3, H, W), its name, what heads say and read of it."""

    image: Tensor
    name: str
    predictions: Predictions
    taps: FeatureTaps


class SceneStream:
    """Feeds one scene to a model view by view. Use as a context: `push` views, and after each window `take` it.

    No view sees a later one, so what is said of a view never changes. Memory does not grow with the stream: what blocks
    keep of earlier views is bounded by `window` (and the first view, which holds the world), and all else by the window.

    Queries start anew in each window and read the tokens of all its views, which are kept for that; or, where their part has
    ``carry=True``, they are carried from view to view (ours): then a query means the same object in all windows.

    Args:
        model: in evaluation, on its device; backbone and camera head must be causal.
        window: views that the blocks see at most, the present one among them, beside the first; push as many at most
            between calls of `take`.

    Raises:
        ConfigError: a part of the model sees all views at once.
    """

    def __init__(self, model: SegVGGT, window: int) -> None:
        _check(model)
        self.model, self.window = model, window
        self.parts = [part for part in model.modules() if getattr(part, 'causal', False) and hasattr(part, 'streaming')]
        self.carried = None                                                     # the state of the queries
        self._views: list[_Seen] = []
        self._layers: list[list[LayerState]] = []                               # of each view of the window
        self._stack = ExitStack()

    def __enter__(self) -> SceneStream:
        for part in self.parts:
            self._stack.enter_context(part.streaming(self.window))
        return self

    def __exit__(self, *raised) -> None:
        self._stack.close()

    def held_bytes(self) -> int:
        """Return what the blocks keep of earlier views."""
        return sum(part.held_bytes() for part in self.parts)

    @torch.no_grad()
    def push(self, image: Tensor, name: str) -> None:
        """Let the model see the next view, `image` (3, H, W) in [0, 1] on its device, of the size of those before it."""
        image = unit_images(image)[None, None]
        with self.model.autocast(image.device):
            layers = []
            for layer in self.model.backbone.layers(image):
                self._see(layer, layers)
        taps = self.model.backbone.features()
        self._layers += [layers] if layers else []
        self._views.append(_Seen(image, name, self.model.run_heads(taps, image), taps))

    def _see(self, layer: LayerState, layers: list[LayerState]) -> None:
        """Let carried queries read a layer, or keep it in `layers` for those that read the whole window."""
        queries = self.model.queries
        if queries is None:
            return
        if getattr(queries, 'carry', False):
            state = queries.start(1, False) if self.carried is None else self.carried
            self.carried = queries.read(state, layer)
        else:
            layers.append(layer)

    @torch.no_grad()
    def take(self) -> Reconstruction:
        """Return cameras, depth and instances of the views that wait, and forget these; the world is that of the stream.

        It is the camera of the first view of all, as far as the model predicts it there.
        """
        views, self._views = self._views, []
        predictions = _joined([view.predictions for view in views])
        if self.model.queries is not None:
            predictions.queries = self._finish([view.taps for view in views], predictions.features)
        batch = SceneBatch(torch.cat([view.image for view in views], dim=1), ['stream'], [[view.name for view in views]])
        check_predictions(predictions, batch)
        return self.model.reconstructed(batch, predictions)[0]

    def _finish(self, taps: list[FeatureTaps], features: Tensor) -> QueryPredictions:
        """Return what the queries say of the window, whose instance features are (1, V, D, h, w)."""
        state = self.carried
        if state is None:
            seen, self._layers = self._layers, []
            state = self.model.queries.start(1, False)
            with self.model.autocast(features.device):
                for layers in zip(*seen, strict=True):
                    state = self.model.queries.read(state, _side_by_side(layers))
        return self.model.finish_queries(state, _joined_taps(taps), features)


def _check(model: SegVGGT) -> None:
    """Raise where a part sees all views at once."""
    name = type(model.backbone).__name__
    if not getattr(model.backbone, 'causal', False):
        raise ConfigError(f'{name} sees all views at once, so they cannot come one at a time. Use a causal attention with '
                          f"weights that are used to it, model.backbone.global_attention=dict(type='CausalViews'), {READY}.")
    if not model.backbone.has_reference_view:
        raise ConfigError(f'{name} has no reference view that holds the world of a stream. Use one that has, {READY}.')
    for slot in ('camera_head', 'geometry_head'):
        head = getattr(model, slot)
        if head is not None and not getattr(head, 'streams', False):
            raise ConfigError(f'model.{slot}, {type(head).__name__}, sees all views at once. A CameraHead streams with '
                              f"trunk_attention=dict(type='CausalViews'), {READY}.")
    if model.scale_head is not None:
        raise ConfigError(f'model.scale_head, {type(model.scale_head).__name__}, gives all views of a scene one scale, '
                          'and in a stream they come one at a time: set model.scale_head to None.')


def _joined(parts: list[Predictions]) -> Predictions:
    """Return the predictions of several views as one of all of them; of the stages of cameras the last one."""
    def together(values: list[Tensor | None]) -> Tensor | None:
        return None if values[0] is None else torch.cat(values, dim=1)
    encodings = together([part.pose_encodings[-1] if part.pose_encodings else None for part in parts])
    fields = {name: together([getattr(part, name) for part in parts]) for name in OF_VIEWS}
    return Predictions([] if encodings is None else [encodings], scale=parts[0].scale, **fields)


def _joined_taps(parts: list[FeatureTaps]) -> FeatureTaps:
    """Return the taps of several views as those of all."""
    def together(values: list[Tensor | None]) -> Tensor | None:
        return None if values[0] is None else torch.cat(values, dim=1)
    taps = [torch.cat(values, dim=1) for values in zip(*(part.taps for part in parts), strict=True)]
    maps = {name: together([part.maps[name] for part in parts]) for name in parts[0].maps}
    return replace(parts[0], taps=taps, maps=maps, geometry_tokens=together([part.geometry_tokens for part in parts]),
                   special_tokens=together([part.special_tokens for part in parts]))


def _side_by_side(layers: tuple[LayerState, ...]) -> LayerState:
    """Return one layer's tokens of several views, seen one at a time, as those of a scene.

    Tokens of no view come once, from the last.
    """
    first, last = layers[0], layers[-1]
    of_view = first.view_index >= 0
    tokens = [layer.tokens[:, of_view] for layer in layers] + [last.tokens[:, ~of_view]]
    per_view, extra = int(of_view.sum()), int((~of_view).sum())
    numbers = torch.arange(len(layers), device=of_view.device).repeat_interleave(per_view)
    view_index = torch.cat([numbers, numbers.new_full((extra,), -1)])
    is_patch = torch.cat([first.is_patch[of_view].repeat(len(layers)), first.is_patch[~of_view]])
    return LayerState(first.index, torch.cat(tokens, dim=1), view_index, is_patch, len(layers))
