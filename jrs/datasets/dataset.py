"""Views of scene folders as batches, for training, testing and inference on prepared scenes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from jrs.datasets.checks import check_poses, color_of, depth_of, ids_of
from jrs.datasets.ground_truth import ground_truth_of_views
from jrs.datasets.pipeline import ViewPipeline
from jrs.datasets.sampling import SampleRequest, frame_stride, spread_views, window_of_views
from jrs.datasets.scene import MAX_ID, Frame, Scene
from jrs.datasets.scenes import ScenesOfSplit, excluded_vertices
from jrs.datasets.transforms import ResizeCrop, crop_around_principal_point, height_for, sample_nearest
from jrs.errors import ConfigError, DataError
from jrs.io.images import RESIZES
from jrs.io.names import some
from jrs.registry import DATASETS, FUNCTIONS, SAMPLERS, build
from jrs.structures import MAPS, UNNAMED, InstanceTable, SceneBatch, SceneGroundTruth

UNNAMED_AS = ('background', 'masks')


@dataclass
class _View:
    """One view at network size: image (H, W, 3) uint8, depth (H, W), ids (H, W), and where its pixels came from."""

    image: np.ndarray
    intrinsics: np.ndarray | None
    depth_m: np.ndarray | None
    instance_ids: np.ndarray | None
    input_from_depth: np.ndarray | None
    sensor_m: np.ndarray | None


@DATASETS.register_module()
class SceneDataset(ScenesOfSplit):
    """Scenes of a split; an item is a `SceneBatch` of one scene.

    In mode 'train' an item is what a `SampleRequest` asks for: V views at varying intervals, cropped to its aspect
    ratio. All randomness comes from `default_rng([seed, draw])` (engine.md section 5). In mode 'test' an item is all
    views of a scene in order of time, resized as the release does (segvggt_release.md section 8), with what it is
    scored against.

    Args:
        folder: of the data set, under `data_root`, with split lists and scene folders.
        split: name of a list there, `<split>.txt`; '<split>_random10' = the ten scenes of Tables 2 and 9 (`split_names`).
        benchmark: name of a `Benchmark`; its instance classes are the targets, all else is background.
        width: W of the network input, a multiple of `patch_size`.
        patch_size: heights are multiples of it.
        data_root: where data sets lie.
        transform: config of a part of `TRANSFORMS`, or a list of such: one of ours, with `crop` and `colors`, and any of
            mmcv that change colours (`jrs.datasets.pipeline`); None = no random change.
        seed: of the experiment.
        mode: 'train' or 'test'.
        every: keep frames whose number in the recording is a multiple of this; None = the benchmark's `view_stride`.
        view_spacing: bounds of the interval between sampled views, in frames of the recording, however densely the scenes
            were prepared (`SpacedViews`); 'train' only.
        view_choice: config of a part of `SAMPLERS` that chooses the views of a sample instead, such as
            `CovisibleViews`; 'train' only. None = `SpacedViews` with `view_spacing`.
        max_views: at most this many views, spread evenly over the scene; 'test' only.
        view_step: `max_views` views so many frames of the recording apart instead, in a window around its middle.
        resize: filter of the colour images, 'lanczos', 'area' or 'bicubic' (`jrs.io.images.resample`); None = 'area' in
            mode 'train', 'lanczos' in mode 'test'.
        unnamed: what becomes of objects that the benchmark has no word for, in mode 'train': 'background', or 'masks':
            instances of an unknown class (`jrs.structures.UNNAMED`), of which masks are learned, and no name.
        stuff: see `ScenesOfSplit`; `model.num_classes` counts them.
        limit_scenes: use the first scenes of the list only.
        maps: which of `jrs.structures.MAPS` something reads; the others are not loaded, and None in the batch.

    Raises:
        DataError: the data set or one of its scenes is not there; says how to get it.
    """

    def __init__(self, folder: str, split: str, benchmark: str, width: int, patch_size: int = 14,
                 data_root: str = 'data', transform: dict | list[dict] | None = None, seed: int = 0, mode: str = 'train',
                 every: int | None = 1, view_spacing: tuple[int, int] = (10, 100), view_choice: dict | None = None,
                 max_views: int | None = None, limit_scenes: int | None = None,
                 maps: Collection[str] = MAPS, view_step: int | None = None, resize: str | None = None,
                 unnamed: str = 'background', stuff: Sequence[str] = ()) -> None:
        if unnamed not in UNNAMED_AS:
            raise ConfigError(f'SceneDataset: unnamed must be one of {", ".join(UNNAMED_AS)}, got {unnamed!r}.')
        if resize not in (None, *RESIZES):
            raise ConfigError(f'SceneDataset: resize must be None or one of {", ".join(RESIZES)}, got {resize!r}.')
        if view_step is not None and (max_views is None or view_step < 1):
            raise ConfigError('SceneDataset: view_step is at least 1 and needs max_views, which say how long the window is; '
                              f'got view_step={view_step}, max_views={max_views}.')
        if width < patch_size or width % patch_size:
            raise ConfigError(f'SceneDataset: width must be a multiple of patch_size {patch_size}, got {width}.')
        super().__init__(folder, split, benchmark, data_root, seed, mode, limit_scenes, stuff)
        self.width = width
        self.patch_size = patch_size
        self.transform = None if transform is None else ViewPipeline(transform, 'dataset.transform')
        self.every = self.benchmark.view_stride if every is None else every
        self.view_choice = build(SAMPLERS, dict(view_choice or dict(type='SpacedViews', spacing=view_spacing)),
                                 'dataset.view_choice')
        self.max_views, self.view_step = max_views, view_step
        self.resize = resize or ('area' if mode == 'train' else 'lanczos')
        self.maps = frozenset(maps)
        self.unnamed_as = unnamed
        if mode == 'train' and 'instance_ids' in self.maps:
            self.check_labels()
        self._check_view_choice()

    def __getitem__(self, request: SampleRequest | int) -> SceneBatch:
        """Return a batch of one scene.

        Args:
            request: in mode 'train' what the sampler asked for; in mode 'test' the number of the scene.
        """
        if self.mode == 'test':
            return self._test_item(request if isinstance(request, int) else request.index)
        return self._train_item(request)

    def frames(self, scene: Scene) -> list[Frame]:
        """Return the frames of a scene at this data set's stride."""
        prepared = max(scene.every, frame_stride(scene, scene.frames))     # frames exported by others may be rarer
        if self.every > 1 and self.every % prepared:
            raise DataError(f'{scene.path}: every={self.every} is asked for, the scene has every {prepared}th frame. '
                            f'Prepare it again with an --every that divides {self.every}.')
        frames = [frame for frame in scene.frames if frame.index % self.every == 0]
        if not frames:
            raise DataError(f'{scene.path}: no frame number is a multiple of every={self.every}: the recording is too '
                            'short, or those frames have no pose.')
        return frames

    def _check_view_choice(self) -> None:
        """Ask the view choice, where it has a `check`, about the first and the last scene: all are asked when they are used.

        A preparation that was stopped and begun again with other settings changes scenes from the first one on.
        """
        if self.mode == 'train' and hasattr(self.view_choice, 'check'):
            for scene in {scene.name: scene for scene in (*self.scenes[:1], *self.scenes[-1:])}.values():
                self.view_choice.check(scene, self.frames(scene))

    def _train_item(self, request: SampleRequest) -> SceneBatch:
        scene = self.scenes[request.index]
        if not scene.has_geometry:
            raise DataError(f'{scene.path}: photos without cameras and instances cannot be trained on; tools/infer.py '
                            'reconstructs them.')
        rng = np.random.default_rng([self.seed, request.draw])
        frames = self.frames(scene)
        frames = [frames[place] for place in self.view_choice.choose(scene, frames, request.num_views, rng)]
        size = (height_for(request.aspect_ratio, self.width, self.patch_size), self.width)
        views = [self._train_view(scene, frame, size, rng) for frame in frames]
        if self.transform is not None:
            for view, image in zip(views, self.transform.colors([view.image for view in views], rng), strict=True):
                view.image = image
        return self._batch(scene, frames, views)

    def _train_view(self, scene: Scene, frame: Frame, size: tuple[int, int], rng: np.random.Generator) -> _View:
        camera = scene.camera(frame)
        if self.transform is None:
            crop = crop_around_principal_point(camera.color_size, camera.color_intrinsics, size)
        else:
            crop = self.transform.crop(camera.color_size, camera.color_intrinsics, size, rng)
        if self.resize != 'area' and not isinstance(crop, ResizeCrop):
            raise ConfigError(f'SceneDataset: resize={self.resize!r} has no effect on a transform that resizes by itself '
                              f'({type(crop).__name__}); let its crop return a ResizeCrop, or leave resize out.')
        crop = crop if self.resize == 'area' else replace(crop, resample=self.resize)
        return self._view(scene, frame, crop.image(color_of(scene, frame)), crop.matrix)

    def _view(self, scene: Scene, frame: Frame, image: np.ndarray, input_from_color: np.ndarray) -> _View:
        """Carry intrinsics, depth and ids of a frame to where its pixels went; read what the batch or scoring needs."""
        camera, size = scene.camera(frame), image.shape[:2]
        depth = sensor = from_depth = ids = None
        if self.mode == 'test' or 'depth_m' in self.maps:
            sensor = depth_of(scene, frame)
        if sensor is not None:
            from_depth = input_from_color @ camera.color_from_depth
            depth = sample_nearest(sensor, from_depth, size) if 'depth_m' in self.maps else None
        if 'instance_ids' in self.maps and (ids := ids_of(scene, frame)) is not None:
            ids = sample_nearest(ids, input_from_color, size)
        return _View(image, None if camera.color_intrinsics is None else input_from_color @ camera.color_intrinsics,
                     depth, ids, from_depth, sensor)

    def _test_item(self, index: int) -> SceneBatch:
        scene = self.scenes[index]
        frames, resize = self._test_frames(scene), RESIZES[self.resize]
        views = [self._view(scene, frame, *resize(color_of(scene, frame), self.width, self.patch_size)) for frame in frames]
        sizes = {view.image.shape for view in views}
        if len(sizes) > 1:
            raise DataError(f'{scene.path}: views end with different sizes {sorted(size[:2] for size in sizes)}; one scene '
                            'needs one size: give `color` of one shape, or list the pictures of each shape as a scene.')
        batch = self._batch(scene, frames, views)
        if all(view.sensor_m is not None for view in views):
            batch.ground_truth = [self._ground_truth(scene, frames, views)]
        return batch

    def left_aside(self) -> list[str]:
        """Return what of the split is not read; in mode 'test' frames that are no views, and scenes without objects, too."""
        words = super().left_aside()
        if self.mode == 'test':
            there, used = (sum(map(len, map(frames, self.scenes))) for frames in (lambda scene: scene.frames,
                                                                                   self._test_frames))
            bare = [scene.name for scene in self.scenes if scene.instances is None]
            rule = f'every={self.every}, max_views={self.max_views}, view_step={self.view_step}'
            words += [f'{used} of {there} frames are views ({rule})'] if used < there else []
            words += [f'{len(bare)} scenes are not annotated: {some(bare)}'] if bare else []
        return words

    def _test_frames(self, scene: Scene) -> list[Frame]:
        frames = self.frames(scene)
        if self.view_step is None:
            return [frames[place] for place in spread_views(len(frames), self.max_views)]
        grid = max(self.every, frame_stride(scene, frames))
        if self.view_step % grid:
            raise DataError(f'{scene.path}: view_step={self.view_step} is asked for, and every {grid}th frame is read: take '
                            f'a multiple of {grid}, or a smaller `every`.')
        try:
            places = window_of_views(np.array([frame.index for frame in frames]), self.max_views, self.view_step)
        except ValueError as fault:
            raise DataError(f'{scene.path}: {fault}. Take a smaller view_step or max_views.') from None
        return [frames[place] for place in places]

    def _batch(self, scene: Scene, frames: list[Frame], views: list[_View]) -> SceneBatch:
        check_poses(scene, frames)
        images = np.stack([view.image for view in views]).transpose(0, 3, 1, 2)                 # (V, 3, H, W)
        classes = self.class_index(scene)
        if self.mode == 'train' and self.unnamed_as == 'masks':
            classes |= dict.fromkeys(self.unnamed(scene), UNNAMED)
        same = self.same_stuff(scene)
        classes = {number: label for number, label in classes.items() if number not in same}
        return SceneBatch(
            images=_one_scene(images, torch.uint8), scene_names=[scene.name],
            view_names=[[frame.name for frame in frames]],
            depth_m=_optional_stack([view.depth_m for view in views], torch.float32),
            intrinsics=_optional_stack([view.intrinsics for view in views], torch.float32),
            cam_from_world=_optional_stack([frame.cam_from_world for frame in frames], torch.float32),
            instance_ids=_optional_stack([_keep_ids(view.instance_ids, classes, same) for view in views], torch.int16),
            instances=[InstanceTable(torch.tensor(list(classes), dtype=torch.int64),
                                     torch.tensor(list(classes.values()), dtype=torch.int64))]
            if scene.instances is not None else None)

    def _ground_truth(self, scene: Scene, frames: list[Frame], views: list[_View]) -> SceneGroundTruth:
        """Return what the scene is scored against: its mesh, or the depth of the views (`ground_truth_of_views`).

        Without annotation all vertices are void, and geometry can be scored.
        """
        mesh, depth_m = scene.mesh(), np.stack([view.sensor_m for view in views])               # (V, Hd, Wd)
        cameras = dict(
            depth_intrinsics=np.stack([scene.camera(frame).depth_intrinsics for frame in frames]),
            cam_from_world=np.stack([frame.cam_from_world for frame in frames]),
            input_from_depth=np.stack([view.input_from_depth for view in views]))               # (V, 3, 3)
        if mesh is None:
            return ground_truth_of_views(scene.name, depth_m, _ids_at_depth(scene, frames, depth_m),
                                         self.class_ids(scene), **cameras)
        return SceneGroundTruth(
            scene_name=scene.name, vertices=mesh.vertices, vertex_ids=self.vertex_ids(scene, mesh),
            superpoints=mesh.superpoints if self.benchmark.has_superpoints else None, depth_m=depth_m, **cameras,
            excluded=excluded_vertices(mesh))

def _ids_at_depth(scene: Scene, frames: list[Frame], depth_m: np.ndarray) -> np.ndarray | None:
    """Return the ids (V, Hd, Wd) that the pixels of the depth images see, nearest look-up; None without annotation."""
    ids = [ids_of(scene, frame) for frame in frames]
    if any(view is None for view in ids):
        return None
    return np.stack([sample_nearest(view, np.linalg.inv(scene.camera(frame).color_from_depth), depth_m.shape[1:])
                     for view, frame in zip(ids, frames, strict=True)])


def _keep_ids(ids: np.ndarray | None, wanted: dict[int, int], same: dict[int, int]) -> np.ndarray | None:
    """Return ids (H, W) with 0 for instances that are not wanted, after those of the `same`; -1 stays. All fit int16.

    Raises:
        DataError: an id that does not.
    """
    if wanted and not 0 < min(wanted) <= max(wanted) <= MAX_ID:
        raise DataError(f'Instance ids must be in 1..{MAX_ID}, got {min(wanted)} to {max(wanted)}.')
    if ids is None:
        return None
    for number, one in same.items():
        ids = np.where(ids == number, one, ids)
    return np.where(np.isin(ids, [-1, *wanted]), ids, 0)


def _one_scene(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(dtype)[None]                       # (1, V, …)


def _optional_stack(values: list[np.ndarray | None], dtype: torch.dtype) -> torch.Tensor | None:
    return None if any(value is None for value in values) else _one_scene(np.stack(values), dtype)


@FUNCTIONS.register_module()
def collate_scenes(samples: list[SceneBatch]) -> SceneBatch:
    """Join batches of one scene each; all have the same V, H and W.

    A field that one sample lacks is None in the result.
    """
    def cat(name: str) -> torch.Tensor | None:
        values = [getattr(sample, name) for sample in samples]
        return None if any(value is None for value in values) else torch.cat(values)            # (B, V, …)

    def join(name: str) -> list | None:
        values = [getattr(sample, name) for sample in samples]
        return None if any(value is None for value in values) else [item for value in values for item in value]
    return SceneBatch(images=cat('images'), scene_names=join('scene_names'), view_names=join('view_names'),
                      depth_m=cat('depth_m'), intrinsics=cat('intrinsics'), cam_from_world=cat('cam_from_world'),
                      instance_ids=cat('instance_ids'), instances=join('instances'), ground_truth=join('ground_truth'),
                      classes=cat('classes'))


def limit_worker_threads(worker: int) -> None:
    """Keep a loader's worker to one thread; give it to `DataLoader` as `worker_init_fn`."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
