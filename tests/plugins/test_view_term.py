"""A term of the mask logits for each query and view: nothing at the start, then the same at all pixels of a view."""

from dataclasses import replace

import pytest
import torch

from jrs.errors import ConfigError
from jrs.plugins import load_plugins
from jrs.registry import HEADS, build
from jrs.structures import FeatureTaps

GRID, SIZE, SPECIAL = (2, 3), (28, 42), 2
CFG = dict(features=32, out_channels=(8, 8, 16, 16), embedding_dim=16)


@pytest.fixture(scope='module')
def heads():
    """The head of the plugin with the weights of a plain one, and that one."""
    load_plugins(['view_term'])
    torch.manual_seed(0)
    plain, own = (build(HEADS, dict(CFG, type=name), 'model.feature_head', dim_in=12)
                  for name in ('InstanceFeatureHead', 'ViewTermFeatureHead'))
    missing, left_over = own.load_state_dict(plain.state_dict(), strict=False)
    assert not left_over and {name.split('.')[0] for name in missing} == {'view_norms', 'view_term'}
    return own, plain


@pytest.fixture
def taps():
    generator = torch.Generator().manual_seed(1)
    tokens = SPECIAL + GRID[0] * GRID[1]
    maps = [torch.randn(2, 3, tokens, 12, generator=generator) for _ in range(4)]
    return FeatureTaps(maps, torch.arange(SPECIAL, tokens), GRID, SIZE, torch.randn(2, 3, 12, generator=generator))


def test_at_the_start_it_is_the_plain_head(heads, taps):
    own, plain = heads
    assert torch.equal(own(taps), plain(taps))


def test_the_term_is_one_vector_of_a_view_and_is_learned(heads, taps):
    own, plain = heads
    own.zero_grad()
    own(taps).square().mean().backward()
    assert own.view_term.weight.grad.abs().min() > 0
    torch.nn.init.normal_(own.view_term.weight)
    try:
        with torch.no_grad():
            term = own(taps) - plain(taps)                                      # (B, V, D, h, w)
            torch.testing.assert_close(term, term[..., :1, :1].expand_as(term), rtol=1e-4, atol=1e-5)
            assert term[0, 0].sub(term[0, 1]).abs().max() > 0.1                 # views differ
            shown = taps.taps[-1][:, :, SPECIAL:].mean(dim=2)
            tokens = torch.cat([own.view_norms[0](shown), own.view_norms[1](taps.geometry_tokens)], dim=-1)
            torch.testing.assert_close(term[..., 0, 0], tokens @ own.view_term.weight.T, rtol=1e-4, atol=1e-5)
    finally:
        torch.nn.init.zeros_(own.view_term.weight)


def test_a_last_tap_with_a_grid_of_its_own_holds_patches_alone(heads, taps):
    own, _ = heads
    patches = taps.taps[-1][:, :, SPECIAL:]
    torch.nn.init.normal_(own.view_term.weight)
    try:
        with torch.no_grad():
            found = own(replace(taps, taps=[*taps.taps[:-1], patches], tap_grids=(None, None, None, GRID)))
            torch.testing.assert_close(found, own(taps))
    finally:
        torch.nn.init.zeros_(own.view_term.weight)


def test_a_backbone_without_geometry_tokens_is_refused(heads, taps):
    with pytest.raises(ConfigError, match='ViewTermFeatureHead reads geometry tokens'):
        heads[0](replace(taps, geometry_tokens=None))
