"""The benchmark of methods on points: a small room is measured part by part, and the page shows the newest record."""

import json

from benchmarks import point_clouds
from tests._data import ROOT

RECORD = ROOT / 'benchmarks' / 'results' / 'point_clouds_cpu.json'


def test_a_scene_is_measured_part_by_part(tmp_path, capsys):
    out = tmp_path / 'record.json'
    words = '--methods spformer_scannetv2 --points 600 --superpoints 24 --repeats 1 --out'.split()
    point_clouds.main([*words, str(out)])
    row = json.loads(out.read_text())[0]['rows'][0]
    assert row['points'] == row['voxels'] > 400 and 6 <= row['superpoints'] <= 48
    assert set(row['ms']) == set(point_clouds.STAGES) and all(value >= 0 for value in row['ms'].values())
    assert row['ms']['network'] > 0 and row['ms']['decoder'] > 0 and abs(sum(row['ms'].values()) - row['total_ms']) < 0.2
    assert abs(row['parameters_m'] - point_clouds.PUBLISHED['spformer_scannetv2'] / 1e6) < 0.2
    assert '| spformer_scannetv2 |' in capsys.readouterr().out


def test_the_page_shows_the_newest_record():
    lines = point_clouds.table(json.loads(RECORD.read_text())[-1])
    assert '\n'.join(lines) in (ROOT / 'plugins' / 'point_clouds' / 'README.md').read_text(encoding='utf-8')
