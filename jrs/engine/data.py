"""The first lines of a run: which data it reads."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config
from mmengine.dist import is_main_process
from torch.utils.data import Dataset


def say_data(cfg: Config, datasets: Mapping[str, Dataset]) -> None:
    """Print one line for each data set that a run reads; of several processes the first one does."""
    if is_main_process():
        print('\n'.join(data_line(cfg, name, dataset) for name, dataset in datasets.items()), flush=True)


def data_line(cfg: Config, name: str, dataset: Dataset) -> str:
    """Return what a data set is: its name in the config, folder, split and number of scenes; its type where it says neither.

    A data set of a plugin that has neither `root` nor `split` is known by the text that its config gives it.
    """
    settings = cfg[name]
    text = [f'{key}={value!r}' for key, value in settings.items() if isinstance(value, str) and key not in ('type', 'mode')]
    known = dict(folder=getattr(dataset, 'root', settings.get('folder')),
                 split=getattr(dataset, 'split', settings.get('split')))
    facts = [f'{word} {value}' for word, value in known.items() if value is not None]
    type_name = settings['type'] if isinstance(settings['type'], str) else settings['type'].__name__
    facts += getattr(dataset, 'in_words', list)()              # of a mixture: what its sets are
    aside = ''.join(f'; {words}' for words in left_aside(dataset))
    return f'{name}: {", ".join([type_name, *(facts or text), f"{len(dataset)} scenes"])}{aside}{_missing_classes(dataset)}'


def left_aside(dataset: Dataset) -> list[str]:
    """Return what a data set does not read of its split, in words; nothing of one that does not say."""
    return getattr(dataset, 'left_aside', list)()


def _missing_classes(dataset: Dataset) -> str:
    """Return a remark on classes of a benchmark of one's own that occur in no training scene: a misspelt name is one."""
    asked = getattr(dataset, 'classes_without_object', None) if getattr(dataset, 'mode', '') == 'train' else None
    names = asked() if asked is not None else []
    return f'; no object of the classes {", ".join(names)} in the scenes that were looked at' if names else ''
