"""Commands over several short lines are the same commands to a shell; gaps are counted by kind."""

import shlex
import subprocess

import pytest

from jrs.report.dry_run import shell_lines
from jrs.report.gaps import Gap, by_kind, in_words, no_predictions

WORDS = ['tools/train.py', 'configs/segvggt/all24_fada.py', '--work-dir', 'work_dirs/' + 'a_very_long_name_' * 9,
         "model.backbone.lora=dict(rank=2, alpha='x y')", '', "it's", 'a\\b', '$HOME', '*', "'" * 40, 'x' * 130]


@pytest.mark.parametrize('width', [20, 33, 50, 79, 100, 200])
@pytest.mark.parametrize('words', [WORDS, WORDS[::-1], ['x' * 200], ['a', "'" * 90, 'b']], ids=len)
def test_a_command_over_several_lines_is_the_same_to_a_shell(words, width):
    lines = shell_lines(['printf', '%s\\n', *words], width, '      ')
    assert max(map(len, lines)) <= width
    done = subprocess.run(['sh', '-c', '\n'.join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == words


def test_a_command_that_fits_is_one_line():
    assert shell_lines(['python', 'a b'], 60, '  ') == [f"  python {shlex.quote('a b')}"]


def test_gaps_are_counted_by_kind_once_per_cell(tmp_path):
    data, weights = Gap('data/x', 'get it', 'train_dataset: get it'), Gap('w.pt', 'download it')
    again = Gap('data/x', 'get it', 'val_dataset: get it')
    found = by_kind([[data, again, weights], [data], []])
    assert [(count, gap.need) for count, gap in found] == [(2, 'data/x'), (1, 'w.pt')]
    assert in_words([data, again, weights, data]) == 'train_dataset: get it; val_dataset: get it; needs w.pt: download it'
    files = [no_predictions(tmp_path / method / 'scannet200') for method in ('one', 'other')]
    assert by_kind([[file] for file in files])[0][0] == 2 and 'one/scannet200' in str(files[0])
