"""Where the geometry that supervises training comes from: the data set, or a frozen pre-trained model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from jrs.config import nearest_multiple
from jrs.errors import ConfigError, DataError
from jrs.geometry.camera import encode_cameras, predicted_cameras
from jrs.geometry.normalisation import normalise_scene
from jrs.geometry.projection import unproject_depth
from jrs.io.lean_build import build_on_meta
from jrs.io.weights import build_with_weights
from jrs.places import own_file
from jrs.registry import MODELS, TEACHERS, build
from jrs.structures import GeometryTargets, Predictions, SceneBatch, unit_images

MIN_DEPTH = 1e-8                               # a smaller depth is no reading (vggt.md section 11)


@TEACHERS.register_module()
class GroundTruthTeacher:
    """Cameras and depth of the data set, scene-normalised (vggt.md section 15)."""

    reads_maps = ('depth_m',)

    def __call__(self, batch: SceneBatch) -> GeometryTargets:
        """Return the targets of a batch with `depth_m`, `intrinsics` and `cam_from_world`; pixels of depth 0 are not valid.

        Raises:
            DataError: the batch lacks one of them.
        """
        _require_geometry(batch, 'GroundTruthTeacher', 'use PretrainedTeacher')
        valid = batch.depth_m > MIN_DEPTH
        return geometry_targets(batch.cam_from_world, batch.intrinsics, batch.depth_m, valid, valid.flatten(1).any(dim=1))


@TEACHERS.register_module()
class PretrainedTeacher:
    """What a frozen pre-trained model sees in the same images: its last cameras and its depth, every pixel valid.

    Where its patches do not divide the images it sees them resized, each side to the nearest multiple, and its depth is
    resized back: both bilinear, pixel centres at half-integers from the corner, averaged where pixels get fewer. Its cameras
    stay: poses do not change, and its fields of view are those of the whole image, whatever the number of pixels.

    The model is built and loaded at the first call, so that a trained student is used without its teacher. A teacher is not
    a module: no optimiser, checkpoint or ``train()`` of the student reaches its weights.

    Args:
        model: config of a geometry model in ``MODELS``, which maps a SceneBatch to Predictions with cameras and depth.
        checkpoint: its weights: ours, or the official VGGT-1B file; entries that the model does not have are left out.
        autocast: dtype in which the model's backbone runs, unless `model` sets it itself.
        truth: what the data set gives in the model's place: 'cameras' (with intrinsics), 'depth', 'scale' (only how long a
            metre is), or None. The model's part is brought to metres by the ratio of the scene's median depths first, so
            that both are of one size.
        rescale: bring cameras and depth to units of the scene's mean point distance, as ground truth is; False leaves them
            in the model's own unit (with `truth` in metres).
        weigh: errors of depth and points count by the model's confidence there, over its mean in the scene.

    Raises:
        ConfigError: another `truth`, or confidence of a depth that is not the model's; when it is called, a model that
            predicts no depth, or no cameras or confidence where they are read.
    """

    def __init__(self, model: dict | nn.Module, checkpoint: str, autocast: str | None = 'bfloat16',
                 truth: str | None = None, rescale: bool = True, weigh: bool = False) -> None:
        if truth not in (None, 'cameras', 'depth', 'scale'):
            raise ConfigError(f"PretrainedTeacher.truth is None, 'cameras', 'depth' or 'scale', got {truth!r}. For cameras "
                              'and depth use GroundTruthTeacher.')
        if weigh and truth == 'depth':
            raise ConfigError("PretrainedTeacher.weigh goes by the model's confidence in its depth, and with truth='depth' "
                              "the depth is the data set's: leave one of them out.")
        self.config = model
        self.checkpoint = checkpoint
        self.autocast = autocast
        self.truth = truth
        self.rescale = rescale
        self.weigh = weigh
        self.model: nn.Module | None = None
        self.when_built: Callable[[nn.Module], object] = lambda model: None     # such as `compile_blocks`

    @property
    def reads_maps(self) -> tuple[str, ...]:
        """The maps of a batch that it reads: the depth with `truth`, else none."""
        return () if self.truth is None else ('depth_m',)

    @torch.no_grad()
    def __call__(self, batch: SceneBatch) -> GeometryTargets:
        """Return the targets of a batch, on the device of its images (B, V, 3, H, W); no more is read without `truth`.

        Raises:
            WeightsError: the checkpoint is missing or lacks weights of the model.
            DataError: the batch lacks the geometry that `truth` names.
        """
        model, device = self._ready(batch.images.device), batch.images.device
        with torch.autocast(device.type, enabled=False):
            size = tuple(batch.images.shape[-2:])
            patch_size = getattr(getattr(model, 'backbone', None), 'patch_size', 1)
            images = resized(unit_images(batch.images), tuple(nearest_multiple(side, patch_size) for side in size))
            predictions = model(SceneBatch(images, batch.scene_names, batch.view_names))
            self._require_heads(predictions)
            depth = resized(predictions.depth.float()[:, :, None], size).squeeze(2)                 # (B, V, H, W)
            cam_from_world = intrinsics = None
            if self.truth != 'cameras':
                cam_from_world, intrinsics = predicted_cameras(predictions, size, images.shape[-2:])
            valid = torch.ones_like(depth, dtype=torch.bool)
            metric = valid[:, 0, 0, 0] if predictions.scale == 'metric' else None
            if self.truth is not None:
                cam_from_world, intrinsics, depth, valid = self._with_truth(batch, cam_from_world, intrinsics, depth)
                metric = (batch.depth_m > MIN_DEPTH).flatten(1).any(dim=1)
            targets = geometry_targets(cam_from_world, intrinsics, depth, valid, metric, self.rescale)
            if self.weigh:
                confidence = resized(predictions.depth_conf.float()[:, :, None], size).squeeze(2)   # (B, V, H, W)
                targets.weight = confidence / confidence.mean(dim=(1, 2, 3), keepdim=True)
            return targets

    def _require_heads(self, predictions: Predictions) -> None:
        lacking = [] if predictions.pose_encodings or self.truth == 'cameras' else ['cameras']
        lacking += ['depth'] if predictions.depth is None else []
        lacking += ['confidence'] if self.weigh and predictions.depth_conf is None else []
        if lacking:
            raise ConfigError('PretrainedTeacher teaches cameras and depth, and its model predicts no '
                              f'{" and no ".join(lacking)}: give model.teacher.model the head, or a geometry_head.')

    def _with_truth(self, batch: SceneBatch, cam_from_world: Tensor | None, intrinsics: Tensor | None,
                    depth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (cam_from_world, intrinsics, depth, valid), one part of them the data set's, in metres."""
        _require_geometry(batch, 'PretrainedTeacher', 'set its truth to None')
        measured = batch.depth_m > MIN_DEPTH                                                # (B, V, H, W)
        true, own = (median_where(values.flatten(1), measured.flatten(1)) for values in (batch.depth_m, depth))     # (B,)
        metres = (true / own).nan_to_num(nan=1.0)                                           # (B,); 1 without a reading
        if self.truth == 'cameras':
            return (batch.cam_from_world, batch.intrinsics, depth * metres[:, None, None, None],
                    torch.ones_like(measured))
        cam_from_world = cam_from_world.clone()
        cam_from_world[..., :3, 3] *= metres[:, None, None]                                 # (B, V, 3)
        if self.truth == 'scale':
            return cam_from_world, intrinsics, depth * metres[:, None, None, None], torch.ones_like(measured)
        return cam_from_world, intrinsics, batch.depth_m, measured

    def weight_bytes(self) -> int:
        """Return the bytes of its weights as it holds them, before it is loaded, too."""
        model = _narrow(build_on_meta(self._make)[0]) if self.model is None else self.model
        return sum(value.numel() * value.element_size() for value in model.parameters())

    def without_file(self) -> None:
        """Take fresh weights in place of those of the checkpoint, for what does not depend on them: time and memory."""
        self._keep(self._make())

    def _keep(self, model: nn.Module) -> None:
        self.model = _narrow(model).requires_grad_(False).eval()
        self.when_built(self.model)

    def _make(self) -> nn.Module:
        return build(MODELS, self.config, 'model.teacher.model', autocast=self.autocast)

    def _ready(self, device: torch.device) -> nn.Module:
        """Return the frozen model on `device`, building it once."""
        if self.model is None:
            print_log(f'the teacher, which is not trained, takes its weights from {self.checkpoint}', 'current')
            self._keep(build_with_weights(self._make, own_file(self.checkpoint)))
        if next(self.model.parameters()).device != device:     # asked of each of a thousand tensors it takes 12 ms a step
            self.model = self.model.to(device)
        return self.model


def median_where(values: Tensor, counted: Tensor) -> Tensor:
    """Return the median of each row of `values` (B, n) among those that are `counted` (B, n) bool: (B,), NaN without any.

    The lower one of two in the middle. By sorting where a median is the work of one block of a card.
    """
    if values.device.type == 'cpu':
        return values.where(counted, torch.nan).nanmedian(dim=1).values
    return median_by_sorting(values, counted)


def median_by_sorting(values: Tensor, counted: Tensor) -> Tensor:
    """Return what `median_where` does for `values` and `counted` (B, n): (B,)."""
    ranked, number = values.where(counted, torch.inf).sort(dim=1).values, counted.sum(dim=1)        # (B, n), (B,)
    middle = ranked.gather(1, ((number - 1) // 2).clamp_min(0)[:, None])[:, 0]
    return middle.where(number > 0, torch.nan)


def _narrow(model: nn.Module) -> nn.Module:
    return model.narrow() if hasattr(model, 'narrow') else model


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (B, V, C, h, w) at `size` (H, W), bilinear in half-pixel coordinates; the same tensor where it fits."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps.flatten(0, 1), size, mode='bilinear', antialias=True).unflatten(0, maps.shape[:2])


def _require_geometry(batch: SceneBatch, reader: str, way_out: str) -> None:
    missing = [name for name in ('depth_m', 'intrinsics', 'cam_from_world') if getattr(batch, name) is None]
    if missing:
        raise DataError(f'{reader} needs {", ".join(missing)}, which the scenes {", ".join(batch.scene_names)} do not have: '
                        f'prepare the data with depth and cameras, or {way_out}.')


def geometry_targets(cam_from_world: Tensor, intrinsics: Tensor, depth: Tensor, valid: Tensor,
                     metric: Tensor | None = None, rescale: bool = True) -> GeometryTargets:
    """Return scene-normalised targets in the frame of each scene's first camera.

    Args:
        cam_from_world: (B, V, 4, 4), translations in units of the depth.
        intrinsics: (B, V, 3, 3), pixels of the depth maps.
        depth: (B, V, H, W) z-depth.
        valid: (B, V, H, W) bool.
        metric: (B,) bool, of which scenes the depth is in metres: the targets then say how many a unit has.
        rescale: False keeps the unit of the depth.
    """
    _, world_points = unproject_depth(depth, intrinsics, cam_from_world)                    # (B, V, H, W, 3)
    scene = normalise_scene(cam_from_world, world_points, depth, valid, rescale)
    encoding = encode_cameras(scene.cam_from_world, intrinsics, depth.shape[-2:])           # (B, V, 9)
    return GeometryTargets(encoding, scene.depth.where(valid, 0), valid, scene.world_points,
                           unit_m=None if metric is None else scene.scale.where(metric, torch.nan))
