"""Class logits of queries as nearness to words: the same weights score any vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jrs.errors import ConfigError
from jrs.io.vocabulary import Vocabulary, read_vocabulary
from jrs.registry import HEADS

FIRST_SCALE = 1 / 0.07                         # of the cosines, as CLIP starts
TINY = 1e-7


@HEADS.register_module()
class TextClassHead(nn.Module):
    """Cosine of a query with the text embedding of each class, times a learned scale (baselines.md section 4.5).

    The vocabulary is an input, not a weight: `use_vocabulary` gives another one at any time, and `use_names` other words of
    the vocabulary's file. Which names a class index stands for is said by the data that are trained on or scored, or by who
    asks (`jrs.engine.words`).

    Args:
        text_dim: E, width of the text embeddings; None = that of the vocabulary's file.
        embedding_dim: D of what it reads.
        classes: 'sigmoid', K probabilities that know nothing of each other, or 'softmax' over K + 1 with a learned
            "no object", which is used at the length that it has.
        vocabulary: a vocabulary file, or 'attributes' (`jrs.io.vocabulary`), whose words classes are named by; or text
            embeddings of the classes to start with, K rows of E numbers; None = `use_vocabulary` gives them.

    Attributes:
        words: the vocabulary of that file, None without one.
        names: of the K classes that are scored now; None where embeddings without names were given.

    Raises:
        ConfigError: other `classes`, neither a width nor a file, or another width than the file's.
        DataError: a broken file.
    """

    example = dict(text_dim=8, vocabulary=[[float(row == column) for column in range(8)] for row in range(5)])

    def __init__(self, text_dim: int | None = None, embedding_dim: int = 128, classes: str = 'sigmoid',
                 vocabulary: str | list[list[float]] | None = None) -> None:
        super().__init__()
        self.words = read_vocabulary(vocabulary) if isinstance(vocabulary, str) else None
        self.names: tuple[str, ...] | None = None
        text_dim = self._width(text_dim)
        if classes not in ('sigmoid', 'softmax'):
            raise ConfigError(f"TextClassHead.classes is 'sigmoid' or 'softmax', got {classes!r}.")
        self.classes = classes
        self.projection = nn.Linear(embedding_dim, text_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.no_object = nn.Parameter(torch.randn(text_dim) * text_dim ** -0.5) if classes == 'softmax' else None
        self.register_buffer('vocabulary', None, persistent=False)
        if self.words is not None:
            self.use_names(self.words.names)
        elif vocabulary is not None:
            self.use_vocabulary(torch.tensor(vocabulary, device='cpu'))

    def _width(self, text_dim: int | None) -> int:
        """Return E as argument or file say it."""
        if text_dim is None and self.words is None:
            raise ConfigError('TextClassHead needs text_dim, the width of text embeddings, or a file of words that has it.')
        if self.words is not None and text_dim not in (None, self.words.width):
            raise ConfigError(f'TextClassHead.text_dim is {text_dim}, and the embeddings of its vocabulary have width '
                              f'{self.words.width} ({self.words.encoder}): leave text_dim out.')
        return self.words.width if text_dim is None else text_dim

    def use_words(self, vocabulary: Vocabulary) -> None:
        """Take names from now on from another vocabulary, by the same encoder, and score all of its words.

        Raises:
            ConfigError: embeddings of another width or encoder: cosines with them would mean nothing.
        """
        own = vocabulary.encoder if self.words is None else self.words.encoder
        if vocabulary.width != self.projection.out_features or vocabulary.encoder != own:
            raise ConfigError(f'the vocabulary ({vocabulary.source}) has embeddings of width {vocabulary.width} by '
                              f'{vocabulary.encoder!r}, and these weights were trained with width '
                              f'{self.projection.out_features} by {own!r}: write it with the encoder of the training, '
                              'tools/vocabulary.py.')
        self.words = vocabulary
        self.use_names(vocabulary.names)

    def use_names(self, names: Sequence[str]) -> None:
        """Score from now on the classes called `names`, K words of the vocabulary's file, in this order.

        Raises:
            ConfigError: no file of words was given. DataError: a word that it does not have, or one twice.
        """
        if self.words is None:
            raise ConfigError("TextClassHead has no vocabulary of words: set model.class_head.vocabulary to a file that "
                              "tools/vocabulary.py writes, or to 'attributes' for the built-in rooms.")
        self.use_vocabulary(self.words.rows(names))
        self.names = tuple(names)

    def use_vocabulary(self, embeddings: Tensor) -> None:
        """Score from now on the K classes whose text embeddings (K, E), of any length above 0, these are.

        Raises:
            ValueError: another shape, or an embedding of length 0 or that is not finite.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.projection.out_features or len(embeddings) == 0:
            raise ValueError(f'a vocabulary has embeddings (K, {self.projection.out_features}) of at least one class, got '
                             f'{tuple(embeddings.shape)}')
        lengths = embeddings.float().norm(dim=1)
        if not (lengths.isfinite() & (lengths > 0)).all():
            raise ValueError('a text embedding has length 0, or is not finite: its class would have no direction')
        device, self.names = self.projection.weight.device, None
        # A weight that a file will give has no device yet: its model is moved afterwards, buffers with it.
        self.vocabulary = (embeddings.float() / lengths[:, None]).to(embeddings.device if device.type == 'meta' else device)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return logits (B, Q, K), or (B, Q, K + 1) with 'softmax', for `embedding` (B, Q, D); autocast is off.

        Raises:
            ConfigError: no vocabulary was given.
        """
        if self.vocabulary is None:
            raise ConfigError('TextClassHead has no vocabulary: give it text embeddings of the classes (use_vocabulary).')
        with torch.autocast(embedding.device.type, enabled=False):
            projected = self.projection(embedding.to(self.projection.weight.dtype))                 # (B, Q, E)
            projected = projected / (projected.norm(dim=-1, keepdim=True) + TINY)
            words = self.vocabulary if self.no_object is None else torch.cat([self.vocabulary, self.no_object[None]])
            return self.logit_scale.exp() * (projected @ words.T)
