"""Class logits of queries as nearness to words: the same weights score any vocabulary."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from jrs.errors import ConfigError
from jrs.registry import HEADS

FIRST_SCALE = 1 / 0.07                         # of the cosines, as CLIP starts
TINY = 1e-7


@HEADS.register_module()
class TextClassHead(nn.Module):
    """Cosine of a query with the text embedding of each class, times a learned scale (baselines.md section 4.5).

    The vocabulary is an input, not a weight: `use_vocabulary` gives another one at any time.

    Args:
        text_dim: E, width of the text embeddings.
        embedding_dim: D of what it reads.
        classes: 'sigmoid', K probabilities that know nothing of each other, or 'softmax' over K + 1 with a learned
            "no object", which is used at the length that it has.
        vocabulary: text embeddings of the classes to start with, K rows of E numbers; None = `use_vocabulary` gives them.

    Raises:
        ConfigError: other `classes`.
    """

    example = dict(text_dim=8, vocabulary=[[float(row == column) for column in range(8)] for row in range(5)])

    def __init__(self, text_dim: int, embedding_dim: int = 128, classes: str = 'sigmoid',
                 vocabulary: list[list[float]] | None = None) -> None:
        super().__init__()
        if classes not in ('sigmoid', 'softmax'):
            raise ConfigError(f"TextClassHead.classes is 'sigmoid' or 'softmax', got {classes!r}.")
        self.classes = classes
        self.projection = nn.Linear(embedding_dim, text_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.no_object = nn.Parameter(torch.randn(text_dim) * text_dim ** -0.5) if classes == 'softmax' else None
        self.register_buffer('vocabulary', None, persistent=False)
        if vocabulary is not None:
            self.use_vocabulary(torch.tensor(vocabulary, device='cpu'))

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
        device = self.projection.weight.device
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
