"""What a run needs: the largest batch is the sampler's, memory counts what DDP adds, and docs/real_run.md says it."""

import copy
import json
import re
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from jrs.config import load_config
from jrs.datasets.sampling import ViewBatchSampler
from jrs.engine import needs
from jrs.engine.memory import GB, inference_memory, training_memory
from jrs.engine.needs import PREPARATION, Slot, largest_slot, memory_words, needs_of, needs_page, outline
from tests._data import ROOT

CPU = torch.device('cpu')
PAPER = 'configs/segvggt/all24_fada.py'


@pytest.fixture(scope='module')
def paper():
    """Config and outline of the paper's setting, and the bytes of its teacher."""
    cfg = load_config(ROOT / PAPER)
    model = outline(cfg)
    return cfg, model, needs.teacher_bytes(model)


@pytest.mark.parametrize('options', [{}, dict(max_images=16), dict(views=(5, 7)), dict(max_scenes=1),
                                     dict(views=(3, 8), max_images=25)])
def test_the_largest_slot_is_the_largest_that_the_sampler_draws(options):
    batches = dict(type='ViewBatchSampler', **(dict(views=(2, 24), max_images=48, aspect_ratio=(0.33, 1.0)) | options))
    slot = largest_slot(Config(dict(batches=batches, train_dataset=dict(width=518))), 14)
    sampler = ViewBatchSampler(1000, 0, **{name: value for name, value in batches.items() if name != 'type'})
    drawn = [sampler.batch(update, 0) for update in range(400)]
    assert slot.images == max(len(batch) * batch[0].num_views for batch in drawn)
    assert max(batch[0].aspect_ratio for batch in drawn) == 1.0 and slot.size == (518, 518)
    assert str(Slot(2, (392, 518))) == '2 images of 518 x 392'


def test_a_slot_of_unknown_size_has_no_estimate(paper):
    cfg = Config(dict(batches=dict(type='ViewBatchSampler'), train_dataset={}, train=dict(sharding=None)))
    assert largest_slot(cfg, 14) is None
    assert 'no estimate for this sampler, data set or model' in memory_words(paper[1], cfg, CPU, 1)


GRADIENTS = """
import sys
from types import SimpleNamespace
import torch
import torch.distributed as dist
from jrs.engine.console import JrsRunner
module = torch.nn.Sequential(*(torch.nn.Linear(200, 200) for _ in range(5)))
dist.init_process_group('gloo', init_method=f'file://{sys.argv[1]}/store', rank=0, world_size=1)
wrapped = JrsRunner.wrap_model(SimpleNamespace(distributed=True, _train_loop=object()), None, module)
for _ in range(2):                                             # buckets are made anew after the first
    wrapped(torch.ones(1, 200)).sum().backward()
kept = {memory.data_ptr(): memory.nbytes() for memory in (value.grad.untyped_storage() for value in module.parameters())}
assert list(kept.values()) == [4 * sum(value.numel() for value in module.parameters())], kept
"""


def test_several_processes_hold_the_gradients_once_and_shards_hold_a_part(tmp_path):
    """Gradients are views of DDP's buckets: all lie in the memory of one, which is as large as they are.

    In a process of its own: after tests that compile, threads of gloo end with the lock of Python, which who ends them has.
    """
    ended = subprocess.run([sys.executable, '-c', GRADIENTS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_the_estimate_counts_shards(paper):
    model = paper[1]
    alone, together, shards = (training_memory(model, 4, (56, 56), CPU, 1e6, processes, sharded)
                               for processes, sharded in ((1, False), (4, False), (4, True)))
    trainable = sum(value.numel() for value in model.parameters() if value.requires_grad)
    weights = sum(value.numel() for value in model.parameters())
    assert together.total > alone.total        # buckets are there from the start
    assert alone.total - shards.total == pytest.approx((4 * weights + 12 * trainable) * 3 / 4)


def test_a_start_says_what_it_will_take_and_what_does_not_fit(paper, monkeypatch):
    cfg, model, teacher = paper
    monkeypatch.setattr(needs, 'teacher_bytes', lambda model: teacher)
    for free, words in ((80 * GB, ''), (40 * GB, ': too much, about 37 images would fit. Fewer (batches.max_images, '
                                        'batches.views) make another update')):
        monkeypatch.setattr(needs, 'free_memory', lambda device, free=free: free)
        assert memory_words(model, cfg, torch.device('cuda'), 8) == (
            'memory of training: at most about 44.7 GB in each process (48 images of 518 x 518; an estimate), '
            f'{free / GB:.1f} GB can be had{words}')
    assert '5.8 GB can be had: too much' in memory_words(model, cfg, CPU, 8)            # they share one machine


def test_what_a_real_run_needs_is_in_the_docs(paper, monkeypatch):
    """docs/real_run.md cannot go stale."""
    cfg, model, teacher = paper
    monkeypatch.setattr(needs, 'outline', lambda cfg: model)
    monkeypatch.setattr(needs, 'teacher_bytes', lambda model: teacher)
    found = needs_of(cfg, 8)
    assert needs_page('', found) in (ROOT / 'docs' / 'real_run.md').read_text(encoding='utf-8'), (
        f'put what `python tools/train.py {PAPER} --needs` prints into docs/real_run.md')
    amounts = {need.what: need.amount for need in found}
    assert amounts['images that a card holds, at most'] == '48 images of 518 x 518'
    assert float(amounts['memory of a card'].split()[0]) > 40


def test_the_table_of_the_page_on_memory_is_what_the_estimate_says(paper):
    _, model, teacher = paper
    card, narrow = torch.device('cuda'), copy.deepcopy(model).eval().narrow()
    page = (ROOT / 'docs' / 'performance.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| (?:training|inference).*', page, re.MULTILINE)
    said = [[float(cell) for cell in row.split(' | ')[1:] if cell[0].isdigit()] for row in (row.strip('| ') for row in rows)]
    views = (2, 10, 24, 48, 100, 200)
    estimates = [[inference_memory(narrow, count, (392, 518), card) for count in views],
                 [training_memory(model, count, (392, 518), card, teacher, 1) for count in views[:4]],
                 [training_memory(model, count, (518, 518), card, teacher, 8) for count in views[:4]]]
    assert said == [pytest.approx([one.total / GB for one in row], abs=0.051) for row in estimates]


def test_hours_are_updates_times_turns_times_the_step(paper, monkeypatch):
    monkeypatch.setattr(needs, 'outline', lambda cfg: paper[1])
    monkeypatch.setattr(needs, 'teacher_bytes', lambda model: 0)
    hours = needs_of(paper[0], 2, step_seconds=1.8)[-1]
    assert hours.amount == '80' and '4 slots of each process x 1.8 s as given' in hours.known


def test_the_cost_of_preparation_is_the_measured_one():
    last = json.loads((ROOT / 'benchmarks/results/preparation_cpu.json').read_text(encoding='utf-8'))[-1]
    assert PREPARATION.seconds_per_frame == pytest.approx(last['seconds_per_frame'], rel=0.02)
    ratio = last['prepared_bytes_per_frame'] / last['raw_bytes_per_frame']
    assert PREPARATION.prepared_over_raw == pytest.approx(ratio, rel=0.02)
    assert PREPARATION.mesh_bytes == pytest.approx(last['mesh_bytes'], rel=0.02)
