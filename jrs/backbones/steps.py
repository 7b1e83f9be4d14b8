"""Backbones made of steps: what one is made of is said by a subclass, the loop over it stands here once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from jrs.errors import ConfigError, DataError, PluginError, did_you_mean
from jrs.layers.attention import SceneAttention
from jrs.layers.layout import Layout, State, WatchedStep
from jrs.layers.lora import add_lora
from jrs.registry import ATTENTIONS, build
from jrs.structures import FeatureTaps, LayerState, Priors

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
SCOPES = ('view', 'scene', 'special')
LEVELS = (False, 'attention', True)
FUSED_ATTENTION = tuple(getattr(torch.ops.aten, f'_scaled_dot_product_{name}').default for name in (
    'flash_attention', 'flash_attention_for_cpu', 'efficient_attention', 'cudnn_attention', 'fused_attention_overrideable'))


@dataclass(frozen=True)
class Step:
    """One block, and which tokens see each other in it.

    Attributes:
        block: a module of the backbone, called as ``block(tokens, rope)``, tokens (n, N, C) -> the same, such as
            `jrs.layers.block.Block`. Those across views are called with a further ``mix=`` (`SelfAttention.forward`) where
            `global_attention` has one.
        scope: 'view': the P tokens of each view by themselves; 'scene': those of all views, then those of no view;
            'special': those of all views that are no patches, then those of no view. Others pass unchanged.
        rope: name of one of the layout's `rotations`, for the block; None = no rotary embedding.
        query: whether queries read the tokens that come out (after `StepBackbone.after`).
        number: how `feature_layers` calls what comes out; None: by the number of the query layer, 0, 1, ..., where `query`.
        context: name in `State.kept` of tokens (B, M, C) of other views that the block reads beside, such as a memory; it is
            then called as ``block(tokens, rope, context)``, and views see each other in it, whatever its scope.
    """

    block: nn.Module
    scope: str
    rope: str | None = None
    query: bool = False
    number: int | None = None
    context: str | None = None

    @property
    def mixes(self) -> str:
        """Kind of tokens that meet those of other views in it: 'scene', 'special', or 'view' for none."""
        return self.scope if self.context is None else 'scene'


class StepBackbone(nn.Module):
    """A backbone as a list of steps. Base class: a subclass says what it is made of, and nothing about loops.

    Its constructor calls this one, makes the parameters, and calls `complete(lora, freeze)` last. It defines

    - `start(images)`: encoder, special tokens -> `State` and `Layout` (`Layout.of` makes the usual ones, and
      `Layout.turned` its rotary embeddings);
    - `steps()`: the order of blocks, which tokens each sees, after which queries read. From this list follow
      `num_query_layers`, `layer_kinds` and the numbers that `feature_layers` may name;
    - only where needed: `before(index, state)` and `after(index, state)` around a step (order views, inject tokens),
      `tap(state, layout)` (what heads get of a feature layer; must then agree with `feature_dim`), and
      `finish(taps, state, layout)` (which tokens cameras are read from, tokens of no view).

    The base runs the steps, yields the `LayerState` of each query layer, restores the input order of views in all that
    leaves the backbone, recomputes, and checks. The attributes below are what the model and users read; a subclass sets
    those that differ. Arguments that every config may set, and which a subclass takes and hands on: `feature_layers`,
    `activation_checkpointing`, `global_attention`, `lora`, `freeze`.

    Args:
        embed_dim: width C of the tokens.
        patch_size: side of a patch in pixels.
        feature_layers: numbers of the layers that the heads read, in their order; four for the dense heads.
        activation_checkpointing: in training, what the backward pass computes again, by stretch of steps between two query
            layers: False nothing, 'attention' all but the outputs of the (fused) attention, True everything.
        global_attention: part of ``ATTENTIONS`` behind the door of the steps across views, ``dict(type=...)``; None = none.
        feature_dim: width of the taps; None = 2C, as the default `tap` makes them.
        img_size: side of the images it was trained with, for `size_rule`; None = not said.

    Attributes:
        num_special: special tokens per view, K.
        size_rule, pose_convention, weights_licence: words for users.
        scale: 'arbitrary', 'metric' or 'metric, approximate': unit of depth and translations.
        has_reference_view: whether the first view is the world; else the model moves the world there.
        photo_resize: how inference brings a photo to size, such as `jrs.io.images.resize_lanczos`, which is taken for None;
            its width is then what the rule makes of it.
        full_precision: names of weights that are also used outside autocast.
        streams: whether `start(images, seen=n)` knows that n views of the same stream were passed before.
        takes_priors: whether `start(images, priors=...)` reads known depth, intrinsics or cameras.
        encoder_parts: attributes (dotted) of the image encoder, for ``freeze=dict(patch_embed=True)``.
        input_layer: number by which `feature_layers` may name the tokens that `start` gave; None = it cannot.
        leaves: names of maps (B, V, ...) that `finish` puts into `FeatureTaps.maps`, for heads that read them.
        lora_targets: regular expression for the names of the linear layers that adapters go on; None = `attn.qkv` and
            `attn.proj` of the blocks of all steps.

    Raises:
        ConfigError: what does not fit, by `complete`.
    """

    num_special = 0
    pose_convention = 'cam_from_world, OpenCV axes, world = first camera'
    scale = 'arbitrary'
    has_reference_view = True
    photo_resize: Callable | None = None
    weights_licence = 'none'
    full_precision: tuple[str, ...] = ()
    streams = False
    takes_priors = False
    encoder_parts: tuple[str, ...] = ()
    input_layer: int | None = None
    leaves: tuple[str, ...] = ()
    lora_targets: str | None = None

    def __init__(self, embed_dim: int, patch_size: int, feature_layers: Sequence[int],
                 activation_checkpointing: bool | str = False, global_attention: dict | None = None,
                 feature_dim: int | None = None, img_size: int | None = None) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.feature_dim = feature_dim or 2 * embed_dim
        self.patch_size = patch_size
        self.feature_layers = tuple(feature_layers)
        trained = f'; trained with a longest side of {img_size}' if img_size else ''
        self.size_rule = f'height and width are multiples of {patch_size}{trained}'
        self.activation_checkpointing = activation_checkpointing
        self.global_attention: SceneAttention | None = build(ATTENTIONS, global_attention, 'model.backbone.global_attention')
        self._features: FeatureTaps | None = None
        self._frozen_encoder: tuple[str, ...] = ()
        self._watched: dict[int, WatchedStep | None] = {}

    def start(self, images: Tensor) -> tuple[State, Layout]:
        """Return the tokens that enter the first step for `images` (B, V, 3, H, W) in [0, 1], and where they stand.

        Where `streams` or `takes_priors` say so it has a further argument, `seen=0` or `priors=None`, given by name.
        """
        raise NotImplementedError

    def steps(self) -> list[Step]:
        """Return all steps in their order; called often, so it only lists blocks that exist."""
        raise NotImplementedError

    def before(self, index: int, state: State) -> State:
        """Return what step `index` (0, 1, ... of `steps`) sees of `state`."""
        return state

    def after(self, index: int, state: State) -> State:
        """Return what queries, taps and the next step see of the `state` that step `index` gave."""
        return state

    def tap(self, state: State, layout: Layout) -> Tensor:
        """Return what heads read of a feature layer, (B, V, P, feature_dim): what went into its step, and what came out.

        With a step inside views before one over the scene these are the outputs of both, side by side. Of the `input_layer`,
        `state.previous` is None.
        """
        return torch.cat([state.previous, state.views], dim=-1)                 # (B, V, P, 2C)

    def finish(self, taps: list[Tensor], state: State, layout: Layout) -> FeatureTaps:
        """Return what heads read.

        Args:
            taps: of each of `feature_layers`, (B, V, P, feature_dim) as `tap` made them, views in input order.
            state: after the last step, views in input order.
            layout: of its tokens.
        """
        return FeatureTaps(taps, layout.patch_index, layout.grid, layout.image_size, scene_tokens=state.extra)

    def encode(self, images: Tensor) -> Tensor:
        """Return the tokens (B, V, N, C) that `encoder` makes of normalised `images` (B, V, 3, H, W), which are in [0, 1].

        For a subclass with an `encoder` (n, 3, H, W) -> (n, N, C) and buffers `image_mean`, `image_std`.
        """
        normalised = (images - self.image_mean) / self.image_std
        return self.encoder(normalised.flatten(0, 1)).unflatten(0, images.shape[:2])

    @property
    def causal(self) -> bool:
        """Whether a view sees earlier ones only."""
        return self.global_attention is not None and self.global_attention.causal

    @property
    def num_query_layers(self) -> int:
        """How many steps queries read after."""
        return sum(step.query for step in self.steps())

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """Kind of each query layer: 'scene' where patches of all views were mixed since the one before, else 'special'.

        Raises:
            PluginError: no view sees another one there.
        """
        kinds = []
        for index, stretch in enumerate(self.stretches()):
            if not stretch[-1][1].query:
                continue
            scopes = {step.mixes for _, step in stretch}
            if scopes == {'view'}:
                raise PluginError(f'{type(self).__name__}: queries read layer {index}, and since the layer before it no '
                                  "step has let views see each other. Set query=True on steps of scope 'scene' or later.")
            kinds.append('scene' if 'scene' in scopes else 'special')
        return tuple(kinds)

    def layers(self, images: Tensor, priors: Priors | None = None) -> Iterator[LayerState]:
        """Yield the tokens (B, T, C) at each query layer: the views end to end, then those of no view; then `features` are
        ready.

        Args:
            images: (B, V, 3, H, W) in [0, 1], RGB; H and W are multiples of `patch_size`.
            priors: known depth, intrinsics and cameras, of a backbone that takes them.

        Raises:
            ValueError: images of another shape.
            DataError: priors, of a backbone that reads images alone.
        """
        self._features = None
        state, layout = self._begin(images, priors)
        view_index, is_patch = layout.scene_index()
        doors = self._doors(layout)
        numbers = {index: number for index, number in self._numbers().items() if number in self.feature_layers}
        taps: dict[int, Tensor] = {}
        if self.input_layer in self.feature_layers:
            taps[self.input_layer] = self.tap(state.in_input_order(), layout)
        query = 0
        for stretch in self.stretches():
            state, marked = self._run_stretch(stretch, replace(state, previous=None), layout, doors, numbers)
            taps.update({number: self.tap(at.in_input_order(), layout) for number, at in marked.items()})
            del marked
            if stretch[-1][1].query:
                yield LayerState(query, self._handed_out(state), view_index, is_patch, layout.num_views,
                                 layout.num_tokens)
                query += 1
        kept = [taps[number] for number in self.feature_layers]
        self._features = self.finish(kept, state.in_input_order(), layout)

    def features(self) -> FeatureTaps:
        """Hand over what the heads read of the images last passed to `layers`; the backbone keeps no reference.

        Raises:
            RuntimeError: `layers` has not been run to its end since the last call.
        """
        if self._features is None:
            raise RuntimeError('features() hands over the result of layers(images) once: run that generator to its '
                               'end first.')
        features, self._features = self._features, None
        return features

    @contextmanager
    def watching(self, indices: Sequence[int]) -> Iterator[dict[int, WatchedStep | None]]:
        """Note what the steps `indices`, of scope 'scene', see and give in passes inside; the mapping holds the last pass.

        Raises:
            ConfigError: steps that may run again in the backward pass.
        """
        if self.activation_checkpointing:
            raise ConfigError('What goes through steps is noted once, and would be again in the backward pass: set '
                              'model.backbone.activation_checkpointing=False.')
        self._watched = dict.fromkeys(indices)
        try:
            yield self._watched
        finally:
            self._watched = {}

    def stretches(self) -> list[list[tuple[int, Step]]]:
        """Return the steps with their indices, cut after each query step."""
        stretches: list[list[tuple[int, Step]]] = [[]]
        steps = self.steps()
        for index, step in enumerate(steps):
            stretches[-1].append((index, step))
            if step.query and index < len(steps) - 1:
                stretches.append([])
        return stretches

    def query_step(self, layer: int) -> int:
        """Return the index of the last step of scope 'scene' at or before query layer `layer`.

        Raises:
            ConfigError: there is none.
        """
        queries = [index for index, step in enumerate(self.steps()) if step.query]
        over_all = [index for index, step in enumerate(self.steps()[:queries[layer] + 1]) if step.scope == 'scene']
        if not over_all:
            raise ConfigError(f'{type(self).__name__} has no step over the whole scene up to query layer {layer} that could '
                              'be watched: views meet otherwise there.')
        return over_all[-1]

    def train(self, mode: bool = True) -> StepBackbone:
        """Switch to training or evaluation; a frozen image encoder stays in evaluation."""
        super().train(mode)
        for part in self._modules_of(self._frozen_encoder):
            part.eval()
        return self

    def complete(self, lora: dict | None = None, freeze: dict | None = None) -> None:
        """Check the steps and the options, then freeze and adapt: the end of a subclass's constructor.

        Args:
            lora: `rank`, `alpha` and `dropout` of low-rank adapters on `lora_targets`; None = none.
            freeze: `patch_embed` (the image encoder) and `blocks` (all the rest): True keeps them; None = all learn.

        Raises:
            ConfigError: another option, or a layer that does not exist.
            PluginError: steps that a pass could not run.
        """
        self._check_steps()
        self._freeze(**self._checked('freeze', freeze, ('patch_embed', 'blocks')))
        adapters = self._checked('lora', lora, ('rank', 'alpha', 'dropout'))
        if adapters:
            add_lora(self, self.lora_targets or self._attention_of_steps(), **adapters)

    def _begin(self, images: Tensor, priors: Priors | None) -> tuple[State, Layout]:
        """Return the first state, checked against its layout."""
        name, shape, side = type(self).__name__, tuple(images.shape), self.patch_size
        if len(shape) != 5 or shape[2] != 3 or 0 in shape or shape[3] % side or shape[4] % side:
            raise ValueError(f'images must be (B, V, 3, H, W) with H and W multiples of {side}, got {shape}')
        given = {}
        if priors is not None:
            if not self.takes_priors:
                raise DataError(f'{name} reconstructs from images alone and takes no known cameras or depth (priors). Leave '
                                'them out here; they can still be used where points are lifted to 3D.')
            given['priors'] = priors
        if self.global_attention is not None and self.global_attention.seen:
            if not self.streams:
                raise ConfigError(f'{name} cannot go on with a stream: it does not know what earlier views change. Use a '
                                  f'backbone that streams, or another global_attention than '
                                  f'{type(self.global_attention).__name__}.')
            given['seen'] = self.global_attention.seen
        state, layout = self.start(images, **given)
        extra = 0 if state.extra is None else state.extra.shape[1]
        expected = (shape[0], shape[1], layout.num_tokens, self.embed_dim)
        if tuple(state.views.shape) != expected or layout.num_views != shape[1] or extra != layout.num_extra:
            raise PluginError(f'{name}.start must return views (B, V, P, C) = {expected} and {layout.num_extra} tokens of '
                              f'no view, as its layout says, got {tuple(state.views.shape)} and {extra}.')
        return state, layout

    def _numbers(self) -> dict[int, int]:
        """Return index of a step -> the number that `feature_layers` calls it by."""
        numbers, query = {}, 0
        for index, step in enumerate(self.steps()):
            if step.number is not None or step.query:
                numbers[index] = query if step.number is None else step.number
            query += step.query
        return numbers

    def _doors(self, layout: Layout) -> dict[int, partial]:
        """Return index of a step -> its block with the `mix` of this pass, for the steps that come to the door."""
        part, doors = self.global_attention, {}
        if part is None:
            return doors
        across = [(index, step) for index, step in enumerate(self.steps()) if step.scope != 'view']
        for number, (index, step) in enumerate(across):
            if step.scope == 'special' and not part.special_steps:
                continue
            mix = part.at(number, layout.of_special() if step.scope == 'special' else layout)
            if mix is not None:
                doors[index] = partial(step.block, mix=mix)
        return doors

    def _run_stretch(self, stretch: list[tuple[int, Step]], state: State, layout: Layout,
                     doors: Mapping[int, partial], numbers: Mapping[int, int]) -> tuple[State, dict[int, State]]:
        """Return the state after the steps of a stretch, and those after its feature layers, by their `numbers`."""
        def run(state: State) -> tuple[State, dict[int, State]]:
            marked = {}
            for index, step in stretch:
                state = self.before(index, state)
                state = self.after(index, self._run_step(index, step, doors.get(index, step.block), state, layout))
                if index in numbers:
                    marked[numbers[index]] = state
            return state, marked

        if not (self.activation_checkpointing and self.training and torch.is_grad_enabled()):
            return run(state)
        keeping = {'context_fn': _keep_attention} if self.activation_checkpointing == 'attention' else {}
        return checkpoint(run, state, use_reentrant=False, **keeping)

    def _run_step(self, index: int, step: Step, block: Callable, state: State, layout: Layout) -> State:
        """Return the state after `block`, that of `step` with the `mix` of this pass, has seen its tokens."""
        views, extra = state.views, state.extra
        rope = None if step.rope is None else layout.rotations[step.rope]
        read = () if step.context is None else (state.kept[step.context],)
        if step.scope == 'view':
            after = block(views.flatten(0, 1), rope, *read).view(views.shape)   # (B*V, P, C) -> (B, V, P, C)
            return replace(state, views=after, previous=views)
        seen = views
        if step.scope == 'special':
            special = layout.special_index
            seen = views.index_select(2, special)                               # (B, V, K, C)
        tokens = seen.flatten(1, 2)                                             # (B, V * K or P, C)
        if extra is not None:
            tokens = torch.cat([tokens, extra], dim=1)
        after = block(tokens, rope, *read)
        if index in self._watched:
            self._watched[index] = WatchedStep(_in_input_order(tokens, state), _in_input_order(after, state), layout, rope)
        if extra is not None:
            after, extra = after.split([seen.shape[1] * seen.shape[2], extra.shape[1]], dim=1)
        after = after.reshape(seen.shape)
        if step.scope == 'special':
            after = views.index_copy(2, special, after)                         # (B, V, P, C)
        return replace(state, views=after, extra=extra, previous=views)

    def _handed_out(self, state: State) -> Tensor:
        """Return (B, T, C), views in input order, then the tokens of no view."""
        state = state.in_input_order()
        tokens = state.views.flatten(1, 2)                                      # (B, V * P, C)
        return tokens if state.extra is None else torch.cat([tokens, state.extra], dim=1)

    def _check_steps(self) -> None:
        name, numbers = type(self).__name__, list(self._numbers().values())
        numbers += [] if self.input_layer is None else [self.input_layer]
        wrong = [step.scope for step in self.steps() if step.scope not in SCOPES]
        if wrong:
            raise PluginError(f'{name}: the scope of a step is one of {", ".join(SCOPES)}, got {wrong[0]!r}.')
        if not self.layer_kinds or len(set(numbers)) < len(numbers):
            raise PluginError(f'{name}.steps() needs a step with query=True, and different numbers; got {numbers}.')
        if not self.feature_layers or not set(self.feature_layers) <= set(numbers):
            least, most = min(numbers), max(numbers)
            known = f'{least} .. {most}' if sorted(numbers) == list(range(least, most + 1)) else sorted(numbers)
            raise ConfigError(f'feature_layers {self.feature_layers} must be numbers of layers of {name}, {known} with '
                              'these options; at least one.')
        if self.activation_checkpointing not in LEVELS:
            raise ConfigError(f'activation_checkpointing of {name} is False, \'attention\' or True, got '
                              f'{self.activation_checkpointing!r}.')
        if self.global_attention is not None and all(step.scope == 'view' for step in self.steps()):
            raise ConfigError(f'model.backbone.global_attention stands behind the steps across views, and {name} has none: '
                              'set it to None.')
        if self.activation_checkpointing and self.global_attention is not None and not self.global_attention.recomputable:
            raise ConfigError(f'{type(self.global_attention).__name__} is for inference: blocks that run twice would fill '
                              'its cache twice. Set model.backbone.activation_checkpointing=False.')

    def _freeze(self, patch_embed: bool = False, blocks: bool = False) -> None:
        encoder = {id(value) for part in self.encoder_parts for value in _parameters(self, part)}
        for value in self.parameters():
            if blocks and id(value) not in encoder or patch_embed and id(value) in encoder:
                value.requires_grad_(False)
        self._frozen_encoder = self.encoder_parts if patch_embed else ()
        self.train(self.training)

    def _modules_of(self, names: Sequence[str]) -> list[nn.Module]:
        modules = dict(self.named_modules())
        return [modules[name] for name in names if name in modules]

    def _attention_of_steps(self) -> str:
        blocks = {id(step.block) for step in self.steps()}
        names = [re.escape(name) for name, module in self.named_modules() if id(module) in blocks]
        return rf'({"|".join(names)})\.attn\.(qkv|proj)'

    def _checked(self, name: str, options: dict | None, allowed: tuple[str, ...]) -> dict:
        """Return `options`, empty for None, after checking its keys."""
        for key in options or {}:
            if key not in allowed:
                raise ConfigError(f'{name} of {type(self).__name__} has no option {key!r}.{did_you_mean(key, allowed)}')
        return dict(options or {})


def _in_input_order(tokens: Tensor, state: State) -> Tensor:
    """Return (B, V * P + E, C) tokens of a step with the views of `state` in the order of the images."""
    if state.order is None:
        return tokens
    count = state.views.shape[1] * state.views.shape[2]
    views = replace(state, views=tokens[:, :count].view(state.views.shape)).in_input_order().views
    return torch.cat([views.flatten(1, 2), tokens[:, count:]], dim=1)


def _parameters(module: nn.Module, name: str) -> list[nn.Parameter]:
    """Return the parameters at or below a dotted name."""
    part = module
    for word in name.split('.'):
        part = getattr(part, word)
    return list(part.parameters()) if isinstance(part, nn.Module) else [part]


def _keep_attention():
    """Return the contexts of a selective checkpoint that keeps what fused attention gave, and computes all else again."""
    def policy(context, operation, *args, **options) -> CheckpointPolicy:
        keep = operation in FUSED_ATTENTION
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
    return create_selective_checkpoint_contexts(policy)
