"""Text embeddings by a CLIP or SigLIP of the user's, through `transformers`; nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from jrs.errors import DataError, JrsError

PADDING = {'clip': True, 'siglip': 'max_length', 'siglip2': 'max_length'}      # as each was trained; True = to the longest
AT_A_TIME = 64                                                                  # texts
NEEDED = 'config.json, the weights (model.safetensors) and the files of the tokenizer, as save_pretrained writes them'


class TextEncoder:
    """The text half of a CLIP or SigLIP.

    Args:
        folder: a model as `transformers` saves it (`NEEDED`).

    Raises:
        JrsError: `transformers` is not installed. DataError: the folder holds no such model.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        kind = _kind(folder)
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise JrsError(f'text embeddings need transformers ({error}): pip install "jrs[text]".') from error
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        except ImportError as error:                                   # a tokenizer may need a package of its own
            raise JrsError(f'{folder}: {str(error).strip().splitlines()[0]} pip install "jrs[text]" has what most need.'
                           ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0][:300]
            raise DataError(f'{folder} cannot be loaded ({type(error).__name__}: {first}). It needs {NEEDED}.') from error
        self.padding = PADDING[kind]

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings (n, E) float32 of n texts, of any length; a text's own does not depend on the others."""
        length = self.model.config.text_config.max_position_embeddings
        found = []
        for start in range(0, len(texts), AT_A_TIME):
            tokens = self.tokenizer(list(texts[start:start + AT_A_TIME]), padding=self.padding, truncation=True,
                                    max_length=length, return_tensors='pt')
            output = self.model.get_text_features(**tokens)
            found.append(output if isinstance(output, Tensor) else output.pooler_output)        # by version of transformers
        return torch.cat(found).float()


def _kind(folder: Path) -> str:
    """Return 'clip', 'siglip' or 'siglip2' as a folder's config says; a DataError where it holds another thing."""
    try:
        kind = json.loads((folder / 'config.json').read_text(encoding='utf-8-sig')).get('model_type')
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f'{folder} is no folder of a CLIP or SigLIP ({type(error).__name__}): it needs {NEEDED}. Download '
                        'one where there is a network, for example openai/clip-vit-base-patch32 or '
                        'google/siglip-base-patch16-224 from https://huggingface.co, and name its folder.') from error
    if kind not in PADDING:
        raise DataError(f'{folder} holds a model of type {kind!r}; text embeddings come from one of {", ".join(PADDING)}.')
    return kind
