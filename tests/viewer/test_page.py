"""The page as a browser's first look would find it: what is served, to whom, and that clicks reach the session."""

import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest

from jrs.cli.view import is_loopback
from jrs.errors import JrsError
from jrs.viewer.page import start_page
from jrs.viewer.read import Source
from jrs.viewer.session import LEFT, RIGHT, TRUTH, Session
from jrs.viewer.upload import Uploads
from tests._data import command
from tests.viewer._results import source, wall


@pytest.fixture
def page(tmp_path):
    """A page of two walls, on a free port of this machine."""
    pytest.importorskip('viser', reason='the viewer needs viser (jrs[viewer])')
    session = Session([source(wall(), wall('truth', true=True)), source(wall('other', shift=3.0))], max_points=1000)
    page = start_page(session, '127.0.0.1', 0, Uploads(tmp_path, lambda: None))
    yield page
    page.stop()


def test_the_page_is_served_and_nothing_of_the_disk_beside_it(page):
    address = f'http://127.0.0.1:{page.port}'
    assert b'<html' in urllib.request.urlopen(address).read()
    for path in ('/../../etc/passwd', '/%2e%2e/%2e%2e/%2e%2e/etc/passwd', '//etc/passwd', '/..%5c..%5cetc/passwd', __file__):
        with pytest.raises(urllib.error.HTTPError, match='404'):
            urllib.request.urlopen(address + path)


def test_no_address_is_asked_of_the_public_relay(page, monkeypatch):
    from viser import _tunnel
    monkeypatch.setattr(_tunnel.ViserTunnel, '__init__', lambda *_: pytest.fail('the relay was asked'))
    assert page.server.request_share_url() is None


def test_the_cloud_follows_click_sliders_and_choices(page):
    stand = page.session.stands[LEFT]
    assert len(page.clouds[LEFT].points) == 100
    target = stand.place.shown(stand.result.points[0]).astype(np.float64)
    page._clicked(SimpleNamespace(ray_origin=tuple(target + [0, 0, 4]), ray_direction=(0, 0, -1.0), client=None))
    assert page.session.look.selected == 1 and page.instance.value == '1 chair 0.90' and 'chair' in page.details.content
    assert len(page.pictures) == 2
    page.alone.value = True
    page._looked()
    assert len(page.clouds[LEFT].points) == 30
    page.alone.value, page.least_sure.value, page.score.value, page.colours.value = False, 50.0, 0.95, 'instance'
    page._looked()
    assert len(page.clouds[LEFT].points) == 50 and page.session.look.selected == 0 and page.instance.value == 'none'
    page._show_beside(TRUTH)
    assert set(page.clouds) == {LEFT, RIGHT} and len(page.frusta[RIGHT]) == 3
    assert page.frames[RIGHT].position[0] > 0 > page.frames[LEFT].position[0]
    page._show('other')
    assert set(page.clouds) == {LEFT} and 'left: 2 instances' in page.status.content


def test_masks_of_the_selection_are_read_once_however_sliders_move(page, monkeypatch):
    read = []
    words = page.session.words
    monkeypatch.setattr(page.session, 'words', lambda most: read.append(most) or words(most))
    page.session.select(LEFT, 1)
    for share in (10.0, 20.0, 30.0):
        page.least_sure.value = share
        page._looked()
    assert len(read) == 1 and 'chair' in page.details.content and len(page.pictures) == 2
    page._show_beside(TRUTH)
    page.session.select(LEFT, 1)
    page._refresh()
    assert len(read) == 3 and 'best true instance' in page.details.content


def test_a_broken_result_is_told_and_the_page_goes_on(page):
    told = []
    client = SimpleNamespace(add_notification=lambda title, words, **_: told.append(words))

    def read():
        raise JrsError('cut off')
    page.session.sources['gone'] = Source('gone', read)
    page._guarded(lambda event: page._show('gone'))(SimpleNamespace(client=client))
    assert told == ['cut off'] and page.session.chosen == 'wall' and len(page.clouds[LEFT].points) == 100
    page._show_beside(TRUTH)
    page._guarded(lambda event: page._show_beside('gone'))(SimpleNamespace(client=client))
    assert len(told) == 2 and page.session.beside == TRUTH and set(page.session.stands) == set(page.clouds) == {LEFT, RIGHT}
    page._sized()


def test_without_viser_the_command_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__('sys').modules, 'viser', None)
    assert command('view', '--port', 0) == 2
    assert 'pip install "jrs[viewer]"' in capsys.readouterr().err


@pytest.mark.parametrize(('words', 'said'), [
    (['nowhere'], 'no folder nowhere'), (['--no-upload'], 'Nothing to view'), (['--truth', 'nowhere'], 'no scene folder'),
    (['--benchmark', 'scannet2000'], "Did you mean 'scannet200'")])
def test_what_cannot_be_viewed_is_refused(words, said, capsys):
    assert command('view', *words) == 2
    assert said in capsys.readouterr().err


def test_only_this_machine_is_loopback():
    assert all(map(is_loopback, ('127.0.0.1', 'localhost', '::1')))
    assert not any(map(is_loopback, ('0.0.0.0', '10.0.0.2', 'x')))
