"""Which words the class head of a model scores, and which of those it was trained on.

A head whose classes are words (`TextClassHead` with a vocabulary file) has no number of classes of its own: the data say
which names a class index stands for. What the weights were trained on stands in their card; all other names are novel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from torch import nn
from torch.utils.data import Dataset

from jrs.benchmarks import BENCHMARKS
from jrs.errors import ConfigError
from jrs.registry import HOOKS


def open_head(model: nn.Module) -> nn.Module | None:
    """Return the class head of a model where its classes are words of a vocabulary, else None."""
    head = getattr(getattr(model, 'module', model), 'class_head', None)
    return head if getattr(head, 'words', None) is not None else None


def names_in(dataset: Dataset) -> tuple[str, ...] | None:
    """Return the names of the classes of a data set; None where it does not say."""
    names = getattr(dataset, 'metainfo', {}).get('classes')
    return None if names is None else tuple(names)


def say_names(model: nn.Module, names: Sequence[str] | None) -> None:
    """Let a head whose classes are words score those called `names`; other models and None stay as they are.

    Raises:
        DataError: the vocabulary does not have one of them.
    """
    head = open_head(model)
    if head is not None and names is not None:
        head.use_names(names)


def trained_names(cfg: Config, card: Mapping | None = None) -> tuple[str, ...] | None:
    """Return the names that weights were trained on: as their card says, else as the config trains; None = not known."""
    stated = (card or {}).get('class_names')
    benchmark = BENCHMARKS.get((card or {}).get('benchmark') or cfg.train_dataset.get('benchmark'))
    return tuple(stated) if stated else benchmark.class_names if benchmark else None


def set_vocabulary(cfg: Config, vocabulary: str | Path) -> None:
    """Let a config take its words from another vocabulary file.

    Raises:
        ConfigError: the classes of its model are no words.
    """
    head = cfg.model.get('class_head') or {}
    if 'vocabulary' not in head:
        raise ConfigError(f'--vocabulary: the classes of {head.get("type", "a model without class_head")} are no words: '
                          'they are those of its training. A config whose model.class_head is a TextClassHead has words.')
    head.vocabulary = str(vocabulary)


def words_of(model: nn.Module) -> str:
    """Return why the classes of a model are no words that could be chosen."""
    head = getattr(model, 'class_head', None)
    return 'the model has no class head' if head is None else \
        f'the classes of {type(head).__name__} are those of its training; train one with a TextClassHead and a vocabulary ' \
        '(docs/words.md)'


def word_facts(model: nn.Module) -> dict[str, str]:
    """Return what the card of weights says of the words of their training: `text_encoder`; empty for other models."""
    head = open_head(model)
    return {} if head is None else {'text_encoder': head.words.encoder}


def check_encoder(model: nn.Module, card: Mapping) -> None:
    """Raise a ConfigError where a model's words are by another text encoder than those that weights were trained with."""
    head, trained = open_head(model), card.get('text_encoder')
    if head is not None and trained is not None and head.words.encoder != trained:
        raise ConfigError(f'the vocabulary ({head.words.source}) is by {head.words.encoder!r}, and these weights were '
                          f'trained with the words of {trained!r}: cosines between the two mean nothing. Write the '
                          'vocabulary with that encoder, tools/vocabulary.py.')


def tell_metrics(metrics: Iterable[object], model: nn.Module, names: Collection[str] | None) -> None:
    """Tell metrics that ask for it which names a model of words was trained on; the others have all been trained."""
    if names is None or open_head(model) is None:
        return
    for metric in metrics:
        if hasattr(metric, 'trained_names'):
            metric.trained_names = frozenset(names)


@HOOKS.register_module()
class ClassWords(Hook):
    """Let the class head score the words of the validation data while these are scored, and those of training else.

    Args:
        training, validation: names of the classes; None = nothing changes.
    """

    priority = 'VERY_HIGH'

    def __init__(self, training: Sequence[str] | None = None, validation: Sequence[str] | None = None) -> None:
        self.training, self.validation = training, validation

    def before_train(self, runner) -> None:
        """Score the names of training."""
        say_names(runner.model, self.training)

    def before_val_epoch(self, runner) -> None:
        """Score the names of validation."""
        say_names(runner.model, self.validation)

    def after_val_epoch(self, runner, metrics: Mapping[str, float] | None = None) -> None:
        """Score the names of training again."""
        say_names(runner.model, self.training)
