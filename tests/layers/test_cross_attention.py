import pytest
import torch

from jrs.errors import ConfigError
from jrs.layers import cross_attention
from jrs.layers.cross_attention import CrossAttention, CrossBlock, attention_with_view_mass

METHODS = ('plain', 'one_hot', 'blocked')
ORDERS = {'views end to end': [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2], 'interleaved': [2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1],
          'a token of no view': [0, 0, -1, 0, 1, 1, 1, -1, 1, 2, 2, 2]}


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    monkeypatch.setattr(cross_attention, 'BLOCK_TOKENS', 5)


def _inputs(num_tokens=12, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, n, 8, generator=generator).to(dtype).requires_grad_() for n in (7, num_tokens, num_tokens)]


def _hide(num_tokens=12):
    generator = torch.Generator().manual_seed(5)
    allowed = torch.rand(2, 7, num_tokens, generator=generator) > 0.4
    allowed[:, :, 0] = True
    allowed[0, 0] = False
    allowed[0, 0, 11] = True                                        # the first blocks are hidden entirely
    return allowed


def _slow(query, key, value, view_index, num_views, allowed):
    """One softmax per scene, head and query, in float64."""
    query, key, value = (x.detach().double() for x in (query, key, value))
    output, mass = torch.zeros_like(query), torch.zeros(2, 7, num_views, dtype=torch.float64)
    for b, h, n in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(7)).tolist():
        logits = torch.stack([query[b, h, n].dot(k) / 8 ** 0.5 for k in key[b, h]])
        if allowed is not None:
            logits[~allowed[b, n]] = -torch.inf
        weights = logits.softmax(0)
        output[b, h, n] = weights @ value[b, h]
        for weight, view in zip(weights, view_index.tolist(), strict=True):
            if view >= 0:
                mass[b, n, view] += weight / 3
    return output, mass / mass.sum(-1, keepdim=True)


@pytest.mark.parametrize('hide', [False, True], ids=['all seen', 'some hidden'])
@pytest.mark.parametrize('order', ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize('method', METHODS)
def test_every_method_equals_a_slow_loop(method, order, hide):
    query, key, value = _inputs()
    allowed = _hide() if hide else None
    output, mass = attention_with_view_mass(query, key, value, torch.tensor(order), 3, method, allowed)
    slow_output, slow_mass = _slow(query, key, value, torch.tensor(order), 3, allowed)
    torch.testing.assert_close(output.double(), slow_output, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mass.double(), slow_mass, rtol=1e-5, atol=1e-6)


def _gradients(method, order, allowed, dtype=torch.float32):
    inputs = _inputs(dtype=dtype)
    output, mass = attention_with_view_mass(*inputs, torch.tensor(order), 3, method, allowed)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(output.shape, generator=generator)
    loss = (output.float() * weight).sum() - mass.clamp_min(1e-6).log().mul(torch.tensor([1., 2., -1.])).sum()
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize('hide', [False, True], ids=['all seen', 'some hidden'])
@pytest.mark.parametrize('order', ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize('method', ('one_hot', 'blocked'))
def test_gradients_through_output_and_mass_equal_the_plain_way(method, order, hide):
    allowed = _hide() if hide else None
    for actual, expected in zip(_gradients(method, order, allowed), _gradients('plain', order, allowed), strict=True):
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize('method', METHODS)
def test_gradients_are_those_of_finite_differences(method):
    inputs = [x.detach()[:1, :2, :, :3].double().requires_grad_() for x in _inputs()]
    allowed = _hide()[:1]

    def both(*inputs):
        return attention_with_view_mass(*inputs, torch.tensor(ORDERS['a token of no view']), 3, method, allowed)
    assert torch.autograd.gradcheck(both, inputs)


@pytest.mark.parametrize('method', METHODS)
def test_bf16_is_near_float32_and_rows_sum_to_one(method):
    order = ORDERS['views end to end']
    exact = attention_with_view_mass(*_inputs(), torch.tensor(order), 3, 'plain')
    output, mass = attention_with_view_mass(*_inputs(dtype=torch.bfloat16), torch.tensor(order), 3, method)
    assert output.dtype == torch.bfloat16 and mass.dtype == torch.float32
    torch.testing.assert_close(mass.sum(-1), torch.ones(2, 7), rtol=0, atol=1e-6)
    assert (output - exact[0]).abs().max() < 0.03 and (mass - exact[1]).abs().max() < 0.03
    for actual, expected in zip(_gradients(method, order, None, torch.bfloat16), _gradients('plain', order, None),
                                strict=True):
        assert (actual - expected).abs().max() <= 0.05 * expected.abs().max()


@pytest.mark.parametrize('method', METHODS)
def test_a_hidden_view_gets_no_mass(method):
    order = torch.tensor(ORDERS['views end to end'])
    allowed = (order != 1).expand(2, 7, -1)
    mass = attention_with_view_mass(*_inputs(), order, 3, method, allowed)[1]
    assert (mass[..., 1] == 0).all() and (mass[..., 0] > 0).all()


def test_the_blocked_way_never_saves_the_weights():
    kept = {}
    for method in METHODS:
        largest = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, seen=largest: seen.append(x.numel()) or x, lambda x: x):
            attention_with_view_mass(*_inputs(400), torch.arange(400) // 100, 4, method)
        kept[method] = max(largest)
    weights = 2 * 3 * 7 * 400
    assert kept['plain'] >= weights
    assert kept['blocked'] == 2 * 3 * 400 * 8                      # keys


def test_auto_is_plain_at_tiny_sizes_and_blocked_on_a_cpu_at_real_ones():
    query = torch.empty(1, 16, 200, 64, device='meta')
    assert cross_attention._choose(query[:, :4, :40], torch.empty(1, 4, 288, 64, device='meta')) == 'plain'
    assert cross_attention._choose(query, torch.empty(1, 16, 25008, 64, device='meta')) == 'blocked'


def test_an_unknown_method_says_what_is_allowed():
    with pytest.raises(ConfigError, match="'blocked'"):
        attention_with_view_mass(*_inputs(), torch.tensor(ORDERS['interleaved']), 3, 'flash')


def test_permuting_views_permutes_view_attention_only():
    torch.manual_seed(0)
    attention = CrossAttention(16, 4)
    queries, tokens = torch.randn(1, 5, 16), torch.randn(1, 3, 4, 16)           # (B, V, P, C)
    order, view_index = torch.tensor([2, 0, 1]), torch.arange(3).repeat_interleave(4)
    output, mass = attention(queries, tokens.flatten(1, 2), view_index, 3)
    permuted_output, permuted_mass = attention(queries, tokens[:, order].flatten(1, 2), view_index, 3)
    torch.testing.assert_close(permuted_mass, mass[:, :, order])
    torch.testing.assert_close(permuted_output, output)
    assert (mass - 1 / 3).abs().max() > 0.01


def test_output_is_the_same_with_and_without_view_attention():
    torch.manual_seed(0)
    attention = CrossAttention(16, 4)
    queries, tokens, allowed = torch.randn(1, 5, 16), torch.randn(1, 12, 16), torch.rand(1, 5, 12) > 0.3
    for mask in (None, allowed):
        output, none = attention(queries, tokens, allowed=mask)
        assert none is None
        tracked, _ = attention(queries, tokens, torch.arange(3).repeat_interleave(4), 3, mask)
        torch.testing.assert_close(tracked, output, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('method', METHODS)
def test_block_trains_under_bf16_autocast_with_float32_residuals(method, monkeypatch):
    monkeypatch.setattr(cross_attention, '_choose', lambda query, key: method)
    torch.manual_seed(0)
    block = CrossBlock(16, 4, init_values=1.0)
    queries, tokens = torch.randn(2, 5, 16), torch.randn(2, 12, 16)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output, mass = block(queries, tokens, torch.arange(3).repeat_interleave(4), 3)
        (output.square().sum() + mass.log().sum()).backward()
    assert output.dtype == mass.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() and p.grad.abs().max() > 0
               for name, p in block.named_parameters() if name != 'attn.k_proj.bias')
    exact, _ = block(queries, tokens)
    assert (output - exact).abs().max() < 0.1


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match='multiple'):
        CrossAttention(10, 4)


@pytest.mark.parametrize('hide', [False, True], ids=['all seen', 'some hidden'])
def test_maps_sum_to_one_and_give_the_masses_and_the_output_of_the_layer(hide):
    torch.manual_seed(0)
    layer, views = CrossAttention(24, 3).eval(), torch.tensor(ORDERS['interleaved'])
    queries, tokens, allowed = torch.randn(2, 7, 24), torch.randn(2, 12, 24), _hide() if hide else None
    with torch.no_grad():
        output, mass = layer(queries, tokens, views, 3, allowed)
        heads = layer.attention_maps(queries, tokens, allowed, per_head=True)               # (B, heads, n, T)
        read = heads @ layer.v_proj(tokens).unflatten(-1, (3, 8)).transpose(1, 2)
        chosen = layer.attention_maps(queries[:, [4, 1]], tokens, None if allowed is None else allowed[:, [4, 1]])
    torch.testing.assert_close(heads.sum(-1), torch.ones(2, 3, 7))
    torch.testing.assert_close(heads.mean(1)[:, [4, 1]], chosen)
    torch.testing.assert_close(layer.proj(read.transpose(1, 2).flatten(2)), output, rtol=1e-5, atol=1e-6)
    per_view = torch.stack([heads.mean(1)[..., views == view].sum(-1) for view in range(3)], dim=-1)
    torch.testing.assert_close(per_view, mass, rtol=0, atol=1e-6)


@pytest.mark.parametrize('of_no_view', [0, 2])
@pytest.mark.parametrize('scenes', [1, 2])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_views_one_by_one_are_all_views_at_once(dtype, scenes, of_no_view):
    """As scenes lie in memory: heads beside each other in every token."""
    generator = torch.Generator().manual_seed(0)
    views, per_view = 3, 5
    index = torch.cat([torch.arange(views).repeat_interleave(per_view), torch.full((of_no_view,), -1)])
    query, key, value = (torch.randn(scenes, count, 4, 8, generator=generator).transpose(1, 2).to(dtype)
                         for count in (7, len(index), len(index)))
    with torch.no_grad():
        found = attention_with_view_mass(query, key, value, index, views, 'per_view', tokens_per_view=per_view)
        wanted = attention_with_view_mass(query.double(), key.double(), value.double(), index, views, 'plain')
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    assert found[0].dtype == dtype and found[1].dtype == torch.promote_types(dtype, torch.float32)
    for own, plain in zip(found, wanted, strict=True):
        torch.testing.assert_close(own.double(), plain, atol=tolerance, rtol=tolerance)


def test_views_one_by_one_are_for_equal_views_without_gradients_and_then_the_choice_where_one_hot_was(monkeypatch):
    query, key, value = (values.detach() for values in _inputs())
    index = torch.tensor(ORDERS['a token of no view'])
    with pytest.raises(ConfigError, match='per_view'):
        attention_with_view_mass(query, key, value, index, 3, 'per_view')
    called = []
    monkeypatch.setattr(cross_attention, '_choose', lambda query, key: 'one_hot')
    monkeypatch.setattr(cross_attention, '_per_view', lambda *inputs, **_: called.append(inputs) or (value, torch.ones(1)))
    equal = torch.arange(3).repeat_interleave(key.shape[2] // 3)
    attention_with_view_mass(query, key, value, equal, 3, tokens_per_view=key.shape[2] // 3)
    assert len(called) == 1
    attention_with_view_mass(query.requires_grad_(), key, value, equal, 3, tokens_per_view=key.shape[2] // 3)
    assert len(called) == 1
    for inputs in ([values.detach().double() for values in (query, key, value)],                # no fused kernel on CUDA
                   [values.detach()[..., :7] for values in (query, key, value)]):               # takes these
        attention_with_view_mass(*inputs, equal, 3, tokens_per_view=key.shape[2] // 3)
        assert len(called) == 1
