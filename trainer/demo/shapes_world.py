"""World of shapes: scenes, how they are drawn, and how every attribute is read back from pixels.

The caption names colour, shape and position. Outline, size and background tint are never named, so a base trained on
captions leaves them to chance, and a taste for one of them can be taught without touching what the caption says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

SIDE = 64
"""Width and height of every picture, in pixels."""

COLOURS = {
    "red": (222, 48, 62),
    "orange": (245, 132, 32),
    "yellow": (250, 212, 48),
    "green": (44, 164, 92),
    "blue": (44, 108, 216),
    "purple": (140, 72, 188),
}
SHAPES = ("circle", "square", "triangle", "star")
POSITIONS = {
    "at the top left": (19.0, 19.0),
    "at the top right": (45.0, 19.0),
    "at the bottom left": (19.0, 45.0),
    "at the bottom right": (45.0, 45.0),
    "in the middle": (32.0, 32.0),
}
"""Caption words -> (x, y) of the shape's centre, in pixels from the top left corner."""

SIZES = {"small": 8.0, "large": 11.5}
"""Radius, in pixels, of the circle; the other shapes have about the same area."""

TINTS = {
    "paper": (250, 246, 236),
    "sky": (212, 231, 247),
    "mint": (212, 240, 222),
    "rose": (251, 221, 223),
    "lavender": (227, 218, 246),
}
OUTLINE_COLOUR = (22, 22, 28)
OUTLINE_WIDTH = 3.0
"""Pixels that the outline adds around the shape."""


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows. dx, dy: shift of the centre in pixels; zoom: factor on the radius."""

    colour: str
    shape: str
    position: str
    outline: bool
    size: str
    tint: str
    dx: float = 0.0
    dy: float = 0.0
    zoom: float = 1.0

    @property
    def caption(self) -> str:
        """The prompt of the picture; it says nothing of outline, size and tint."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.shape} {self.position}"


@dataclass(frozen=True)
class Reading:
    """What was recognised in a picture; None for an attribute that cannot be recognised."""

    colour: str | None
    shape: str | None
    position: str | None
    outline: bool | None
    size: str | None
    tint: str | None

    def agrees_with_caption_of(self, scene: Scene) -> bool:
        """Colour, shape and position are all recognised and right."""
        return (self.colour, self.shape, self.position) == (scene.colour, scene.shape, scene.position)


def captioned_scenes() -> tuple[Scene, ...]:
    """One scene per caption, in a fixed order, with plain free attributes."""
    return tuple(Scene(c, s, p, False, "large", "paper") for c, s, p in product(COLOURS, SHAPES, POSITIONS))


def captions() -> tuple[str, ...]:
    """Every caption of the world, in a fixed order."""
    return tuple(scene.caption for scene in captioned_scenes())


def scene_of(caption: str) -> Scene:
    """The plain scene that a caption names. Raises KeyError for a caption that is not of this world."""
    return _scenes_by_caption()[caption]


def dress(caption: str, rng: np.random.Generator, *, outline: bool) -> Scene:
    """A scene for `caption` with size, tint and jitter drawn from `rng`."""
    named = scene_of(caption)
    dx, dy = rng.uniform(-1.5, 1.5, 2)
    return Scene(
        named.colour,
        named.shape,
        named.position,
        outline,
        str(rng.choice(list(SIZES))),
        str(rng.choice(list(TINTS))),
        float(dx),
        float(dy),
        float(rng.uniform(0.94, 1.06)),
    )


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, 64 x 64, edges anti-aliased by the covered share of each pixel."""
    x, y = POSITIONS[scene.position]
    distance = _distance(scene.shape, x + scene.dx, y + scene.dy, SIZES[scene.size] * scene.zoom)
    picture = np.broadcast_to(np.asarray(TINTS[scene.tint], np.float32), (SIDE, SIDE, 3))
    if scene.outline:
        picture = _paint(picture, OUTLINE_COLOUR, distance - OUTLINE_WIDTH)
    picture = _paint(picture, COLOURS[scene.colour], distance)
    return Image.fromarray(np.round(picture).astype(np.uint8))


def read(image: Image.Image) -> Reading:
    """Recognise every attribute of a picture of this world, drawn or painted by a model.

    The shape is found by drawing each candidate with the area and centre of what stands out from the background, and
    taking the one that covers it best; a candidate must cover well and clearly better than the next.
    """
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), np.float32) / 255
    margins = (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])
    background = np.median(np.concatenate([margin.reshape(-1, 3) for margin in margins]), axis=0)
    tint = _nearest(background, TINTS, most=0.15)
    stands_out = np.linalg.norm(pixels - background, axis=-1) > 0.35
    figure = _largest_piece(stands_out)
    area = int(figure.sum())
    # Drawn figures have 140 to 800 pixels; speckles or a second figure beside it leave no one thing to read.
    if not 60 < area < 1400 or stands_out.sum() - area > 0.15 * area:
        return Reading(None, None, None, None, None, tint)

    rows, columns = np.nonzero(figure)
    x, y = float(columns.mean()), float(rows.mean())
    outline = _read_outline(pixels, figure)
    shape, radius = _read_shape(figure, x, y, area, bool(outline))
    return Reading(
        _read_colour(pixels, figure),
        shape,
        _read_position(x, y),
        outline,
        _read_size(radius),
        tint,
    )


@lru_cache(maxsize=1)
def _scenes_by_caption() -> dict[str, Scene]:
    return {scene.caption: scene for scene in captioned_scenes()}


def _paint(picture: np.ndarray, colour: tuple[int, int, int], distance: np.ndarray) -> np.ndarray:
    covered = np.clip(0.5 - distance, 0, 1)[..., None]
    return picture * (1 - covered) + np.asarray(colour, np.float32) * covered


def _distance(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    """Signed distance of every pixel to the shape's edge, in pixels, negative inside. Shape (64, 64)."""
    grid = np.arange(SIDE, dtype=np.float32)
    px, py = grid[None, :] - x, grid[:, None] - y
    if shape == "circle":
        return np.hypot(px, py) - radius
    corners = _corners(shape) * radius
    nearest = np.full((SIDE, SIDE), np.inf, np.float32)
    inside = np.zeros((SIDE, SIDE), bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((px - ax) * ex + (py - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(px - ax - along * ex, py - ay - along * ey))
        if ay != by:
            crosses = (ay > py) != (by > py)
            inside ^= crosses & (px < (py - ay) * ex / ey + ax)
    return np.where(inside, -nearest, nearest)


@lru_cache(maxsize=8)
def _corners(shape: str) -> np.ndarray:
    """Corners around the origin, point up, for a circle radius of 1. Shape (corners, 2), x then y."""
    reach = {"square": [1.25], "triangle": [1.45], "star": [1.42, 0.66]}[shape]
    count = {"square": 4, "triangle": 3, "star": 10}[shape]
    start = math.pi / 4 if shape == "square" else math.pi / 2
    angles = start + 2 * math.pi * np.arange(count) / count
    lengths = np.resize(reach, count)
    return np.stack([np.cos(angles) * lengths, -np.sin(angles) * lengths], axis=1).astype(np.float32)


def _nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]], most: float) -> str | None:
    """The palette's name for a colour in [0, 1], or None where none lies within `most` (Euclidean)."""
    distances = {name: float(np.linalg.norm(colour - np.asarray(rgb) / 255)) for name, rgb in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= most else None


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest part of `mask` connected by edges."""
    left, best = mask.copy(), np.zeros_like(mask)
    while left.sum() > best.sum():
        piece = np.zeros_like(mask)
        piece.flat[int(np.flatnonzero(left)[0])] = True
        size = 0
        while size != (size := int(piece.sum())):
            for _ in range(4):
                piece = _grown(piece) & left
        if size > best.sum():
            best = piece
        left &= ~piece
    return best


def _grown(mask: np.ndarray) -> np.ndarray:
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    return out


def _shrunk(mask: np.ndarray, times: int) -> np.ndarray:
    rest = ~mask
    for _ in range(times):
        rest = _grown(rest)
    return ~rest


def _read_colour(pixels: np.ndarray, figure: np.ndarray) -> str | None:
    inside = pixels[figure]
    # An outline is dark and its blurred rim grey; the fill is what has a strong hue.
    vivid = inside[(inside.max(axis=-1) - inside.min(axis=-1) > 0.3) & (inside.max(axis=-1) > 0.5)]
    if len(vivid) < 0.15 * len(inside):
        return None
    return _nearest(np.median(vivid, axis=0), COLOURS, most=0.25)


def _read_outline(pixels: np.ndarray, figure: np.ndarray) -> bool | None:
    """True where nearly the whole rim is dark, False where almost none of it is."""
    # The outermost pixels mix with the background, so the rim is looked at one to three pixels inside.
    rim = _shrunk(figure, 1) & ~_shrunk(figure, 3)
    if not rim.any():
        return None
    dark = float((pixels[rim].max(axis=-1) < 0.42).mean())
    return True if dark >= 0.6 else False if dark <= 0.2 else None


def _read_position(x: float, y: float) -> str | None:
    offsets = {name: math.hypot(x - at[0], y - at[1]) for name, at in POSITIONS.items()}
    name = min(offsets, key=offsets.__getitem__)
    return name if offsets[name] <= 6 else None


def _read_size(radius: float | None) -> str | None:
    if radius is None:
        return None
    ratio, name = min((abs(math.log(radius / expected)), name) for name, expected in SIZES.items())
    return name if ratio < math.log(1.3) else None


def _read_shape(figure: np.ndarray, x: float, y: float, area: int, outline: bool) -> tuple[str | None, float | None]:
    """The shape and its radius in pixels, or None twice."""
    grow = OUTLINE_WIDTH if outline else 0.0
    fits: list[tuple[float, str, float]] = []
    for shape in SHAPES:
        radii, areas = _areas(shape, outline)
        radius = float(np.interp(area, areas, radii))
        candidate = _distance(shape, x, y, radius) <= grow
        overlap = float((candidate & figure).sum() / (candidate | figure).sum())
        fits.append((overlap, shape, radius))
    (best, shape, radius), (second, _, _) = sorted(fits, reverse=True)[:2]
    if best < 0.84 or best - second < 0.02:
        return None, None
    return shape, radius


@lru_cache(maxsize=8)
def _areas(shape: str, outline: bool) -> tuple[np.ndarray, np.ndarray]:
    """Radii in pixels, and the area in pixels that a figure of each covers."""
    radii = np.arange(4.0, 17.0, 0.5)
    grow = OUTLINE_WIDTH if outline else 0.0
    areas = [float(np.clip(0.5 + grow - _distance(shape, 31.5, 31.5, r), 0, 1).sum()) for r in radii]
    return radii, np.asarray(areas)
