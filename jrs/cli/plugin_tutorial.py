"""What docs/plugins.md says before and beside what the code says of itself."""

HEAD = """# Plugins

Written by `python tools/plugins.py docs --out docs/plugins.md` from `jrs/contracts`, `jrs/structures.py` and
`jrs/hookspecs.py`; a test keeps page and code equal. A part is a class with one decorator; a config names the plugin and the
part; nothing in jrs is edited."""

TUTORIAL = """## From an idea to a trained run

**Begin.** `python tools/plugins.py new my_cost --slot COSTS` writes a working part into `plugins/my_cost/` with a README,
and a test into `tests/plugins/`; `--into FOLDER` puts all of it elsewhere. Or write it by hand, one file is enough:

```python
# my_folder/total_variation.py
from jrs.registry import ALIGNMENTS

@ALIGNMENTS.register_module()
class TotalVariation:
    \"\"\"Half of the absolute difference of two distributions over views.\"\"\"

    def __call__(self, attention, target):          # (..., V) each, rows sum to 1
        return 0.5 * (attention - target).abs().sum(dim=-1)
```

A plugin is such a file, or a folder whose `__init__.py` imports its files (`from jrs_plugins.my_cost import part`):
importing registers, and a file that nobody imports registers nothing. `plugins=[…]` names it by path
(`'./my_folder/total_variation.py'`, relative to the config), by the name of its folder below `plugins/` or
`$JRS_PLUGIN_PATH`, by an entry point of the group `jrs.plugins` of an installed package, or by the name of an importable
module. Two plugins of one name, and a part with the name of another, are refused.

**Put it into an experiment.** A config is a Python file that inherits from one of `configs/` and says what differs:

```python
# my_row.py, in the repository's folder
_base_ = 'configs/segvggt/all24_fada.py'
plugins = ['./my_folder/total_variation.py']
model = dict(alignment=dict(type='TotalVariation'))
```

`type` is the class name, the other keys are arguments of its constructor. They are merged into what the base says there:
arguments that a part of another `type` does not have are dropped, `_delete_=True` beside `type` drops all. None turns an
entry off. A key that the base does not have, an argument that the part does not have, a name that nobody registers are
refused with near spellings. `python tools/print_config.py my_row.py --diff` shows what the row changes. On a command line
lists are written as in Python, `--cfg-options "plugins=['./mine.py']"`, with paths relative to the working folder.

**Train it small.** Profiles exchange the sizes of an experiment: `debug` takes seconds, `rooms` minutes on a CPU, both on
built-in rooms.

    python tools/prepare.py rooms --preset debug --out data/rooms/debug
    python tools/train.py my_row.py --profile debug
    python tools/test.py my_row.py work_dirs/my_row_debug_seed0/weights.safetensors --profile debug
    python tools/infer.py PHOTOS --out outputs/mine --checkpoint work_dirs/my_row_debug_seed0/weights.safetensors
    python tools/prepare.py rooms --preset tiny --out data/rooms/tiny
    python tools/train.py my_row.py --profile rooms

A part gets those sizes of the profile that its constructor has: call the number of queries `num_queries`, D
`embedding_dim`, attention heads `num_heads`, the depth of a backbone `depth`. They replace what your config says there, and
a default too; an argument that is no size of that kind needs another name (`print_config.py my_row.py --profile debug`
shows them). Widths of images are rounded to what the patches of the backbone allow, and a teacher of other patches sees
resized images. `debug` exchanges the teacher too; `data_root` and type, folder, split and benchmark of data that your
config names stay. What an experiment wants otherwise under a profile it says under that profile's name, and that wins:
`profiles = dict(debug=dict(model=dict(matcher=dict(k=2))))`.

**Check it.** `python tools/plugins.py check my_cost` (or a path) runs a small batch through each part: shapes, order of
views, gradients, one view, no instance. It says which parts keep their contracts and what lacks, and exits with 1 while
anything does: a docstring, a test (`test_my_cost.py` beside the plugin or in `tests/` there), a README.md in a plugin
that is a folder. A part that is built into a run is checked at once too: every attribute and method that the contract of
its slot names must be there, or the run stops before anything is trained. Tests of a plugin that is in the repository
stand in `tests/plugins/`; `faults_of(PART, COSTS) == []` of `jrs.trials` is the same trial."""

RECIPES = """## Four recipes

**A matcher with a new cost, and its loss.** One name joins the three: the cost, the loss and their weight.

```python
model = dict(
    weights=dict(spill=1.0),
    matcher=dict(type='GreedyMatcher', costs=dict(spill=dict(type='SpillCost'))),
    losses=dict(spill=dict(type='SpillLoss')))
```

The cost takes `weight` in its constructor and multiplies by it; the loss does not, the criterion does. A weight that no
cost and no loss has, and a cost or loss without one, are refused. Derive the matcher
from `CostMatcher` and write `assign`; a third tensor that it returns weighs the pairs, which losses respect through
`match.mean`. Sections: MATCHERS, COSTS, LOSSES.instances; structures: QueryPredictions, MaskLogits, InstanceTargets,
Match.

**A data set of a foreign RGB-D layout, read directly.** Subclass `Scene` for one recording and `SceneDataset` for the
list of them; cropping, choice of views, transforms, ids and ground truth are theirs. Poses are `cam_from_world`: invert a
file's `world_from_cam`, and leave out frames whose pose was lost. Depth is float metres, 0 without a reading (7-Scenes
writes 65535). Instances are `SceneInstance(id, label, {})` with ids 1 .. 999, the same in all views; ids that it does not
list are background. A benchmark of your own says which labels are classes: those spelled as one, or those in its `labels`,
`dict(couch='sofa')`; for a published one give class ids, `SceneInstance(id, label, {'scannet200': 7})`. Without a mesh the
depth of the views is what is scored against; without depth there is nothing to score instances and depth on, and training
needs a pre-trained teacher. `jrs.io.photo.read_photo(path)` reads a picture as (H, W, 3) uint8, `jrs.io.png.read_png16` a
16-bit one as (H, W) uint16, to be divided by the factor of the files. The first lines of a run say which data it reads.
No score shows poses that were not inverted or a factor that is a little wrong: look at the points of two views together.

```python
benchmarks = dict(furniture=dict(class_names=('chair', 'table')))
model = dict(num_classes=2)
_data = dict(_delete_=True, type='MyScenes', folder='my_data', benchmark='furniture', width=518)
train_dataset = dict(mode='train', split='train', view_spacing=(1, 10), transform=dict(type='TrainViews'), **_data)
val_dataset = dict(mode='test', split='val', max_views=24, **_data)
test_dataset = dict(mode='test', split='val', **_data)
metrics = dict(instances=dict(benchmark='furniture'))
experiment = dict(trained_on='my recordings', weights_licence='mine')           # for the card of the weights
```

`max_views`, `limit_scenes`, `width` and `view_spacing` are sizes: a profile exchanges them and says so, unless the config
names them under that profile, `profiles = dict(rooms=dict(train_dataset=dict(view_spacing=(1, 10))))`. A whole example, 60
lines for TUM's layout, with its config: `tests/examples/tum_scenes.py`, `tum_row.py`.

Section: DATASETS; structures: SceneDataset, Scene, Frame, Camera, SceneInstance, SceneBatch, Benchmark.

**A backbone without special tokens, patch 8, no camera head.** Yield one `LayerState` per layer that queries may read
(`LayerState.of_views` where all views have as many tokens), leave four taps of `feature_dim` for the dense heads, and no
`geometry_tokens`. Without cameras there is nothing for their loss and metric, and scenes come without a point cloud; or
take a camera head that needs no token, as in HEADS.camera_head.

```python
model = dict(backbone=dict(_delete_=True, type='MyBackbone'), camera_head=None, losses=dict(camera=None))
metrics = dict(cameras=None)
weights = None
profiles = dict(rooms=dict(weights=None))           # rooms begins with weights of a small VGGT
```

Every part of `backbone.*`, `camera_head.*` and `depth_head.*` learns at the rate of the group `pretrained`, in the
paper's setting 6e-5, which is meant for VGGT-1B: a network that starts from random numbers wants that of `new`,
`parameter_groups = dict(pretrained=dict(lr=2e-4))`. A pre-trained teacher has a backbone of its own, and patches of its
own; its weights are read after yours and need not fit your backbone. Sections: BACKBONES, HEADS; structures:
LayerState, FeatureTaps.

**A metric on mmengine's base class.** `process` appends what is small to `self.results`, `compute_metrics` makes numbers
of all of it; each scene counts once, whatever the number of processes.

```python
metrics = dict(mine=dict(type='MyMetric'))
```

Section: METRICS; structures: SceneBatch, Reconstruction, Instances."""

CONVENTIONS = """## Conventions

**Alphabet**, one meaning each: `B` scenes · `V` views · `H, W` pixels · `P` tokens per view, special ones included · `T`
tokens of a scene · `C` width of tokens · `L` layers at which queries read · `Q` queries · `G` true instances · `K`
classes · `D` channels of instance features · `M` predicted instances · `N` points or vertices · `h, w` pixels of masks.
Sizes are (H, W), always in that order. A view is one image of a scene. Matchers, costs, instance losses and
postprocessors see one scene: no `B`.

**Frames of reference.** OpenCV's: x right, y down, z forward; depth is along z, not along the ray. `cam_from_world` (4,
4) maps world to camera coordinates; transforms name both ends. The world of predictions is the first camera's frame, that
of data the recording's own. Intrinsics are in pixels, pixel centres at integers: the middle of W pixels is (W - 1) / 2.
Names with `_m` are metres; predicted geometry is of arbitrary scale unless the backbone says otherwise. A pose encoding
is translation (3), quaternion xyzw (4), vertical and horizontal field of view (2, radians) of `cam_from_world`;
`jrs.geometry.camera` has `encode_cameras` and `decode_cameras`.

**Numbers.** Images are RGB; batches travel as uint8 and parts of the model see float32 in [0, 1]. Backbone and queries
may run in autocast (`model.autocast`), everything after them in float32. The device is that of the inputs; write
`device=x.device`, never a name. Only the generators that a part is given are random in data sets, samplers and
transforms: a run that was killed goes on exactly.

**Constructors.** What a slot offers, a part receives where its constructor has an argument of that name and the config
does not set it. `**options` count as taking what the parent's constructor takes. A part of a part is built with
`jrs.registry.build(SLOT, cfg, path)`, and `path` is where it stands in the config.

**What a trial needs.** `check` builds a part from what its slot offers (dim=16, dim_in=32, num_layers=2, patch_size=8,
num_classes=5, weight=1.0 for a cost, an alignment, two costs with weights, num_scenes=3, seed=0, rank 0 of 1, an empty
data_root), from small `num_queries`, `num_heads` and `embedding_dim`, a head also from small `features` and
`out_channels`, and from defaults. For the rest give the class an attribute `example`: a mapping of arguments, or a
function of an empty folder that may write files there and returns one. A backbone gets its `example` only.

**Errors.** Raise `jrs.errors.ConfigError` for what a config cannot mean, `DataError` for files: they are printed without
a traceback. Say what was given, what is allowed, and what to do.

**Docstrings.** First what the part is for, then each argument; tensors with their shape. `check` asks for one.

**Imports.** A plugin of the repository uses `jrs` up to its parts (not `jrs.models`, `jrs.engine`, `jrs.report`,
`jrs.cli`; tests may), and no other plugin. Packages that not everybody has are imported in the function that needs
them."""

HOOKS = """## Hooks of a plugin

Functions in the plugin's `__init__.py`, marked with `@hook` (`from jrs.plugins import hook`), with any of the arguments
that are written here. Only plugins that a config names are called. Hooks return values; they do not reach into the model.
A misspelt name or argument is refused when the plugin is loaded."""
