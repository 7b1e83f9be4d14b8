"""Bad inputs of every command and what the answer must name: run by test_bad_inputs.py, listed by bad_inputs_table.py."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from tests._data import MAIN, command
from tests.io._tiff import write_png, write_tiff

FAST = ('train.iterations=1', 'batches.views=(2,2)', 'batches.max_images=2', 'batches.slots=1',
        'batches.aspect_ratio=(0.75,0.75)', 'hooks.pictures=None')
SCENE = 'scene0000_00'


Content = bytes | Callable[[bytes], bytes] | None


def replace(files: Iterable[Path], content: Content) -> None:
    """Write `content`, or what it makes of the file, to each of `files`; None removes them."""
    for path in list(files):
        new = content(path.read_bytes()) if callable(content) else content
        path.unlink() if new is None else path.write_bytes(new)


@dataclass
class Site:
    """What a case may use: a folder of its own, sound data and weights, and the commands."""

    tmp: Path
    sound: Path
    weights: Path

    @classmethod
    def make(cls, folder: Path) -> Site:
        """Return a site that is made in `folder` with all that it needs."""
        from tests._data import make_data
        (folder / 'own').mkdir()
        return cls(folder / 'case', make_data(folder, folder / 'own'), untrained(folder / 'weights.safetensors'))

    def train(self, *options: str, config: Path = MAIN, profile: str = 'debug', flags: tuple = (),
              data: Path | None = None) -> int:
        return command('train', config, '--profile', profile, '--work-dir', self.tmp / 'run', *flags, '--cfg-options',
                       f'data_root={data or self.sound}', *FAST, *options)

    def leaf(self, text: str) -> Path:
        return self.write('leaf.py', f'_base_ = {str(MAIN)!r}\n{text}\n')

    def test(self, checkpoint, *options: str, flags: tuple = ()) -> int:
        return command('test', MAIN, checkpoint, '--profile', 'debug', '--out', self.tmp / 'out', *flags, '--cfg-options',
                       f'data_root={self.sound}', *options)

    def infer(self, *words, checkpoint: Path | None = None) -> int:
        return command('infer', '--config', MAIN, '--profile', 'debug', '--checkpoint', checkpoint or self.weights,
                       '--device', 'cpu', '--no-glb', '--out', self.tmp / 'out', *words)

    def write(self, name: str, content: str | bytes = '') -> Path:
        path = self.tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def photos(self, *broken: bytes) -> Path:
        """A folder of one sound photo and the `broken` ones."""
        for number, content in enumerate(broken):
            self.write(f'photos/broken{number}.jpg', content)
        (self.tmp / 'photos').mkdir(exist_ok=True)
        Image.fromarray(np.full((48, 64, 3), 99, np.uint8)).save(self.tmp / 'photos' / 'sound.jpg')
        return self.tmp / 'photos'

    def camera(self, scale: str = 'arbitrary', **changes) -> Path:
        """A cameras.json with a camera of the sound photo, with these changes."""
        sound = dict(name='sound', width=64, height=48, intrinsics=[[50, 0, 32], [0, 50, 24], [0, 0, 1]],
                     cam_from_world=np.eye(4).tolist())
        return self.write('cameras.json', json.dumps(dict(scale=scale, cameras=[sound | changes])))

    def depth(self, image: np.ndarray) -> Path:
        """A folder with this depth image (h, w) or (h, w, 3) of the sound photo."""
        (self.tmp / 'depth').mkdir(exist_ok=True)
        Image.fromarray(image).save(self.tmp / 'depth' / 'sound.png')
        return self.tmp / 'depth'

    def damaged(self, change: Callable[[Path], object]) -> Path:
        """A copy of the data on whose `rooms/debug` `change` was called."""
        data = shutil.copytree(self.sound, self.tmp / 'data')
        change(data / 'rooms' / 'debug')
        return data

    def in_every_scene(self, file: str, content: Content) -> Path:
        """A copy of the data with one file of each scene replaced, changed or removed."""
        return self.damaged(lambda folder: replace(folder.glob(f'*/{file}'), content))

    def raw(self, file: str, content: Content) -> int:
        """Prepare a raw scan with one kind of file replaced, changed or removed."""
        from tests.datasets._raw_scan import write_raw
        replace(write_raw(self.tmp / 'raw', (SCENE,), num_frames=2, lost=()).rglob(file), content)
        return command('prepare', 'scannet', '--raw', self.tmp / 'raw', '--out', self.tmp / 'prepared', '--every', 1)

    def evaluate(self, prediction: str | None, mask: str = '1\n0\n1\n', truth: str = '2001\n0\n2001\n',
                 benchmark: str = 'scannet20', flags: tuple = (), arrays: bytes | None = None) -> int:
        (self.tmp / 'truth').mkdir()
        (self.tmp / 'found').mkdir()
        if truth:
            self.write(f'truth/{SCENE}.txt', truth)
        if prediction is not None:
            self.write(f'found/{SCENE}.txt', prediction)
        self.write('found/predicted_masks/0.txt', mask)
        if arrays is not None:
            (self.tmp / f'found/{SCENE}.npz').write_bytes(arrays)
        return command('evaluate', '--predictions', self.tmp / 'found', '--ground-truth', self.tmp / 'truth',
                       '--benchmark', benchmark, *flags)

    def export(self, out: Path, *words, data: Path | None = None) -> int:
        return command('evaluate', 'export-ground-truth', '--scenes', (data or self.sound) / 'rooms' / 'debug', '--split',
                       'train', '--benchmark', 'scannet200', '--out', out, *words)

    def timings(self, entry: str) -> int:
        file = self.write('times.yaml', f'timings: [{{{entry}}}]')
        return command('reproduce', '--table', 6, '--dry-run', '--timings', file)

    def attention(self, *words) -> int:
        return command('attention', MAIN, *words, '--profile', 'debug', '--device', 'cpu', '--out', self.tmp / 'out',
                       '--cfg-options', f'data_root={self.sound}')

    def run(self, **files: str) -> Path:
        """A run folder with a config and these files (`terms_jsonl` for terms.jsonl)."""
        from jrs.config import load_config
        self.write('run/config.py', load_config(MAIN, 'debug').pretty_text)
        for name, text in files.items():
            self.write('run/' + name.replace('__', '/').replace('_', '.'), text)
        return self.tmp / 'run'

    def scannetpp(self, file: str, content: Content, *options: str) -> int:
        """Prepare a raw ScanNet++ scene with one kind of file replaced, changed or removed."""
        from tests.datasets._raw_scannetpp import write_raw
        replace(write_raw(self.tmp / 'raw').rglob(file), content)
        return command('prepare', 'scannetpp', '--raw', self.tmp / 'raw', '--out', self.tmp / 'prepared', *options)

    def plugin(self, text: str, config: str = '') -> int:
        """Train with a plugin `bad` of this text, and with more lines of the config."""
        self.write('bad/__init__.py', text)
        with forgotten():
            return self.train(config=self.leaf(f"plugins = ['./bad']\n{config}"))


@contextmanager
def forgotten() -> Iterator[None]:
    """Undo what a plugin of a case registers and imports."""
    from jrs import plugins
    from jrs.registry import SLOTS
    parts = {slot: (slot.names(), dict(slot.module_dict))[1] for slot in SLOTS.values()}
    try:
        yield
    finally:
        for slot, before in parts.items():
            slot._module_dict.clear()
            slot._module_dict.update(before)
        if plugins.manager().has_plugin('bad'):
            plugins.manager().unregister(name='bad')
        for name in [name for name in sys.modules if name.startswith(f'{plugins.NAMESPACE}.bad')]:
            del sys.modules[name]


def untrained(path: Path) -> Path:
    """Write weights of the debug profile, never trained."""
    from jrs.config import load_config
    from jrs.engine.build import build_model
    from jrs.io.weights import save_weights
    card = dict(origin='a test', licence='Apache-2.0', trained_on='nothing', benchmark='scannet200', num_classes=198)
    save_weights(build_model(load_config(MAIN, 'debug')), path, card)
    return path


def changed_weights(site: Site, name: str = 'w.safetensors', prefix: str = '', **values: float) -> Path:
    """Write the site's weights with the first three numbers of some tensors replaced (`a__b` is a.b), or other names."""
    from safetensors.torch import load_file, save_file
    state = load_file(site.weights)
    for key, value in values.items():
        state[key.replace('__', '.')].view(-1)[:3] = value
    save_file({prefix + key: value for key, value in state.items()}, site.tmp / name)
    return site.tmp / name


def poisoned(site: Site) -> Path:
    return changed_weights(site, queries__tokens=float('nan'))


def overflowing(site: Site) -> Path:
    """Finite weights whose depth and class logits are not."""
    return changed_weights(site, depth_head__scratch__output_conv2__2__bias=1e4, class_head__2__bias=3e38,
                           class_head__2__weight=3e38)


def index_of(site: Site) -> Path:
    return site.write('w.safetensors.index.json', '{"weight_map": {"a": "w-00001-of-00002.safetensors"}}')


def edited(**changes) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | changes).encode()


def half(content: bytes) -> bytes:
    return content[:len(content) // 2]


def small_png(_: bytes) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((2, 3), np.uint16)).save(stream, 'PNG')
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that says that it has so many pixels."""
    with TemporaryDirectory() as folder:
        return write_png(Path(folder, 'a.png'), np.zeros((1, 1), np.uint8), 8, size=(width, height)).read_bytes()


def tiff(samples: np.ndarray) -> bytes:
    """Return samples (H, W) as a TIFF."""
    with TemporaryDirectory() as folder:
        return write_tiff(Path(folder, 'a.tif'), samples).read_bytes()


def frames_of_a_recording(content: bytes) -> bytes:
    """A recording whose header announces 10^12 frames."""
    at = 12 + int.from_bytes(content[4:12], 'little') + 256 + 28             # after name, cameras, sizes and depth shift
    return content[:at] + (10 ** 12).to_bytes(8, 'little') + content[at + 8:]


SQUARES = '''from jrs.registry import ALIGNMENTS
@ALIGNMENTS.register_module()
class Squares:
    def __call__(self, attention, target):
        return (attention - target) ** 2
'''
EACH_QUERY = '''from jrs.registry import LOSSES
@LOSSES.register_module()
class EachQuery:
    reads = 'instances'
    def __call__(self, pred, target, match):
        return pred.class_logits.sum(dim=-1)
'''
CONFIGS = {
    'config that is not there': (lambda s: s.train(config=MAIN.with_name('all24_fda.py')),
                                 ['all24_fda.py', 'all24_fada.py']),
    'config with a syntax error': (lambda s: s.train(config=s.write('c.py', 'a = 1\nmodel = dict(\n')), ['c.py, line 2']),
    'config that raises': (lambda s: s.train(config=s.write('c.py', 'model = 1 / 0')),
                           ['c.py, line 1', 'ZeroDivisionError']),
    'config in yaml': (lambda s: s.train(config=s.write('c.yaml', 'model: 3')), ['c.yaml', '.py']),
    'config without most of it': (lambda s: command('train', s.write('c.py', 'seed = 0')),
                                  ["'model'", 'all24_fada.py']),
    'base that is not there': (lambda s: s.train(config=s.write('c.py', "_base_ = './gone.py'")), ['gone.py', '_base_']),
    'unknown profile': (lambda s: s.train(profile='room'), ["'room'", "'rooms'"]),
    'misspelt section': (lambda s: s.train(config=s.leaf('modle = dict(num_classes=3)')), ["'modle'", "'model'"]),
    'misspelt argument': (lambda s: s.train(config=s.leaf('model = dict(num_clases=3)')),
                          ['model.num_clases', "'num_classes'"]),
    'misspelt type': (lambda s: s.train(config=s.leaf("model = dict(alignment=dict(type='JensenShanon'))")),
                      ['model.alignment', "'JensenShannon'"]),
    'argument that its part refuses': (
        lambda s: s.train("model.alignment={'type': 'KullbackLeibler', 'direction': 'backward'}"),
        ["'backward'", 'forward', 'reverse']),
    'part without a type': (lambda s: s.train("model.alignment={'direction': 'forward', '_delete_': True}"),
                            ['model.alignment', '`type`', 'JensenShannon']),
    'option without =': (lambda s: s.train('train.iterations'), ["'train.iterations'", 'a.b=value']),
    'option that does not exist': (lambda s: s.train('trian.iterations=3'), ['trian', "'train'"]),
    'option of the wrong kind': (lambda s: s.train('train.iterations=ten'), ['train.iterations', "'ten'", 'number', '20']),
    'option that is no number': (lambda s: s.train('optimizer.lr=nan'), ['optimizer.lr=nan', 'no finite number']),
    'option left out of the config, as text': (lambda s: s.train('optimizer.lr=much'), ['optimizer.lr', "'much'", '0.001']),
    'option in the words of JSON': (lambda s: s.train('model.teacher=null'), ['model.teacher=None']),
    'section replaced by a number': (lambda s: s.train('train=3'), ['train', 'mapping', '3']),
    'seed that is none': (lambda s: s.train('seed=-1'), ['seed', '-1']),
    'views the wrong way round': (lambda s: s.train('batches.views=(5,2)'), ['views', '(5, 2)', 'low <= high']),
    'loss without a weight': (lambda s: s.train("model.weights={'fada': 1.0, '_delete_': True}"),
                              ['classification', 'weight']),
    'geometry loss without a teacher': (lambda s: s.train('model.teacher=None'), ['camera', 'model.teacher']),
    'no loss at all': (lambda s: s.train(*(f'model.losses.{name}=None' for name in (
        'classification', 'mask_bce', 'mask_dice', 'fada', 'camera', 'depth'))), ['model.losses', 'at least one']),
    'parameter that no group takes': (lambda s: s.train('parameter_groups.pretrained=None'),
                                      ['backbone', 'parameter_groups']),
    'heads that do not divide the width': (lambda s: s.train('model.queries.num_heads=3'), ['32', '3', 'num_heads']),
    'backbone heads that do not divide the width': (lambda s: s.train('model.backbone.num_heads=5'), ['32', '5', 'heads']),
    'layers that the backbone has not': (lambda s: s.train('model.backbone.feature_layers=(0,1,2,9)'),
                                         ['feature_layers', '9']),
    'width that no patch divides': (lambda s: s.train('train_dataset.width=60'), ['width', '60', '14']),
    'unknown benchmark': (lambda s: s.train('train_dataset.benchmark=scanet200'), ["'scanet200'", "'scannet200'"]),
    'classes that are not the benchmark\'s': (lambda s: s.train('model.num_classes=18'), ['num_classes', '18', '198']),
    'unknown optimizer': (lambda s: s.train('optimizer.type=Adamw'), ["'Adamw'", "'AdamW'"]),
    'unknown launcher': (lambda s: s.train(flags=('--launcher', 'mpi')), ['--launcher', "'mpi'", 'pytorch']),
    'accumulation that makes another update': (lambda s: s.train('train.accumulate=3'),
                                               ['train.accumulate=3', '3 slots', 'batches.slots=3']),
    'launcher that launched nothing': (lambda s: s.train(flags=('--launcher', 'pytorch')), ['torchrun', 'RANK']),
    'unknown plugin': (lambda s: s.train(config=s.leaf("plugins = ['no_such_plugin']")), ["'no_such_plugin'", 'plugins']),
    'plugin that fails': (lambda s: s.plugin('import nothing_of_this_name'),
                          ["'./bad'", 'ModuleNotFoundError', 'import nothing_of_this_name']),
    'plugin that leaves': (lambda s: s.plugin('import sys\nsys.exit(0)'), ["'./bad'", 'SystemExit']),
    'plugin with a misspelt hook': (
        lambda s: s.plugin('from jrs.plugins import hook\n@hook\ndef jrs_trainin_step(iteration):\n    pass'),
        ["'bad'", 'jrs_trainin_step', 'hookspecs']),
    'plugin that changes a shape': (lambda s: s.plugin(SQUARES, "model = dict(alignment=dict(type='Squares'))"),
                                    ['The alignment', "Squares of plugin 'bad'", '(L, Q, G)', 'got']),
    'plugin with a loss for each query': (
        lambda s: s.plugin(EACH_QUERY, "model = dict(losses=dict(fada=dict(type='EachQuery', _delete_=True)))"),
        ["The loss 'fada'", "EachQuery of plugin 'bad'", 'a scalar', '(12,)']),
    'plugin that takes a name': (lambda s: s.plugin(SQUARES.replace('Squares', 'JensenShannon')),
                                 ["already has a 'JensenShannon'", "'jrs'", "'bad'"]),
    'base that is computed': (lambda s: s.train(config=s.write('c.py', "_base_ = str(1)")), ['c.py, line 1', '_base_']),
    'plugins that are computed': (lambda s: s.train(config=s.leaf("plugins = [str(1)]")), ['leaf.py, line 2', 'plugins']),
    'config that is no text': (lambda s: s.train(config=s.write('c.py', b'a = "\xff\xfe"')), ['c.py', 'save it as UTF-8']),
    'config in mmengine\'s newer style': (
        lambda s: s.train(config=s.write('c.py', 'with read_base():\n    from configs.segvggt.all24_fada import *\n')),
        ['c.py, line 1', '_base_ =', 'all24_fada.py']),
    'class as a type': (
        lambda s: s.train(config=s.leaf('import torch\noptimizer = dict(type=torch.optim.AdamW)')),
        ['optimizer.type', "type='AdamW'"]),
    'one metric where metrics have names': (lambda s: s.train(config=s.leaf("metrics = dict(type='DepthMetric')")),
                                            ['metrics holds parts by name', "dict(NAME=dict(type='DepthMetric', ...))"]),
    'one loss where losses have names': (
        lambda s: s.train(config=s.leaf("model = dict(losses=dict(_delete_=True, type='DepthLoss'))")),
        ['model.losses holds parts by name', "dict(NAME=dict(type='DepthLoss', ...))"]),
    'metric that is only a name': (lambda s: s.train('metrics.depth=DepthMetric'),
                                   ['metrics.depth must be a part, dict(type=...)', "'DepthMetric'"]),
    'type of what is no part': (lambda s: s.train(config=s.leaf("model = dict(weights=dict(type='fada'))")),
                                ['model.weights holds values by name', 'no `type`']),
    'group of parameters that is a number': (lambda s: s.train('parameter_groups.new=3'),
                                             ['parameter_groups.new must be dict(parameters=[patterns], ...)', '3']),
    'override that is no literal': (lambda s: s.train('train.iterations={[]: 1}'), ['train.iterations', 'number', '20']),
}
DATA = {
    'no data': (lambda s: s.train(data=s.tmp / 'nowhere'), ['nowhere', 'train_dataset', 'prepare.py rooms --preset debug']),
    'scene of the list that is not there': (lambda s: s.train(data=s.damaged(lambda d: shutil.rmtree(d / SCENE))),
                                            ['train.txt', SCENE, 'prepare.py']),
    'empty list': (lambda s: s.train(data=s.damaged(lambda d: (d / 'train.txt').write_text(''))),
                   ['train.txt', 'prepare.py']),
    'scene.json cut off': (lambda s: s.train(data=s.in_every_scene('scene.json', half)), ['scene.json']),
    'scene.json of another format': (lambda s: s.train(data=s.in_every_scene('scene.json', edited(format=99))),
                                     ['scene.json', '99']),
    'scene.json without cameras': (lambda s: s.train(data=s.in_every_scene('scene.json', edited(cameras=None))),
                                   ['scene.json']),
    'scene without annotation': (lambda s: s.train(data=s.in_every_scene('scene.json', edited(instances=None))),
                                 ['no true instances', 'model.losses']),
    'scene without frames': (lambda s: s.train(data=s.in_every_scene('scene.json', edited(frames=[]))), ['scene', 'frame']),
    'colour image lost': (lambda s: s.train(data=s.in_every_scene('color/*.jpg', None)), ['color', 'missing']),
    'colour image lost, noticed by a worker': (
        lambda s: s.train('train.workers=1', data=s.in_every_scene('color/*.jpg', None)),
        ['color', 'missing. Prepare the scene again.']),
    'colour image cut off': (lambda s: s.train(data=s.in_every_scene('color/*.jpg', half)), ['.jpg']),
    'depth image that is text': (lambda s: s.train(data=s.in_every_scene('depth/*.png', b'depth')), ['depth', '.png']),
    'depth image of another size': (lambda s: s.train(data=s.in_every_scene('depth/*.png', small_png)),
                                    ['depth', '2', '3', '48', '64']),
    'instance image cut off': (lambda s: s.train(data=s.in_every_scene('instances/*.png', half)), ['instances', '.png']),
    'mesh cut off': (lambda s: command('prepare', 'check', s.in_every_scene('mesh.ply', half) / 'rooms' / 'debug'),
                     ['mesh.ply']),
    'ids that are in no table': (lambda s: command('prepare', 'check', s.in_every_scene(
        'scene.json', edited(instances=[])) / 'rooms' / 'debug' / SCENE), ['instances', 'not in the table']),
    'folder that is no scene': (lambda s: command('prepare', 'check', s.tmp), ['scene.json', 'tools/prepare.py']),
    'folder to check that is not there': (lambda s: command('prepare', 'check', s.tmp / 'gone'), ['gone']),
    'superpoints of no scene': (lambda s: command('prepare', 'superpoints', s.tmp), ['scene.json', 'tools/prepare.py']),
}
WEIGHTS = {
    'weights that are not there': (lambda s: s.train('weights=gone.pt'), ['gone.pt', 'weights']),
    'weights that are a pointer file': (lambda s: s.train(f'weights={s.write("w.pt", "version https://git-lfs")}'),
                                        ['w.pt']),
    'weights cut off': (lambda s: s.train(f'weights={s.write("w.safetensors", half(s.weights.read_bytes()))}'),
                        ['w.safetensors']),
    'weights of another width': (lambda s: s.train(f'weights={s.weights}', 'model.queries.num_queries=9'),
                                 ['another size', '(1, 12, 32)', '(1, 9, 32)']),
    **{f'weights that are not finite, to {name}': (
        action, ['w.safetensors holds broken weights', 'queries.tokens 3 of 384 values (3 NaN)', 'earlier checkpoint'])
       for name, action in {
           'train': lambda s: s.train(f'weights={poisoned(s)}'), 'test': lambda s: s.test(poisoned(s)),
           'infer': lambda s: s.infer(s.photos(), checkpoint=poisoned(s)), 'attention': lambda s: s.attention(poisoned(s)),
           'convert': lambda s: command('convert', poisoned(s), '--out', s.tmp / 'o.safetensors', '--profile', 'debug'),
       }.items()},
    'weights whose predictions are not finite': (
        lambda s: s.infer(s.photos(), checkpoint=overflowing(s)),
        ['what the model predicts for', 'not finite: depth ', 'infinite', 'class_logits', 'nothing is ranked']),
    'weights of another model': (lambda s: s.infer(s.photos(), checkpoint=changed_weights(s, prefix='resnet50.a.b.c.d.')),
                                 ['of another model (0 used', 'resnet50. (470)', 'backbone. (148)']),
    'weights in two parts, one of them lost': (lambda s: s.infer(s.photos(), checkpoint=index_of(s)),
                                               ['index.json', 'w-00001-of-00002', 'not there']),
    'resume without a run': (lambda s: s.train(flags=('--resume',)), ['--resume', 'run', 'no checkpoint']),
    'resume with nothing that loads': (lambda s: (s.write('run/iter_1.pth', 'x'), s.train(flags=('--resume',)))[1],
                                       ['none of the 1 checkpoints', 'run']),
    'a run that is there already': (lambda s: (s.write('run/iter_1.pth', 'x'), s.train())[1], ['holds a run', '--resume']),
    'score a checkpoint that is not there': (lambda s: s.test('gone.safetensors'), ['gone.safetensors']),
    'score a checkpoint that is none': (lambda s: s.test(s.write('x.pth', b'\0' * 99)), ['x.pth']),
    'score with another config': (lambda s: s.test(s.weights, *(f'model.{part}.embedding_dim=8' for part in (
        'queries', 'class_head', 'feature_head'))), ['another size', '(16, 32)', '(8, 32)']),
    'score without data': (lambda s: s.test(s.weights, 'data_root=nowhere'), ['nowhere', 'prepare.py']),
    'unknown metric rule': (lambda s: s.test(s.weights, 'metrics.instances.transfer.vote=most'), ["'most'", 'majority']),
    'rule of transfer that nobody has': (lambda s: s.test(s.weights, flags=('--transfer-rules', 'any')),
                                         ["no rule 'any'", "'vote=any'", 'argument=value']),
    'rule of transfer of no argument': (lambda s: s.test(s.weights, flags=('--transfer-rules', 'all', 'votes=any')),
                                        ["PosedTransfer has no argument 'votes'", "'vote'"]),
    'tolerance that is no number': (lambda s: s.test(s.weights, 'metrics.instances.transfer.depth_tolerance_m=narrow'),
                                    ['depth_tolerance_m must be a number', "'narrow'"]),
    'benchmark of other classes': (lambda s: s.test(s.weights, 'metrics.instances.benchmark=scannet20'),
                                   ['scannet20', '18', 'scannet200']),
}
PHOTOS = {
    'photos that are not there': (lambda s: s.infer(s.tmp / 'gone'), ['gone']),
    'folder without photos': (lambda s: s.infer(s.write('empty/readme.txt').parent), ['empty', 'jpg']),
    'photo that is text': (lambda s: s.infer(s.photos(b'hello')), ['broken0.jpg']),
    'photo cut off': (lambda s: s.infer(s.photos(half((s.photos() / 'sound.jpg').read_bytes()))), ['broken0.jpg']),
    'photo of no bytes': (lambda s: s.infer(s.photos(b'')), ['broken0.jpg']),
    'video that is text': (lambda s: s.infer(s.write('walk.mp4', 'hello')), ['walk.mp4']),
    'weights for photos that are not there': (lambda s: s.infer(s.photos(), checkpoint=s.tmp / 'gone.pt'), ['gone.pt']),
    'output that is a file': (lambda s: s.infer(s.photos(), '--out', s.write('file')), ['file', 'folder']),
    'photos in a folder that results replace': (
        lambda s: s.infer(s.photos().rename(s.tmp / 'masks'), '--out', s.tmp), ['masks', 'written anew', '--out']),
    'photos in the pictures of an earlier export': (
        lambda s: s.infer(s.photos().rename(s.write('colmap/x').parent / 'images') / 'sound.jpg', '--out', s.tmp),
        ['images', 'written anew', '--out']),
    'photo of a name that no file can have': (lambda s: s.infer('x' * 300), ['File name too long']),
    'output of a name that no folder can have': (lambda s: s.infer(s.photos(), '--out', s.tmp / ('x' * 300)),
                                                 ['File name too long']),
    'photo of no name': (lambda s: s.infer(''), ["There is no file or folder ''"]),
    'width of photos that no patch divides': (lambda s: s.infer(s.photos(), '--width', 60), ['60', '14']),
    'device that is not there': (lambda s: s.infer(s.photos(), '--device', 'cuda:77'), ['cuda:77']),
    'device of no kind': (lambda s: s.infer(s.photos(), '--device', 'gpu'), ['gpu']),
    'a score that nothing is compared with': (lambda s: s.infer(s.photos(), '--min-score', 'nan'), ['--min-score', 'nan']),
    'every zeroth photo': (lambda s: s.infer(s.photos(), '--every', 0), ['--every']),
    'photo of a kind that is not read': (lambda s: s.infer(s.write('scan.jp2', b'\0\0\0\x0cjP  \r\n\x87\n')),
                                         ['scan.jp2', 'JPEG 2000', 'convert']),
    'photo that is named like another kind': (lambda s: s.infer(s.photos(b'%PDF-1.7') / 'broken0.jpg'),
                                              ['PDF', 'broken0.jpg']),
    'raw file of a camera': (lambda s: s.infer(s.write('a.NEF', b'II*\0')), ['a.NEF', 'raw', 'convert']),
    'photo of 1600 million pixels': (lambda s: s.infer(s.photos(png_header(40000, 40000))),
                                     ['broken0.jpg', 'too large', '1600.0 million', '268 million', 'smaller']),
    'photo of floats without a range': (lambda s: s.infer(s.photos(tiff(np.float32([[0, 255]])))),
                                        ['broken0.jpg', 'not supported', 'floats from 0 to 255', '[0, 1]']),
    'photos and a folder': (lambda s: s.infer(s.photos() / 'sound.jpg', s.photos()), ['photos', 'a folder']),
}
KNOWN = {
    'cameras that are not there': (lambda s: s.infer(s.photos(), '--cameras', 'gone.json'), ['gone.json', '--cameras']),
    'cameras cut off': (lambda s: s.infer(s.photos(), '--cameras', s.write('c.json', '{')), ['c.json', 'no JSON']),
    'cameras without a list': (lambda s: s.infer(s.photos(), '--cameras', s.write('c.json', '{}')), ['c.json', '"cameras"']),
    'cameras of other photos': (lambda s: s.infer(s.photos(), '--cameras', s.camera(name='door')),
                                ['no camera for 1 of 1 views: sound', 'It has: door']),
    'camera of another size': (lambda s: s.infer(s.photos(), '--cameras', s.camera(width=32)),
                               ["'sound'", '32 x 48', '64 x 48']),
    'camera that mirrors': (
        lambda s: s.infer(s.photos(), '--cameras', s.camera(cam_from_world=np.diag([1, 1, -1, 1]).tolist())),
        ['"cam_from_world"', 'rotation']),
    'camera without a focal length': (lambda s: s.infer(s.photos(), '--cameras', s.camera(intrinsics=np.eye(2).tolist())),
                                      ['"intrinsics"', '3 x 3']),
    'depth folder that is not there': (lambda s: s.infer(s.photos(), '--depth', 'gone'), ['gone', '--depth']),
    'depth of other photos': (lambda s: s.infer(s.photos(), '--depth', s.write('d/door.png', small_png(b'')).parent),
                              ['no depth', 'sound', 'door']),
    'depth of 8 bits': (lambda s: s.infer(s.photos(), '--depth', s.depth(np.zeros((48, 64), np.uint8))),
                        ['sound.png', '16 bits', 'got 8 bits']),
    'depth of another aspect': (lambda s: s.infer(s.photos(), '--depth', s.depth(np.ones((48, 48), np.uint16))),
                                ['sound.png', '48 x 48', '64 x 48']),
    'depth in millimetres with cameras without a unit': (
        lambda s: s.infer(s.photos(), '--depth', s.depth(np.ones((48, 64), np.uint16)), '--cameras', s.camera()),
        ['arbitrary', 'millimetres', 'share no unit']),
    'scale from nothing': (lambda s: s.infer(s.photos(), '--scale-from', '2.5'), ["'2.5'", 'length=METRES@VIEW:X,Y']),
    'scale from no length': (lambda s: s.infer(s.photos(), '--scale-from', 'depth=0@sound:1,2'), ['above 0 metres']),
    'scale from a view that is not there': (lambda s: s.infer(s.photos(), '--scale-from', 'depth=2@door:3,4'),
                                            ["'door'", 'sound']),
    'scale from a pixel that is not there': (lambda s: s.infer(s.photos(), '--scale-from', 'depth=2@sound:64,4'),
                                             ['64 x 48', '64,4']),
    'scale from cameras without a unit': (lambda s: s.infer(s.photos(), '--scale-from', f'cameras={s.camera()}'),
                                          ['arbitrary', '"metric"']),
    'scale from one camera': (lambda s: s.infer(s.photos(), '--scale-from', f'cameras={s.camera(scale="metric")}'),
                              ['at least two']),
    'scale of what is in metres': (lambda s: s.infer(s.photos(), '--depth', s.depth(np.ones((48, 64), np.uint16)),
                                                     '--scale-from', 'depth=2@sound:3,4'), ['in metres already']),
    'stream of a model that sees all views': (lambda s: s.infer(s.photos(), '--stream'), ['VGGT', 'one at a time']),
    'stream with cameras': (lambda s: s.infer(s.photos(), '--stream', '--cameras', s.camera()), ['leave out --stream']),
    'stream with a scale': (lambda s: s.infer(s.photos(), '--stream', '--scale-from', 'depth=2@sound:3,4'),
                            ['--stream or --scale-from']),
    'stream of no views': (lambda s: s.infer(s.photos(), '--stream', 0), ['--stream', 'at least 1']),
}
RAW = {
    'raw folder without scans': (lambda s: command('prepare', 'scannet', '--raw', s.write('raw/x').parent, '--out',
                                                   s.tmp / 'o'), ['raw', 'scan']),
    'recording cut off': (lambda s: s.raw('*.sens', half), [SCENE, '.sens']),
    'recording lost': (lambda s: s.raw('*.sens', None), [SCENE, '.sens']),
    'aggregation that is no json': (lambda s: s.raw('*aggregation.json', b'{'), [SCENE, 'aggregation.json']),
    'aggregation without groups': (lambda s: s.raw('*aggregation.json', b'{}'), [SCENE, 'aggregation.json', 'segGroups']),
    'segments lost': (lambda s: s.raw('*segs.json', None), [SCENE, 'segs.json']),
    'label table lost': (lambda s: s.raw('*.tsv', None), ['.tsv']),
    'mesh that is text': (lambda s: s.raw('*.ply', b'ply?'), [SCENE, '.ply']),
    'every zeroth frame': (lambda s: command('prepare', 'scannet', '--raw', s.tmp, '--out', s.tmp / 'o', '--every', 0),
                           ['--every', '0']),
    'unknown preset of rooms': (lambda s: command('prepare', 'rooms', '--preset', 'huge', '--out', s.tmp / 'o'),
                                ['huge', 'tiny']),
    'unknown source': (lambda s: command('prepare', 'scanet', '--raw', s.tmp), ['scanet', 'scannet']),
}
PREDICTIONS = {
    'benchmark that nobody has': (lambda s: s.evaluate('', benchmark='scannet300'), ["'scannet300'", "'scannet20"]),
    'no ground truth': (lambda s: s.evaluate('', truth=''), ['truth', 'no <scene>.txt']),
    'scene without predictions': (lambda s: s.evaluate(None), [SCENE, 'write an empty <scene>.txt']),
    'predictions as a list and as arrays': (lambda s: s.evaluate('', arrays=b''), [f'{SCENE}.npz', 'keep the one']),
    'predictions as arrays that are cut off': (lambda s: s.evaluate(None, arrays=b'PK'), [f'{SCENE}.npz', 'npz']),
    'mask of another length': (lambda s: s.evaluate('predicted_masks/0.txt 2 0.9\n', mask='1\n0\n'), ['0.txt', '2', '3']),
    'mask lost': (lambda s: s.evaluate('predicted_masks/7.txt 2 0.9\n'), ['7.txt']),
    'confidence that is no number': (lambda s: s.evaluate('predicted_masks/0.txt 2 high\n'), [SCENE, 'high']),
    'confidence that is infinite': (lambda s: s.evaluate('predicted_masks/0.txt 2 inf\n'), [SCENE, 'inf']),
    'mask of nan': (lambda s: s.evaluate('predicted_masks/0.txt 2 0.9\n', mask='1\nnan\n1\n'), ['0.txt', 'integer']),
    'confidence that is nan': (lambda s: s.evaluate('predicted_masks/0.txt 2 nan\n'), [SCENE, 'nan']),
    'line with too few words': (lambda s: s.evaluate('predicted_masks/0.txt 2\n'),
                                ['.txt:1', 'mask-file class-id confidence']),
    'class that the benchmark has not': (lambda s: s.evaluate('predicted_masks/0.txt chair 0.9\n'), [SCENE, 'chair']),
    'ground truth that is no number': (lambda s: s.evaluate('', truth='a\nb\n'), [SCENE]),
    'ground truth of another benchmark': (
        lambda s: (s.write('truth/ground_truth.json', '{"benchmark": "scannet200"}'), command(
            'evaluate', '--predictions', s.tmp, '--ground-truth', s.tmp / 'truth', '--benchmark', 'scannet20'))[1],
        ["the ground truth of 'scannet200'", "'scannet20'"]),
    'ground truth into a folder that is not empty': (
        lambda s: s.export(s.write('out/old.txt').parent), ['out', 'not empty (old.txt)', 'Name a folder that is new']),
    'ground truth of a split that is not there': (lambda s: s.export(s.tmp / 'out', '--split', 'vla'),
                                                  ['vla.txt', 'The splits there are: train, val']),
    'ground truth of classes that no object has': (lambda s: s.export(s.tmp / 'out', '--benchmark', 'scannetpp'),
                                                   ["no object is of a class of the benchmark 'scannetpp'"]),
    'ground truth of a scene that is missing': (
        lambda s: s.export(s.tmp / 'out', data=s.damaged(lambda d: shutil.rmtree(d / SCENE))), ['train.txt', SCENE]),
    'ground truth of nothing': (lambda s: command('evaluate', 'export-ground-truth', '--out', s.tmp / 'out'),
                                ['--scenes DIR', '--config FILE', 'neither']),
    'predictions into a folder that is not empty': (
        lambda s: s.test(s.weights, flags=('--save-predictions', s.write('own/old.txt').parent)),
        ['--save-predictions', 'own', 'not empty (old.txt)']),
    'ground truth into a folder that nobody may write to': (lambda s: s.export(Path('/proc/1/truth')),
                                                            ['cannot write to the folder', '/proc/1']),
    'scores into a folder that is a file': (
        lambda s: s.evaluate('', flags=('--out', s.write('file'))), ['cannot write to the folder', 'file']),
    'predictions into a file': (lambda s: s.test(s.weights, flags=('--save-predictions', s.write('own'))),
                                ['--save-predictions', 'own is a file']),
    'predictions that are not given': (lambda s: command('evaluate', '--benchmark', 'scannet20'), ['--predictions']),
}
PREPARE = {
    'scannetpp without scenes': (lambda s: command('prepare', 'scannetpp', '--raw', s.tmp, '--out', s.tmp / 'o'), ['data']),
    'scannetpp of an unknown camera': (lambda s: s.scannetpp('none', None, '--camera', 'phone'), ["'phone'", 'iphone']),
    'scannetpp camera of another kind': (lambda s: s.scannetpp('cameras.txt', b'1 FISHEYE 6 4 1 2 3\n'),
                                         ['cameras.txt', "'FISHEYE'", 'OPENCV_FISHEYE']),
    'scannetpp with poses cut off': (lambda s: s.scannetpp('images.txt', half), ['images.txt']),
    'scannetpp lens of a million pixels a side': (
        lambda s: s.scannetpp('cameras.txt', b'1 PINHOLE 1000000 1000000 9 9 3 3\n'), ['cameras.txt', '1000000']),
    'scannetpp annotation that is no json': (lambda s: s.scannetpp('segments_anno.json', b'[' * 9999),
                                             ['segments_anno.json', 'JSON']),
    'scannetpp label table of other columns': (lambda s: s.scannetpp('map_benchmark.csv', b'a,b\n1,2\n'),
                                               ['map_benchmark.csv', "'instance_map_to'"]),
    'photos to prepare that are not there': (lambda s: command('prepare', 'images', s.tmp / 'gone', '--out', s.tmp / 'o'),
                                             ['gone']),
    'photos to prepare, one of them broken': (
        lambda s: command('prepare', 'images', s.photos(b'hello'), '--out', s.tmp / 'o'), ['broken0.jpg']),
    'scene of photos that is named like a path': (
        lambda s: command('prepare', 'images', s.photos(), '--out', s.tmp / 'o', '--name', '../x'), ["'../x'", '--name']),
    'scene of photos that is named by bytes': (
        lambda s: command('prepare', 'images', s.photos(), '--out', s.tmp / 'o', '--name', os.fsdecode(b'\xff')),
        ['bytes of text', "'\\udcff'"]),
    'scene of photos with a name of 201 bytes': (
        lambda s: command('prepare', 'images', s.photos(), '--out', s.tmp / 'o', '--name', 'x' * 201), ['200 bytes']),
    'frame that is named like a path': (
        lambda s: s.train(data=s.in_every_scene('scene.json', lambda text: text.replace(b'"name": "0"', b'"name": "../0"'))),
        ['scene.json', "'../0' cannot name a file"]),
    'list that leads out of its folder': (
        lambda s: s.train(data=s.damaged(lambda d: (d / 'train.txt').write_text('../../x\n'))), ['train.txt', "'../../x'"]),
    'recording of 10^12 frames': (lambda s: s.raw('*.sens', frames_of_a_recording), [SCENE, '.sens', f'{10 ** 12} frames']),
}
RUNS = {
    'attention of weights that are not there': (lambda s: s.attention('gone.pt'), ['gone.pt', 'untrained']),
    'attention of two of one name': (lambda s: s.attention('a=untrained', 'a=untrained'), ["'a'", 'LABEL=FILE']),
    'attention in a scene that is not there': (lambda s: s.attention('untrained', '--scene', 'kitchen'),
                                               ['--scene kitchen', 'scene0002_00']),
    'attention at a layer that is not there': (lambda s: s.attention('untrained', '--layers', 99), ['--layers', '99']),
    'runs that are not there': (lambda s: command('compare_runs', s.tmp / 'gone'), ['gone', 'no folder']),
    'folder that is no run': (lambda s: command('compare_runs', s.tmp), ['config.py', 'no run folder']),
    'run without a log': (lambda s: command('compare_runs', s.run()), ['terms.jsonl', 'no']),
    'run whose log is cut off': (lambda s: command('compare_runs', s.run(terms_jsonl='{"iteration": 1, "lo\n')),
                                 ['run', 'terms.jsonl', 'damaged']),
    'run whose log is something else': (lambda s: command('compare_runs', s.run(terms_jsonl='[1, 2]\n')),
                                        ['run', 'terms.jsonl', 'damaged']),
    'run whose scores are something else': (
        lambda s: command('compare_runs', s.run(terms_jsonl='{"iteration": 0, "loss": 1}\n', test__results_json='[]')),
        ['run', 'results.json', 'damaged']),
    'mean of no iterations': (lambda s: command('compare_runs', s.tmp, '--smooth', 0), ['--smooth', '0']),
    'table that the paper has not': (lambda s: command('reproduce', '--table', 12, '--dry-run'), ['12']),
    'row that a table has not': (lambda s: command('reproduce', '--table', 3, '--rows', 'FADDA', '--dry-run'), ["'FADDA'"]),
    'row of a config that is not there': (lambda s: command('reproduce', '--configs', 'all24_fda', '--dry-run'),
                                          ["'all24_fda'", "'all24_fada'"]),
    'times of a row that a table has not': (
        lambda s: s.timings('table: 6, method: IGTG, source: me, hardware: A100, total_s: 3'),
        ['times.yaml, entry 1', "no row 'IGTG'", "'IGGT'", 'new_row: true']),
    'times without their machine': (lambda s: s.timings('table: 6, method: IGGT, source: me, total_s: 3'),
                                    ['times.yaml, entry 1', 'needs hardware']),
    'times that are no numbers': (lambda s: s.timings('table: 6, method: IGGT, source: me, hardware: A100, total_s: 3s'),
                                  ['total_s', "'3s'"]),
    'times of a table that was not asked for': (
        lambda s: s.timings('table: 5, input_frames: 100, source: me, hardware: A100, total_s: 3'),
        ['--timings', 'table 5']),
    'published weights of a row that is not there': (
        lambda s: command('reproduce', '--table', 5, '--weights', f'all24_fda={s.weights}', '--dry-run'), ["'all24_fda'"]),
    'published weights that are not there': (
        lambda s: command('reproduce', '--table', 3, '--weights', 'all24_fada=gone.pt', '--dry-run'), ['no file gone.pt']),
    'published weights of a row that takes none': (
        lambda s: command('reproduce', '--table', 5, '--weights', f'all24_fada={s.weights}', '--dry-run'),
        ['Table 5', 'do not depend on weights']),
    'published weights without a row': (
        lambda s: command('reproduce', '--table', 3, '--weights', s.weights, '--dry-run'), ['ROW=FILE']),
    'values to vary without a name': (lambda s: command('reproduce', '--table', 3, '--vary', 'seed', '--dry-run'), ['seed']),
    'benchmark of a table that has no times': (lambda s: command('benchmark', '--table', 3), ['--table', '3']),
    'config to print that is not there': (lambda s: command('print_config', 'gone.py'), ["'gone.py'"]),
    'config to print of a folder that is no run': (lambda s: command('print_config', s.tmp), ['config.py']),
    'difference to nothing': (lambda s: command('print_config', MAIN, '--diff'), ['all24_fada.py', '--diff OTHER']),
    'checkpoint to convert that is not there': (lambda s: command('convert', 'gone.pt', '--out', s.tmp / 'o.safetensors'),
                                                ['gone.pt']),
    'checkpoint to convert with code in it': (
        lambda s: command('convert', s.write('w.pt', b'\x80\x02cos\nsystem\n.'), '--out', s.tmp / 'o.safetensors'),
        ['w.pt', 'bare pickle']),
    'checkpoint to convert that is a web page': (
        lambda s: command('convert', s.write('w.pt', '<html>log in</html>'), '--out', s.tmp / 'o.safetensors'),
        ['w.pt', 'web page']),
    'alpha that is no number': (
        lambda s: command('convert', s.weights, '--out', s.tmp / 'o.safetensors', '--lora-alpha', 'nan'),
        ['--lora-alpha', 'nan']),
    'key list that is none': (lambda s: command('convert', '--keys', s.write('k.txt', 'hello\n'), MAIN),
                              ['k.txt, line 1', 'name shape']),
    'plugin to check that is not there': (lambda s: command('plugins', 'check', 'mask_decodr'), ["'mask_decoder'"]),
    'plugin of a name that is taken': (lambda s: command('plugins', 'new', 'mask_decoder'), ["'mask_decoder'", 'already']),
    'plugin of a name that is none': (lambda s: command('plugins', 'new', 'Mask-Decoder'), ["'Mask-Decoder'", 'lower-case']),
}

def vocabulary(site: Site, *words) -> int:
    """Write a vocabulary."""
    return command('vocabulary', site.tmp / 'new.yaml', *words)


def changed_words(site: Site, old: str, new: str) -> Path:
    """Return the file of a vocabulary in which a text stands in the place of another."""
    site.tmp.mkdir(exist_ok=True, parents=True)
    path = site.tmp / 'words.yaml'
    command('vocabulary', path, '--encoder', 'attributes', '--names', 'chair,lamp,tv')
    path.write_text(path.read_text().replace(old, new))
    return path


WORDS = {
    'a name that the stand-in vocabulary lacks': (
        lambda s: vocabulary(s, '--encoder', 'attributes', '--names', 'sofa,chair'),
        ["no embedding of 'sofa'", 'tools/vocabulary.py']),
    'a text encoder that is none': (lambda s: vocabulary(s, '--encoder', s.tmp, '--names', 'chair'),
                                    ['no folder of a CLIP or SigLIP', 'config.json', 'huggingface.co']),
    'no names to encode': (
        lambda s: vocabulary(s, '--encoder', s.write('clip/config.json', '{"model_type": "clip"}').parent),
        ['--names', 'scannet200']),
    'a vocabulary with a name that has no embedding': (
        lambda s: vocabulary(s, '--encoder', 'attributes', '--names', changed_words(s, '- tv', '- television')),
        ['1 of 3 names have no embedding', 'television', 'words.safetensors']),
    'a vocabulary with a name twice': (
        lambda s: vocabulary(s, '--encoder', 'attributes', '--names', changed_words(s, '- tv', '- chair')),
        ["'chair'", 'twice']),
    'a vocabulary of another width': (
        lambda s: vocabulary(s, '--encoder', 'attributes', '--names', changed_words(s, 'width: 35', 'width: 7')),
        ['words.yaml', 'width 7', 'do not belong together']),
    'words of a model with fixed classes': (lambda s: s.infer(s.photos(), '--classes', 'chair, lamp'),
                                            ['QueryClassHead', 'those of its training', 'docs/words.md']),
    'a vocabulary and no classes at once': (lambda s: s.infer(s.photos(), '--vocabulary', 'words.yaml', '--agnostic'),
                                            ['--vocabulary', '--agnostic']),
    'words and no classes at once': (lambda s: s.infer(s.photos(), '--classes', 'chair', '--agnostic'),
                                     ['--classes', '--agnostic']),
}

CASES = CONFIGS | DATA | WEIGHTS | PHOTOS | KNOWN | RAW | PREDICTIONS | PREPARE | RUNS | WORDS
OWN_TRACEBACK = {'plugin that fails', 'plugin that leaves', 'plugin with a misspelt hook',        # their author's, not ours
                 'plugin that takes a name'}
