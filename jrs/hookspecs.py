"""The plugin contract, on one page. A plugin implements any of these with ``@jrs.plugins.hook``.

Most plugins need none: a registered class and a config line are enough. Hooks return values; they do not reach into
the model. Those of a plugin are called for the configs and runs that name it in `plugins`, and for no other.
"""

from __future__ import annotations

import pluggy

PROJECT = 'jrs'
spec = pluggy.HookspecMarker(PROJECT)


@spec
def jrs_config_roots() -> list[str]:
    """Return folders whose configs `tools/print_config.py` and `tools/reproduce.py` should list."""


@spec
def jrs_adjust_config(cfg):
    """Change `cfg` (an mmengine Config) in place, after profile and overrides are merged and before it is checked.

    Plugins change it in the order in which it names them, those of its bases first. A run saves the changed config, whose
    `adjusted` names these plugins, and it is not changed again when it is loaded. What changes stands in `diff.txt` and in
    `tools/print_config.py --diff`, which compare with the parent before hooks.
    """


@spec(firstresult=True)
def jrs_weight_names(keys: list[str]) -> dict[str, str | None] | None:
    """Return our name of every key of a weights file, None for a file that is not of this plugin's parts.

    A key whose name is None is known and no part of our models (a buffer, a module that we do not build): it is dropped, and
    that is said. Several keys may have one name, where a file lists a tensor under several: their values must be equal, and
    any one of them is enough.

    A file is known by its keys, also where there is no config (`tools/convert.py`): every loaded plugin is asked.
    """


@spec(firstresult=True)
def jrs_weight_values(state):
    """Return the tensors of a weights file as our parts hold them, None for a file that is not of this plugin's parts.

    `state` is key of the file -> tensor, before `jrs_weight_names`, which is asked about the keys that are returned. For
    files that hold a tensor in another layout, such as with its axes in another order, or several in one. They may be
    without values, where shapes alone are compared. As for names, every loaded plugin is asked.
    """


@spec
def jrs_training_step(iteration: int, total: float, terms: dict[str, float], parts: dict[str, float]):
    """Observe update `iteration` of the weights, in every process; values are means over all slots of all processes.

    `total` is what the step minimises: the sum of the weighted `terms`, named `loss_<name>`. `parts` are what is logged
    beside them, `<name>/<part>`, without weights. A step that was left out (not finite) has a NaN and empty mappings.
    """


@spec
def jrs_evaluation(iteration: int | None, metrics: dict[str, float]):
    """Observe an evaluation, in every process: `metrics` are its numbers over all scenes.

    A validation follows `iteration`; `tools/test.py`, which `tools/reproduce.py` and `make demo` score with, and
    `tools/evaluate.py --plugins` give None.
    """


@spec
def jrs_table_rows(table: int) -> list[dict]:
    """Return further rows of the paper's `table`: mappings with `name` and `config`."""
