"""Runs parts on an accelerator that is not there and says what went wrong; tests/test_fake_device.py reads its lines.

    python -m tests._fake_device

In a process of its own: torch keeps the made-up device until the process ends. One line of JSON per case.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.fake_device import LARGE, ROOT, Watch, leave, made_up_device, moved, usual_scalar, watching
from jrs.config import load_config
from jrs.engine.inference import on_the_cpu
from jrs.engine.optim import build_optimizer
from jrs.engine.pictures import scene_pictures
from jrs.engine.step import training_step
from jrs.geometry.cloud import point_cloud
from jrs.layers import cross_attention, dpt
from jrs.losses.regression import ConfidentRegression
from jrs.matching import hungarian
from jrs.models.teacher import PretrainedTeacher
from jrs.postprocess.distinct import distinct_instances
from jrs.registry import BACKBONES, METRICS, MODELS, QUERIES, SLOTS, build
from jrs.structures import FeatureTaps, InstanceTable, LayerState, Match, SceneBatch, SceneGroundTruth
from tests import test_registered as tiny
from tests._data import random_batch

PointBatch = sys.modules['jrs_plugins.point_clouds.batch'].PointBatch         # `tiny` has loaded the plugins

DEVICE = made_up_device()
MODE = FakeTensorMode(allow_non_fake_inputs=True)
SIZE = tiny.SIZE
DOORS = (('VGGT', dict(type='TokenMerging')), ('StreamVGGT', dict(type='CausalViews')))


def scalar(tensor, place: str):
    """Return numbers by which parts of a few elements can go on: 1 where `LARGE` would be an index."""
    value = usual_scalar(tensor, place)
    small = ('visualization/', 'evaluation/', 'postprocess/', 'geometry/cloud', 'models/attention', 'engine/attention',
             'plugins/')
    if value == LARGE and 'structures.py' in place:
        return 0                                                               # a row of masks
    return 1 if value == LARGE and any(part in place for part in small) else value


def found(count: int, place: str) -> int:
    """Return how many of `count` are found: of tokens half, where some are merged into the others.

    No voxel is wrong, and none has a neighbour: the pairs of strided convolutions go through the same lines.
    """
    if place.endswith(('voxels.py:sorted_level', 'voxels.py:_neighbours')):
        return 0
    return count // 2 if 'fast_vggt' in place else count


def model_of(config: dict, **changes):
    """Return the model of a config on the device."""
    return moved(build(MODELS, dict(config, **changes), 'model'), DEVICE)


def batch_of(scenes: int = 2, views: int = 3) -> SceneBatch:
    """Return a packed batch on the CPU."""
    return random_batch(views, size=SIZE, num_scenes=scenes)


def notes(watch: Watch) -> dict[str, dict[str, int]]:
    """Return what was noted, and forget it."""
    found = dict(syncs={' '.join(key): number for key, number in sorted(watch.syncs.items())},
                 copies={' '.join(key): number for key, number in sorted(watch.copies.items())},
                 constants=dict(sorted(watch.constants.items())))
    for counter in (watch.syncs, watch.copies, watch.constants):
        counter.clear()
    return found


def train(model, optimizer, batch: SceneBatch | PointBatch | None = None) -> None:
    """Run a step; every parameter that learns has a gradient on the device."""
    optimizer.zero_grad = lambda: None                                         # they are looked at
    training_step(model, [batch or batch_of()], optimizer)
    lacking = [name for name, value in model.named_parameters()
               if value.requires_grad and (value.grad is None or value.grad.device != DEVICE)]
    assert not lacking, f'no gradient on the device: {lacking[:5]}, {len(lacking)} in all'


def predict(model, batch: SceneBatch | None = None):
    """Return the scenes that a model predicts; all tensors are on the device."""
    model.eval()
    with torch.no_grad():
        scenes = model((batch or batch_of(1)).to(DEVICE), mode='predict')
    assert all(value.device == DEVICE for scene in scenes for value in (scene.images, scene.depth) if value is not None)
    return scenes


def main_step(watch: Watch) -> dict:
    """Return what the paper's model notes in a step of 2 scenes and in a reconstruction of one, none of them its first."""
    cfg = load_config(ROOT / 'configs/segvggt/all24_fada.py', 'debug',
                      {'model.backbone.depth': 2, 'model.backbone.feature_layers': [0, 0, 1, 1],
                       'model.camera_head.iterations': 1})
    model = model_of(cfg.model).train()
    optimizer = build_optimizer(model, cfg.optimizer, cfg.parameter_groups, 1.0)
    predict(model)                             # maps of positions are made once
    notes(watch)
    predict(model)
    inference = notes(watch)
    train(model.train(), optimizer)
    return dict(training=notes(watch), inference=inference)


def points(name: str, options: dict) -> Callable[[Watch], dict]:
    """Return a case: what a method on points notes in a step of 2 scenes and in a prediction of one."""
    def run(watch: Watch) -> dict:
        cfg = load_config(ROOT / f'configs/baselines/{name}.py', 'debug', options)
        model = model_of(cfg.model).train()
        optimizer = build_optimizer(model, cfg.optimizer, cfg.parameter_groups, 1.0)
        width = cfg.model.network.dim_in
        notes(watch)
        train(model, optimizer, points_of(2, width))
        training = notes(watch)
        with torch.no_grad():
            scene, = model.eval()(points_of(1, width).to(DEVICE), mode='predict')
        assert scene.instances.scores.device == DEVICE
        return dict(training=training, inference=notes(watch))
    return run


def points_of(scenes: int, width: int, count: int = 60) -> PointBatch:
    """Return `count` points of each scene, as many voxels with `width` features, and 12 superpoints."""
    table = InstanceTable(torch.arange(1, 4), torch.arange(3))
    total, ones = scenes * count, torch.ones(scenes * count, dtype=torch.int64)
    return PointBatch([str(scene) for scene in range(scenes)], [count] * scenes, [count] * scenes, [12] * scenes,
                      torch.rand(total, 3), torch.ones(total, 4, dtype=torch.int64), torch.rand(total, width),
                      torch.arange(total), ones, ones, ones, [table] * scenes)


def backpropagates(part, outputs) -> None:
    """All outputs are on the device, and so is the gradient of every parameter that learns."""
    found = list(tiny.tensors(outputs))
    assert found and all(value.device == DEVICE for value in found), [value.device for value in found]
    sum(value.float().sum() for value in found).backward()
    lacking = [name for name, value in part.named_parameters()
               if value.requires_grad and (value.grad is None or value.grad.device != DEVICE)]
    assert not lacking, f'no gradient on the device: {lacking[:5]}, {len(lacking)} in all'


def taps_there() -> FeatureTaps:
    """Return taps of two views on the device."""
    taps = tiny.taps(2)
    return replace(taps, taps=[tap.to(DEVICE) for tap in taps.taps], patch_index=taps.patch_index.to(DEVICE),
                   geometry_tokens=taps.geometry_tokens.to(DEVICE))


def on_device(slot: str, name: str, **offers):
    """Return a part with its tiny config, on the device."""
    return moved(tiny.tiny(SLOTS[slot], name, **offers), DEVICE)


def backbone(name: str, **options) -> Callable[[Watch], None]:
    """Return a case: all layers of a backbone, and back."""
    def run(watch: Watch) -> None:
        part = moved(build(BACKBONES, dict(tiny.TINY['backbones'][name], type=name, **options), name), DEVICE).train()
        list(part.layers(torch.rand(1, 2, 3, SIZE, SIZE // 2, device=DEVICE)))
        backpropagates(part, part.features().taps)
    return run


def head(name: str) -> Callable[[Watch], None]:
    """Return a case: a head on taps, and back."""
    def run(watch: Watch) -> None:
        part = on_device('heads', name, dim_in=2 * tiny.C, num_classes=tiny.K)
        given, leaves = torch.rand(2, tiny.Q, tiny.D, device=DEVICE), getattr(part, 'leaves', ())
        if not name.endswith('ClassHead'):
            given = taps_there()
            for read, shape in part.map_shapes(given.patch_grid).items() if hasattr(part, 'map_shapes') else ():
                given.maps[read] = torch.rand(1, 2, *shape, device=DEVICE)
            given.wanted, given.maps['images'] = frozenset(leaves), torch.rand(1, 2, 3, SIZE, SIZE, device=DEVICE)
        found = part(given)
        backpropagates(part, [found, *(given.maps[leaf] for leaf in leaves)])
    return run


def queries(name: str, **options) -> Callable[[Watch], None]:
    """Return a case: queries that read layers and finish, and back."""
    def run(watch: Watch) -> None:
        part = moved(build(QUERIES, dict(tiny.TINY['queries'][name], type=name, **options), name, dim=tiny.C,
                           num_layers=tiny.LAYERS, dim_in=2 * tiny.C), DEVICE).train()
        view_index = torch.arange(2, device=DEVICE).repeat_interleave(6, output_size=12)
        state = part.start(1, track_views=True)
        for index in range(tiny.LAYERS):
            tokens = torch.rand(1, 12, tiny.C, device=DEVICE)
            state = part.read(state, LayerState(index, tokens, view_index, view_index >= 0, 2))
        found = part.finish(state, taps_there(), torch.rand(1, 2, tiny.D, SIZE // 2, SIZE // 2, device=DEVICE))
        backpropagates(part, [found.embedding, *([] if found.view_attention is None else [found.view_attention])])
    return run


def losses(watch: Watch) -> None:
    """Every cost, matcher, alignment and loss; and what a training step reads of a teacher of any kind."""
    scene, geometry = tiny.geometry_pair(2)
    scene, geometry = scene.to(DEVICE), geometry.to(DEVICE)
    target, offers = tiny.targets(2, 2).to(DEVICE), tiny.offers()
    for name in tiny.run_here(SLOTS['costs']):
        part = tiny.tiny(SLOTS['costs'], name, **offers)
        assert part(tiny.predictions(2, False, getattr(part, 'classes', 'softmax')).to(DEVICE), target).device == DEVICE
    pairs = Match(torch.arange(2, device=DEVICE), torch.arange(2, device=DEVICE))
    for name in tiny.run_here(SLOTS['losses']):
        part = tiny.tiny(SLOTS['losses'], name, **offers)
        pred = tiny.predictions(2, True, getattr(part, 'classes', 'softmax')).to(DEVICE)
        if name == 'Criterion':
            continue                                                           # in the main step
        given = dict(geometry=(scene, geometry), features=(torch.rand(2, tiny.D, 8, 8, device=DEVICE), target))
        values = list(tiny.tensors(part(*given.get(part.reads, (pred, target, pairs)))))
        assert values and all(value.device == DEVICE for value in values), name
    wide = ConfidentRegression(gradient='normal')
    maps = torch.rand(1, 2, 40, 40, 3, device=DEVICE)
    mask = torch.ones(1, 2, 40, 40, dtype=torch.bool, device=DEVICE)
    assert all(value.device == DEVICE for value in wide(maps, maps[..., 0] + 1, maps, mask).values())


def pretext(watch: Watch) -> None:
    """The further training terms of correspondence."""
    part = moved(build(BACKBONES, tiny.BACKBONE, 'backbone'), DEVICE).train()
    extra = on_device('pretexts', 'Correspondence', dim=tiny.C, dim_in=2 * tiny.C, num_layers=tiny.LAYERS, patch_size=14)
    extra.prepare(part)
    with extra.watching(part) as seen:
        list(part.layers(torch.rand(2, 3, 3, SIZE, SIZE, device=DEVICE)))
    backpropagates(extra, extra(seen, tiny.tiny(SLOTS['teachers'], 'GroundTruthTeacher')(batch_of().to(DEVICE))))


def teachers(watch: Watch) -> None:
    """Every mixture of what a model and what the data set says."""
    model = model_of(tiny.GEOMETRY).eval()
    for truth in (None, 'cameras', 'depth', 'scale'):
        teacher = PretrainedTeacher(tiny.GEOMETRY, 'none', truth=truth, autocast=None, weigh=truth is None)
        teacher.model = model
        assert teacher(batch_of().to(DEVICE)).depth.device == DEVICE


def metrics(watch: Watch) -> None:
    """All metrics of one predicted scene."""
    model = model_of(tiny.MODEL).eval()
    model.reports_matches = True
    batch = batch_of(1)
    batch.ground_truth = [truth(batch)]
    scene = predict(model, batch)[0]
    scene.instances = scene.instances.select(torch.arange(3, device=DEVICE))
    for name in ('DepthMetric', 'CameraMetric', 'AttentionMetric'):
        build(METRICS, dict(type=name), name).process(batch, [scene])
    build(METRICS, dict(type='PanopticMetric', benchmark='scannet20'), 'panoptic').process(batch, [scene])
    for transfer in ('PosedTransfer', 'UnposedTransfer'):
        for vote in ('majority', 'mean_prob'):
            build(METRICS, dict(type='InstanceAPMetric', benchmark='scannet20', transfer=dict(type=transfer, vote=vote)),
                  'ap').process(batch, [scene])
    assert scene_pictures(scene, 2) and len(point_cloud(scene).points)
    distinct_instances(scene.instances, 0.0)
    moved_scene = on_the_cpu(scene)
    assert moved_scene.features.dtype == torch.float32 and moved_scene.features.device.type == 'cpu'
    assert moved_scene.depth.device.type == 'cpu' and moved_scene.instances.scores.device.type == 'cpu'


def truth(batch: SceneBatch) -> SceneGroundTruth:
    """Return 400 vertices in front of the cameras of one scene."""
    views, count = batch.images.shape[1], 400
    cameras = np.tile(np.eye(4), (views, 1, 1))
    cameras[:, 0, 3] = np.arange(views)
    lens = np.tile(np.array([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1.0]]), (views, 1, 1))
    points = np.random.default_rng(0).random((count, 3)) + [0, 0, 1]
    return SceneGroundTruth('s0', points, np.repeat(np.arange(4) * 1000 + 4001, count // 4), np.arange(count) // 10,
                            np.full((views, SIZE, SIZE), 1.5, np.float32), lens, cameras, np.tile(np.eye(3), (views, 1, 1)))


def planted(watch: Watch) -> None:
    """A part that leaves a tensor on the CPU."""
    was = dpt.add_positions
    dpt.add_positions = lambda maps, size, **_: maps + torch.ones(maps.shape[-1])
    try:
        predict(model_of(tiny.MODEL))
    finally:
        dpt.add_positions = was


CASES = dict(
    main=main_step, losses=losses, pretext=pretext, teachers=teachers, metrics=metrics, planted=planted,
    points=points('spformer', {'model.network.levels': 2, 'model.network.blocks': 1, 'model.decoder.layers': 1}),
    **{f'backbone {name}': backbone(name) for name in tiny.run_here(SLOTS['backbones'])},
    **{f'backbone {name} {change["type"]}': backbone(name, global_attention=change) for name, change in DOORS},
    recomputed=backbone('VGGT', activation_checkpointing=True),
    **{f'head {name}': head(name) for name in tiny.run_here(SLOTS['heads'])},
    **{f'queries {name}': queries(name) for name in tiny.run_here(SLOTS['queries'])},
    masked=queries('InsertedQueries', mask_attention=dict(threshold=0.4)))


def main(names: list[str]) -> None:
    """Run the cases and print a line for each."""
    torch.set_num_threads(1)
    cross_attention._choose = lambda query, key: 'one_hot'                     # as on CUDA
    hungarian.HungarianMatcher.assign = lambda self, cost, pred, target: ()
    hungarian._pairs = lambda given, shape: [torch.arange(min(shape)), torch.arange(min(shape))]
    for name in names or CASES:
        watch, start, result, fault = Watch(DEVICE.type, scalar, found), time.process_time(), None, None
        with watching(watch, MODE):
            try:
                result = CASES[name](watch)
            except Exception as error:
                lines = [frame for frame in traceback.extract_tb(error.__traceback__) if str(ROOT) in frame.filename]
                fault = f'{type(error).__name__}: {str(error).splitlines()[0][:200]}' + \
                    f' ({lines[-1].filename.removeprefix(str(ROOT))}:{lines[-1].lineno})'
        print(json.dumps(dict(case=name, fault=fault, found=result, noted=notes(watch), operations=watch.operations,
                              seconds=round(time.process_time() - start, 2))), flush=True)


if __name__ == '__main__':
    main(sys.argv[1:])
    leave()
