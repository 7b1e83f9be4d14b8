"""Parts that bring scenes to the model: data sets, what changes their images, and who chooses scenes and views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from jrs.contracts.contract import contract, optional

if TYPE_CHECKING:
    import numpy as np

    from jrs.structures import SceneBatch

    Frame = ResizeCrop = SampleRequest = Scene = object      # of jrs.datasets, which stands above this package


@contract('DATASETS', offers={
    'data_root': 'the config\'s `data_root`, the folder that all data sets lie in',
    'seed': 'of the experiment',
    'patch_size': 'of the backbone; image sizes are multiples of it',
    'maps': 'names out of `depth_m` and `instance_ids` that the run reads; the others may be None in its batches'})
class SceneDataset(Protocol):
    """Scenes of one split; an item is a `SceneBatch` of one scene (B = 1).

    `train_dataset`, `val_dataset`, `test_dataset`. A layout of files of one's own is a subclass of
    `jrs.datasets.dataset.SceneDataset` that gives `open_scenes`, a list of `jrs.datasets.scene.Scene`s: cropping, choosing
    views, ids of the benchmark and what is scored against, also without a mesh, are done there, by the arguments that
    `SceneDataset` has (section Structures). `open_scenes` reads `root` (`data_root` / `folder`), `split` and `mode`;
    `listed_names()` are the names in `<split>.txt`. What such a scene gives is checked where it is read: sizes, poses,
    metres; that some object is of a class of the benchmark, before training.

    Batches of a kind of one's own, such as points, are joined by a method `collate(samples)`. They have `scene_names`,
    `view_names`, `to()`, `unpacked()`, `input_size(index)` and what the metrics read. A class that says ``sees = 'points'``
    is not tried with images.

    In training a loader's workers ask for what a `SampleRequest` says; in validation and testing for numbers 0 .. len - 1,
    each once. A part that serves both has an argument such as `mode`. Missing files are a DataError in the constructor
    that says how to get them: then a run stops before anything is trained.

    Attributes:
        metainfo: what evaluators and pictures read: `benchmark` (its name), `classes` (K names), `scene_names`. With
            `classes`, a model of another `num_classes` is refused before training.
    """

    metainfo: Mapping = {}

    def __len__(self) -> int:
        """Return the number of scenes."""

    def __getitem__(self, request: SampleRequest | int) -> SceneBatch:
        """Return one scene as a batch, on the CPU: images uint8 and ids int16, as batches travel; float32 and int64 do too.

        In training `request` has `index` (of the scene), `draw` (a number of which no two samples of a run are equal: the
        only source of randomness beside the seed, ``np.random.default_rng([seed, draw])``), `num_views` (V of the result)
        and `aspect_ratio` (H / W of the result; ``jrs.datasets.transforms.height_for`` gives H). All samples of a batch
        agree in V, H and W. In testing it is an int, and the views are yours to choose.

        Training of instances reads `instance_ids` and `instances`, a teacher from the data set `depth_m`, `intrinsics` and
        `cam_from_world`; `ground_truth` is what `InstanceAPMetric` scores against. What is None is not there.
        """


@contract('TRANSFORMS.views')
class ViewsTransform(Protocol):
    """Random crops and colours of training views.

    `train_dataset.transform` of `SceneDataset`, alone or in a list with transforms of mmcv; None = a fixed crop. Called in a
    loader's worker, with the sample's own generator: the only randomness allowed. What moves pixels is returned as a
    `ResizeCrop`, so that cameras, depth and ids move along.
    """

    def crop(self, source: tuple[int, int], intrinsics: np.ndarray, size: tuple[int, int],
             rng: np.random.Generator) -> ResizeCrop:
        """Return what to cut out of one view.

        Args:
            source: (H, W) of the colour image.
            intrinsics: (3, 3) of it, pixel centres at integers.
            size: (H, W) of the result.
            rng: of the sample.
        """

    def colors(self, images: list[np.ndarray], rng: np.random.Generator) -> Sequence[np.ndarray]:
        """Return the V cropped images (H, W, 3) uint8 RGB with other colours, in the same order."""


@contract('TRANSFORMS.image', base='mmcv.transforms.BaseTransform')
class ImageTransform(Protocol):
    """Other colours for one view, as mmcv means transforms: any of mmcv's that leaves pixels in their places.

    `train_dataset.transform` of `SceneDataset`, alone or in a list; called for each view, cropped before, in a loader's
    worker. Draw from ``np.random`` or ``random``: both are seeded from the sample for each view, and as before afterwards.
    What changes the size of the image or sets keys of mmcv's geometric transforms (`flip`, `scale_factor`, …) is refused;
    what moves pixels without saying so cannot be noticed, and spoils cameras, depth and ids.
    """

    def transform(self, results: dict) -> dict:
        """Return `results` with `img` changed.

        `img` is (H, W, 3) uint8 BGR, as mmcv loads pictures, and must stay so, or floating in 0 .. 255. Beside it are
        `img_shape` and `ori_shape`, both (H, W), and `view`, its place in the sample. Nothing else is read back.
        """


@contract('SAMPLERS.batches', '*batches', offers={
    'num_scenes': 'length of the training data set', 'seed': 'of the experiment',
    'rank': 'number of this process', 'world_size': 'number of processes'})
class BatchSampler(Protocol):
    """Which scenes, how many views and which aspect ratio each training batch has.

    `batches`. Endless; an iteration is one update of the weights, which depends on the seed and its number only, so that a
    run which was killed goes on exactly: nothing is replayed, the loop calls `set_position` before it iterates. An argument
    `slots` says how many batches make an update, and those of several processes share them: process `rank` takes
    ``jrs.datasets.sampling.own_slots(rank, world_size, slots)``, one after another. Without that argument an update is one
    batch, and one process trains.
    """

    def set_position(self, iteration: int) -> None:
        """Let the next batch be the first of this process in update `iteration`, at no cost."""

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        """Yield the requests of this process, one list per slot, without end; a batch's V and aspect ratio are equal."""


@contract('SAMPLERS.view_choice', '*.view_choice')
class ViewChoice(Protocol):
    """Which frames of a recording are the views of a training sample.

    `train_dataset.view_choice` of `SceneDataset`; None = `SpacedViews`. Called in a loader's worker.
    """

    def choose(self, scene: Scene, frames: list[Frame], num_views: int, rng: np.random.Generator) -> np.ndarray:
        """Return V places in `frames`, (V,) int64, the reference view first; `rng` is the only randomness allowed.

        `frames` are in order of time, and may be fewer than V: then places repeat.
        """

    @optional
    def check(self, scene: Scene, frames: list[Frame]) -> None:
        """Raise a DataError where these frames do not suit; asked about the first and the last scene before training."""
