"""Pi3: pairs of frame and global attention like VGGT's, with the same special tokens for every view."""

from __future__ import annotations

from jrs.backbones.equal_views import EqualViews
from jrs.registry import BACKBONES


@BACKBONES.register_module()
class Pi3(EqualViews):
    """The encoder and decoder of Pi3 (backbones.md section 1); arguments and defaults are those of `EqualViews`."""

    weights_licence = 'CC BY-NC 4.0 (Hugging Face yyfz233/Pi3)'
    official_weights = ('Put the released Pi3 there: model.safetensors (CC BY-NC 4.0) from '
                        'https://huggingface.co/yyfz233/Pi3. Or name your copy: --cfg-options weights=FILE.')
