"""StreamVGGT: VGGT whose views see earlier ones only."""

from __future__ import annotations

from jrs_plugins.stream_vggt.causal import CausalViews

from jrs.backbones.vggt import VGGT
from jrs.registry import BACKBONES


@BACKBONES.register_module()
class StreamVGGT(VGGT):
    """VGGT with `CausalViews` across views (backbones.md section 6.2); arguments, names and shapes of weights are VGGT's.

    Args:
        global_attention: None = `CausalViews()`, as released; such as ``dict(type='CausalViews', window=16)``.
    """

    weights_licence = 'CC BY-NC-SA 4.0 (Hugging Face lch01/StreamVGGT)'
    official_weights = ('Put the released StreamVGGT there: checkpoints.pth (CC BY-NC-SA 4.0) from '
                        'https://huggingface.co/lch01/StreamVGGT. Or name your copy: --cfg-options weights=FILE.')

    def complete(self, lora: dict | None = None, freeze: dict | None = None) -> None:
        """Put the causal attention where the config names none, then check, freeze and adapt."""
        if self.global_attention is None:
            self.global_attention = CausalViews()
        super().complete(lora, freeze)
