"""Which furniture a room has and where it stands. The room's frame: x, y along the walls from one corner, z up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from jrs.synth import textures as tx
from jrs.synth.floor_plan import FloorPlan, make_plan
from jrs.synth.pieces import FURNITURE, Piece, about_z
from jrs.synth.primitives import Part, Solids
from jrs.synth.styles import STYLES, Style

Random = np.random.Generator
ROOM_KINDS = {'living': 0.26, 'bedroom': 0.20, 'office': 0.22, 'dining': 0.14, 'kitchen': 0.10, 'bath': 0.08}
SCENE_TYPES = {'living': 'Living room / Lounge', 'bedroom': 'Bedroom / Hotel', 'office': 'Office',
               'dining': 'Dining room', 'kitchen': 'Kitchen', 'bath': 'Bathroom'}
APARTMENT = 'Apartment'                                     # the scene type of rooms of two parts
NEIGHBOURS = {'living': ('dining', 'kitchen', 'office', 'bedroom'), 'bedroom': ('bath', 'office', 'living'),
              'office': ('office', 'living', 'dining'), 'dining': ('kitchen', 'living'), 'kitchen': ('dining', 'living')}
SHARED_STYLE, SHARED_PIECE = 0.65, 0.8                      # chance of a room, and then of a piece, to repeat its type
CLEAR_PASSAGE = 0.6                                         # metres before an opening in which nothing stands
SUNK = 0.04                                                 # metres that wall-mounted things may reach into a wall
# Against the walls, tallest and largest first: (maker, most pieces, chance of each).
WALL_FURNITURE = {
    'living': (('bookshelf', 2, 0.6), ('tall_cabinet', 1, 0.4), ('low_cabinet', 1, 0.4), ('armchair', 2, 0.5),
               ('floor_lamp', 2, 0.6), ('plant', 2, 0.6), ('ottoman', 1, 0.4), ('radiator', 1, 0.4)),
    'bedroom': (('tall_cabinet', 2, 0.7), ('dresser', 1, 0.8), ('desk', 1, 0.4), ('bookshelf', 1, 0.3),
                ('armchair', 1, 0.3), ('plant', 1, 0.4), ('floor_lamp', 1, 0.4), ('radiator', 1, 0.4),
                ('bench', 1, 0.3)),
    'office': (('tall_cabinet', 2, 0.5), ('bookshelf', 3, 0.6), ('desk', 2, 0.6), ('low_cabinet', 2, 0.4),
               ('plant', 2, 0.5), ('trash_can', 2, 0.5), ('radiator', 1, 0.4)),
    'dining': (('tall_cabinet', 1, 0.5), ('low_cabinet', 2, 0.7), ('dresser', 1, 0.5), ('bookshelf', 1, 0.4),
               ('plant', 2, 0.6), ('chair', 2, 0.4), ('floor_lamp', 1, 0.4), ('radiator', 1, 0.4)),
    'kitchen': (('refrigerator', 1, 1.0), ('counter', 2, 1.0), ('low_cabinet', 1, 0.4), ('trash_can', 2, 0.8),
                ('plant', 1, 0.4), ('bench', 1, 0.2)),
    'bath': (('bathtub', 1, 0.85), ('toilet', 1, 1.0), ('pedestal_sink', 2, 0.8), ('low_cabinet', 1, 0.5),
             ('trash_can', 1, 0.8), ('radiator', 1, 0.5)),
}
# Hung on the walls: (maker, most pieces, chance of each, height of the lower edge).
HANGINGS = {
    'living': (('picture', 3, 0.5, 1.3),), 'bedroom': (('picture', 2, 0.5, 1.3), ('mirror', 1, 0.5, 1.0)),
    'office': (('whiteboard', 2, 0.6, 0.95), ('picture', 2, 0.4, 1.3)), 'dining': (('picture', 3, 0.5, 1.3),),
    'kitchen': (('wall_cabinet', 2, 0.8, 1.45), ('picture', 1, 0.6, 1.3), ('towel', 1, 0.4, 0.9)),
    'bath': (('mirror', 1, 0.9, 1.15), ('towel', 3, 0.7, 0.8), ('picture', 1, 0.3, 1.3)),
}
CLUTTER = ('box', 'backpack', 'trash_can', 'box', 'stool', 'plant')


@dataclass
class Placed:
    """A piece in the room: `at` (3,) is its origin, `low` and `high` (3,) are its axis-aligned bounds."""

    piece: Piece
    at: np.ndarray
    yaw: float
    low: np.ndarray
    high: np.ndarray

    @property
    def parts(self) -> list[Part]:
        """The piece's parts where it stands in the room."""
        return [part.moved(about_z(self.yaw), self.at) for part in self.piece.parts]


@dataclass
class Room:
    """A room under construction: things, and boxes that must stay free (in front of doors)."""

    kind: str
    size: np.ndarray                                        # (3,) metres
    random: Random
    things: list[Placed] = field(default_factory=list)
    kept_free: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    seeds: dict[str, int] | None = None                     # maker -> seed, in rooms whose pieces are alike
    style: Style = STYLES['usual']

    def make(self, maker: str) -> Piece:
        """Return a new piece; in a room whose pieces are alike mostly the same one again."""
        seed = int(self.random.integers(1 << 40))
        if self.seeds is not None and self.random.random() < SHARED_PIECE:
            seed = self.seeds.setdefault(maker, seed)
        piece = FURNITURE[self.style.makers.get(maker, maker)](np.random.default_rng(seed))
        return repainted(piece, self.style)

    def is_free(self, low: np.ndarray, high: np.ndarray, ignore: Iterable[Placed] = ()) -> bool:
        """Whether a box lies in the room (walls may be dented by SUNK) and touches no thing and no kept-free box.

        `low` and `high` are its corners (3,) in metres, in the room's frame; things in `ignore` are no obstacle.
        """
        if (low < [-SUNK, -SUNK, -SUNK]).any() or (high > self.size + [SUNK, SUNK, 0]).any():
            return False
        skipped = {id(thing) for thing in ignore}
        taken = [(thing.low, thing.high) for thing in self.things if id(thing) not in skipped] + self.kept_free
        return not any((low < other_high).all() and (high > other_low).all() for other_low, other_high in taken)

    def try_place(self, piece: Piece, at: Iterable[float], yaw: float, margin: float = 0.02,
                  ignore: Iterable[Placed] = ()) -> Placed | None:
        """Put a piece at a point if there is room for it, with `margin` metres around it; None if not."""
        placed = place(piece, at, yaw)
        gap = np.array([margin, margin, 0.0])
        inset = np.clip(placed.low - gap, np.minimum(placed.low, 0.0), None), \
            np.clip(placed.high + gap, None, np.maximum(placed.high, self.size))
        if not self.is_free(*inset, ignore=ignore):
            return None
        self.things.append(placed)
        return placed

    def wall_pose(self, wall: int, along: float, piece: Piece, z: float, gap: float) -> tuple[np.ndarray, float]:
        """Return origin (3,) and yaw of a piece with its back at a wall, `along` metres (share 0..1 of what is free)."""
        length, width = self.size[0], self.size[1]
        low, high = piece.bounds()
        half, depth = max(high[0], -low[0]), high[1] + gap
        across = half + along * max((length if wall % 2 == 0 else width) - 2 * half, 0.0)
        spots = ((across, width - depth), (depth, across), (across, depth), (length - depth, across))
        return np.array([*spots[wall], z]), (0.0, 90.0, 180.0, -90.0)[wall]

    def on_wall(self, piece: Piece, z: float = 0.0, gap: float = 0.02, tries: int = 16,
                wall: int | None = None) -> Placed | None:
        """Put a piece against a wall, at a random free place; None when `tries` places were taken."""
        for _ in range(tries):
            chosen = int(self.random.integers(4)) if wall is None else wall
            at, yaw = self.wall_pose(chosen, self.random.random(), piece, z, gap)
            placed = self.try_place(piece, at, yaw)
            if placed is not None:
                return placed
        return None

    def beside(self, anchor: Placed, maker: str, offset: Iterable[float], turn: float = 0.0,
               ignore: Iterable[Placed] = (), margin: float = 0.0) -> Placed | None:
        """Put a new piece at `offset` (3,) in the frame of `anchor`, turned by `turn` degrees against it."""
        at = about_z(anchor.yaw) @ np.asarray(offset, float) + anchor.at
        return self.try_place(self.make(maker), at, anchor.yaw + turn, margin=margin, ignore=ignore)

    def chance(self, probability: float) -> bool:
        """True with `probability`."""
        return bool(self.random.random() < probability)


def repainted(piece: Piece, style: Style) -> Piece:
    """Return the piece with the style's materials."""
    if style.repaint is not None:
        piece.parts = [replace(part, material=style.repaint(part.material)) for part in piece.parts]
    return piece


def place(piece: Piece, at: Iterable[float], yaw: float) -> Placed:
    """Return the piece at a point (3,), turned by `yaw` degrees, with its bounds."""
    at = np.asarray(at, float)
    corners = np.concatenate([part.moved(about_z(yaw), at).corners for part in piece.parts])
    return Placed(piece, at, yaw, corners.min(axis=0), corners.max(axis=0))


def make_rooms(random: Random, style: Style) -> tuple[FloorPlan, list[Room]]:
    """Return a floor plan and a furnished room, in a frame of its own, for each of its parts."""
    kind = str(random.choice(list(ROOM_KINDS), p=list(ROOM_KINDS.values())))
    plan = make_plan(kind, random, style.scale, style.height)
    seeds = {} if random.random() < SHARED_STYLE else None
    rooms = []
    for part in range(len(plan.parts)):
        room = Room(kind if part == 0 else tx.pick(random, NEIGHBOURS[kind]), plan.part_size(part), random, seeds=seeds,
                    style=style)
        if plan.opening is not None:
            room.kept_free.append(_before_opening(plan, plan.origin(part)))
        _furnish(room, is_first=part == 0)
        rooms.append(room)
    return plan, rooms


def _before_opening(plan: FloorPlan, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the box in front of and in the opening, in the frame of a part at `origin` (3,)."""
    low, high = plan.opening
    return (np.array([low[0] - CLEAR_PASSAGE, low[1], 0.0]) - origin,
            np.array([high[0] + CLEAR_PASSAGE, high[1], plan.size[2]]) - origin)


def _furnish(room: Room, is_first: bool) -> None:
    """Add doors and windows, a centre group, wall furniture, what stands on it, hangings and clutter."""
    _doors_and_windows(room, is_first)
    CENTRES[room.kind](room)
    for maker, most, probability in WALL_FURNITURE[room.kind]:
        for _ in range(most):
            if room.chance(probability):
                _against_wall(room, maker)
    for maker, most, probability, height in HANGINGS[room.kind]:
        for _ in range(most):
            if room.chance(probability):
                room.on_wall(room.make(maker), z=height + room.random.uniform(-0.05, 0.15), gap=-0.005)
    for _ in range(int(room.random.integers(0, 3))):
        _clutter(room)


def _doors_and_windows(room: Room, is_first: bool) -> None:
    """Doors with free space before them; windows, mostly with curtain pairs. Only the first part is sure to have them."""
    for _ in range(1 + room.chance(0.2) if is_first else int(room.chance(0.4))):
        door = room.on_wall(room.make('door'), gap=-0.03)
        if door is not None:
            front = about_z(door.yaw) @ np.array([0.0, -0.45, 0.0]) + door.at
            room.kept_free.append((front - [0.4, 0.4, 0.0], front + [0.4, 0.4, 2.0]))
    for _ in range(1 + room.chance(0.2) if is_first else int(room.chance(0.6))):
        window = room.on_wall(room.make('window'), z=room.random.uniform(0.85, 1.0), gap=-0.02)
        if window is not None and room.kind != 'bath' and room.chance(0.65):
            _curtains(room, window)


def _curtains(room: Room, window: Placed) -> None:
    """Hang a wing on either side of a window."""
    piece = room.make('curtain')
    low, high = piece.bounds()
    half = window.piece.bounds()[1][0] + 0.02 + high[0]
    z = min(window.high[2] + 0.12, room.size[2] - 0.05) - high[2]
    for side in (-1, 1):
        at = about_z(window.yaw) @ np.array([side * half, -0.02, 0.0]) + window.at
        room.try_place(piece, [at[0], at[1], z], window.yaw, margin=0.0)


def _middle(room: Room, spread: float = 0.12) -> np.ndarray:
    """Return a point (3,) on the floor near the middle of the room."""
    centre = room.size[:2] * (0.5 + room.random.uniform(-spread, spread, 2))
    return np.array([*centre, 0.0])


def _table_group(room: Room, maker: str, seat: str, most: int) -> None:
    """A table near the middle with up to `most` seats, each pulled out by 0 to 30 cm."""
    piece, yaw = room.make(maker), 0.0 if room.size[0] > room.size[1] else 90.0
    for _ in range(12):
        centre = room.try_place(piece, _middle(room), yaw)
        if centre is not None:
            break
    else:
        return
    low, high = piece.bounds()
    count = 2 if high[0] - low[0] > 1.05 else 1
    spots = [(x, side) for side in (-1, 1) for x in (np.arange(count) + 0.5) / count * (high[0] - low[0]) + low[0]]
    seats = [((x, side * (high[1] + 0.05), 0.0), 180.0 if side < 0 else 0.0) for x, side in spots]
    seats += [((side * (high[0] + 0.05), 0.0, 0.0), -90.0 * side) for side in (-1, 1)]
    for (x, y, z), turn in seats[:most]:
        if room.chance(0.9):
            out = np.array([np.sign(x) * (abs(y) < 1e-6), np.sign(y), 0.0]) * room.random.uniform(0.0, 0.3)
            _pull_up(room, centre, seat, np.array([x, y, z]) + out, turn)


def _pull_up(room: Room, anchor: Placed, maker: str, offset: np.ndarray, turn: float) -> Placed | None:
    """Put a seat at `offset` in the anchor's frame; it may reach under the anchor."""
    return room.beside(anchor, maker, offset, turn + room.random.uniform(-14, 14), ignore=(anchor,))


def _dining(room: Room) -> None:
    _table_group(room, 'table', 'chair', 6)


def _kitchen(room: Room) -> None:
    for maker in ('counter', 'refrigerator'):
        _against_wall(room, maker)
    _table_group(room, 'table', 'stool' if room.chance(0.5) else 'chair', 4)


def _living(room: Room) -> None:
    """A couch at a wall, a coffee table before it, a television opposite."""
    wall = int(room.random.integers(4))
    couch = next(filter(None, (room.on_wall(room.make('couch'), gap=0.05, wall=(wall + turn) % 4)
                               for turn in range(4))), None)
    if couch is not None:
        _pillows(room, couch, int(room.random.integers(0, 5)))
        front = -couch.piece.bounds()[0][1]
        coffee = room.beside(couch, 'coffee_table', (room.random.uniform(-0.2, 0.2), -front - 0.65, 0.0))
        if coffee is not None and room.chance(0.5):
            _stand_on(room, coffee, 'laptop' if room.chance(0.5) else 'plant', spread=0.2)
        stand = room.on_wall(room.make('low_cabinet'), wall=((0, 90, 180, -90).index(int(couch.yaw)) + 2) % 4)
        if stand is not None:
            _stand_on(room, stand, 'tv')
    if room.chance(0.6) and room.size[:2].min() > 3.6:
        _table_group(room, 'table', 'chair', 4)


def _bedroom(room: Room) -> None:
    """One or two beds with their head at a wall, pillows, nightstands with lamps."""
    for _ in range(1 + (room.chance(0.3) and room.size[:2].min() > 3.6)):
        bed = room.on_wall(room.make('bed'), gap=0.03, tries=30)
        if bed is None:
            continue
        low, high = bed.piece.bounds()
        _pillows(room, bed, 2 if high[0] - low[0] > 1.3 else 1)
        for side in (-1, 1):
            if room.chance(0.8):
                stand = room.beside(bed, 'nightstand', (side * (high[0] + 0.3), high[1] - 0.28, 0.0))
                if stand is not None and room.chance(0.75):
                    _stand_on(room, stand, 'table_lamp')


def _office(room: Room) -> None:
    """A meeting table, or one or two pairs of desks that face each other."""
    if room.chance(0.35):
        _table_group(room, 'table', 'office_chair' if room.chance(0.6) else 'chair', 6)
        return
    turned = 0.0 if room.size[0] > room.size[1] else 90.0
    shifts = (-0.85, 0.85) if max(room.size[:2]) > 4.8 else (0.0,)
    for shift in shifts:
        for side in (0.0, 180.0):
            piece = room.make('desk')
            back = piece.bounds()[1][1]
            middle = np.array([*room.size[:2] / 2, 0.0]) + about_z(turned) @ np.array([shift, 0.0, 0.0])
            at = middle - about_z(turned + side) @ np.array([0.0, back + 0.02, 0.0])
            desk = room.try_place(piece, at, turned + side, margin=0.0)
            if desk is not None:
                _furnish_desk(room, desk)


def _bath(room: Room) -> None:
    """Nothing stands in the middle of a bathroom."""


CENTRES = {'living': _living, 'bedroom': _bedroom, 'office': _office, 'dining': _dining, 'kitchen': _kitchen,
           'bath': _bath}


def _against_wall(room: Room, maker: str) -> Placed | None:
    """Put a piece at a wall and furnish it."""
    placed = room.on_wall(room.make(maker), gap=0.03)
    if placed is None:
        return None
    if maker == 'desk':
        _furnish_desk(room, placed)
    elif maker == 'counter':
        _stand_on(room, placed, 'counter_sink', spread=0.25)
    elif maker in ('low_cabinet', 'dresser', 'nightstand'):
        if room.chance(0.7):
            _stand_on(room, placed, tx.pick(room.random, ('box', 'plant', 'table_lamp', 'tv')), spread=0.3)
    elif maker == 'armchair' and room.chance(0.5):
        _pillows(room, placed, 1)
    elif maker == 'bathtub' and room.chance(0.6):
        _shower_curtain(room, placed)
    return placed


def _shower_curtain(room: Room, tub: Placed) -> None:
    low, _ = tub.piece.bounds()
    room.beside(tub, 'shower_curtain', (room.random.uniform(-0.4, 0.4), low[1] - 0.08, 0.15))


def _stand_on(room: Room, anchor: Placed, maker: str, spread: float = 0.0, y: float = 0.0) -> Placed | None:
    """Stand a piece on the top of another, up to `spread` of its width off the middle."""
    low, high = anchor.piece.bounds()
    x = room.random.uniform(-spread, spread) * (high[0] - low[0])
    return room.beside(anchor, maker, (x, y, anchor.piece.top + 0.001), room.random.uniform(-8, 8), ignore=(anchor,))


def _furnish_desk(room: Room, desk: Placed) -> None:
    """A chair at the desk; screens, a lamp, a keyboard or a laptop on it."""
    low, high = desk.piece.bounds()
    seat = 'office_chair' if room.chance(0.8) else 'chair'
    x = room.random.uniform(-0.2, 0.1)
    _pull_up(room, desk, seat, np.array([x, low[1] - room.random.uniform(0.1, 0.35), 0.0]), 180.0)
    z = desk.piece.top + 0.001
    if room.chance(0.75):
        for shift in (0.0,) if room.chance(0.7) else (-0.3, 0.3):
            room.beside(desk, 'monitor', (x + shift, high[1] - 0.22, z), room.random.uniform(-8, 8), ignore=(desk,))
        if room.chance(0.6):
            room.beside(desk, 'keyboard', (x, low[1] + 0.2, z), room.random.uniform(-5, 5), ignore=(desk,))
    else:
        room.beside(desk, 'laptop', (x, 0.0, z), room.random.uniform(-10, 10), ignore=(desk,))
    if room.chance(0.5):
        side = 1 if room.chance(0.5) else -1
        room.beside(desk, 'table_lamp', (side * (high[0] - 0.2), high[1] - 0.2, z), ignore=(desk,))


def _pillows(room: Room, anchor: Placed, count: int) -> None:
    """Lay pillows on a bed (at its head) or on a seat."""
    low, high = anchor.piece.bounds()
    on_bed = anchor.piece.label == 'bed'
    width = (high[0] - low[0]) * (1.0 if on_bed else 0.7)
    for index in range(count):
        x = ((index + 0.5) / count - 0.5) * width
        y = high[1] - 0.32 if on_bed else -0.12
        room.beside(anchor, 'pillow', (x, y, anchor.piece.top - 0.01), room.random.uniform(-12, 12), ignore=(anchor,))


def _clutter(room: Room) -> None:
    """Leave something on the floor."""
    piece = room.make(tx.pick(room.random, CLUTTER))
    for _ in range(10):
        at = room.random.uniform([0.3, 0.3], room.size[:2] - 0.3)
        if room.try_place(piece, [*at, 0.0], room.random.uniform(0, 360), margin=0.03) is not None:
            return


@dataclass
class BuiltRoom:
    """A room ready to be rendered.

    Attributes:
        scene_type: as in the `.txt` of a scan.
        plan: its floor.
        labels: raw category per object: walls, floor, ceiling, then the things.
        bounds: (O, 2, 3) lowest and highest corner per object.
        num_stuff: how many of the objects are walls, floor and ceiling.
        solids: the primitives; `owner` indexes the objects.
        lights: (n, 3) positions; `powers` (n,) how bright each is.
    """

    scene_type: str
    plan: FloorPlan
    labels: list[str]
    bounds: np.ndarray
    num_stuff: int
    solids: Solids
    lights: np.ndarray
    powers: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """(3,) metres."""
        return self.plan.size


def build_room(random: Random, style: Style = STYLES['usual']) -> BuiltRoom:
    """Return a random furnished room as primitives."""
    plan, rooms = make_rooms(random, style)
    pieces = [(piece.label, repainted(piece, style).parts) for piece in _shell(plan, random)]
    num_stuff = len(pieces)
    for part, room in enumerate(rooms):
        pieces += [(thing.piece.label, replace(thing, at=thing.at + plan.origin(part)).parts) for thing in room.things]
    parts = [part for _, listed in pieces for part in listed]
    owner = np.repeat(np.arange(len(pieces)), [len(listed) for _, listed in pieces])
    corners = [np.concatenate([part.corners for part in listed]) for _, listed in pieces]
    bounds = np.stack([np.stack([points.min(axis=0), points.max(axis=0)]) for points in corners])   # (O, 2, 3)
    lights = [_lights(room) for room in rooms]
    powers = [_power(room, len(positions)) for room, positions in zip(rooms, lights, strict=True)]
    return BuiltRoom(SCENE_TYPES[rooms[0].kind] if len(rooms) == 1 else APARTMENT, plan, [label for label, _ in pieces],
                     bounds, num_stuff, Solids(parts, owner),
                     np.concatenate([points + plan.origin(part) for part, points in enumerate(lights)]),
                     np.concatenate(powers))


def _lights(room: Room) -> np.ndarray:
    """One or two lamps under the ceiling, (n, 3)."""
    if max(room.size[:2]) < 4.7 or room.chance(0.4):
        shares = [0.5 + room.random.uniform(-0.12, 0.12)]
    else:
        shares = [0.27, 0.73]
    long = int(room.size[1] > room.size[0])
    lights = np.tile(room.size * [0.5, 0.5, 1.0] - [0.0, 0.0, 0.16], (len(shares), 1))
    lights[:, long] = room.size[long] * np.array(shares)
    return lights


def _power(room: Room, count: int) -> np.ndarray:
    """Return how bright each of `count` lamps (count,) must be to light the room."""
    area = room.size[0] * room.size[1]
    return np.full(count, 1.15 / count**0.5 * np.clip(area / 18.0, 0.4, 1.4) ** 0.4)


def _shell(plan: FloorPlan, random: Random) -> list[Piece]:
    """Return the walls with skirting boards, the floor (sometimes with a rug) and the ceiling.

    Walls overlap at the corners, so that no ray escapes.
    """
    (length, width, height), thick = plan.size, 0.2
    paper, board = tx.wall_paper(random), tx.paint(random) if random.random() < 0.7 else tx.plastic(random)
    accent = int(random.integers(4)) if random.random() < 0.4 else -1
    other = tx.wall_paper(random)
    walls = []
    spans = ((length + 2 * thick, thick, length / 2, width + thick / 2), (thick, width + 2 * thick, -thick / 2, width / 2),
             (length + 2 * thick, thick, length / 2, -thick / 2), (thick, width + 2 * thick, length + thick / 2, width / 2))
    for index, (wide, deep, x, y) in enumerate(spans):
        wall = Piece('wall')
        wall.box((wide, deep, height + 2 * thick), (x, y, -thick), other if index == accent else paper)
        wall.box((wide + 0.024 * (index % 2 == 0), deep + 0.024, 0.09), (x, y, 0), board)
        walls.append(wall)
    walls += [_inner_wall(low, high, paper, board) for low, high in plan.inner]
    for low, high in plan.lintels:
        walls.append(Piece('wall'))
        walls[-1].box(tuple(high - low), (*(low + high)[:2] / 2, low[2]), paper)
    floor, ceiling = Piece('floor'), Piece('ceiling')
    floor.box((length + 2 * thick, width + 2 * thick, thick), (length / 2, width / 2, -thick), tx.flooring(random))
    if random.random() < 0.4 and length > 3.4:
        rug = tx.Material('noise', tx.hsv(random, (0.1, 0.5), (0.25, 0.6)), tx.hsv(random, (0.0, 0.3), (0.3, 0.6)), 18.0)
        low, high = plan.parts[int(random.integers(len(plan.parts)))]
        floor.box((*(high - low) * [0.5, 0.45], 0.008), (*(low + high) / 2, 0), rug)
    white = tx.Material('noise', (0.82, 0.82, 0.8), (0.7, 0.7, 0.69), 20.0)
    ceiling.box((length + 2 * thick, width + 2 * thick, thick), (length / 2, width / 2, height), white)
    return [*walls, floor, ceiling]


def _inner_wall(low: np.ndarray, high: np.ndarray, paper: tx.Material, board: tx.Material) -> Piece:
    """Return a wall between parts, or a filled corner, that fills the box between two corners (3,)."""
    wall, (wide, deep, height), (x, y) = Piece('wall'), high - low, (low + high)[:2] / 2
    wall.box((wide, deep, height), (x, y, 0), paper)
    wall.box((wide + 0.024, deep + 0.024, 0.09), (x, y, 0), board)
    return wall
