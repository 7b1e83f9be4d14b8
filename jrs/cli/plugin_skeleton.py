"""The files of a new plugin: a divergence between distributions over views, the smallest part that an experiment can use."""

from __future__ import annotations

from pathlib import Path

INIT = '''"""One sentence: what {name} adds, and where it comes from."""

from jrs_plugins.{name} import divergence  # noqa: F401
'''
PART = '''"""A divergence between a query's view attention and an instance's view visibility."""

from __future__ import annotations

from torch import Tensor

from jrs.registry import ALIGNMENTS


@ALIGNMENTS.register_module()
class {part}:
    """Total variation: half of the absolute difference of two distributions.

    Args:
        scale: multiplier of the result.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, attention: Tensor, target: Tensor) -> Tensor:
        """Return (...) in [0, scale] for `attention` and `target` (..., V), whose rows sum to 1."""
        return self.scale * 0.5 * (attention - target).abs().sum(dim=-1)
'''
README = '''# {name}

What it adds, in one sentence. Registers `{part}` (`ALIGNMENTS`).

A config that uses it:

    _base_ = 'configs/segvggt/all24_fada.py'
    plugins = [{plugin!r}]
    model = dict(alignment=dict(type='{part}'))

One command, run in the repository:

    python -m pytest {test}

Expected: 3 passed.
'''
TEST = '''"""What the parts of {name} claim."""

{imports}
from jrs.plugins import load_plugins
from jrs.registry import ALIGNMENTS, build

load_plugins([{load}])


def divergence(attention, target, **options):
    part = build(ALIGNMENTS, dict(options, type='{part}'), 'model.alignment')
    return part(torch.tensor(attention), torch.tensor(target))


def test_equal_distributions_do_not_differ():
    assert divergence([[0.25, 0.75], [1.0, 0.0]], [[0.25, 0.75], [1.0, 0.0]]).tolist() == [0.0, 0.0]


def test_distributions_without_a_common_view_differ_by_scale():
    assert float(divergence([1.0, 0.0], [0.0, 1.0], scale=2.0)) == 2.0


def test_every_query_is_compared_with_every_instance():
    assert divergence([[[0.5, 0.5]], [[1.0, 0.0]]], [[1.0, 0.0], [0.0, 1.0]]).shape == (2, 2)
'''


def class_name(name: str) -> str:
    """Return ``TotalVariation`` for ``total_variation``."""
    return ''.join(word.capitalize() for word in name.split('_'))


def skeleton(name: str, folder: Path, test: Path) -> dict[Path, str]:
    """Return path -> text of a new plugin `name` in `folder` with its test at `test`."""
    facts = dict(name=name, part=class_name(name), plugin=name, load=repr(name), test=f'tests/plugins/{test.name}',
                 imports='import torch\n')
    if folder in test.parents:                                         # outside the repository: found by its path
        facts.update(plugin=str(folder.resolve()), load='str(Path(__file__).parents[1])', test=test.resolve(),
                     imports='from pathlib import Path\n\nimport torch\n')
    return {folder / '__init__.py': INIT.format(**facts), folder / 'divergence.py': PART.format(**facts),
            folder / 'README.md': README.format(**facts), test: TEST.format(**facts)}
