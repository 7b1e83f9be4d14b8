"""docs/plugins.md: a tutorial, conventions, and everything that the contracts, structures and hooks say of themselves."""

from __future__ import annotations

import inspect

from jrs import hookspecs, structures
from jrs.benchmarks import Benchmark
from jrs.cli.plugin_tutorial import CONVENTIONS, HEAD, HOOKS, RECIPES, TUTORIAL
from jrs.contracts.page import ORDER, hook_text, slot_lines, slot_text, structure_text
from jrs.datasets.dataset import SceneDataset
from jrs.datasets.sampling import SampleRequest
from jrs.datasets.scene import Camera, Frame, Scene, SceneInstance
from jrs.datasets.scenes import ScenesOfSplit
from jrs.datasets.transforms import ResizeCrop
from jrs.layers.layout import Layout
from jrs.masks import MaskLogits

STRUCTURES = (
    structures.SceneBatch, structures.InstanceTable, structures.SceneGroundTruth, structures.LayerState,
    structures.FeatureTaps, structures.Priors, Layout, structures.QueryPredictions, MaskLogits, structures.InstanceTargets,
    structures.Match, structures.Predictions, structures.GeometryTargets, structures.Instances, structures.PackedMasks,
    structures.Reconstruction, structures.MatchedAttention, SampleRequest, SceneDataset, ScenesOfSplit, Scene, Frame,
    Camera, SceneInstance, ResizeCrop, Benchmark)


def page() -> str:
    """Return the whole page."""
    hooks = {name: spec for name, spec in vars(hookspecs).items() if inspect.isfunction(spec)}
    listed = '\n'.join(f'    {line}' for line in slot_lines())
    parts = [HEAD, TUTORIAL, RECIPES, CONVENTIONS,
             f'## Slots\n\n`python tools/plugins.py describe SLOT` prints any of these sections.\n\n{listed}',
             *(slot_text(slot, level=3) for slot in ORDER),
             '## Structures\n\nWhat parts are given and give back, each under the module that it is imported from.',
             *(structure_text(structure, level=3) for structure in STRUCTURES), f'{HOOKS}\n\n{hook_text(hooks)}']
    return '\n\n'.join(part.strip() for part in parts) + '\n'
