"""Where the geometry that supervises training comes from: the data set, or a frozen pre-trained model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jrs.errors import DataError
from jrs.geometry.camera import decode_cameras, encode_cameras
from jrs.geometry.normalisation import normalise_scene
from jrs.geometry.projection import unproject_depth
from jrs.io.weights import build_with_weights
from jrs.registry import MODELS, TEACHERS, build
from jrs.structures import GeometryTargets, SceneBatch

MIN_DEPTH = 1e-8                               # a smaller depth is no reading (vggt.md section 11)


@TEACHERS.register_module()
class GroundTruthTeacher:
    """Cameras and depth of the data set, scene-normalised (vggt.md section 15)."""

    def __call__(self, batch: SceneBatch) -> GeometryTargets:
        """Return the targets of a batch with `depth_m`, `intrinsics` and `cam_from_world`; pixels of depth 0 are not valid.

        Raises:
            DataError: the batch lacks one of them.
        """
        missing = [name for name in ('depth_m', 'intrinsics', 'cam_from_world') if getattr(batch, name) is None]
        if missing:
            raise DataError(f'GroundTruthTeacher needs {", ".join(missing)}, which the scenes '
                            f'{", ".join(batch.scene_names)} do not have: prepare the data with depth and cameras, or use '
                            'PretrainedTeacher.')
        return geometry_targets(batch.cam_from_world, batch.intrinsics, batch.depth_m, batch.depth_m > MIN_DEPTH)


@TEACHERS.register_module()
class PretrainedTeacher:
    """What a frozen pre-trained model sees in the same images: its last cameras and its depth, every pixel valid.

    The model is built and loaded at the first call, so that a trained student is used without its teacher. A teacher is not
    a module: no optimiser, checkpoint or ``train()`` of the student reaches its weights.

    Args:
        model: config of a geometry model in ``MODELS``, which maps a SceneBatch to Predictions with cameras and depth.
        checkpoint: its weights: ours, or the official VGGT-1B file; entries that the model does not have are left out.
        autocast: dtype in which the model's backbone runs, unless `model` sets it itself.
    """

    def __init__(self, model: dict | nn.Module, checkpoint: str, autocast: str | None = 'bfloat16') -> None:
        self.config = model
        self.checkpoint = checkpoint
        self.autocast = autocast
        self.model: nn.Module | None = None

    @torch.no_grad()
    def __call__(self, batch: SceneBatch) -> GeometryTargets:
        """Return the targets of a batch of which only the images (B, V, 3, H, W) are read, on their device.

        Raises:
            WeightsError: the checkpoint is missing or lacks weights of the model.
        """
        model, device = self._ready(batch.images.device), batch.images.device
        with torch.autocast(device.type, enabled=False):
            predictions = model(SceneBatch(batch.images, batch.scene_names, batch.view_names))
            depth = predictions.depth.float()
            cam_from_world, intrinsics = decode_cameras(predictions.pose_encodings[-1].float(), depth.shape[-2:])
            return geometry_targets(cam_from_world, intrinsics, depth, torch.ones_like(depth, dtype=torch.bool))

    def _ready(self, device: torch.device) -> nn.Module:
        """Return the frozen model on `device`, building it once."""
        if self.model is None:
            model = build_with_weights(
                lambda: build(MODELS, self.config, 'model.teacher.model', autocast=self.autocast), self.checkpoint)
            model = model.narrow() if hasattr(model, 'narrow') else model
            self.model = model.requires_grad_(False).eval()
        return self.model.to(device)


def geometry_targets(cam_from_world: Tensor, intrinsics: Tensor, depth: Tensor, valid: Tensor) -> GeometryTargets:
    """Return scene-normalised targets in the frame of each scene's first camera.

    Args:
        cam_from_world: (B, V, 4, 4), translations in units of the depth.
        intrinsics: (B, V, 3, 3), pixels of the depth maps.
        depth: (B, V, H, W) z-depth.
        valid: (B, V, H, W) bool.
    """
    _, world_points = unproject_depth(depth, intrinsics, cam_from_world)                    # (B, V, H, W, 3)
    scene = normalise_scene(cam_from_world, world_points, depth, valid)
    encoding = encode_cameras(scene.cam_from_world, intrinsics, depth.shape[-2:])           # (B, V, 9)
    return GeometryTargets(encoding, scene.depth.where(valid, 0), valid, scene.world_points)
