"""The page: viser draws what a `Session` says, and hands it what people click. All state is in the session."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from jrs.errors import JrsError
from jrs.viewer.place import shifts
from jrs.viewer.session import LEFT, NOTHING, RIGHT, Session, Stand
from jrs.viewer.shown import COLOURS
from jrs.viewer.upload import Uploads
from jrs.visualization.cloud import GROUND
from jrs.visualization.pictures import scale_to

NO_VISER = ('The viewer needs viser: pip install "jrs[viewer]" (or pip install viser). The report.html beside each result '
            'needs nothing.')
MAX_FRUSTA, THUMBNAIL = 64, 160                 # cameras that are drawn; width of their pictures
FRUSTUM = 0.06                                  # depth of a drawn camera; a scene reaches from -1 to 1
SHOWN_VIEWS = 6                                 # pictures of the selected instance
AWAY = {1: 1.8, 2: 2.9}                         # of the viewer from the middle, by how many results stand there
STILL = 1e-3                                    # a turn of the viewer's right by less than this moves nothing
NONE = 'none'


def start_page(session: Session, host: str, port: int, uploads: Uploads | None = None) -> Page:
    """Return a page that is served at ``http://host:port`` until its `stop`; a taken port means the next free one.

    Raises:
        JrsError: viser is not installed.
    """
    try:
        import viser
    except ImportError as error:
        raise JrsError(NO_VISER) from error

    class LocalServer(viser.ViserServer):
        """Never asks viser's public relay for an address, whatever a browser says: scenes stay on this machine."""

        def request_share_url(self, verbose: bool = True) -> None:
            return None

    server = LocalServer(host=host, port=port, label='jrs', verbose=False)
    server.gui.configure_theme(show_logo=False, show_share_button=False, control_width='large')
    server.gui.main_panel.dock_right()
    return Page(server, session, uploads)


def point_size(count: int) -> float:
    """Return how large the points of a cloud of `count` are drawn, so that they about close its surfaces."""
    return min(max(2.2 / max(count, 1) ** 0.5, 0.002), 0.03)


class Page:
    """One served page.

    Args:
        server: a viser server.
        session: what is looked at.
        uploads: keeps what browsers send; None takes nothing.
    """

    def __init__(self, server, session: Session, uploads: Uploads | None) -> None:
        self.server, self.session, self.uploads = server, session, uploads
        self.lock, self.sending = threading.RLock(), threading.RLock()      # of the session, of what is uploaded
        self.right: np.ndarray | None = None                    # of the viewer who moved last, (3,)
        self.drawn: dict[str, np.ndarray] = {}                  # side -> which points the browser has
        self.clouds, self.frames, self.frusta, self.pictures = {}, {}, {}, []
        self.detailed: tuple | None = None                      # what `details` and `pictures` are of
        server.scene.set_up_direction('+y')
        server.scene.set_background_image(np.full((1, 1, 3), GROUND, np.uint8), format='png')
        server.scene.on_click()(self._clicked)
        server.on_client_connect(self._connected)
        self._build()
        self._show(next(iter(session.sources), None))

    @property
    def port(self) -> int:
        """Where it is served."""
        return self.server.get_port()

    def stop(self) -> None:
        """End it."""
        self.server.stop()

    def _build(self) -> None:
        gui, names = self.server.gui, list(self.session.sources) or [NONE]
        self.status = gui.add_markdown('')
        self.source = gui.add_dropdown('Result', names)
        self.beside = gui.add_dropdown('Beside it', (NOTHING,))
        with gui.add_folder('Look'):
            self.colours = gui.add_dropdown('Colours', COLOURS)
            self.score = gui.add_slider('Score from', 0.0, 1.0, 0.01, 0.0)
            self.least_sure = gui.add_slider('Leave out least sure (%)', 0.0, 95.0, 1.0, 0.0)
            self.size = gui.add_slider('Point size', 0.25, 4.0, 0.05, 1.0)
            self.cut = gui.add_slider('Cut off from above (%)', 0.0, 90.0, 1.0, 0.0)
            self.cameras = gui.add_checkbox('Cameras', True)
        with gui.add_folder('Instance'):
            self.instance = gui.add_dropdown('Instance', (NONE,))
            self.alone = gui.add_checkbox('Its points alone', False)
            self.details = gui.add_markdown('')
            self.pictures_folder = gui.add_folder('Views that see it')
        with gui.add_folder('Distance of two clicks'):
            self.distance = gui.add_markdown(self.session.measure())
        with gui.add_folder('Export what is selected'):
            for kind in ('ply', 'glb'):
                gui.add_button(kind.upper()).on_click(self._guarded(lambda event, kind=kind: self._export(event, kind)))
        if self.uploads is not None:
            with gui.add_folder('Own photos'):
                self.upload = gui.add_upload_button('Add photo, video or zip', mime_type='image/*,video/*,.zip')
                self.start = gui.add_button('Reconstruct', disabled=True)
                self.progress = gui.add_progress_bar(0, visible=False)
                self.said = gui.add_markdown('')
            self.upload.on_upload(self._guarded(self._uploaded, self.sending))
            self.start.on_click(self._guarded(self._reconstruct, self.sending))
        self.source.on_update(self._guarded(lambda event: self._chosen()))
        self.beside.on_update(self._guarded(lambda event: self._show_beside(self.beside.value)))
        for control in (self.colours, self.score, self.least_sure, self.cut, self.alone):
            control.on_update(self._guarded(lambda event: self._looked()))
        self.size.on_update(self._guarded(lambda event: self._sized()))
        self.cameras.on_update(self._guarded(lambda event: self._place()))
        self.instance.on_update(self._guarded(lambda event: self._named()))

    def _guarded(self, work: Callable, lock: threading.RLock | None = None) -> Callable:
        """Return `work` one at a time under a lock; what people can act on is shown to them, the rest is logged too."""
        def guarded(event) -> None:
            with lock or self.lock:
                try:
                    work(event)
                except JrsError as error:
                    self._tell(event, str(error))
                except Exception:                               # a thread of viser's: nobody else would say it
                    logging.getLogger(__name__).exception('The page could not do what was asked.')
                    self._tell(event, 'That failed; the terminal says why.')
        return guarded

    def _tell(self, event, words: str) -> None:
        for client in [event.client] if getattr(event, 'client', None) else self.server.get_clients().values():
            client.add_notification('jrs', words, color='red')

    def _show(self, name: str | None) -> None:
        """Let a result stand at the left, alone."""
        if name not in self.session.sources:
            self.status.content = 'Nothing to look at yet.'
            return
        self.session.choose(name)
        self.beside.options = tuple(self.session.beside_choices())
        self.beside.value = NOTHING
        self._draw()

    def _chosen(self) -> None:
        if self.source.value != self.session.chosen:            # not what the page itself has set
            self._show(self.source.value)

    def _show_beside(self, name: str) -> None:
        if self.session.stands and name != self.session.beside:
            self.session.choose_beside(name)
            self._draw()

    def _draw(self) -> None:
        """Draw both sides anew."""
        with self.server.atomic():
            for side in (LEFT, RIGHT):
                self.clouds.pop(side, None)
                self.drawn.pop(side, None)
                self.frusta[side] = []
                if side in self.frames:
                    self.frames.pop(side).remove()
                if side in self.session.stands:
                    self.frames[side] = self.server.scene.add_frame(f'/{side}', show_axes=False)
                    self.frusta[side] = self._add_cameras(side, self.session.stands[side])
            self._place()
            self._refresh()
        for client in self.server.get_clients().values():
            self._step_back(client.camera)

    def _step_back(self, camera) -> None:
        """Let a viewer who looks at the middle stand where all fits in."""
        offset = camera.position - camera.look_at
        away = AWAY[max(len(self.session.stands), 1)]
        camera.position, camera.look_at = offset / max(np.linalg.norm(offset), 1e-6) * away, np.zeros(3)

    def _add_cameras(self, side: str, stand: Stand) -> list:
        import viser.transforms as transforms
        views = [view for view in stand.result.views if view.cam_from_world is not None]
        chosen = np.unique(np.linspace(0, len(views) - 1, min(len(views), MAX_FRUSTA)).round().astype(int)) if views else []
        handles = []
        for index in chosen:
            view = views[index]
            rotation, centre = stand.place.camera(view.cam_from_world)
            height, width = view.size
            picture = None
            if view.picture is not None:
                picture = view.picture()
                picture = scale_to(picture, max(round(THUMBNAIL * picture.shape[0] / picture.shape[1]), 1), THUMBNAIL)
            handles.append(self.server.scene.add_camera_frustum(
                f'/{side}/cameras/{index}', fov=float(2 * np.arctan(height / 2 / view.intrinsics[1, 1])),
                aspect=width / height, scale=FRUSTUM, color=(235, 96, 60), image=picture, thickness=0.002,
                wxyz=transforms.SO3.from_matrix(rotation).wxyz, position=centre, cast_shadow=False, receive_shadow=False))
        return handles

    def _refresh(self) -> None:
        """Bring clouds, list and texts up to the session; points travel only where others are shown."""
        session = self.session
        with self.server.atomic():
            for side in session.stands:
                shown, points, colours = session.cloud(side)
                if side in self.clouds and np.array_equal(self.drawn[side], shown):
                    self.clouds[side].colors = colours
                else:
                    self.clouds[side] = self.server.scene.add_point_cloud(
                        f'/{side}/cloud', points, colours, point_size=self._size_at(side), point_shape='circle',
                        point_shading='flat', precision='float16')
                    self.drawn[side] = shown
            self.status.content = session.status()
            self.distance.content = session.measure()
            self._list()
            self._detail()

    def _list(self) -> None:
        """Bring the list of instances, of the side of the selection, up to the session."""
        side = self.session.side
        self.numbers = {NONE: 0} | {words: number for number, words in self.session.choices(side)}
        if tuple(self.numbers) != tuple(self.instance.options):
            self.instance.options = tuple(self.numbers)
        words = next((words for words, number in self.numbers.items() if number == self.session.look.selected), NONE)
        if self.instance.value != words:
            self.instance.value = words

    def _detail(self) -> None:
        """Bring text and pictures of the selection up to the session; masks are read only where another is selected."""
        session = self.session
        selection = (session.chosen, session.beside, session.side, session.look.selected)
        if selection == self.detailed:
            return
        text, views = session.words(SHOWN_VIEWS)
        self.details.content = text
        for handle in self.pictures:
            handle.remove()
        with self.pictures_folder:
            self.pictures = [self.server.gui.add_image(picture, label=f'{name}: {pixels} mask pixels', format='jpeg')
                             for name, pixels, picture in views]
        self.detailed = selection

    def _looked(self) -> None:
        look = self.session.look
        look = replace(look, colours=self.colours.value, min_score=self.score.value, least_sure=self.least_sure.value,
                       alone=self.alone.value, cut=self.cut.value)
        number = look.selected
        if number and number not in dict(self.session.choices(self.session.side)):
            look = replace(look, selected=0)
        self.session.look = look
        self._refresh()

    def _sized(self) -> None:
        for side, cloud in self.clouds.items():
            cloud.point_size = self._size_at(side)

    def _size_at(self, side: str) -> float:
        return self.size.value * point_size(len(self.session.stands[side].result.points))

    def _named(self) -> None:
        number = self.numbers.get(self.instance.value, 0)
        if number != self.session.look.selected:
            self.session.select(self.session.side, number)
            self._refresh()

    def _clicked(self, event) -> None:
        def click(event) -> None:
            self.session.click(np.array(event.ray_origin), np.array(event.ray_direction), self.right)
            self._refresh()
        self._guarded(click)(event)

    def _connected(self, client) -> None:
        client.camera.up_direction = (0.0, 1.0, 0.0)
        client.camera.position = (0.0, 0.75, 2.0)
        client.camera.look_at = (0.0, 0.0, 0.0)
        self._step_back(client.camera)
        client.camera.on_update(self._moved)

    def _moved(self, camera) -> None:
        import viser.transforms as transforms
        right = transforms.SO3(camera.wxyz).as_matrix()[:, 0]
        with self.lock:
            if self.right is None or np.abs(right - self.right).max() > STILL:
                self.right = right
                if RIGHT in self.session.stands:
                    self._place()

    def _place(self) -> None:
        """Put both sides where the viewer's right says; show or hide their cameras."""
        both = zip((LEFT, RIGHT), shifts(self.right, RIGHT in self.session.stands), strict=True)
        with self.server.atomic():
            for side, shift in both:
                if side in self.frames:
                    self.frames[side].position = shift
                for handle in self.frusta.get(side, ()):
                    handle.visible = self.cameras.value

    def _export(self, event, kind: str) -> None:
        name, content = self.session.exported(kind)
        event.client.send_file_download(name, content, save_immediately=True)

    def _uploaded(self, event) -> None:
        file = self.upload.value
        count = self.uploads.add(file.name, file.content)
        self.said.content = f'{count} {"file" if count == 1 else "files"} to reconstruct.'
        self.start.disabled = False

    def _reconstruct(self, event) -> None:
        def progress(percent: float, words: str) -> None:
            self.progress.value, self.said.content = percent, words
            self.server.flush()
        self.progress.visible, self.progress.animated = True, True
        self.start.disabled = True
        try:
            source = self.uploads.reconstruct(progress)
        except JrsError as error:
            self.said.content = str(error)
            raise
        finally:
            self.progress.animated = False
        with self.lock:                                         # while it worked, people could go on looking
            self.session.sources[source.name] = source
            self._show(source.name)
            self.source.options = tuple(self.session.sources)
            self.source.value = source.name
