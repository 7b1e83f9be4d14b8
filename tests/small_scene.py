"""A wall at depth 2 seen by three cameras that step to the right: every answer is known."""

import numpy as np
import torch

from jrs.io.images import LoadedPhotos, Original, resize_map
from jrs.structures import Instances, InstanceTargets, Reconstruction

VIEWS, HEIGHT, WIDTH, STEP, DEPTH, FOCAL = 3, 16, 24, 0.5, 2.0, 20.0


def small_scene(queries=6, channels=5):
    """Return a Reconstruction with two overlapping instances; the first owns the overlap."""
    generator = torch.Generator().manual_seed(0)
    intrinsics = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]).expand(VIEWS, 3, 3).clone()
    cam_from_world = torch.eye(4).repeat(VIEWS, 1, 1)
    cam_from_world[:, 0, 3] = -STEP * torch.arange(VIEWS)
    masks = torch.zeros(2, VIEWS, HEIGHT // 2, WIDTH // 2, dtype=torch.bool)
    masks[0, :, 1:4, 2:6] = True
    masks[1, 0, 2:7, 4:10] = True
    attention = torch.rand(2, queries, VIEWS, generator=generator)
    return Reconstruction(
        images=torch.rand(VIEWS, 3, HEIGHT, WIDTH, generator=generator), depth=torch.full((VIEWS, HEIGHT, WIDTH), DEPTH),
        depth_conf=1 + torch.rand(VIEWS, HEIGHT, WIDTH, generator=generator), intrinsics=intrinsics,
        cam_from_world=cam_from_world, features=torch.rand(VIEWS, channels, HEIGHT // 2, WIDTH // 2, generator=generator),
        instances=Instances(masks, torch.tensor([1, 0]), torch.tensor([0.9, 0.6]), torch.tensor([4, 2])),
        view_names=['a', 'b', 'c'], view_attention=attention / attention.sum(-1, keepdim=True))


def small_photos(scene):
    """Return photos of twice the size whose lowest input rows were cropped and whose view 2 has a padded left edge."""
    photos = LoadedPhotos.of_input(scene.images, scene.view_names)
    photos.original_sizes = [(2 * HEIGHT + 8, 2 * WIDTH)] * VIEWS
    photos.input_from_original = torch.from_numpy(resize_map(0.5, 0.5, 0, 0)).repeat(VIEWS, 1, 1)
    photos.valid[2, :, :8] = False
    photos.originals = [Original(lambda: np.zeros((2 * HEIGHT + 8, 2 * WIDTH, 3), np.uint8))] * VIEWS
    return photos


def small_truth(scene):
    """Return true objects that are the predicted masks in another order."""
    masks = scene.instances.masks.flip(0)
    pixels = masks.sum((-1, -2)).float()
    return InstanceTargets(scene.instances.labels.flip(0), masks, pixels / pixels.sum(-1, keepdim=True))
