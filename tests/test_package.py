"""What a wheel carries, and what an installed package does: names, own files, the words of its messages."""

import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser

import pytest

from jrs import opencv, places
from jrs.config import load_config
from jrs.errors import ConfigError, JrsError
from tests._data import ROOT, command

OWN_PACKAGES = {'cv2': 'opencv-contrib-python-headless', 'mmcv': 'mmcv-lite', 'yaml': 'pyyaml', 'PIL': 'pillow'}


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The files of a wheel: what setuptools copies for one."""
    folder = tmp_path_factory.mktemp('built')
    subprocess.run([sys.executable, '-W', 'ignore', 'setup.py', '-q', 'egg_info', '--egg-base', str(folder), 'build_py',
                    '--build-lib', str(folder / 'lib')], cwd=ROOT, check=True, capture_output=True)
    return folder / 'lib'


def tracked(*folders):
    """Return the files under git below folders of the repository, with those that are new."""
    words = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', *folders]
    listed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split('\n')
    return {name for name in listed if name and (ROOT / name).is_file()}


def test_a_wheel_carries_the_package_and_the_projects_folders_and_nothing_else(built):
    if not (ROOT / '.git').exists():
        pytest.skip('no git: what belongs to the project is not known')
    want = tracked('jrs') | {f'jrs/project/{name}' for name in tracked(*places.FOLDERS)}
    have = {path.relative_to(built).as_posix() for path in built.rglob('*') if path.is_file()}
    assert have == want, (sorted(want - have), sorted(have - want))


def test_an_installed_package_works_from_an_empty_folder(built, tmp_path):
    """Names of experiments, its weights and plugins; messages say commands that it has. Nothing is written."""
    program = ('import sys; from jrs.places import installed, own_file, project; from jrs.config import load_config; '
               'from jrs.cli import main; assert installed(); '
               "cfg = load_config(project() / 'configs/segvggt/all24_fada.py', 'rooms'); "
               "assert own_file(cfg.weights).is_file() and own_file(cfg.weights).is_relative_to(project()); "
               "load_config(project() / 'plugins/pi3/configs/pi3_fada.py', 'debug'); "
               "codes = [main(['train', 'segvggt/all24_fada', '--profile', 'rooms']), main(['print_config', "
               "'all24_no_fada', '--diff']), main(['plugins']), main(['configs', '--table', '3'])]; print(codes)")
    done = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(built), 'PYTHONDONTWRITEBYTECODE': '1'})
    assert done.returncode == 0 and '[2, 0, 0, 0]' in done.stdout, done.stderr
    assert 'Generate the rooms: jrs prepare rooms --preset tiny' in done.stderr and 'tools/' not in done.stderr
    assert 'the package jrs' in done.stdout and 'row 3, loss yes, cost yes' in done.stdout
    assert 'segvggt/all24_no_fada.py' in done.stdout and not any(tmp_path.iterdir())


def test_names_of_experiments_and_paths(tmp_path, monkeypatch):
    main = ROOT / 'configs' / 'segvggt' / 'all24_fada.py'
    monkeypatch.chdir(tmp_path)
    for name in ('segvggt/all24_fada', 'all24_fada', 'configs/segvggt/all24_fada.py'):
        assert places.config_named(name) == str(main)
        with pytest.raises(ConfigError, match=f"The experiment of that name is '{main}'"):         # names are for commands
            load_config(name)
    assert places.config_named('pi3/pi3_fada') == str(ROOT / 'plugins' / 'pi3' / 'configs' / 'pi3_fada.py')
    assert places.config_named('no/such') == 'no/such' and places.config_named(str(main)) == str(main)
    own = tmp_path / 'configs' / 'segvggt' / 'all24_fada.py'                   # a folder's own come first
    own.parent.mkdir(parents=True)
    own.write_text("_base_ = 'segvggt/all24_fada'\nseed = 5\n")                # and a base is the project's
    assert places.config_named('segvggt/all24_fada') == str(own)
    assert load_config(own, 'debug').seed == 5
    (tmp_path / 'jrs').mkdir()
    (tmp_path / 'jrs' / 'inheritance.py').touch()
    assert places.project() == tmp_path                                        # in a checkout the checkout wins


def test_configs_lists_every_experiment_with_its_rows(capsys):
    assert command('configs', '--json') == 0
    entries = {entry['name']: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(entries) == set(places.experiments())
    assert ['Table 4', 'Early 12', ''] in entries['segvggt/early12_fada']['rows']
    assert all(entry['about'] for entry in entries.values())
    assert command('configs', 'pi3x', '--paths') == 0 and capsys.readouterr().out.count('plugins/pi3x/configs') == 3
    assert command('configs', '--table', '11') == 2 and 'Table 1' in capsys.readouterr().err
    assert command('configs', 'pi3', '--table', '3') == 2 and 'that makes a row of Table 3 has' in capsys.readouterr().err


def test_a_new_project_holds_an_experiment_and_a_plugin_that_work(tmp_path, monkeypatch, capsys, fresh):
    monkeypatch.chdir(tmp_path)
    assert command('init', 'far_views') == 0
    assert (tmp_path / 'far_views' / 'README.md').read_text().count('\n') <= 10
    monkeypatch.chdir(tmp_path / 'far_views')
    assert command('plugins', 'check', 'plugins/far_views') == 0 and command('print_config', 'far_views', '--diff') == 0
    assert "+ dict(type='FarViews')" in capsys.readouterr().out
    assert load_config('configs/far_views.py', 'debug').model.alignment.type == 'FarViews'
    assert command('init', '.') == 2 and 'not empty' in capsys.readouterr().err
    assert command('init', tmp_path / 'pi3') == 2 and 'pi3' in capsys.readouterr().err


def test_an_opencv_that_lacks_a_system_library_is_explained(monkeypatch):
    missing = ImportError('libGL.so.1: cannot open shared object file: No such file or directory')
    said = opencv.explained(missing)
    assert isinstance(said, JrsError) and opencv.CURE in str(said) and 'libGL.so.1' in str(said)
    other = ImportError('No module named viser')
    assert opencv.explained(other) is other
    assert isinstance(opencv.explained(ImportError('cannot import', name='cv2.gapi')), JrsError)


@pytest.mark.parametrize('words', [['convert', 'model.pt', '--out', 'out'], ['print_config', 'all24_fada']])
def test_a_command_that_cannot_load_opencv_stops_with_the_cure_whenever_it_imports_it(words, tmp_path):
    (tmp_path / 'cv2.py').write_text("raise ImportError('libGL.so.1: cannot open shared object file: No such file')")
    done = subprocess.run([sys.executable, '-m', 'jrs', *words], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'})
    assert done.returncode == 2 and opencv.CURE in done.stderr and 'Traceback' not in done.stderr, done.stderr


def test_messages_of_an_install_name_its_own_commands(monkeypatch):
    words = 'python tools/prepare.py rooms; torchrun --nproc_per_node 2 tools/train.py X; see tools/infer.py'
    assert places.typed(words) == words
    monkeypatch.setattr(places, 'REPOSITORY', places.BUNDLED)
    assert places.typed(words) == 'jrs prepare rooms; torchrun --nproc_per_node 2 -m jrs train X; see jrs infer'
    assert places.command_words('train', ['X']) == ['jrs', 'train', 'X']


def test_every_package_that_is_imported_at_the_top_is_required():
    setup = ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    listed = setup['options']['install_requires'].split('\n')
    required = {re.split('[<>=;]', line)[0].lower() for line in listed}
    found = {''.join(names) for path in (ROOT / 'jrs').rglob('*.py') for names in re.findall(
        r'^(?:from (\w+)\S* import|import (\w+))', path.read_text(encoding='utf-8'), re.MULTILINE)}
    foreign = {name for name in found if name not in sys.stdlib_module_names and name not in ('jrs', 'jrs_plugins')}
    lacking = {name for name in foreign if OWN_PACKAGES.get(name, name).lower() not in required}
    assert not lacking, lacking


def test_lowest_versions_are_those_that_the_page_says_were_tried():
    setup = ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    page = (ROOT / 'docs' / 'install.md').read_text(encoding='utf-8')
    tried = dict(re.findall(r'([\w-]+)\s([\d.]+\d)', page[page.index('The lowest versions'):page.index('The newest')]))
    tried['opencv-contrib-python-headless'] = tried['OpenCV']
    lowest = dict(re.findall(r'^([\w-]+)>=([\d.]+)', setup['options']['install_requires'], re.MULTILINE))
    assert len(lowest) > 10 and all(f'{tried[name]}.'.startswith(f'{version}.') for name, version in lowest.items()), tried
