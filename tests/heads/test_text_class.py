import math

import pytest
import torch

from jrs.errors import ConfigError
from jrs.heads.text_class import TextClassHead
from jrs.io.lean_build import build_on_meta
from jrs.io.vocabulary import Vocabulary

WORDS = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])


def head(**options) -> TextClassHead:
    torch.manual_seed(0)
    return TextClassHead(text_dim=3, embedding_dim=4, **options)


def test_logits_are_scaled_cosines_with_the_words():
    part, embedding = head(), torch.randn(2, 5, 4)
    part.use_vocabulary(WORDS)
    projected = part.projection(embedding)
    for word in range(2):
        expected = torch.nn.functional.cosine_similarity(projected, WORDS[word].expand(2, 5, 3), dim=-1) / 0.07
        torch.testing.assert_close(part(embedding)[..., word], expected)
    assert part.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_other_words_are_scored_by_the_same_weights():
    part, embedding = head(), torch.randn(1, 2, 4)
    part.use_vocabulary(WORDS)
    first, state = part(embedding), part.state_dict()
    part.use_vocabulary(torch.cat([WORDS.flip(0), torch.ones(1, 3)]))
    assert part(embedding).shape == (1, 2, 3) and part(embedding)[..., :2].equal(first.flip(-1))
    assert set(state) == {'projection.weight', 'projection.bias', 'logit_scale'}


def test_no_object_is_a_word_of_any_length_with_softmax():
    part, embedding = head(classes='softmax'), torch.randn(1, 2, 4)
    part.use_vocabulary(WORDS)
    with torch.no_grad():
        before = part(embedding)
        part.no_object.mul_(2)
    assert before.shape == (1, 2, 3)
    torch.testing.assert_close(part(embedding)[..., 2], 2 * before[..., 2])
    assert part(embedding)[..., :2].equal(before[..., :2])


def test_a_head_whose_weights_a_file_will_give_keeps_its_words():
    part, _ = build_on_meta(lambda: head(vocabulary=WORDS.tolist()))
    torch.testing.assert_close(part.vocabulary, torch.eye(3)[:2])


@pytest.mark.parametrize(('given', 'words'), [(torch.ones(2, 4), r'\(K, 3\)'), (torch.zeros(1, 3), 'length 0'),
                                             (torch.ones(0, 3), 'at least one')])
def test_words_without_a_direction_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        head().use_vocabulary(given)


def test_without_words_there_are_no_logits():
    with pytest.raises(ConfigError, match='use_vocabulary'):
        head()(torch.ones(1, 1, 4))
    with pytest.raises(ConfigError, match='softmax'):
        head(classes='both')


def test_a_head_scores_the_words_of_a_vocabulary_by_name():
    part = TextClassHead(embedding_dim=4, vocabulary='attributes')
    part.use_names(['chair', 'window'])
    embedding = torch.randn(1, 2, 4)
    both = part(embedding)
    part.use_names(['window'])
    assert part.names == ('window',)
    torch.testing.assert_close(part(embedding), both[..., 1:])
    part.use_vocabulary(part.words.embeddings)
    assert part.names is None


def test_words_of_another_encoder_are_refused():
    part = TextClassHead(embedding_dim=4, vocabulary='attributes')
    with pytest.raises(ConfigError, match="trained with width 35 by 'stated attributes'"):
        part.use_words(Vocabulary(('chair',), torch.ones(1, 35), 'clip', 'by hand'))
    part.use_words(Vocabulary(('lamp post',), torch.ones(1, 35), 'stated attributes', 'by hand'))
    assert part.names == ('lamp post',)
    with pytest.raises(ConfigError, match='leave text_dim out'):
        TextClassHead(text_dim=3, vocabulary='attributes')
    with pytest.raises(ConfigError, match='needs text_dim'):
        TextClassHead()
    with pytest.raises(ConfigError, match='no vocabulary of words'):
        head().use_names(['chair'])
