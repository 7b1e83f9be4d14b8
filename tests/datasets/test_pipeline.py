"""A `transform` may be a list: ours for all views, and any transform of mmcv that changes colours only."""

import random

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform

from jrs.config import load_config
from jrs.datasets.dataset import SceneDataset, collate_scenes
from jrs.datasets.pipeline import ViewPipeline
from jrs.datasets.sampling import SampleRequest
from jrs.datasets.transforms import TrainViews, crop_around_principal_point
from jrs.errors import ConfigError
from jrs.registry import TRANSFORMS
from tests._data import MAIN

GRAY = dict(type='RandomGrayscale', prob=0.5, keep_channels=True)
LENS = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])


def pictures(count=8):
    return list(np.random.default_rng(1).integers(0, 256, (count, 28, 42, 3), dtype=np.uint8))


def pipeline(*config):
    return ViewPipeline(config[0] if len(config) == 1 else list(config), 'dataset.transform')


def colors(part, seed=0, images=None):
    return part.colors(images or pictures(), np.random.default_rng(seed))


@pytest.fixture
def register(monkeypatch):
    """Register a transform for one test: ``register(function of an image) -> its config``."""
    def add(change, **keys):
        part = type('Own', (BaseTransform,), {'transform': lambda self, results: {**results, **keys,
                                                                                 'img': change(results['img'])}})
        TRANSFORMS.names()
        monkeypatch.setitem(TRANSFORMS._module_dict, 'Own', part)
        return dict(type='Own')
    return add


def test_one_part_of_ours_alone_draws_what_it_drew():
    alone, piped = TrainViews(), pipeline(dict(type='TrainViews'))
    rngs = [np.random.default_rng(3), np.random.default_rng(3)]
    for _ in range(3):
        crops = [part.crop((48, 64), LENS, (28, 42), rng) for part, rng in zip((alone, piped), rngs, strict=True)]
        changed = [part.colors(pictures(), rng) for part, rng in zip((alone, piped), rngs, strict=True)]
        assert crops[0] == crops[1] and all((a == b).all() for a, b in zip(*changed, strict=True))
    assert pipeline(GRAY).crop((48, 64), LENS, (28, 42), rngs[0]) == crop_around_principal_point((48, 64), LENS, (28, 42))


def test_a_transform_of_mmcv_changes_each_view_by_itself_from_the_samples_generator_alone():
    part, states = pipeline(dict(type='TrainViews', jitter_probability=0, grayscale_probability=0), GRAY), []
    runs = []
    for seed in (0, 0, 1):
        np.random.seed(5), random.seed(5), torch.manual_seed(5)
        runs.append([bool((image[..., 0] == image[..., 1]).all()) for image in colors(part, seed)])
        states.append((np.random.random(), random.random(), torch.rand(()).item()))
        random.seed()                                               # what others did before changes nothing
    assert runs[0] == runs[1] != runs[2] and set(runs[0]) == {True, False}
    np.random.seed(5), random.seed(5), torch.manual_seed(5)
    assert set(states) == {(np.random.random(), random.random(), torch.rand(()).item())}


def test_transforms_of_ones_own_stand_inside_those_of_mmcv(register):
    own = register(lambda img: 255 - img)
    image = pictures(1)[0]
    nested = pipeline(dict(type='RandomApply', transforms=[own], prob=1.0))
    assert (colors(nested, images=[image])[0] == 255 - image).all()


@pytest.mark.parametrize('draw', [lambda: np.random.randint(200), lambda: random.randrange(200),
                                  lambda: int(torch.randint(200, ()))])
def test_numbers_of_every_global_generator_repeat_themselves(draw, register):
    part = pipeline(register(lambda img: np.full_like(img, draw())))
    first, again = ([image[0, 0, 0] for image in colors(part, 4)] for _ in range(2))
    assert first == again and len(set(first)) > 4


def test_images_are_bgr_inside_and_rgb_outside_and_floats_are_rounded(register):
    def blue(img):
        return np.concatenate([np.full_like(img[..., :1], 200), img[..., 1:]], axis=2)
    image = pictures(1)[0]
    found = colors(pipeline(register(blue)), images=[image])[0]
    assert (found[..., 2] == 200).all() and (found[..., :2] == image[..., :2]).all()
    assert (colors(pipeline(register(lambda img: img.astype(np.float32) * 0.999)), images=[image])[0]
            == np.floor(image.astype(np.float32) * np.float32(0.999) + 0.5)).all()


@pytest.mark.parametrize(('config', 'words'), [
    (dict(type='RandomFlip', prob=0.01), "RandomFlip sets 'flip'"), (dict(type='Resize', scale=(84, 56)), 'Resize sets'),
    (dict(type='Resize', scale_factor=0.5), 'Resize sets'), (dict(type='Pad', size=(60, 90)), 'Pad sets'),
    (dict(type='CenterCrop', crop_size=20), 'CenterCrop'),
    (dict(type='RandomResize', scale=[(9, 9), (30, 30)]), 'RandomResize'),
    (dict(type='Normalize', mean=[0, 0, 0], std=[255, 255, 255]), "Normalize sets 'img_norm_cfg'"),
    (dict(type='LoadImageFromFile'), "LoadImageFromFile cannot work on a view .*img_path"),
    (dict(type='ImageToTensor', keys=['img']), 'ImageToTensor makes'), (dict(type='RandomGrayscale'), 'keep_channels=True'),
    (dict(type='RandomGrayscale', prob=2), 'RandomGrayscale cannot be made .*prob'),
    (dict(type='RandomApply', transforms=[GRAY, dict(type='RandomFlip', prob=0.5)], prob=0.01), 'RandomFlip sets'),
    (dict(type='RandomChoice', transforms=[[GRAY], [dict(type='CenterCrop', crop_size=9)]], prob=[1.0, 0.0]), 'CenterCrop'),
    (dict(type='RandomGreyscale'), "Did you mean 'RandomGrayscale'"),
    (dict(GRAY, probability=1), "no argument 'probability'")])
def test_what_does_more_than_changing_colours_is_refused_by_name_before_training(config, words):
    with pytest.raises(ConfigError, match=words) as caught:
        pipeline(dict(type='TrainViews'), config)
    assert str(caught.value).startswith('dataset.transform.1') or 'dataset.transform.1' in str(caught.value)


@pytest.mark.parametrize(('change', 'keys', 'words'), [
    (lambda img: img[:, :-1].copy(), {}, 'makes .*83, 3. of an image of'),
    (lambda img: img / 255, {}, 'float64 from 0.0 to 1.0'),
    (lambda img: img.astype(np.float32) - 9, {}, 'from -9'), (lambda img: img.astype(int), {}, 'gives int64'),
    (lambda img: img, dict(scale_factor=1.0), "sets 'scale_factor'"), (lambda img: img.tolist(), {}, 'makes list'),
    (lambda img: cv2.cvtColor(img, cv2.COLOR_BGR2GRAY), {}, 'keep_channels')])
def test_results_that_are_no_view_any_more_are_refused(change, keys, words, register):
    with pytest.raises(ConfigError, match=f'Own .*{words}'):
        pipeline(register(change, **keys))


def test_two_parts_that_crop_are_refused():
    with pytest.raises(ConfigError, match='TrainViews and TrainViews both crop'):
        pipeline(dict(type='TrainViews'), dict(type='TrainViews'))


def test_a_transform_of_mmcv_stands_in_a_config_and_moves_nothing(prepared):
    nested = dict(type='RandomApply', transforms=[GRAY], prob=1.0)
    options = dict(data_root=prepared.parent, width=84)
    plain, gray = (SceneDataset('out', 'train', 'scannet20', transform=transform, **options)
                   for transform in (dict(type='TrainViews'), [dict(type='TrainViews'), dict(nested)]))
    request = SampleRequest(0, 7, 6, 0.7)
    before, after, again = plain[request], gray[request], gray[request]
    assert torch.equal(after.images, again.images) and not torch.equal(before.images, after.images)
    assert torch.equal(before.depth_m, after.depth_m) and torch.equal(before.instance_ids, after.instance_ids)
    workers = torch.utils.data.DataLoader(gray, batch_sampler=[[request]], num_workers=1, collate_fn=collate_scenes)
    assert torch.equal(next(iter(workers)).images, after.images)
    wish = {'train_dataset.transform': [dict(type='TrainViews'), nested]}
    assert load_config(MAIN, 'debug', wish).train_dataset.transform[1].transforms[0].prob == 0.5
    with pytest.raises(ConfigError, match="Grayscale has no argument 'probability'"):
        load_config(MAIN, 'debug', {'train_dataset.transform': [dict(nested, transforms=[dict(GRAY, probability=1)])]})


def test_a_list_takes_the_place_of_a_part_and_a_part_that_of_a_list(tmp_path):
    row = tmp_path / 'row.py'
    row.write_text(f"_base_ = '{MAIN}'\ntrain_dataset = dict(transform=[dict(type='TrainViews'), {GRAY}])\n")
    assert load_config(row, 'debug', {'train_dataset.transform.1.prob': 0.3}).train_dataset.transform[1].prob == 0.3
    assert load_config(row, 'debug', {'train_dataset.transform': GRAY}).train_dataset.transform == GRAY
    with pytest.raises(ConfigError, match="'2' is no index"):
        load_config(row, 'debug', {'train_dataset.transform.2.prob': 0.3})
