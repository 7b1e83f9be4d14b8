"""Using a trained model: photos in, a reconstructed scene out, and what its weights are good for."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor, nn

from jrs import __version__
from jrs.config import load_config, nearest_multiple
from jrs.engine.device import prepare_device
from jrs.engine.memory import (
    RUNTIME,
    announce,
    free_memory,
    inference_memory,
    lean_allocations,
    naming_views_that_fit,
    parameter_bytes,
    without_estimate,
)
from jrs.engine.words import check_encoder, open_head, set_vocabulary, trained_names, words_of
from jrs.errors import ConfigError, DataError, WeightsError, find_named
from jrs.geometry.camera import invert_rigid
from jrs.geometry.cloud import PointCloud, point_cloud
from jrs.io.images import RESIZES, LoadedPhotos, SourceViews, each_photo, load_photos
from jrs.io.known_geometry import UNITS, unit_in_words
from jrs.io.known_scale import ScaleSource
from jrs.io.names import readable
from jrs.io.photo_files import reasons, remarks_on
from jrs.io.weights import build_with_weights, read_metadata
from jrs.places import REPOSITORY, UNTRAINED, typed
from jrs.postprocess.distinct import distinct_instances
from jrs.postprocess.export import export_scene, without_padding
from jrs.postprocess.known import check_usable, with_known
from jrs.postprocess.metres import in_metres
from jrs.registry import MODELS, build, owner_of
from jrs.schema import without_teacher
from jrs.structures import Instances, KnownGeometry, Priors, Reconstruction, SceneBatch
from jrs.visualization.features import feature_pictures
from jrs.visualization.overlays import instance_colours
from jrs.visualization.report import scene_section, write_report

OFFICIAL = typed('For real photos use the official weights (non-commercial licence): download segvggt_scannet200.pt from '
                 'https://huggingface.co/JinyuanQu/SegVGGT (6.6 GB, folder checkpoint), then\n'
                 '  python tools/infer.py PHOTOS --out OUT --config configs/segvggt/all24_fada.py '
                 '--checkpoint segvggt_scannet200.pt')
DEFAULT_WEIGHTS = REPOSITORY / 'weights' / 'rooms_tiny_all24_fada' / 'weights.safetensors'
WIDTH = 518                                     # of the network input, about, where the config's data set has no width
UNSTATED = 'not stated in the file'
MERGED = ('*.lora_[ab]',)                       # what a file with merged low-rank factors lacks


@dataclass
class Scene:
    """A reconstructed scene with everything needed to save it.

    Attributes:
        reconstruction: cameras, depth, instances of the network input; see `jrs.structures`.
        photos: what was read, and the way back to the original pixels.
        class_names: K names.
        weights: the card of the weights: file, origin, licence, trained_on, …
        facts: how it was made, for the report.
        advice: what the weights are good for, in words.
        novel: those of the class names that no training of the weights saw.
    """

    reconstruction: Reconstruction
    photos: LoadedPhotos
    class_names: Sequence[str]
    weights: dict
    facts: dict
    advice: str = ''
    novel: frozenset[str] = frozenset()

    @property
    def scale(self) -> str:
        """Unit of depth, points and translations: 'metric', 'metric, approximate', 'metric, from ...', or 'arbitrary'."""
        return self.reconstruction.scale

    def in_metres(self, source: ScaleSource) -> Scene:
        """Return the same scene, brought to metres by what `source` knows (`jrs.io.known_scale.parse_scale_source`).

        Raises:
            DataError: it speaks of other views, or the scene lacks what it would have to be compared with.
        """
        found, factor = in_metres(self.reconstruction, source, self.photos)
        return dataclasses.replace(self, reconstruction=found, facts={
            **self.facts, 'scale': f'{unit_in_words(found.scale)}; depth and translations were multiplied by {factor:.4g}'})

    @property
    def instances(self) -> Instances | None:
        """Scored instances, best first; None from a geometry-only model."""
        return self.reconstruction.instances

    def cloud(self, confidence: float = 20.0, max_points: int | None = 500_000) -> PointCloud:
        """Return the coloured points; the `confidence` percent of pixels that the model is least sure of are left out.

        Raises:
            NotMeasured: the model has no depth head or no camera head.
        """
        features = self.reconstruction.features
        colours = None if features is None else feature_pictures(features)
        return point_cloud(self.reconstruction, self.photos.valid, confidence, max_points, colours)

    @property
    def left_out(self) -> str:
        """What `save` cannot write, and why; '' when everything can be."""
        scene, missing = self.reconstruction, self.reconstruction.missing_geometry
        lacking = ['cloud.ply', 'instances.ply', 'scene.glb', 'colmap/'] if missing else []
        lacking += ['cameras.json'] if scene.cam_from_world is None else []
        if not lacking:
            return ''
        return f'{", ".join(lacking[:-1])} and {lacking[-1]}: the model has no {" and no ".join(missing)}'

    def save(self, out: str | Path, confidence: float = 20.0, max_points: int | None = 500_000, glb: bool = True,
             colmap: bool = False, title: str = 'Reconstruction', objects: bool = False) -> list[Path]:
        """Write cloud.ply, instances.ply, scene.glb, cameras.json, instances.json, masks/, views/ and report.html to `out`.

        With `colmap` also colmap/, with `objects` also objects/: `jrs.postprocess.export.export_scene`.

        What the model has no head for is left out, and the report says so (`left_out`).

        Raises:
            DataError: `out` cannot be made, or the model gave values that are not finite.
        """
        out = Path(out)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f'The output folder {out} cannot be made ({error}); choose another --out.') from error
        cloud = None if self.reconstruction.missing_geometry else self.cloud(confidence, max_points)
        count = 0 if self.instances is None else len(self.instances.scores)
        written = export_scene(out, self.reconstruction, self.photos, cloud, self.class_names, instance_colours(count),
                               self.weights, glb, colmap, self.novel, objects)
        section = scene_section(self.reconstruction, self.shown_names, cloud=cloud, valid=self.photos.valid)
        written.append(self.write_report(out, title, section, cloud))
        return written

    @property
    def shown_names(self) -> list[str]:
        """The class names as reports have them: those that no training saw are marked."""
        return [f'{name} (novel)' if name in self.novel else name for name in self.class_names]

    def write_report(self, out: Path, title: str, section: str, cloud: PointCloud | None) -> Path:
        """Write report.html: a `section` of `scene_section`, and what is known of the scene, its photos and weights."""
        card = {name.replace('_', ' '): self.weights[name] for name in ('trained_on', 'licence') if name in self.weights}
        facts = {**self.facts, 'points': 'none' if cloud is None else f'{len(cloud.points):,}',
                 **({'left out': self.left_out} if self.left_out else {}),
                 **({'not read': reasons(self.photos.left_out, shown=None)} if self.photos.left_out else {}),
                 **({'how it was read': '; '.join(remarks_on(self.photos.notes, None))} if self.photos.notes else {}),
                 'weights': self.weights['file'], **card}
        return write_report(out / 'report.html', title, [section], facts, self.advice,
                            f'made by jrs {__version__}; scale {self.scale}')


class Reconstructor:
    """A model ready for photos: ``Reconstructor()('photos/').save('out')``.

    Args:
        config: an experiment file; None takes `config.py` beside the checkpoint.
        checkpoint: weights; None takes `DEFAULT_WEIGHTS`, which come with the project; 'untrained' none, to measure time.
        profile: scale of `config`.
        device: 'auto' (CUDA, then MPS, then CPU) or a torch device.
        width: width of the network input, or what the backbone's own rule (`photo_resize`) starts from; None takes the one
            that the config tests with.
        agnostic: objects of any kind, without classes.
        min_score: instances below it are left out.
        keep_all: keep every scored instance of the config's own postprocessor, several per object included.
        copy: which copy of the model in the checkpoint, by its name there; None = the model itself where it is there.
        classes: words to look for, of a model whose classes are words; None = those of its training.
        vocabulary: the file that has these words, by the text encoder of the training; None = the one of the config.
        overrides: of the config, dotted path -> value.

    Raises:
        WeightsError, ConfigError, DataError: what is missing or does not fit, and how to get it.
    """

    def __init__(self, config: str | Path | None = None, checkpoint: str | Path | None = None, profile: str = 'paper',
                 device: str = 'auto', width: int | None = None, agnostic: bool = False, min_score: float = 0.2,
                 keep_all: bool = False, copy: str | None = None, classes: Sequence[str] | None = None,
                 vocabulary: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> None:
        if agnostic and vocabulary is not None:
            raise ConfigError('--vocabulary: objects of any kind are asked for (--agnostic), without words.')
        if config is not None and checkpoint is None:
            raise WeightsError(f'The config {config} needs weights: name them with --checkpoint.')
        checkpoint = Path(checkpoint) if checkpoint is not None else default_weights()
        self.cfg = load_config(config or config_beside(checkpoint), profile, overrides)
        self.device = pick_device(device)
        if self.device.type == 'cpu':
            lean_allocations()
        choose_ranking(self.cfg, agnostic, keep_all)
        if vocabulary is not None:
            set_vocabulary(self.cfg, vocabulary)
        self.model = load_model(self.cfg, checkpoint, copy).to(self.device)
        if not hasattr(self.model, 'backbone'):
            raise ConfigError(f'model.type: {type(self.model).__name__} has no backbone that reads photos: it sees points. '
                              'tools/test.py scores it on prepared scenes, benchmarks/point_clouds.py measures its time.')
        self.weights = weights_card(checkpoint)
        self.size_unit = self.cfg.test_dataset.get('patch_size') or self.model.backbone.patch_size
        self.width = width or self.cfg.test_dataset.get('width') or nearest_multiple(WIDTH, self.size_unit)
        self.agnostic, self.min_score, self.keep_all = agnostic, min_score, keep_all
        self.class_names = class_names(self.cfg, self.weights, agnostic)
        self.novel = frozenset()
        if (head := open_head(self.model)) is not None and not agnostic:
            check_encoder(self.model, self.weights)
            trained = trained_names(self.cfg, self.weights)
            self.class_names = tuple(classes or trained or head.words.names)
            head.use_names(self.class_names)
            self.novel = frozenset() if trained is None else frozenset(self.class_names).difference(trained)
        elif classes is not None:
            raise ConfigError('--classes: objects of any kind are asked for, without classes.' if agnostic else
                              f'--classes: {words_of(self.model)}.')

    def load(self, source: str | Path | Sequence[str | Path], max_views: int | None = None, every: int = 1) -> LoadedPhotos:
        """Return the views of `source` (folder, photo, list, video) at this model's input size."""
        return load_photos(source, self.width, max_views=max_views, every=every, **self._input())

    def each_view(self, source: str | Path | Sequence[str | Path], max_views: int | None = None,
                  every: int = 1) -> Iterator[LoadedPhotos]:
        """Yield the same one at a time, read when asked for; of a video all frames, unless `max_views` bounds them."""
        return each_photo(source, self.width, max_views=max_views, every=every, **self._input())

    def views(self, source: str | Path | Sequence[str | Path], max_views: int | None = None, every: int = 1,
              kept: int = 0, always: Collection[int] = ()) -> SourceViews:
        """Return the same not read yet, to be loaded in parts; of a video all frames, unless `max_views` bounds them."""
        return SourceViews(source, self.width, max_views=max_views, every=every, kept=kept, always=always, **self._input())

    def _input(self) -> dict:
        backbone = self.model.backbone
        resize = getattr(backbone, 'photo_resize', None) or find_named(
            RESIZES, self.cfg.test_dataset.get('resize') or 'lanczos', 'filter of test_dataset.resize')
        return dict(patch_size=self.size_unit, resize=resize)

    def __call__(self, source: str | Path | Sequence[str | Path] | LoadedPhotos, max_views: int | None = None,
                 every: int = 1, known: KnownGeometry | None = None) -> Scene:
        """Reconstruct the views of `source` in one forward pass.

        Args:
            source, max_views, every: as of `load`; or what that gave.
            known: cameras or depth of these views (`jrs.io.known_geometry`): priors of a backbone that takes them, and for
                every model in the place of what it predicts.

        Raises:
            DataError: what is known and what the model predicts cannot be brought to one unit.
        """
        photos = source if isinstance(source, LoadedPhotos) else self.load(source, max_views, every)
        batch = SceneBatch(images=photos.images[None], scene_names=['photos'], view_names=[photos.names],
                           valid=photos.valid[None])
        if known is not None:
            check_usable(known, photos.images, self.predicts('camera_head'), self.predicts('depth_head'))
        start = time.perf_counter()
        found = self._reconstruct(batch, known.priors() if known is not None and self.takes_priors else None)
        seconds = time.perf_counter() - start
        found = in_first_camera(found)
        facts = {'views': len(photos.names), 'forward pass': f'{seconds:.1f} s'}
        if known is not None:
            found, facts = with_known(found, known), facts | self.about(known)
        return self.scene(found, photos, facts)

    def scene(self, found: Reconstruction, photos: LoadedPhotos, facts: Mapping[str, str | int]) -> Scene:
        """Return what was found in `photos` as people take it away: no padding, each object once; `facts` for the report."""
        found = without_padding(found, photos)
        if found.instances is not None and not self.keep_all:
            found = dataclasses.replace(found, instances=distinct_instances(found.instances, self.min_score))
        return self.with_facts(found, photos, facts)

    def with_facts(self, found: Reconstruction, photos: LoadedPhotos, facts: Mapping[str, str | int]) -> Scene:
        """Return a scene as it is, with what this model says of itself for the report."""
        height, width = photos.images.shape[-2:]
        facts = {**facts, 'network input': f'{width} × {height}', 'device': str(self.device)}
        facts |= {'scores': found.instances.ranking} if found.instances is not None and found.instances.ranking else {}
        facts |= {'novel names': ', '.join(name for name in self.class_names if name in self.novel)} if self.novel else {}
        return Scene(found, photos, self.class_names, self.weights, facts, self.advice, self.novel)

    @property
    def advice(self) -> str:
        """What the weights are good for, in words."""
        return advice(self.weights, self.model.backbone)

    @property
    def takes_priors(self) -> bool:
        """Whether known cameras and depth are told to the model, not only used in place of what it predicts."""
        return getattr(self.model.backbone, 'takes_priors', False)

    def about(self, known: KnownGeometry) -> dict[str, str]:
        """Return what is given and what becomes of it, in words."""
        name = type(self.model.backbone).__name__
        told = f'{name} is told them (priors)' if self.takes_priors else \
            f'{name} reconstructs from images alone and is not told; they replace what it predicts'
        return {'given': f'{" and ".join(known.given)}, {UNITS[known.scale].partition(":")[0]}; {told}'}

    def predicts(self, head: str) -> bool:
        """Return whether the model has `head`, such as 'camera_head', or one that predicts all geometry."""
        return any(getattr(self.model, name, None) is not None for name in (head, 'geometry_head'))

    def _reconstruct(self, batch: SceneBatch, priors: Priors | None) -> Reconstruction:
        """Return the scene on the CPU; a large run is announced, one that is too large says how many views would fit.

        Raises:
            OutOfMemory: the device has not enough memory.
        """
        views, size = batch.images.shape[1], tuple(batch.images.shape[-2:])
        estimate = inference_memory(self.model, views, size, self.device)
        loaded, free = parameter_bytes(self.model) + RUNTIME.get(self.device.type, 0.0), free_memory(self.device)
        if (words := announce(estimate, loaded, free)) is not None:
            print_log(f'memory: {words}', 'current')
        if estimate is None:
            print_log(f'memory: no estimate, {", ".join(without_estimate(self.model))} gives none', 'current')
        with naming_views_that_fit(estimate, None if free is None else free + loaded, views):
            options = dict(track_views=self.model.queries is not None)
            options |= {} if priors is None else dict(priors=priors.to(self.device))
            return on_the_cpu(self.model.reconstruct(batch.to(self.device), **options)[0])


def on_the_cpu(scene: Reconstruction) -> Reconstruction:
    """Return a scene on the CPU; features of another device travel as bfloat16, half of the most that there is to move.

    Beside instances that are scored already they are there to be looked at: colours of pixels by their main axes.
    """
    if scene.features is None or scene.features.device.type == 'cpu':
        return scene.to('cpu')
    features = scene.features.bfloat16().to('cpu').float()
    return dataclasses.replace(dataclasses.replace(scene, features=None).to('cpu'), features=features)


def load_model(cfg: Config, checkpoint: str | Path, copy: str | None = None) -> nn.Module:
    """Return the model of `cfg` in eval mode with every parameter from `checkpoint`; needs no teacher and no data.

    Process and model compute as `cfg.device` says. A checkpoint whose LoRA is merged fits a config with LoRA too: low-rank
    factors that start fresh change nothing. Of several copies in it `copy` names the one to take. The word 'untrained'
    stands for no file: weights are as they start.

    Raises:
        WeightsError: the file is missing or broken, or does not fit; says what was used, missing and left over.
    """
    def make() -> nn.Module:
        return build(MODELS, without_teacher(cfg.model), 'model')
    if str(checkpoint) == UNTRAINED:
        torch.manual_seed(cfg.seed)
        model = make()
    else:
        model = build_with_weights(make, checkpoint, MERGED, copy)
    prepare_device(cfg, model)
    return model.eval().narrow() if hasattr(model, 'narrow') else model.eval()


def in_first_camera(scene: Reconstruction, first: Tensor | None = None) -> Reconstruction:
    """Return the scene with the first camera exactly at the world's origin; a model predicts it there only roughly.

    `cam_from_world` are (V, 4, 4), and `first` (1, 4, 4) is that of a camera before these; None = that of the first view. A
    scene without cameras is returned as it is.
    """
    if scene.cam_from_world is None:
        return scene
    world_from_first = invert_rigid(scene.cam_from_world[:1] if first is None else first)
    return dataclasses.replace(scene, cam_from_world=scene.cam_from_world @ world_from_first)


def default_weights() -> Path:
    """Return the weights that are used when none are named: those of `DEFAULT_WEIGHTS`, whatever lies beside them.

    Raises:
        WeightsError: the file is not there; says how to make or get some.
    """
    if not DEFAULT_WEIGHTS.is_file():
        raise WeightsError(f'The weights that are used when none are named, {DEFAULT_WEIGHTS}, are not there: they come '
                           'with the project and with its package. Install it again, or name others with --checkpoint; '
                           f'`make demo` in a clone trains some. {OFFICIAL}')
    return DEFAULT_WEIGHTS


def config_beside(checkpoint: Path) -> Path:
    """Return the `config.py` in the folder of a checkpoint."""
    if not checkpoint.is_file():
        raise WeightsError(f'There is no checkpoint {checkpoint}.')
    config = checkpoint.parent / 'config.py'
    if not config.is_file():
        raise ConfigError(f'No config.py beside {checkpoint}: name the experiment that the weights belong to with --config, '
                          'for the released SegVGGT configs/segvggt/all24_fada.py (ScanNet200) or '
                          'configs/segvggt/all24_fada_scannetv2.py.')
    return config


def weights_card(checkpoint: str | Path) -> dict:
    """Return what a weights file says of itself: file, origin, licence, trained_on, and what else it names."""
    stated = {} if str(checkpoint) == UNTRAINED else read_metadata(Path(checkpoint))
    return {'file': readable(checkpoint), 'origin': UNSTATED, 'licence': UNSTATED, 'trained_on': UNSTATED, **stated}


def advice(card: Mapping, backbone: nn.Module) -> str:
    """Return what the weights of a model with this backbone are good for, in words for the report and the terminal."""
    name, licence = type(backbone).__name__, getattr(backbone, 'weights_licence', 'none')
    if 'rooms' in str(card['trained_on']):
        return (f'These weights were trained on {card["trained_on"]}, which are computer-made. They show that everything '
                'works and are no match for real photos: expect depth, cameras and objects of real places to be wrong. '
                f'{for_real_photos(backbone)}')
    if card['trained_on'] == UNSTATED:
        unsaid = 'The weights do not say what they were trained on or under which licence they may be used.'
        if name == 'VGGT':
            return (f'{unsaid} The released SegVGGT and VGGT-1B weights are non-commercial; SegVGGT\'s were trained on '
                    'indoor scans (ScanNet).')
        return unsaid if licence == 'none' else f'{unsaid} The licence of the released weights of {name}: {licence}.'
    return f'The weights were trained on {card["trained_on"]}; licence: {card["licence"]}.'


def for_real_photos(backbone: nn.Module) -> str:
    """Return which weights of a model with this backbone are for real photos, and how to use them."""
    name = type(backbone).__name__
    places = re.findall(r'https://[^\s,;()]*[^\s,;().]', getattr(backbone, 'official_weights', ''))
    if name == 'VGGT':
        return OFFICIAL
    if not places:
        return f'For real photos train {name} on recordings of real places: no released weights of it are known here.'
    return (f'For real photos use the released weights of {name} ({backbone.weights_licence}): download them from '
            f'{" or ".join(places)}, and name them with --checkpoint, and with --config an experiment of geometry of the '
            f'plugin `{owner_of(type(backbone))}`. They give cameras and depth; objects need a training on recordings of '
            'real places.')


def class_names(cfg: Config, card: Mapping, agnostic: bool = False) -> tuple[str, ...]:
    """Return the K class names that the weights state, else those of the benchmark of the weights, else of the config.

    Empty where those are not as many as the model has classes: no name is better than another class's. A model without a
    class head finds objects.
    """
    if agnostic or cfg.model.get('class_head') is None:
        return ('object',)
    names = trained_names(cfg, card) or ()
    return names if len(names) == cfg.model.get('num_classes', 0) else ()


def pick_device(name: str) -> torch.device:
    """Return the torch device `name`; 'auto' is CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: no such device here.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f'The device {name!r} cannot be used here ({str(error).splitlines()[0]}). '
                          f'Allowed: auto, cpu, cuda, cuda:N, mps.') from error
    return device


def choose_ranking(cfg: Config, agnostic: bool, keep_all: bool) -> None:
    """Let each query give one instance: benchmarks rank query x class pairs, people want objects."""
    postprocessor = cfg.model.get('postprocessor')
    if agnostic and cfg.model.get('queries') is None:
        cfg.model.class_head = None                            # which would name masks that are asked for without names
    if postprocessor and 'mode' in postprocessor and (agnostic or not keep_all):
        postprocessor.mode = 'objectness' if agnostic else 'best_class'
