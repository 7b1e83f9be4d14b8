"""Names lose what training programs put around them, in any combination; of several copies one is taken, and said."""

import itertools

import pytest

from jrs.errors import WeightsError
from jrs.io.weights import our_names
from jrs.io.wrappings import copies, unwrap
from jrs.plugins import load_plugins

NAMES = [f'backbone.blocks.{number}.attn.qkv.{kind}' for number in range(8) for kind in ('weight', 'bias')] + [
    'queries.tokens', 'class_head.0.weight']


def shed(keys, known=NAMES, copy=None):
    return unwrap(list(keys), known, our_names, 'w.pt', copy)


def under(prefix, names=NAMES):
    return [f'{prefix}.{name}' for name in names]


WORDS = ('module', '_orig_mod', 'model', 'net', 'state_dict', 'model_state_dict', '_fsdp_wrapped_module', '_forward_module')


@pytest.mark.parametrize('words', [*itertools.permutations(WORDS[:4], 3), *itertools.combinations(WORDS, 2), WORDS,
                                   ('state_dict', 'model', 'model')], ids='.'.join)
def test_every_combination_of_usual_words_comes_off(words):
    found = shed(under('.'.join(words)))
    assert list(found.names.values()) == NAMES and set(found.removed) == set(words)
    assert all(f'{word}.' in str(found) for word in words)


def test_only_some_of_the_names_may_carry_the_words():
    found = shed([f'module.{name}' if number % 2 else name for number, name in enumerate(NAMES)])
    assert list(found.names.values()) == NAMES
    assert str(found) == f'taken off the names: module. ({len(NAMES) // 2} of {len(NAMES)})'


def test_names_as_they_should_be_say_nothing():
    assert str(shed(NAMES)) == '' and shed(NAMES).copy == ''


@pytest.mark.parametrize('change', [
    lambda name: name.replace('blocks.', 'blocks._fsdp_wrapped_module.').replace('attn', '_checkpoint_wrapped_module.attn'),
    lambda name: name.replace('backbone.', 'backbone._orig_mod.'),
    lambda name: name.replace('backbone.', 'backbone.module.')])
def test_parts_inside_may_be_wrapped_too(change):
    assert list(shed(map(change, NAMES)).names.values()) == NAMES


def test_a_part_of_the_model_that_is_called_like_a_wrapping_keeps_its_name():
    own = ['net.weight', 'module.model.weight', 'ema_head.weight', 'optimizer.gain']
    assert list(shed(own, own).names.values()) == own and str(shed(own, own)) == ''
    assert list(shed(under('model', own), own).names.values()) == own


@pytest.mark.parametrize('word', ['segmenter', 'backbone', 'trainer.segmenter.net'])
def test_a_word_that_nobody_knows_comes_off_where_the_names_fit_behind_it(word):
    found = shed([*under(word), 'criterion.empty_weight', 'metric.total'])
    assert list(found.names.values()) == NAMES and f'{word.partition(".")[0]}.' in str(found)


def test_names_of_something_else_stay_as_they_are():
    foreign = [f'layer{number}.conv.weight' for number in range(30)]
    assert list(shed(foreign).names.values()) == foreign


def test_optimizers_and_the_like_are_no_part_of_the_model():
    beside = ['optimizer.state.0.exp_avg', 'optimizer_states.x', 'message_hub.y', 'lr_schedulers.z', 'scaler.scale']
    assert list(shed([*under('model'), *beside]).keys.values()) == NAMES


COPIES = {
    'ema': [*under('model'), *under('ema')], 'ema ': [*under('model'), *under('ema.module'), 'ema.updates', 'ema.decay'],
    'state_dict_ema': [*under('state_dict'), *under('state_dict_ema')],
    'params_ema': [*under('params'), *under('params_ema')],
    'state_dict.model_ema': [*under('state_dict.model'), *under('state_dict.model_ema'), 'state_dict.model_ema.num_updates'],
    'state_dict.averaged_model': [*under('state_dict.model'), *under('state_dict.averaged_model.module'),
                                  'state_dict.averaged_model.n_averaged'],
    'swa': [*under('model'), *under('swa.module'), 'swa.n_averaged'],
    'ema_state_dict': [*under('state_dict'), *under('ema_state_dict.module'), 'ema_state_dict.steps'],
    'current_model_state': [*under('state_dict.model'), *under('current_model_state.model')]}


@pytest.mark.parametrize('case', COPIES)
def test_of_a_model_and_an_averaged_copy_the_model_is_taken_and_the_other_is_said(case):
    name = case.strip()
    found = shed(COPIES[case])
    assert list(found.names.values()) == NAMES and found.copy == '' and found.others == [name]
    assert f'taken: the model itself; the file also holds {name}: --copy NAME' in str(found)
    assert ('keeps the averaged weights in state_dict' in str(found)) is (name in ('ema_state_dict', 'current_model_state'))
    other = shed(COPIES[case], copy=name)
    assert list(other.names.values()) == NAMES and not set(other.keys) & set(found.keys)
    assert f'taken: the averaged copy {name}; the file also holds' not in str(found)


@pytest.mark.parametrize(('keys', 'name'), [
    (under('ema_state_dict'), 'ema_state_dict'), ([*under('ema'), 'step'], 'ema'),
    ([*under('module'), 'n_averaged'], 'module'), ([*under('model.module'), 'model.n_averaged'], 'model.module')])
def test_an_averaged_copy_alone_is_taken_and_said(keys, name):
    found = shed(keys)
    assert list(found.names.values()) == NAMES and f'taken: the averaged copy {name}' in str(found)


def test_a_copy_that_is_not_there_and_two_equal_ones_are_answered():
    with pytest.raises(WeightsError, match="no copy 'emma' of the model in it. Did you mean 'ema'"):
        shed(COPIES['ema'], copy='emma')
    with pytest.raises(WeightsError, match='holds 2 copies of the model, student, teacher: choose, --copy NAME'):
        shed([*under('student'), *under('teacher')])
    assert list(shed([*under('student'), *under('teacher')], copy='teacher').keys) == under('teacher')
    assert shed(COPIES['state_dict.averaged_model'], copy='averaged_model').copy == 'state_dict.averaged_model'


def test_copies_are_told_without_a_model():
    assert list(copies(COPIES['ema'])) == ['', 'ema']
    assert list(shed(COPIES['ema'], known=()).names.values()) == NAMES


@pytest.mark.parametrize('prefix', ['', 'module.', 'state_dict.model._orig_mod.', 'state_dict.net.'])
@pytest.mark.parametrize('root', ['model.', 'model.da3.', ''])
def test_released_names_of_a_plugin_are_known_in_any_wrapping(prefix, root):
    """Depth Anything 3's own names begin with a word that is a wrapping elsewhere."""
    load_plugins(['depth_anything_3'])
    released = [f'{root}backbone.pretrained.camera_token', f'{root}backbone.pretrained.blocks.0.norm1.weight',
                f'{root}head.norm.weight']
    ours = ['backbone.camera_token', 'backbone.blocks.0.norm1.weight', 'geometry_head.head.norm.weight']
    assert list(shed([prefix + name for name in released], ours).names.values()) == ours
    partly = [prefix + name if number else name for number, name in enumerate(released)]
    assert list(shed(partly, ours).names.values()) == ours
