"""Config -> objects: data, model, optimizer, mmengine Runner. What is missing is said before anything is built."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.device import get_device
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch.utils.data import DataLoader, Dataset

from jrs.config import backbone_patch_size
from jrs.datasets.dataset import limit_worker_threads
from jrs.engine.checkpoint import check_counts_updates, last_good_checkpoint, use_atomic_files
from jrs.engine.console import JrsRunner, RunConfig
from jrs.engine.data import say_data
from jrs.engine.device import prepare_device
from jrs.engine.loading import PatientLoader, collation_of
from jrs.engine.needs import memory_words
from jrs.engine.optim import build_optimizer, build_schedule
from jrs.engine.processes import start_processes
from jrs.engine.recomputation import fit_recomputation
from jrs.engine.sharding import shard
from jrs.engine.stop import leave_stopping_to_the_parent
from jrs.engine.update import update_of
from jrs.engine.words import names_in, say_names, tell_metrics
from jrs.errors import ConfigError, DataError, WeightsError
from jrs.evaluation.evaluator import SceneEvaluator
from jrs.io.atomic import check_folder
from jrs.io.vocabulary import ATTRIBUTES, HOW_TO_WRITE
from jrs.io.weights import build_with_weights
from jrs.places import own_file
from jrs.registry import BACKBONES, DATASETS, HEADS, HOOKS, METRICS, MODELS, SAMPLERS, build
from jrs.schema import value_at
from jrs.structures import MAPS, maps_read

# What fine-tuning from VGGT-1B adds to it; each of these comes from the file as a whole, or starts fresh as a whole.
FRESH = ('queries.*', 'feature_head.*', 'class_head.*', 'point_head.*', 'scale_head.*', '*.lora_[ab]')
TRACKERS = dict(tensorboard=dict(type='TensorboardVisBackend'))
PACKAGES_OF_TRACKERS = dict(WandbVisBackend='wandb', MLflowVisBackend='mlflow', ClearMLVisBackend='clearml',
                            NeptuneVisBackend='neptune', DVCLiveVisBackend='dvclive', AimVisBackend='aim')
OFFICIAL_VGGT = ('Put the official VGGT-1B there: model.pt (5.0 GB, non-commercial licence) from '
                 'https://huggingface.co/facebook/VGGT-1B. Or name your copy: --cfg-options weights=FILE '
                 'model.teacher.checkpoint=FILE; model.pt, model.safetensors and files of tools/convert.py load alike.')
FROZEN = ('model.teacher.checkpoint', 'model.reconstruction.geometry.checkpoint')       # files that are never trained
HOW_TO_GO_ON = 'To run the same experiment on the built-in rooms, without licensed data or weights: add --profile rooms.'


def build_dataset(cfg: Config, name: str, maps: Collection[str] = MAPS, patch_size: int | None = None) -> Dataset:
    """Return the data set that `cfg[name]` describes; DataError when its folder is not there.

    Args:
        cfg: a checked experiment.
        name: 'train_dataset', 'val_dataset' or 'test_dataset'.
        maps: those of `jrs.structures.MAPS` that something reads; others need not be loaded.
        patch_size: of the backbone that was built; None = as config or class say it.
    """
    patch_size = patch_size or backbone_patch_size(cfg)
    offers = {} if patch_size is None else dict(patch_size=patch_size)
    return build(DATASETS, cfg[name], name, data_root=cfg.data_root, seed=cfg.seed, maps=maps, **offers)


def patch_size_of(model: torch.nn.Module) -> int | None:
    """Return the patch size of a model's backbone, None where it has no such part."""
    return getattr(getattr(model, 'backbone', None), 'patch_size', None)


def maps_of_run(model: torch.nn.Module, metrics: Iterable[object] = (), hooks: Iterable[object] = ()) -> frozenset[str]:
    """Return the maps of a batch that a run reads (`maps_read`). Hooks of mmengine and of jrs read none."""
    watching = [hook for hook in hooks if type(hook).__module__.partition('.')[0] not in ('jrs', 'mmengine')]
    return maps_read([model, *metrics, *watching])


def _backbone_part(cfg: Config) -> type | None:
    """Return the class of the backbone, None for a model that has no such slot."""
    return BACKBONES.lookup(cfg.model.backbone.type, 'model.backbone') if cfg.model.get('backbone') else None


@dataclass
class Missing:
    """Something that a config needs and that is not there.

    Attributes:
        what: a folder or file, as the config has it.
        paths: the config paths that ask for it.
        fault: what is wrong, and how to get it.
    """

    what: str
    paths: list[str]
    fault: str


def check_ready(cfg: Config, *datasets: str) -> dict[str, Dataset]:
    """Return the data sets called `datasets`, or raise one error that lists everything that is missing, weights included.

    Raises:
        DataError: something is missing; the message says what, how to get it, and what runs without it.
        ConfigError: the training data have other classes than the model.
    """
    ready, missing = look_for(cfg, *datasets)
    if missing:
        lines = [f'  - {", ".join(one.paths)}: {one.fault}' for one in missing]
        rooms = any('prepare.py rooms' in one.fault for one in missing)
        raise DataError('\n'.join(['this config cannot run yet:', *lines, *([] if rooms else [HOW_TO_GO_ON])]))
    return ready


def look_for(cfg: Config, *datasets: str) -> tuple[dict[str, Dataset], list[Missing]]:
    """Return the data sets called `datasets` that are there, and everything that is missing, weights included.

    Raises:
        ConfigError: the training data have other classes than the model.
    """
    missing: dict[str, Missing] = {}
    ready: dict[str, Dataset] = {}
    for name in datasets:
        try:
            any_width = backbone_patch_size(cfg) or 1          # only a built backbone may know; then its size is asked again
            ready[name] = build_dataset(cfg, name, patch_size=any_width)
            check_classes(cfg, ready[name], name)
        except DataError as error:
            missing.setdefault(str(error), Missing(_place_of(cfg, name), [], str(error))).paths.append(name)
    frozen = [(path, value_at(cfg._cfg_dict, path)) for path in FROZEN]
    own = how_to_get(cfg, cfg.get('weights'))
    words = (cfg.model.get('class_head') or {}).get('vocabulary')
    for path, file, advice in (('weights', cfg.get('weights'), own), *((*one, OFFICIAL_VGGT) for one in frozen),
                               ('model.class_head.vocabulary', _file_of_words(words), HOW_TO_WRITE)):
        if file and not own_file(file).is_file():
            fault = f'no file {file}. {advice}'
            missing.setdefault(fault, Missing(str(file), [], fault)).paths.append(path)
    return ready, list(missing.values())


def how_to_get(cfg: Config, file: str | None) -> str:
    """Return how to get a weights file: as the feature head says that names this file, or else as the backbone does."""
    head = cfg.model.get('feature_head')
    advice = getattr(HEADS.lookup(head.type, 'model.feature_head'), 'official_weights', '') if head else ''
    named = file and Path(file).name in advice
    return advice if named else getattr(_backbone_part(cfg), 'official_weights', OFFICIAL_VGGT)


def _file_of_words(vocabulary: object) -> str | None:
    """Return the vocabulary of a class head where it is a file."""
    return vocabulary if isinstance(vocabulary, str) and vocabulary != ATTRIBUTES else None


def _place_of(cfg: Config, name: str) -> str:
    """Return what is missing of a data set that is not ready: its folder, or in one that has other lists its split list."""
    settings = cfg[name]
    root, split = Path(cfg.data_root) / settings.get('folder', ''), settings.get('split', '')
    lists = any(root.glob('*.txt'))
    return str(root / f'{split}.txt' if lists and not (root / f'{split}.txt').is_file() else root)


def check_classes(cfg: Config, dataset: Dataset, name: str) -> None:
    """Raise a ConfigError where the model that is trained has not as many classes as the training data."""
    facts = getattr(dataset, 'metainfo', {})
    classless = cfg.model.get('queries') is None and cfg.model.get('class_head') is None
    if name != 'train_dataset' or 'classes' not in facts or classless:
        return
    given, needed = cfg.model.get('num_classes', 0), len(facts['classes'])
    if given != needed:
        raise ConfigError(f'model.num_classes is {given}, and the benchmark {facts["benchmark"]!r} has {needed} classes: '
                          f'set model.num_classes={needed}, or the benchmark of all data sets.')


def build_model(cfg: Config) -> torch.nn.Module:
    """Return the model, with `cfg.weights` loaded where it names a file; process and model compute as `cfg.device` says."""
    def make() -> torch.nn.Module:
        return build(MODELS, cfg.model, 'model')
    try:
        model = build_with_weights(make, own_file(cfg.weights), FRESH) if cfg.get('weights') else make()
    except WeightsError as error:
        raise WeightsError(f'{error} To train a model of another kind from fresh weights: --cfg-options weights=None, or '
                           "profiles=dict(rooms=dict(weights=None)) in its config where they are a profile's.") from error
    prepare_device(cfg, model)
    return model


def training_optimizer(cfg: Config, model: torch.nn.Module) -> OptimWrapper:
    """Return what updates a model as `cfg` says: optimizer, groups and clipping."""
    settings = cfg.train
    return build_optimizer(model, cfg.optimizer, cfg.parameter_groups, settings.clip_norm, settings.get('clip_by', 'all'),
                           settings.get('decay_vectors', True))


def training_loader(cfg: Config, dataset: Dataset) -> DataLoader:
    """Return the endless loader of this rank's training batches: those of its slots, update after update."""
    rank, world_size = get_dist_info()
    mixture = getattr(dataset, 'mixture', None)
    batches = build(SAMPLERS, cfg.batches, 'batches', num_scenes=len(dataset), seed=cfg.seed, rank=rank,
                    world_size=world_size, mixture=mixture)
    if mixture is not None and getattr(batches, 'mixture', None) is None:
        raise ConfigError(f'batches: {type(batches).__name__} draws scenes of one data set, and train_dataset is a mixture '
                          f'of {len(mixture)}, whose shares it would not keep: take ViewBatchSampler.')
    workers = cfg.train.workers
    return PatientLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collation_of(dataset),
                         worker_init_fn=prepare_worker, persistent_workers=workers > 0,
                         pin_memory=torch.cuda.is_available())


def scoring_loader(dataset: Dataset, workers: int, equal: bool = False) -> DataLoader:
    """Return a loader that gives each scene once, whole, to one rank.

    `equal` repeats scenes so that all ranks have as many, as sharded models need it; metrics drop what is repeated.
    """
    return PatientLoader(dataset, batch_size=1, sampler=DefaultSampler(dataset, shuffle=False, round_up=equal),
                         num_workers=workers, collate_fn=collation_of(dataset), worker_init_fn=prepare_worker,
                      pin_memory=torch.cuda.is_available())


def prepare_worker(worker: int) -> None:
    """Make a process a loader's worker: one thread, and signals to the group are left to the training."""
    limit_worker_threads(worker)
    leave_stopping_to_the_parent()


def build_evaluator(metrics: Mapping, path: str = 'metrics') -> SceneEvaluator:
    """Return the evaluator over the named metrics, ours or mmengine's; entries that are None are off."""
    return SceneEvaluator([build(METRICS, metric, f'{path}.{name}')
                           for name, metric in metrics.items() if metric is not None])


def build_runner(cfg: Config, work_dir: Path, resume: bool = False, launcher: str | None = None) -> JrsRunner:
    """Return a Runner that trains `cfg` in `work_dir`.

    Args:
        cfg: a checked experiment.
        work_dir: the run's folder.
        resume: go on from the newest checkpoint of `work_dir` that loads.
        launcher: 'none', 'pytorch' or 'slurm'; None takes what the environment says.
    """
    place = start_processes(launcher, cfg.train.timeout)
    update, processes = update_of(cfg), get_dist_info()[1]
    accumulate = update.accumulation(processes, cfg.train.accumulate)
    ready = check_ready(cfg, 'train_dataset', 'val_dataset')
    check_folder(work_dir)
    print_log(update.shared_by(processes), 'current')
    use_atomic_files()
    checkpoint = last_good_checkpoint(work_dir) if resume else None
    if resume and checkpoint is None:
        raise WeightsError(f'--resume: {work_dir} holds no checkpoint (iter_*.pth). Leave out --resume to start the run.')
    if checkpoint is not None:
        check_counts_updates(checkpoint)
    settings = cfg.train
    validate, sharded = bool(settings.validate_every), settings.sharding is not None
    say_data(cfg, ready if validate else {'train_dataset': ready['train_dataset']})
    torch.manual_seed(cfg.seed)
    model = shard(build_model(cfg)) if sharded else build_model(cfg)
    device = torch.device(get_device())
    recomputation = fit_recomputation(model, cfg, device, processes)
    words = memory_words(model, cfg, device, processes)
    print_log(f'{words}; the backward pass computes again: {recomputation}', 'current')
    hooks = [build(HOOKS, hook, f'hooks.{name}') for name, hook in cfg.hooks.items() if hook is not None]
    evaluator = build_evaluator(cfg.metrics) if validate else None
    names = {name: names_in(dataset) for name, dataset in ready.items()}
    say_names(model, names['train_dataset'])
    tell_metrics(evaluator.metrics if validate else (), model, names['train_dataset'])
    optimizer = training_optimizer(cfg, model)
    runner = JrsRunner(
        model=model, work_dir=str(work_dir), default_scope='jrs', launcher=place.launcher,
        train_dataloader=training_loader(cfg, build_dataset(cfg, 'train_dataset', maps_of_run(model, hooks=hooks),
                                                            patch_size_of(model))),
        train_cfg=dict(type='ResumableIterLoop', max_iters=settings.iterations,
                       val_interval=settings.validate_every or settings.iterations + 1,
                       accumulate=accumulate, skip_nonfinite=settings.skip_nonfinite, timeout=settings.timeout),
        val_dataloader=scoring_loader(build_dataset(cfg, 'val_dataset', maps_of_run(model, evaluator.metrics, hooks),
                                                    patch_size_of(model)), settings.workers, sharded) if validate else None,
        val_cfg=dict() if validate else None, val_evaluator=evaluator,
        optim_wrapper=optimizer,
        param_scheduler=build_schedule(optimizer, settings.iterations, settings.warmup, settings.final_lr_factor),
        default_hooks=dict(_default_hooks(settings), words=dict(
            type='ClassWords', training=names['train_dataset'], validation=names.get('val_dataset'))),
        custom_hooks=hooks,
        log_processor=dict(window_size=20, by_epoch=False), randomness=dict(seed=cfg.seed),
        visualizer=dict(type='Visualizer', vis_backends=trackers_of(cfg)),
        load_from=str(checkpoint) if checkpoint else None, resume=checkpoint is not None, cfg=RunConfig(dict(cfg._cfg_dict)))
    runner.recomputation = recomputation
    return runner


def trackers_of(cfg: Config) -> list[dict]:
    """Return who gets scalars and pictures of a run, as mmengine's Visualizer takes them: TensorBoard where `cfg` is older.

    Raises:
        ConfigError: the package that one of them writes to is not installed.
    """
    named = cfg.get('trackers', TRACKERS) or {}
    for name, tracker in named.items():
        package = PACKAGES_OF_TRACKERS.get((tracker or {}).get('type'))
        if package is not None and find_spec(package) is None:
            raise ConfigError(f'trackers.{name}: {tracker["type"]} needs the package {package}: pip install {package}, or '
                              f'leave it out with trackers.{name}=None.')
    return [dict(tracker) for tracker in named.values() if tracker is not None]


def _default_hooks(settings: Mapping) -> dict:
    return dict(logger=dict(type='ProgressLog', interval=settings.log_every), checkpoint=None, sampler_seed=None,
                plain=dict(type='PlainCheckpoint'), terms=dict(type='TermLog'), plugins=dict(type='EvaluationHook'),
                resources=dict(type='ResourceLog'), needs=dict(type='MetricNeeds'),
                save=dict(type='SafeCheckpoint', interval=settings.save_every), heartbeat=dict(type='Heartbeat'))
