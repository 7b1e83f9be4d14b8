"""Classes that are words: the head scores the names of the data, and names that no training saw are told apart."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from benchmarks.rooms import novel as measurement
from jrs.config import load_config
from jrs.engine.words import ClassWords, say_names, tell_metrics, trained_names
from jrs.errors import DataError
from jrs.heads.text_class import TextClassHead
from jrs.io.weights import read_metadata
from jrs.registry import METRICS, build
from tests._data import ROOT, command, forget_runs

WORDS = ROOT / 'configs' / 'segvggt' / 'all24_fada_words.py'


@pytest.fixture(scope='module')
def run(debug_data, tmp_path_factory):
    """A run of two steps on the known names, validated on all; returns its folder and the options of its commands."""
    out = tmp_path_factory.mktemp('words')
    options = ['--profile', 'debug', '--cfg-options', f'data_root={debug_data}', 'train.iterations=2', 'hooks.pictures=None',
               'batches.max_images=2', 'batches.views=(2, 2)', 'train.validate_every=1',
               'metrics.depth=None', 'metrics.cameras=None']
    assert command('train', WORDS, '--work-dir', out, *options) == 0
    return out, options


def test_training_knows_its_names_and_validation_scores_others(run):
    out, _ = run
    card = read_metadata(out / 'weights.safetensors')
    assert card['benchmark'] == 'rooms_known' and len(card['class_names']) == 30 and 'desk' not in card['class_names']
    last = json.loads((out / 'metrics.jsonl').read_text().splitlines()[-1])
    assert {'instance/known_AP25', 'instance/novel_AP25'} <= set(last)
    assert json.loads((out / 'terms.jsonl').read_text().splitlines()[-1])['loss_classification'] > 0


def test_a_test_scores_novel_names_apart(run, capsys):
    out, options = run
    assert command('test', WORDS, out / 'weights.safetensors', *options) == 0
    said, result = capsys.readouterr().out, json.loads((out / 'test' / 'results.json').read_text())
    assert len(result['class_names']['known']) == 30 and 'desk' in result['class_names']['novel']
    assert {'instance/known_AP', 'instance/novel_AP50'} <= set(result['metrics'])
    assert '10 of 40' in result['facts']['novel_names'] and 'novel: no training saw the name' in said
    assert said.index('novel: no training saw') > said.index('class (with ground truth)')


def test_saved_predictions_are_scored_apart_as_well(run, debug_data, tmp_path, capsys):
    out, options = run
    assert command('test', WORDS, out / 'weights.safetensors', '--out', tmp_path / 'test', '--save-predictions',
                   tmp_path / 'saved', *options) == 0
    scenes = debug_data / 'rooms' / 'debug'
    assert command('evaluate', 'export-ground-truth', '--scenes', scenes, '--split', 'val', '--benchmark', 'rooms', '--out',
                   tmp_path / 'truth') == 0
    scoring = ['evaluate', '--predictions', tmp_path / 'saved', '--ground-truth', tmp_path / 'truth', '--benchmark', 'rooms']
    capsys.readouterr()
    assert command(*scoring, '--out', tmp_path / 'scored') == 0
    said, found = capsys.readouterr().out, json.loads((tmp_path / 'scored' / 'instance_ap.json').read_text())['splits']
    assert set(found) == {'known', 'novel'} and '\nnovel' in said
    whole = json.loads((tmp_path / 'test' / 'results.json').read_text())['metrics']
    assert found['novel']['AP25'] == whole['instance/novel_AP25'] and found['known']['AP25'] == whole['instance/known_AP25']
    note = tmp_path / 'saved' / 'predictions.json'
    note.write_text(note.read_text().replace('"desk"', '"dask"'))
    assert command(*scoring) == 2 and "must have the classes of 'rooms'" in capsys.readouterr().err


def test_the_names_of_weights_are_their_cards_else_the_configs():
    cfg = load_config(WORDS, 'debug')
    assert trained_names(cfg, dict(class_names=['a'])) == ('a',) and len(trained_names(cfg)) == 30
    assert len(trained_names(cfg, dict(benchmark='scannet20'))) == 18
    cfg.train_dataset.pop('benchmark')
    assert trained_names(cfg) is None


def model_of(head):
    return SimpleNamespace(class_head=head)


def test_a_hook_changes_the_words_for_validation_and_back():
    head = TextClassHead(embedding_dim=4, vocabulary='attributes')
    hook, runner = ClassWords(['chair'], ['desk', 'chair']), SimpleNamespace(model=model_of(head))
    hook.before_train(runner)
    assert head.names == ('chair',)
    hook.before_val_epoch(runner)
    assert head.names == ('desk', 'chair')
    hook.after_val_epoch(runner)
    assert head.names == ('chair',)


def test_other_heads_are_left_alone_and_unknown_words_refused():
    plain = torch.nn.Linear(2, 2)
    say_names(model_of(plain), ['chair'])
    say_names(model_of(TextClassHead(text_dim=2, embedding_dim=4, vocabulary=[[1.0, 0.0]])), ['chair'])
    with pytest.raises(DataError, match="no embedding of 'fire extinguisher'"):
        say_names(model_of(TextClassHead(embedding_dim=4, vocabulary='attributes')), ['fire extinguisher'])


def test_metrics_of_a_model_of_words_know_what_is_novel():
    metric = build(METRICS, dict(type='InstanceAPMetric', benchmark='rooms_known'), 'metrics.a')
    tell_metrics([metric], model_of(torch.nn.Linear(2, 2)), ['chair'])
    assert metric.names_apart is None
    model = model_of(TextClassHead(embedding_dim=4, vocabulary='attributes'))
    tell_metrics([metric], model, None)
    assert metric.names_apart is None
    tell_metrics([metric], model, ['chair', 'desk'])
    assert metric.names_apart['known'] == ['chair'] and len(metric.names_apart['novel']) == 29
    tell_metrics([metric], model, metric.benchmark.class_names)
    assert metric.names_apart is None and 'novel_names' not in metric.describe()


def found_in(out):
    return json.loads((out / 'instances.json').read_text())['instances']


def test_photos_are_searched_for_words(run, tmp_path, capsys):
    weights = run[0] / 'weights.safetensors'
    Image.fromarray(torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8).numpy()).save(tmp_path / 'photo.png')

    def infer(name, *words):
        return command('infer', tmp_path / 'photo.png', '--out', tmp_path / name, '--checkpoint', weights, '--no-glb',
                       '--device', 'cpu', '--min-score', '0', *words)
    assert infer('own', '--classes', 'desk, chair') == 0
    found = found_in(tmp_path / 'own')
    assert found and all(one['class'] in ('desk', 'chair') and one['novel'] is (one['class'] == 'desk') for one in found)
    assert ('desk (novel)' in (report := (tmp_path / 'own' / 'report.html').read_text())) or 'novel names' in report
    assert infer('trained') == 0 and 'novel' not in found_in(tmp_path / 'trained')[0]
    assert command('vocabulary', tmp_path / 'other.yaml', '--encoder', 'attributes', '--names', 'lamp,window') == 0
    assert infer('other', '--vocabulary', tmp_path / 'other.yaml', '--classes', 'window') == 0
    assert {one['class'] for one in found_in(tmp_path / 'other')} == {'window'}
    capsys.readouterr()
    said = {('--classes', 'fire extinguisher'): "no embedding of 'fire extinguisher'", ('--classes', ' , '): 'names words',
            ('--classes', 'chair', '--agnostic'): 'does not go with',
            ('--vocabulary', tmp_path / 'other.yaml', '--agnostic'): '--vocabulary names words to look for'}
    for words, answer in said.items():
        assert infer('refused', *words) == 2 and answer in capsys.readouterr().err
    text = (tmp_path / 'other.yaml').read_text().replace('stated attributes', 'clip')
    (tmp_path / 'other.yaml').write_text(text)
    assert infer('refused', '--vocabulary', tmp_path / 'other.yaml') == 2
    assert "by 'clip', and these weights were trained with the words of 'stated attributes'" in capsys.readouterr().err


def test_fixed_classes_are_no_words(tmp_path, capsys):
    Image.new('RGB', (80, 60)).save(tmp_path / 'photo.png')
    plain = ['infer', tmp_path / 'photo.png', '--out', tmp_path / 'out', '--no-glb', '--device', 'cpu']
    assert command(*plain, '--classes', 'chair') == 2
    assert 'the classes of QueryClassHead are those of its training' in capsys.readouterr().err
    assert command(*plain, '--vocabulary', 'words.yaml') == 2
    assert 'the classes of QueryClassHead are no words' in capsys.readouterr().err


def test_novel_names_are_measured_beside_shuffled_ones(run, debug_data, tmp_path):
    names, novel = ['a', 'b', 'c', 'd'], ['b', 'd', 'c']
    found = measurement.orders(names, novel, 3)
    assert found['names'] == names and len(found) == 4
    for order in list(found.values())[1:]:
        assert order[0] == 'a' and sorted(order) == names
        assert all(one != other for one, other in zip(order[1:], names[1:], strict=True))
    forget_runs()
    measurement.main([str(WORDS), str(run[0] / 'weights.safetensors'), *run[1], '--shuffles', '2', '--json',
                      str(tmp_path / 'novel.json')])
    result = json.loads((tmp_path / 'novel.json').read_text())
    assert set(result['by_way']) == {'names', 'shuffle 0', 'shuffle 1'} and len(result['novel']) == 10
    whole = json.loads((run[0] / 'test' / 'results.json').read_text())['metrics']
    for kind in ('known', 'novel'):
        assert result['by_way']['names'][f'{kind}_AP25'] == pytest.approx(100 * whole[f'instance/{kind}_AP25'], nan_ok=True)
    assert result['by_way']['names']['known_AP'] == result['by_way']['shuffle 1']['known_AP']
