import torch

from jrs.registry import HEADS, build


def _head():
    torch.manual_seed(0)
    return build(HEADS, dict(type='QueryClassHead', embedding_dim=8, hidden=5), 'model.class_head', num_classes=4)


def test_logits_have_one_column_more_than_classes():
    assert _head()(torch.randn(2, 6, 8)).shape == (2, 6, 5)


def test_keys_are_those_of_the_release():
    shapes = {key: tuple(value.shape) for key, value in _head().state_dict().items()}
    assert shapes == {'0.weight': (5, 8), '0.bias': (5,), '2.weight': (5, 5), '2.bias': (5,)}


def test_autocast_is_off_inside():
    head, embedding = _head(), torch.randn(2, 6, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits = head(embedding)
    assert logits.dtype == torch.float32 and torch.equal(logits, head(embedding))


def test_negative_hidden_values_are_cut():
    head, embedding = _head(), torch.randn(2, 6, 8)
    expected = torch.relu(embedding @ head[0].weight.T + head[0].bias) @ head[2].weight.T + head[2].bias
    torch.testing.assert_close(head(embedding), expected)
