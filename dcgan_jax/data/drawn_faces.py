"""Drawn faces: people who never were, painted by formula. The default data set: no network, no files, no end.

Face i of a seed is a function of (seed, i) alone. An integer hash gives traits (age, hair, glasses, ...); shapes with
antialiased edges are then laid over each other, back to front, many faces at once. Nothing but + - * /, sqrt, floor,
min, max, signs and comparisons is used, and IEEE 754 rounds those alike everywhere: the same bits in any batch, on
any machine, with any NumPy.

The picture is [-1, 1] x [-1, 1], y down. `x`, `y` ride on the head (moved, tilted, scaled); `fx`, `fy` on the face (yaw
and pitch as well). Eyes, brows and ears are drawn once, on |x|, and show twice. Pixels are (N, h, w) float32, a number
per face (N, 1, 1), a colour per face (N, 3, 1, 1) in 0..1: N comes first, so that NumPy's inner loops run over pixels.
The bare numbers in the painters are drawing, judged by eye at 32, 64 and 128 pixels; lengths are in half pictures.
"""

import math
import zlib
from types import SimpleNamespace

import numpy as np

SMALLEST_SIZE = 8
CHUNK_PIXELS = 32 * 32 * 32  # painted together: a float32 plane of 128 KiB, so a feature's few planes stay in L2

# CelebA's name -> our trait; Sunglasses and Long_Hair are names of our own.
_TRAITS = {
    "Male": "male", "Young": "young", "Smiling": "smiling", "Mouth_Slightly_Open": "open_mouth",
    "Eyeglasses": "glasses", "Sunglasses": "sunglasses", "Wearing_Hat": "hat", "Wearing_Earrings": "earrings",
    "Bald": "bald", "Receding_Hairline": "receding", "Bangs": "bangs", "Long_Hair": "long", "Wavy_Hair": "wavy",
    "Black_Hair": "black", "Blond_Hair": "blond", "Brown_Hair": "brown", "Gray_Hair": "gray", "Bushy_Eyebrows": "bushy",
    "Mustache": "mustache", "Goatee": "goatee", "5_o_Clock_Shadow": "stubble", "No_Beard": "no_beard",
    "Pale_Skin": "pale", "Rosy_Cheeks": "rosy", "Wearing_Lipstick": "lipstick", "Heavy_Makeup": "makeup",
}  # fmt: skip
ATTRIBUTES: tuple[str, ...] = tuple(_TRAITS)


def _palette(colours: str) -> np.ndarray:
    """Hex colours as a (K, 3) float32 array in 0..1."""
    return np.array([list(bytes.fromhex(colour)) for colour in colours.split()], np.float32) / 255


SKIN = _palette("fbe3d3 f5cfb3 e9b994 d49c72 b97f55 955c3b 6f4129 54321f")  # light to deep
BLACK_HAIR, BROWN_HAIR = _palette("15131a 2a2122"), _palette("4a2c1c 6f4526 8b5a33")
RED_HAIR, BLOND_HAIR = _palette("8a3a1c b8562a"), _palette("c99a4e e3bf73 f2dca0")
GRAY_HAIR = _palette("8f9095 bdbec3 e6e6e8")
DARK_EYES, LIGHT_EYES = _palette("2e1a10 4d2e18 6b4423"), _palette("3f7fb0 6aa5c9 5b8f5a 8a8f4a 7d8a94")
CLOTH = _palette("24344d b8423f e9e4d8 3f7d6e e0a83c 6b4c7d 2f2f35 d9828b 5b86b5 7a8b54 f0f0ee 8c4a2f")
BACKDROP = _palette("f2c9a1 9fc7d9 c9b6dd a9cfae f0d98c e8a6a0 6f8fae 59707d d8d3cb 7fb5ae c48b76 3f4b63")
LIPSTICK = _palette("b3203a c94a5a 8e2646 d4586e a83232")
FRAMES, METAL = _palette("1c1c20 3b2a20 7a2a2a 26415f b08d4a"), _palette("e8c35a dfe3e8 f4efe6 57b5ad")
WHITE, INK, MOUTH, BLUSH = _palette("f7f4ef 1d1414 4c1218 e0605e")[:, None, :, None, None]  # (1, 3, 1, 1) each
# Factors on the skin's colour: shadow is darker and redder. (3, 1, 1) each.
SHADE = np.array([0.70, 0.55, 0.53], np.float32)[:, None, None]
GLOW = np.array([1.10, 1.08, 1.05], np.float32)[:, None, None]
BARE_LIPS = np.array([0.86, 0.60, 0.58], np.float32)[:, None, None]

# What every face has, drawn independently; _measure then makes some of it depend on the character.
_COLOURS = {
    "lips": LIPSTICK, "eye_shadow": CLOTH, "metal": METAL, "frames": FRAMES, "cloth": CLOTH, "trim": CLOTH,
    "hat_hue": CLOTH, "back_1": BACKDROP, "back_2": BACKDROP,
}  # fmt: skip
_EVEN = {  # anything between the limits, all equally likely
    "frame_round": (0.0, 0.75), "neckline": (0.0, 1.0), "hat_style": (0.0, 1.0), "part": (-0.3, 0.3),
    "sweep": (0.0, 0.35), "brow_arch": (0.01, 0.06), "light_x": (-1.0, 1.0), "light_y": (-0.8, 0.0),
    "back_angle": (-1.0, 1.0),
}  # fmt: skip
_BELL = {  # mostly near the middle
    "width": (0.45, 0.56), "height": (0.62, 0.72), "jaw": (0.05, 0.7), "square": (0.0, 0.35), "neck": (0.2, 0.27),
    "hair_volume": (0.02, 0.11), "eye_x": (0.205, 0.255), "eye_y": (-0.07, 0.01), "eye_w": (0.105, 0.15),
    "eye_h": (0.055, 0.105), "eye_slant": (-0.035, 0.02), "gaze_x": (-0.025, 0.025), "gaze_y": (-0.03, 0.01),
    "brow_y": (0.13, 0.2), "brow_tilt": (-0.05, 0.05), "nose_y": (0.15, 0.24), "nose_w": (0.07, 0.13),
    "mouth_y": (0.36, 0.43), "mouth_w": (0.14, 0.22), "lip": (0.02, 0.06), "shift_x": (-0.1, 0.1),
    "shift_y": (-0.02, 0.12), "scale": (0.98, 1.24), "tilt": (-0.13, 0.13), "yaw": (-0.3, 0.3),
    "pitch": (-0.06, 0.06), "exposure": (0.86, 1.1),
}  # fmt: skip


# ---- Chance: who is it? ----


def _mix(words: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, (N,) uint64 to (N,) uint64: every input bit reaches every output bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class _Dice:
    """Named uniform numbers: dice("age") is (N,) float32 in [0, 1), a function of (seed, index, name) alone.

    Names are hashed rather than counted, so a new trait leaves all others, and with them everybody, as they were.
    """

    def __init__(self, seed: int, indices: np.ndarray):
        golden = np.uint64(0x9E3779B97F4A7C15)
        start = _mix(np.array([int(seed) % 2**64], np.uint64) + golden)
        self.words = _mix(start + indices.astype(np.uint64) * golden)  # (N,)

    def __call__(self, name: str, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        words = _mix(self.words ^ _mix(np.array([zlib.crc32(name.encode()) + 1], np.uint64)))
        # 24 bits are what a float32 holds exactly
        return low + (words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24) * (high - low)

    def bell(self, name: str, low: float, high: float) -> np.ndarray:
        """The mean of three uniforms: most faces are ordinary, none is past the limits."""
        return (self(name + "/1", low, high) + self(name + "/2", low, high) + self(name + "/3", low, high)) / 3

    def pick(self, name: str, palette: np.ndarray) -> np.ndarray:
        return _along(palette, self(name))


def _along(palette: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The (N, 3) colours at `where` (N,) in [0, 1) along a (K, 3) palette, linear between its entries."""
    position = where * (len(palette) - 1)
    left = position.astype(np.intp)
    return palette[left] + (position - left.astype(np.float32))[:, None] * (palette[left + 1] - palette[left])


def _clip01(values: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(values, 0), 1)


def _character(dice: _Dice) -> SimpleNamespace:
    """What one would tell about the person, correlated as in people: (N,) bools, (N,) floats, (N, 3) colours."""
    p = SimpleNamespace(male=dice("male") < 0.47, age=dice("age"))  # age 0 is about 18 years, 1 about 85
    man, tone = p.male.astype(np.float32), dice("tone")  # tone 0 is light, 1 deep
    fair = _clip01(1.15 - 1.6 * tone)  # light hair and light eyes are found mostly with light skin
    p.young, p.wrinkles = p.age < 0.68, _clip01(p.age * 2.4 - 1.4)
    p.skin, p.pale, p.rosy = _along(SKIN, tone), tone < 0.12, dice("rosy") < 0.14 + 0.1 * fair - 0.1 * man

    p.bald = p.male & (dice("bald") < 0.03 + 0.28 * p.age)
    p.hat = ~p.bald & (dice("hat") < 0.11)
    p.receding = p.male & ~p.bald & ~p.hat & (dice("receding") < 0.5 * p.age)
    p.bangs = ~p.bald & ~p.hat & ~p.receding & (dice("bangs") < 0.34 - 0.2 * man)
    p.long = ~p.bald & ~p.receding & (dice("long") < 0.66 - 0.6 * man)
    p.wavy, p.bun = p.long & (dice("wavy") < 0.5), ~p.male & ~p.long & ~p.hat & (dice("bun") < 0.5)
    p.curly = ~p.hat & ~p.receding & (dice("curly") < 0.08 + 0.4 * tone)
    gray, hue = dice("gray") < _clip01(2.6 * p.age - 1.55), dice("hair colour")
    blond, red, brown = hue < 0.42 * fair, hue < 0.52 * fair, hue < 0.2 + 0.62 * fair  # each holds the one before
    palettes = (GRAY_HAIR, BLOND_HAIR, RED_HAIR, BROWN_HAIR, BLACK_HAIR)
    p.hair = np.select(
        [mask[:, None] for mask in (gray, blond, red, brown, np.ones_like(red))],
        [dice.pick("hair shade", palette) for palette in palettes],
    )
    p.gray, p.blond, p.brown = ~p.bald & gray, ~p.bald & ~gray & blond, ~p.bald & ~gray & brown & ~red
    p.black = ~p.bald & ~gray & ~brown

    beard = dice("beard") + (1 - man)  # a woman's number is past every threshold
    p.full, p.goatee, p.stubble = beard < 0.17, (beard >= 0.17) & (beard < 0.27), (beard >= 0.27) & (beard < 0.4)
    p.mustache, p.no_beard = (beard < 0.22) | ((beard >= 0.4) & (beard < 0.5)), beard >= 0.4
    p.bushy = dice("bushy") < 0.08 + 0.22 * man
    p.lipstick = ~p.male & (dice("lipstick") < 0.58 - 0.2 * p.age)
    p.makeup = p.lipstick & (dice("makeup") < 0.6)
    p.earrings = dice("earrings") < 0.42 - 0.38 * man
    p.glasses = dice("glasses") < 0.1 + 0.22 * p.age
    p.sunglasses = p.glasses & (dice("sunglasses") < 0.22)
    p.smiling = dice("smiling") < 0.52
    p.open_mouth = dice("open") < np.where(p.smiling, 0.62, 0.2)

    iris = [dice.pick("iris", palette) for palette in (LIGHT_EYES, DARK_EYES)]
    p.iris = np.where((dice("eyes") < 0.75 * fair)[:, None], *iris)
    p.man, p.tone = man, tone
    return p


def _measure(p: SimpleNamespace, dice: _Dice) -> SimpleNamespace:
    """Adds to a character its colours, the lengths of its face, its pose and its light: (N, 3) and (N,) floats."""
    for name, palette in _COLOURS.items():
        setattr(p, name, dice.pick(name, palette))
    for name, limits in _EVEN.items():
        setattr(p, name, dice(name, *limits))
    for name, limits in _BELL.items():
        setattr(p, name, dice.bell(name, *limits))
    p.jaw, p.square, p.neck = p.jaw * (1 - 0.5 * p.man), p.square + 0.25 * p.man, p.neck + 0.05 * p.man
    p.hair_length = np.where(p.long, dice("length", 0.45, 1.3), dice("length", 0.0, 0.12))
    p.hair_volume = np.where(p.receding, 0.02, p.hair_volume + 0.12 * p.curly)
    p.eye_h = p.eye_h - 0.02 * (p.smiling & p.open_mouth)
    p.nose_w, p.mouth_w = p.nose_w + 0.02 * p.tone, p.mouth_w + 0.03 * p.smiling
    p.lip = p.lip + 0.015 * p.tone + 0.01 * (1 - p.man)
    p.smile = np.where(p.smiling, dice("smile", 0.55, 1.0), dice("smile", -0.3, 0.15))
    p.gape = np.where(p.open_mouth, dice("gape", 0.06, 0.11), 0.016)
    return p


# ---- Shapes: signed distances (inside is negative), and the share of a pixel that they cover ----


def _cover(distance, pixel):
    """Share of each pixel inside a shape, from the signed distance at its centre: an edge one pixel wide."""
    return _clip01(0.5 - distance / pixel)


def _ellipse(x, y, rx, ry, square=0.0):
    """Distance to an ellipse, to first order: f / |grad f|. `square` 0 is the ellipse, 1 its bounding box."""
    u, v = x / rx, y / ry
    a, b = u * u, v * v
    du, dv = u * (1 - square * np.minimum(b, 1)) / rx, v * (1 - square * np.minimum(a, 1)) / ry
    # without the minima the product, which bends the outline, would draw the shape again in the picture's corners
    return (a + b - square * np.minimum(a, 1) * np.minimum(b, 1) - 1) / (2 * np.sqrt(du * du + dv * dv) + 1e-6)


def _disc(x, y, radius, pixel):
    """Coverage by a circle, from squared distances: no root is needed where the edge is a pixel wide."""
    return _clip01(0.5 + (radius * radius - x * x - y * y) / (2 * radius * pixel))


def _between(y, top, bottom, pixel):
    """Share of each pixel with top < y < bottom, exact for bands thinner than it: lids and lips keep their weight."""
    half = pixel / 2
    return np.maximum(np.minimum(bottom, y + half) - np.maximum(top, y - half), 0) / pixel


def _line(y, middle, half, pixel):
    return _between(y, middle - half, middle + half, pixel)


def _blob(x, y, rx, ry):
    """A soft spot: 1 in the middle, falling to 0 with zero slope at the ellipse (rx, ry)."""
    u, v = x / rx, y / ry
    fall = np.maximum(1 - u * u - v * v, 0)
    return fall * fall


def _ripple(phase):
    """A wave of period 1 between -1 and 1, made of parabolas: close to a sine, in exact arithmetic."""
    saw = phase - np.floor(phase) - 0.5
    return 8 * saw * (2 * np.abs(saw) - 1)


def _lerp(a, b, t):
    return a + t * (b - a)


# ---- Painting: one function per feature ----


class _Scene:
    """N faces being painted: their traits as (N, 1, 1) and (N, 3, 1, 1), coordinates (N, S, S), canvas (N, 3, S, S)."""

    def __init__(self, people: SimpleNamespace, rows: slice, size: int):
        for name, trait in vars(people).items():
            setattr(self, name, trait[rows].astype(np.float32)[..., None, None])
        self.size, self.pixel = size, np.float32(2 / size) / self.scale
        centres = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1
        self.gx, self.gy = centres[None, None, :], centres[None, :, None]  # (1, 1, S), (1, S, 1)
        # the tangent of half the tilt gives its sine and cosine without a library's rounding
        norm = 1 + self.tilt * self.tilt
        cos, sin = (2 - norm) / norm, 2 * self.tilt / norm
        right, down = (self.gx - self.shift_x) / self.scale, (self.gy - self.shift_y) / self.scale
        self.x, self.y = cos * right + sin * down, cos * down - sin * right
        # a turning face slides over the head, less so near the rim: the far side gets narrower by itself
        self.fx = self.x - self.yaw * np.maximum(0.6 - 1.2 * self.x * self.x, 0)
        self.fy = self.y - self.pitch
        self.canvas = np.empty((len(self.x), 3, size, size), np.float32)

    def window(self, top: float, bottom: float, side: float = 1.0) -> tuple:
        """Index of the pixels in a box of the picture. A feature paints inside one that no pose of it can leave."""
        low, high, left, right = ((edge + 1) / 2 * self.size for edge in (top, bottom, -side, side))
        return ..., slice(math.floor(low), math.ceil(high)), slice(math.floor(left), math.ceil(right))

    def paint(self, box: tuple, alpha: np.ndarray, colour: np.ndarray) -> None:
        """Lays colour, (N, 3, 1, 1) or (N, 3, h, w), over the canvas in the box, alpha (N, h, w) thick."""
        under = self.canvas[box]
        under += alpha[:, None] * (colour - under)


def _backdrop(s: _Scene) -> None:
    slope = _clip01(0.5 + 0.5 * (s.gy + s.back_angle * s.gx))
    s.canvas[:] = _lerp(s.back_1, s.back_2, slope[:, None])
    s.paint(s.window(-1, 1), 0.35 * _blob(s.gx - 0.4 * s.light_x, s.gy + 0.3, 1.3, 1.3), WHITE)


def _outlines(s: _Scene) -> None:
    """Paints nothing: distances to the outlines of head and hair, which several features share."""
    low = np.maximum(s.y, 0)
    s.head = _ellipse(s.x * (1 + s.jaw * low * low), s.y, s.width, s.height, s.square)
    side = 0.03 + 0.6 * s.hair_volume
    # long hair closes in a little below the ears; short hair is cut down to the head beside them
    x = np.abs(s.x) * (1 - 0.12 * low + (1 - s.long) * (1 - 0.6 * s.curly) * side / s.width * _clip01(1.4 * s.y + 0.8))
    x += s.wavy * 0.035 * _ripple(2.6 * s.y + s.part) * _clip01(0.5 + s.y)
    dome = _ellipse(x, np.minimum(s.y + 0.02, 0), s.width + side, s.height + s.hair_volume)
    warp_x, warp_y = 0.3 * _ripple(2.3 * s.y), 0.3 * _ripple(2.9 * s.x + s.part)
    fade = _clip01(1 - (11 * s.pixel) ** 2)  # a pixel's mean of a wave: without it curls flicker at 32 pixels
    s.curls = fade * _ripple(3.8 * s.x + warp_x) * _ripple(3.8 * s.y + warp_y)
    loose = np.maximum(dome - s.curly * 0.03 * s.curls, s.y - s.hair_length + 0.5 * s.x * s.x)
    bun = _ellipse(s.x - 0.3 * s.part, s.y + s.height + s.hair_volume, 0.19, 0.13)
    s.hair_shape = np.where(s.bun > 0, np.minimum(loose, bun), loose)


def _hair_behind(s: _Scene) -> None:
    box = s.window(-0.1, 1)
    nape = np.maximum(s.hair_shape[box], 0.2 - s.y[box])
    s.paint(box, (1 - s.bald) * _cover(nape, s.pixel), s.hair * 0.62)


def _neck_and_clothes(s: _Scene) -> None:
    box = s.window(0.25, 1)
    x, y = s.x[box], s.y[box]
    lit = _clip01(1.6 * (y - 0.75) + 0.35 + 0.8 * s.light_x * x)  # the chin shades the neck
    flare = np.maximum(y - 0.72, 0)
    neck = np.maximum(np.abs(x) - s.neck - 0.9 * flare * flare, 0.45 - y)
    s.paint(box, _cover(neck, s.pixel), s.skin * _lerp(SHADE, 1, lit[:, None]))
    y = np.broadcast_to(s.gy[box] / s.scale, x.shape)  # shoulders stay level under a tilted head
    torso = _ellipse(x, y - 1.45, 1.08 + 0.12 * s.man, 0.72, 0.4)
    v_neck, round_neck = np.abs(x) * 1.1 + (y - 1.08) * 0.62, _ellipse(x, y - 0.74, s.neck + 0.06, 0.17)
    hole = np.where(s.neckline > 0.55, v_neck, round_neck)
    s.paint(box, _cover(np.maximum(torso, -hole), s.pixel), s.cloth * (0.92 + 0.2 * s.light_x * x)[:, None])
    s.paint(box, _cover(torso, s.pixel) * _between(hole, 0.0, 0.05, s.pixel), s.trim)


def _ears(s: _Scene) -> None:
    box = s.window(-0.35, 0.5)
    x, y = np.abs(s.x[box]) - s.width - 0.005, s.y[box] - 0.05
    s.paint(box, _cover(_ellipse(x, y, 0.075, 0.125), s.pixel), s.skin * _lerp(SHADE, 1, 0.65))
    s.paint(box, 0.5 * _blob(x - 0.01, y, 0.05, 0.09), s.skin * SHADE)


def _head(s: _Scene) -> None:
    """Skin: light from one side, shade towards the rim, warm cheeks."""
    box = s.window(-1, 1, 0.9)
    u, v, fx, fy = s.x[box] / s.width, s.y[box] / s.height, s.fx[box], s.fy[box]
    skin, rim = _cover(s.head[box], s.pixel), u * u + v * v
    light = 0.80 + 0.30 * s.light_x * u + 0.26 * s.light_y * v - 0.22 * rim * rim
    light += 0.16 * _blob(fx - 0.1 * s.light_x, fy + 0.33, 0.36, 0.22)  # the forehead
    s.paint(box, skin, s.skin * _lerp(SHADE, GLOW, _clip01(light)[:, None]))
    cheeks = skin * _blob(np.abs(fx) - 0.27, fy - 0.2, 0.2, 0.15)
    s.paint(box, (0.16 + 0.28 * s.rosy) * cheeks, BLUSH * (0.3 + 0.7 * s.skin))


def _age_lines(s: _Scene) -> None:
    box = s.window(-0.7, 0.75, 0.75)
    x, y, a = s.fx[box], s.fy[box], np.abs(s.fx[box])
    bow = x * x / 1.92
    forehead = _line(y, bow - 0.36, 0.011, s.pixel) + _line(y, bow - 0.43, 0.009, s.pixel)
    fold = _line(a, 0.13 + 0.22 * (y - 0.16), 0.012, s.pixel) * _clip01((y - 0.14) * 12) * _clip01((0.4 - y) * 12)
    bag = _blob(a - s.eye_x, y - s.eye_y - 0.12, 0.12, 0.05)
    lines = _clip01(0.55 * forehead * _clip01(5 - 20 * a) + 0.6 * fold + 0.4 * bag)
    s.paint(box, s.wrinkles * lines, s.skin * SHADE * 0.9)


def _beard(s: _Scene) -> None:
    """Stubble, goatee or full beard below a line from ear to ear, and the mustache; the mouth comes on top of them."""
    box = s.window(-0.25, 1, 0.9)
    x, y, fx, fy = s.x[box], s.y[box], s.fx[box], s.fy[box]
    u2 = np.minimum(x * x / (s.width * s.width), 1)
    jaw = _cover((0.27 - 0.34 * u2 * u2 - y) * 0.8, s.pixel + 0.04) * (0.95 * s.full + 0.4 * s.stubble)
    chin = _cover(_ellipse(fx, fy - s.mouth_y - 0.19, 0.15, 0.15, 0.3), s.pixel + 0.02) * 0.95 * s.goatee
    strands = (0.85 + 0.035 * _ripple(7 * np.abs(x) + y) + 0.15 * s.light_x * x)[:, None]
    s.paint(box, _cover(s.head[box] - 0.03 * s.full, s.pixel) * _clip01(jaw + chin), s.hair * strands)
    w2 = (fx * fx) / (1.32 * s.mouth_w * s.mouth_w)
    arch = s.mouth_y - 0.075 + 0.09 * w2
    lip = _between(fy, arch - 0.05 * _clip01(1.1 - w2), arch + 0.045 * _clip01(1.3 - w2), s.pixel)
    s.paint(box, 0.95 * s.mustache * lip, s.hair * strands)


def _nose(s: _Scene) -> None:
    box = s.window(-0.4, 0.65, 0.5)
    x, y = s.fx[box], s.fy[box] - s.nose_y
    away = x + np.copysign(np.float32(0.06), s.light_x)  # the side that the light does not reach
    shade = 0.4 * _blob(away, y + 0.06, 0.075, 0.28) + 0.35 * _blob(x, y - 0.05, s.nose_w * 1.3, 0.05)
    s.paint(box, shade, s.skin * SHADE)
    shine = 0.3 * _blob(x - 0.02 * s.light_x, y + 0.02, 0.06, 0.06) + 0.18 * _blob(x, y + 0.2, 0.04, 0.2)
    s.paint(box, shine, s.skin * 0.7 + 0.3)
    u2 = (x / s.nose_w) ** 2
    tip = _line(y, 0.035 - 0.04 * u2, 0.012 * _clip01(1.2 - u2), s.pixel)
    nostrils = _disc(np.abs(x) - 0.5 * s.nose_w, 1.5 * (y - 0.022), 0.02, s.pixel)
    s.paint(box, _clip01(0.6 * tip + 0.5 * nostrils), s.skin * SHADE * 0.75)


def _mouth(s: _Scene) -> None:
    """Four curves over the lips' width: upper lip, parting, lower edge of the opening, lower lip."""
    box = s.window(0.1, 0.85, 0.6)
    u = s.fx[box] / s.mouth_w
    arch = 1 - u * u
    y = s.fy[box] - s.mouth_y - s.smile * (0.04 - 0.09 * u * u)  # the corners of a smile go up
    gap = s.gape * arch
    upper, lower = s.lip * arch * (0.5 * _clip01(1 - 4 * np.abs(u)) - 1.1), gap + 1.15 * s.lip * arch
    lips = _lerp(s.skin * BARE_LIPS, s.lips, 0.85 * s.lipstick[:, None])
    s.paint(box, _between(y, upper, lower, s.pixel), lips)
    s.paint(box, 0.25 * _blob(u, y - gap - 0.5 * s.lip, 0.5, 0.6 * s.lip), WHITE)
    s.paint(box, _between(y, 0, gap, s.pixel), MOUTH)
    s.paint(box, s.open_mouth * _between(y, 0, 0.55 * gap, s.pixel), WHITE)  # teeth
    s.paint(box, 0.3 * _blob(s.fx[box], y - 0.115, 0.1, 0.035), s.skin * SHADE)


def _eyes(s: _Scene) -> None:
    box = s.window(-0.4, 0.4, 0.7)
    a = np.abs(s.fx[box]) - s.eye_x  # grows outwards in both eyes
    u2 = (a / s.eye_w) ** 2
    y = s.fy[box] - s.eye_y - s.eye_slant * a / s.eye_w
    top, bottom, lash = s.eye_h * (u2 - 1), 0.75 * s.eye_h * (1 - u2), _clip01(1.25 - u2)
    s.paint(box, 0.42 * _blob(a + 0.01, y + 0.02, s.eye_w * 1.7, 0.16), s.skin * SHADE)  # the socket
    s.paint(box, 0.6 * s.makeup * _blob(a - 0.01, y + 0.07, s.eye_w * 1.4, 0.1), s.eye_shadow)
    opening = _between(y, top, bottom, s.pixel)
    s.paint(box, opening, WHITE)
    ahead, level = np.copysign(a, a * s.fx[box]) - s.gaze_x, y - s.gaze_y  # both eyes look the same way
    iris = s.eye_h * 0.35 + 0.042
    s.paint(box, opening * _disc(ahead, level, iris, s.pixel), s.iris)
    s.paint(box, opening * _disc(ahead, level, iris * 0.52, s.pixel), INK)
    liner = (0.03 - 0.008 * s.man + 0.016 * s.makeup) * lash
    s.paint(box, _between(y, top - liner, top + 0.012 * lash, s.pixel), INK)
    s.paint(box, 0.35 * _line(y, bottom + 0.004, 0.009 * lash, s.pixel), s.skin * SHADE * 0.6)
    s.paint(box, 0.95 * _disc(ahead - 0.022, level + 0.026, 0.019, s.pixel), WHITE)  # a glint makes it alive


def _brows(s: _Scene) -> None:
    box = s.window(-0.5, 0.2, 0.75)
    u = (np.abs(s.fx[box]) - s.eye_x - 0.01) / (s.eye_w * 1.25)
    middle = s.eye_y - s.brow_y + s.brow_arch * u * u - s.brow_tilt * u - 0.015 * s.bushy
    half = (0.017 + 0.022 * s.bushy + 0.006 * s.man) * (1 - 0.35 * u) * _clip01(3 - 3 * np.abs(u))
    s.paint(box, 0.9 * _line(s.fy[box], middle, half, s.pixel), s.hair * 0.62)


def _hair(s: _Scene) -> None:
    """What frames the face: all inside the hair's outline that lies above a hairline from ear to ear."""
    box = s.window(-1, 1)
    x, y, rim = s.fx, s.y, np.minimum(s.x * s.x / (s.width * s.width), 1)
    rim = rim * rim * rim  # the hairline falls steeply beside the face: to the ears, or all the way
    temples = s.receding * (0.06 + 0.12 * _blob(np.abs(x) - 0.27, 0, 0.25, 1))
    free = -0.5 + s.sweep * np.abs(x - s.part) + (0.42 + 0.95 * s.long) * rim - temples
    ends = 0.012 * (_ripple(5 * x + s.part) + _ripple(8.5 * x)) + 0.2 * s.part * x
    fringe = -0.27 + ends + (0.15 + 0.95 * s.long) * rim
    below = 0.8 * (y - _lerp(free, fringe, s.bangs))
    cast = _cover(np.maximum(s.head - 0.01, below - 0.04), s.pixel + 0.06)
    s.paint(box, 0.28 * (1 - s.bald) * cast, s.skin * SHADE * 0.8)
    strands = _lerp(_ripple((s.x - s.part) * (4.5 - 2.5 * np.abs(y)) + 0.35 * y), 1.6 * s.curls, s.curly)
    sheen = _blob(s.x - 0.28 * s.light_x, y + 0.52, 0.45, 0.2)
    bright = 0.95 + 0.08 * strands + 0.22 * sheen + 0.16 * s.light_x * s.x - 0.12 * y
    colour = s.hair * bright[:, None] + 0.06 * sheen[:, None]
    s.paint(box, (1 - s.bald) * _cover(np.maximum(s.hair_shape, below), s.pixel), colour)
    s.paint(box, 0.5 * s.bald * _blob(x - 0.2 * s.light_x, y + 0.48, 0.16, 0.08), WHITE)


def _earrings(s: _Scene) -> None:
    box = s.window(-0.1, 0.65)
    x, y = np.abs(s.x[box]) - s.width * (1 - 0.12 * s.long) - 0.02, s.y[box] - 0.235
    s.paint(box, s.earrings * _disc(x, y, 0.055, s.pixel), s.metal)
    s.paint(box, s.earrings * 0.8 * _disc(x + 0.015, y + 0.015, 0.018, s.pixel), WHITE)


def _glasses(s: _Scene) -> None:
    box = s.window(-0.45, 0.5)
    a, y = np.abs(s.fx[box]) - s.eye_x, s.fy[box] - s.eye_y - 0.01
    wide = s.eye_x - 0.045
    lens = _ellipse(a, y, wide, 0.125 + 0.02 * s.sunglasses, 0.75 - s.frame_round)
    glass, glint = s.glasses * _cover(lens, s.pixel), _blob(a + 0.03 - 0.6 * y, y + 0.02, 0.05, 0.12)
    s.paint(box, glass * (0.1 + 0.84 * s.sunglasses), _lerp(1, s.frames * 0.35, s.sunglasses[:, None]))
    s.paint(box, glass * 0.25 * glint, WHITE)
    bridge = _between(y, -0.045, -0.015, s.pixel) * _cover(a + wide, s.pixel)
    inside_head = _cover(np.abs(s.x[box]) - s.width - 0.03, s.pixel)
    arm = _between(y, -0.06, -0.03, s.pixel) * _cover(wide - a, s.pixel) * inside_head
    s.paint(box, s.glasses * _clip01(_between(lens, -0.006, 0.026, s.pixel) + bridge + arm), s.frames)


def _hat(s: _Scene) -> None:
    """A beanie, a cap or a brimmed hat, by hat_style: a dome, and a band or an edge where it ends."""
    box = s.window(-1, 0.25)
    x, y, fx = s.x[box], s.y[box], s.fx[box]
    beanie, brim = (s.hat_style < 0.4).astype(np.float32), (s.hat_style >= 0.7).astype(np.float32)
    cap, line = 1 - beanie - brim, 0.1 * x * x - 0.36
    visor = np.maximum(_ellipse(fx - 0.2 * s.yaw, y - line + 0.03, s.width * 0.95, 0.18, 0.3), line - 0.03 - y)
    edge = np.where(brim > 0, _ellipse(x, y + 0.36, s.width + 0.34, 0.075), visor)
    cast = _cover(edge - 0.04, s.pixel + 0.08) * _cover(s.head[box], s.pixel)
    s.paint(box, s.hat * (1 - beanie) * 0.3 * cast, s.skin * SHADE * 0.5)
    dome = _ellipse(x, y + 0.2, s.width + 0.04 + 0.4 * s.hair_volume, s.height - 0.08 + s.hair_volume, 0.1 + 0.4 * brim)
    crown = s.hat * _cover(np.maximum(dome, y - line), s.pixel)
    knit, seam = 0.1 * beanie * _ripple(x * 7), 0.12 * cap * _line(x, 0, 0.012, s.pixel)
    colour = s.hat_hue * (0.95 + knit - seam + 0.3 * s.light_x * x + 0.2 * s.light_y * (y + 0.5))[:, None]
    s.paint(box, crown, colour)
    s.paint(box, crown * (1 - cap) * _cover(line - 0.13 - 0.06 * beanie - y, s.pixel), colour * 0.4 + s.trim * 0.6)
    dark = 1.12 - 0.22 * cap - 1.2 * np.maximum(y - line, 0)
    s.paint(box, s.hat * (1 - beanie) * _cover(edge, s.pixel), colour * dark[:, None])


_BACK_TO_FRONT = (
    _backdrop, _outlines, _hair_behind, _neck_and_clothes, _ears, _head, _age_lines, _beard, _nose, _mouth, _eyes,
    _brows, _hair, _earrings, _glasses, _hat,
)  # fmt: skip


# ---- What others call ----


def _check_indices(indices: np.ndarray) -> np.ndarray:
    indices = np.asarray(indices)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"indices must be a 1-D array of integers, not {indices.ndim}-D of {indices.dtype}")
    return indices


def compute_face_attributes(seed: int, indices: np.ndarray) -> np.ndarray:
    """What is known about each face, and can be seen in it.

    Args: seed: any int. indices: (N,) integers.
    Returns: (N, len(ATTRIBUTES)) uint8, 0 or 1, in the order of ATTRIBUTES.
    """
    people = _character(_Dice(seed, _check_indices(indices)))
    return np.stack([getattr(people, trait) for trait in _TRAITS.values()], axis=1).astype(np.uint8)


def draw_faces(seed: int, indices: np.ndarray, size: int) -> np.ndarray:
    """The faces with these indices: the same face at every size, the same bits in every batch.

    Args: seed: any int. indices: (N,) integers. size: pixels a side, at least SMALLEST_SIZE.
    Returns: (N, size, size, 3) uint8 sRGB.
    """
    indices = _check_indices(indices)
    if not isinstance(size, int | np.integer) or size < SMALLEST_SIZE:
        raise ValueError(f"size must be a whole number of pixels, at least {SMALLEST_SIZE}, not {size!r}")
    pictures = np.empty((len(indices), size, size, 3), np.uint8)
    chunk = max(CHUNK_PIXELS // (size * size), 1)
    dice = _Dice(seed, indices)
    people = _measure(_character(dice), dice)
    for start in range(0, len(indices), chunk):
        rows = slice(start, start + chunk)
        scene = _Scene(people, rows, size)
        for paint in _BACK_TO_FRONT:
            paint(scene)
        light = 255 * scene.exposure * (1 + 0.07 * scene.light_x * scene.gx)  # (N, 1, S)
        levels = np.minimum(np.maximum(scene.canvas * light[:, None] + 0.5, 0), 255).astype(np.uint8)  # (N, 3, S, S)
        pictures[rows] = levels.transpose(0, 2, 3, 1)
    return pictures
