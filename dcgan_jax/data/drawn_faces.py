"""Drawn faces: images of imaginary people, painted by formulas. The default data set, which needs no network and no files.

Face i of a seed is a function of (seed, i) alone. An integer hash gives its traits (face_traits.py). Then shapes with antialiased
edges (face_shapes.py) are painted over each other, back to front, for many faces at once. Only + - * /, sqrt, floor, min, max,
signs and comparisons are used, because IEEE 754 defines their rounding. So the bits are the same in any batch, on any machine,
with any version of NumPy.

Coordinates: the image is [-1, 1] x [-1, 1], with y downwards. `x`, `y` are fixed to the head (moved, tilted, scaled); `fx`, `fy`
are fixed to the face (also turned by yaw and pitch). Eyes, brows and ears are painted once, on |x|, and appear twice.
Shapes: pixels are (N, h, w) float32, a number per face (N, 1, 1), a colour per face (N, 3, 1, 1) in 0..1. N comes first, so that
NumPy's inner loops run over pixels. Constants in the painters were chosen by eye at 32, 64 and 128 pixels. The unit of length is
half an image.
"""

import math
from types import EllipsisType, SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from dcgan_jax.data.face_shapes import (
    blend,
    clip01,
    cover,
    cover_band,
    cover_disc,
    cover_line,
    make_spot,
    make_wave,
    measure_ellipse,
)
from dcgan_jax.data.face_traits import TRAITS, Dice, add_measures, make_character, parse_palette

SMALLEST_SIZE = 8
CHUNK_PIXELS = 32 * 32 * 32  # painted together: a float32 plane has 128 KiB, so a feature's few planes fit into the L2 cache

ATTRIBUTES: tuple[str, ...] = tuple(TRAITS)
WHITE, INK, MOUTH, BLUSH = parse_palette("f7f4ef 1d1414 4c1218 e0605e")[:, None, :, None, None]  # (1, 3, 1, 1) each
# Factors for the skin's colour: shadows are darker and redder. (3, 1, 1) each.
SHADE = np.array([0.70, 0.55, 0.53], np.float32)[:, None, None]
GLOW = np.array([1.10, 1.08, 1.05], np.float32)[:, None, None]
BARE_LIPS = np.array([0.86, 0.60, 0.58], np.float32)[:, None, None]


# ---- Painting: one function per feature ----

Box = tuple[EllipsisType, slice, slice]


class _Scene:
    """N faces while they are painted: traits (N, 1, 1) and (N, 3, 1, 1), coordinates (N, S, S), canvas (N, 3, S, S)."""

    head: np.ndarray  # (N, S, S) signed distances to head and hair, and the waves of curls: see _measure_outlines
    hair_shape: np.ndarray
    curls: np.ndarray

    if TYPE_CHECKING:

        def __getattr__(self, trait: str) -> np.ndarray: ...  # each trait is an attribute of the scene

    def __init__(self, people: SimpleNamespace, rows: slice, size: int):
        for name, trait in vars(people).items():
            setattr(self, name, trait[rows].astype(np.float32)[..., None, None])
        self.size, self.pixel = size, np.float32(2 / size) / self.scale
        centres = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1
        self.gx, self.gy = centres[None, None, :], centres[None, :, None]  # (1, 1, S), (1, S, 1)
        # sine and cosine from the tangent of half the tilt, since the rounding of np.sin is not reproducible
        norm = 1 + self.tilt * self.tilt
        cos, sin = (2 - norm) / norm, 2 * self.tilt / norm
        right, down = (self.gx - self.shift_x) / self.scale, (self.gy - self.shift_y) / self.scale
        self.x, self.y = cos * right + sin * down, cos * down - sin * right
        # A turned face moves over the head, less near the rim, so the far side gets narrower.
        self.fx = self.x - self.yaw * np.maximum(0.6 - 1.2 * self.x * self.x, 0)
        self.fy = self.y - self.pitch
        self.canvas = np.empty((len(self.x), 3, size, size), np.float32)

    def window(self, top: float, bottom: float, side: float = 1.0) -> Box:
        """Returns the index of the pixels in a box of the image. A feature's box contains the feature in every pose."""
        low, high, left, right = ((edge + 1) / 2 * self.size for edge in (top, bottom, -side, side))
        return ..., slice(math.floor(low), math.ceil(high)), slice(math.floor(left), math.ceil(right))

    def paint(self, box: Box, alpha: np.ndarray, colour: np.ndarray) -> None:
        """Blends a colour, (N, 3, 1, 1) or (N, 3, h, w), into the box of the canvas with opacity alpha, (N, h, w)."""
        under = self.canvas[box]
        under += alpha[:, None] * (colour - under)


def _paint_backdrop(s: _Scene) -> None:
    slope = clip01(0.5 + 0.5 * (s.gy + s.back_angle * s.gx))
    s.canvas[:] = blend(s.back_1, s.back_2, slope[:, None])
    s.paint(s.window(-1, 1), 0.35 * make_spot(s.gx - 0.4 * s.light_x, s.gy + 0.3, 1.3, 1.3), WHITE)


def _measure_outlines(s: _Scene) -> None:
    """Computes the distances to the outlines of head and hair, which several features use. Paints nothing."""
    low = np.maximum(s.y, 0)
    s.head = measure_ellipse(s.x * (1 + s.jaw * low * low), s.y, s.width, s.height, s.square)
    side = 0.03 + 0.6 * s.hair_volume
    # Long hair gets a little narrower below the ears. Short hair is cut close to the head beside them.
    x = np.abs(s.x) * (1 - 0.12 * low + (1 - s.long) * (1 - 0.6 * s.curly) * side / s.width * clip01(1.4 * s.y + 0.8))
    x += s.wavy * 0.035 * make_wave(2.6 * s.y + s.part) * clip01(0.5 + s.y)
    dome = measure_ellipse(x, np.minimum(s.y + 0.02, 0), s.width + side, s.height + s.hair_volume)
    warp_x, warp_y = 0.3 * make_wave(2.3 * s.y), 0.3 * make_wave(2.9 * s.x + s.part)
    fade = clip01(1 - (11 * s.pixel) ** 2)  # a wave's mean over a pixel: without it curls alias at 32 pixels
    s.curls = fade * make_wave(3.8 * s.x + warp_x) * make_wave(3.8 * s.y + warp_y)
    loose = np.maximum(dome - s.curly * 0.03 * s.curls, s.y - s.hair_length + 0.5 * s.x * s.x)
    bun = measure_ellipse(s.x - 0.3 * s.part, s.y + s.height + s.hair_volume, 0.19, 0.13)
    s.hair_shape = np.where(s.bun > 0, np.minimum(loose, bun), loose)


def _paint_hair_behind(s: _Scene) -> None:
    box = s.window(-0.1, 1)
    nape = np.maximum(s.hair_shape[box], 0.2 - s.y[box])
    s.paint(box, (1 - s.bald) * cover(nape, s.pixel), s.hair * 0.62)


def _paint_neck_and_clothes(s: _Scene) -> None:
    box = s.window(0.25, 1)
    x, y = s.x[box], s.y[box]
    lit = clip01(1.6 * (y - 0.75) + 0.35 + 0.8 * s.light_x * x)  # the chin shades the neck
    flare = np.maximum(y - 0.72, 0)
    neck = np.maximum(np.abs(x) - s.neck - 0.9 * flare * flare, 0.45 - y)
    s.paint(box, cover(neck, s.pixel), s.skin * blend(SHADE, 1, lit[:, None]))
    y = np.broadcast_to(s.gy[box] / s.scale, x.shape)  # shoulders stay level under a tilted head
    torso = measure_ellipse(x, y - 1.45, 1.08 + 0.12 * s.man, 0.72, 0.4)
    v_neck, round_neck = np.abs(x) * 1.1 + (y - 1.08) * 0.62, measure_ellipse(x, y - 0.74, s.neck + 0.06, 0.17)
    hole = np.where(s.neckline > 0.55, v_neck, round_neck)
    s.paint(box, cover(np.maximum(torso, -hole), s.pixel), s.cloth * (0.92 + 0.2 * s.light_x * x)[:, None])
    s.paint(box, cover(torso, s.pixel) * cover_band(hole, 0.0, 0.05, s.pixel), s.trim)


def _paint_ears(s: _Scene) -> None:
    box = s.window(-0.35, 0.5)
    x, y = np.abs(s.x[box]) - s.width - 0.005, s.y[box] - 0.05
    s.paint(box, cover(measure_ellipse(x, y, 0.075, 0.125), s.pixel), s.skin * blend(SHADE, 1, 0.65))
    s.paint(box, 0.5 * make_spot(x - 0.01, y, 0.05, 0.09), s.skin * SHADE)


def _paint_head(s: _Scene) -> None:
    """Paints the skin: light from one side, shade towards the rim, warm cheeks."""
    box = s.window(-1, 1, 0.9)
    u, v, fx, fy = s.x[box] / s.width, s.y[box] / s.height, s.fx[box], s.fy[box]
    skin, rim = cover(s.head[box], s.pixel), u * u + v * v
    light = 0.80 + 0.30 * s.light_x * u + 0.26 * s.light_y * v - 0.22 * rim * rim
    light += 0.16 * make_spot(fx - 0.1 * s.light_x, fy + 0.33, 0.36, 0.22)  # the forehead
    s.paint(box, skin, s.skin * blend(SHADE, GLOW, clip01(light)[:, None]))
    cheeks = skin * make_spot(np.abs(fx) - 0.27, fy - 0.2, 0.2, 0.15)
    s.paint(box, (0.16 + 0.28 * s.rosy) * cheeks, BLUSH * (0.3 + 0.7 * s.skin))


def _paint_age_lines(s: _Scene) -> None:
    box = s.window(-0.7, 0.75, 0.75)
    x, y, a = s.fx[box], s.fy[box], np.abs(s.fx[box])
    bow = x * x / 1.92
    forehead = cover_line(y, bow - 0.36, 0.011, s.pixel) + cover_line(y, bow - 0.43, 0.009, s.pixel)
    fold = cover_line(a, 0.13 + 0.22 * (y - 0.16), 0.012, s.pixel) * clip01((y - 0.14) * 12) * clip01((0.4 - y) * 12)
    bag = make_spot(a - s.eye_x, y - s.eye_y - 0.12, 0.12, 0.05)
    lines = clip01(0.55 * forehead * clip01(5 - 20 * a) + 0.6 * fold + 0.4 * bag)
    s.paint(box, s.wrinkles * lines, s.skin * SHADE * 0.9)


def _paint_beard(s: _Scene) -> None:
    """Paints stubble, goatee or full beard below a line from ear to ear, and the mustache. The mouth is painted over them."""
    box = s.window(-0.25, 1, 0.9)
    x, y, fx, fy = s.x[box], s.y[box], s.fx[box], s.fy[box]
    u2 = np.minimum(x * x / (s.width * s.width), 1)
    jaw = cover((0.27 - 0.34 * u2 * u2 - y) * 0.8, s.pixel + 0.04) * (0.95 * s.full + 0.4 * s.stubble)
    chin = cover(measure_ellipse(fx, fy - s.mouth_y - 0.19, 0.15, 0.15, 0.3), s.pixel + 0.02) * 0.95 * s.goatee
    strands = (0.85 + 0.035 * make_wave(7 * np.abs(x) + y) + 0.15 * s.light_x * x)[:, None]
    s.paint(box, cover(s.head[box] - 0.03 * s.full, s.pixel) * clip01(jaw + chin), s.hair * strands)
    w2 = (fx * fx) / (1.32 * s.mouth_w * s.mouth_w)
    arch = s.mouth_y - 0.075 + 0.09 * w2
    lip = cover_band(fy, arch - 0.05 * clip01(1.1 - w2), arch + 0.045 * clip01(1.3 - w2), s.pixel)
    s.paint(box, 0.95 * s.mustache * lip, s.hair * strands)


def _paint_nose(s: _Scene) -> None:
    box = s.window(-0.4, 0.65, 0.5)
    x, y = s.fx[box], s.fy[box] - s.nose_y
    away = x + np.copysign(np.float32(0.06), s.light_x)  # the side away from the light
    shade = 0.4 * make_spot(away, y + 0.06, 0.075, 0.28) + 0.35 * make_spot(x, y - 0.05, s.nose_w * 1.3, 0.05)
    s.paint(box, shade, s.skin * SHADE)
    shine = 0.3 * make_spot(x - 0.02 * s.light_x, y + 0.02, 0.06, 0.06) + 0.18 * make_spot(x, y + 0.2, 0.04, 0.2)
    s.paint(box, shine, s.skin * 0.7 + 0.3)
    u2 = (x / s.nose_w) ** 2
    tip = cover_line(y, 0.035 - 0.04 * u2, 0.012 * clip01(1.2 - u2), s.pixel)
    nostrils = cover_disc(np.abs(x) - 0.5 * s.nose_w, 1.5 * (y - 0.022), 0.02, s.pixel)
    s.paint(box, clip01(0.6 * tip + 0.5 * nostrils), s.skin * SHADE * 0.75)


def _paint_mouth(s: _Scene) -> None:
    """Paints the mouth by four curves over its width: upper lip, line between the lips, lower edge of the opening, lower lip."""
    box = s.window(0.1, 0.85, 0.6)
    u = s.fx[box] / s.mouth_w
    arch = 1 - u * u
    y = s.fy[box] - s.mouth_y - s.smile * (0.04 - 0.09 * u * u)  # the corners of a smile go up
    gap = s.gape * arch
    upper, lower = s.lip * arch * (0.5 * clip01(1 - 4 * np.abs(u)) - 1.1), gap + 1.15 * s.lip * arch
    lips = blend(s.skin * BARE_LIPS, s.lips, 0.85 * s.lipstick[:, None])
    s.paint(box, cover_band(y, upper, lower, s.pixel), lips)
    s.paint(box, 0.25 * make_spot(u, y - gap - 0.5 * s.lip, 0.5, 0.6 * s.lip), WHITE)
    s.paint(box, cover_band(y, 0, gap, s.pixel), MOUTH)
    s.paint(box, s.open_mouth * cover_band(y, 0, 0.55 * gap, s.pixel), WHITE)  # teeth
    s.paint(box, 0.3 * make_spot(s.fx[box], y - 0.115, 0.1, 0.035), s.skin * SHADE)


def _paint_eyes(s: _Scene) -> None:
    box = s.window(-0.4, 0.4, 0.7)
    a = np.abs(s.fx[box]) - s.eye_x  # increases outwards in both eyes
    u2 = (a / s.eye_w) ** 2
    y = s.fy[box] - s.eye_y - s.eye_slant * a / s.eye_w
    top, bottom, lash = s.eye_h * (u2 - 1), 0.75 * s.eye_h * (1 - u2), clip01(1.25 - u2)
    s.paint(box, 0.42 * make_spot(a + 0.01, y + 0.02, s.eye_w * 1.7, 0.16), s.skin * SHADE)  # the socket
    s.paint(box, 0.6 * s.makeup * make_spot(a - 0.01, y + 0.07, s.eye_w * 1.4, 0.1), s.eye_shadow)
    opening = cover_band(y, top, bottom, s.pixel)
    s.paint(box, opening, WHITE)
    ahead, level = np.copysign(a, a * s.fx[box]) - s.gaze_x, y - s.gaze_y  # both eyes look in the same direction
    iris = s.eye_h * 0.35 + 0.042
    s.paint(box, opening * cover_disc(ahead, level, iris, s.pixel), s.iris)
    s.paint(box, opening * cover_disc(ahead, level, iris * 0.52, s.pixel), INK)
    liner = (0.03 - 0.008 * s.man + 0.016 * s.makeup) * lash
    s.paint(box, cover_band(y, top - liner, top + 0.012 * lash, s.pixel), INK)
    s.paint(box, 0.35 * cover_line(y, bottom + 0.004, 0.009 * lash, s.pixel), s.skin * SHADE * 0.6)
    s.paint(box, 0.95 * cover_disc(ahead - 0.022, level + 0.026, 0.019, s.pixel), WHITE)  # the glint


def _paint_brows(s: _Scene) -> None:
    box = s.window(-0.5, 0.2, 0.75)
    u = (np.abs(s.fx[box]) - s.eye_x - 0.01) / (s.eye_w * 1.25)
    middle = s.eye_y - s.brow_y + s.brow_arch * u * u - s.brow_tilt * u - 0.015 * s.bushy
    half = (0.017 + 0.022 * s.bushy + 0.006 * s.man) * (1 - 0.35 * u) * clip01(3 - 3 * np.abs(u))
    s.paint(box, 0.9 * cover_line(s.fy[box], middle, half, s.pixel), s.hair * 0.62)


def _paint_hair(s: _Scene) -> None:
    """Paints the hair around the face: the part of the hair's outline above a hairline from ear to ear."""
    box = s.window(-1, 1)
    x, y, rim = s.fx, s.y, np.minimum(s.x * s.x / (s.width * s.width), 1)
    rim = rim * rim * rim  # the hairline falls steeply beside the face: to the ears, or down with long hair
    temples = s.receding * (0.06 + 0.12 * make_spot(np.abs(x) - 0.27, 0, 0.25, 1))
    free = -0.5 + s.sweep * np.abs(x - s.part) + (0.42 + 0.95 * s.long) * rim - temples
    ends = 0.012 * (make_wave(5 * x + s.part) + make_wave(8.5 * x)) + 0.2 * s.part * x
    fringe = -0.27 + ends + (0.15 + 0.95 * s.long) * rim
    below = 0.8 * (y - blend(free, fringe, s.bangs))
    cast = cover(np.maximum(s.head - 0.01, below - 0.04), s.pixel + 0.06)
    s.paint(box, 0.28 * (1 - s.bald) * cast, s.skin * SHADE * 0.8)
    strands = blend(make_wave((s.x - s.part) * (4.5 - 2.5 * np.abs(y)) + 0.35 * y), 1.6 * s.curls, s.curly)
    sheen = make_spot(s.x - 0.28 * s.light_x, y + 0.52, 0.45, 0.2)
    bright = 0.95 + 0.08 * strands + 0.22 * sheen + 0.16 * s.light_x * s.x - 0.12 * y
    colour = s.hair * bright[:, None] + 0.06 * sheen[:, None]
    s.paint(box, (1 - s.bald) * cover(np.maximum(s.hair_shape, below), s.pixel), colour)
    s.paint(box, 0.5 * s.bald * make_spot(x - 0.2 * s.light_x, y + 0.48, 0.16, 0.08), WHITE)


def _paint_earrings(s: _Scene) -> None:
    box = s.window(-0.1, 0.65)
    x, y = np.abs(s.x[box]) - s.width * (1 - 0.12 * s.long) - 0.02, s.y[box] - 0.235
    s.paint(box, s.earrings * cover_disc(x, y, 0.055, s.pixel), s.metal)
    s.paint(box, s.earrings * 0.8 * cover_disc(x + 0.015, y + 0.015, 0.018, s.pixel), WHITE)


def _paint_glasses(s: _Scene) -> None:
    box = s.window(-0.45, 0.5)
    a, y = np.abs(s.fx[box]) - s.eye_x, s.fy[box] - s.eye_y - 0.01
    wide = s.eye_x - 0.045
    lens = measure_ellipse(a, y, wide, 0.125 + 0.02 * s.sunglasses, 0.75 - s.frame_round)
    glass, glint = s.glasses * cover(lens, s.pixel), make_spot(a + 0.03 - 0.6 * y, y + 0.02, 0.05, 0.12)
    s.paint(box, glass * (0.1 + 0.84 * s.sunglasses), blend(1, s.frames * 0.35, s.sunglasses[:, None]))
    s.paint(box, glass * 0.25 * glint, WHITE)
    bridge = cover_band(y, -0.045, -0.015, s.pixel) * cover(a + wide, s.pixel)
    inside_head = cover(np.abs(s.x[box]) - s.width - 0.03, s.pixel)
    arm = cover_band(y, -0.06, -0.03, s.pixel) * cover(wide - a, s.pixel) * inside_head
    s.paint(box, s.glasses * clip01(cover_band(lens, -0.006, 0.026, s.pixel) + bridge + arm), s.frames)


def _paint_hat(s: _Scene) -> None:
    """Paints a beanie, a cap or a brimmed hat, by hat_style: a dome with a band or a brim at its lower end."""
    box = s.window(-1, 0.25)
    x, y, fx = s.x[box], s.y[box], s.fx[box]
    beanie, brim = (s.hat_style < 0.4).astype(np.float32), (s.hat_style >= 0.7).astype(np.float32)
    cap, line = 1 - beanie - brim, 0.1 * x * x - 0.36
    visor = np.maximum(measure_ellipse(fx - 0.2 * s.yaw, y - line + 0.03, s.width * 0.95, 0.18, 0.3), line - 0.03 - y)
    edge = np.where(brim > 0, measure_ellipse(x, y + 0.36, s.width + 0.34, 0.075), visor)
    cast = cover(edge - 0.04, s.pixel + 0.08) * cover(s.head[box], s.pixel)
    s.paint(box, s.hat * (1 - beanie) * 0.3 * cast, s.skin * SHADE * 0.5)
    dome = measure_ellipse(x, y + 0.2, s.width + 0.04 + 0.4 * s.hair_volume, s.height - 0.08 + s.hair_volume, 0.1 + 0.4 * brim)
    crown = s.hat * cover(np.maximum(dome, y - line), s.pixel)
    knit, seam = 0.1 * beanie * make_wave(x * 7), 0.12 * cap * cover_line(x, 0, 0.012, s.pixel)
    colour = s.hat_hue * (0.95 + knit - seam + 0.3 * s.light_x * x + 0.2 * s.light_y * (y + 0.5))[:, None]
    s.paint(box, crown, colour)
    s.paint(box, crown * (1 - cap) * cover(line - 0.13 - 0.06 * beanie - y, s.pixel), colour * 0.4 + s.trim * 0.6)
    dark = 1.12 - 0.22 * cap - 1.2 * np.maximum(y - line, 0)
    s.paint(box, s.hat * (1 - beanie) * cover(edge, s.pixel), colour * dark[:, None])


_BACK_TO_FRONT = (
    _paint_backdrop,
    _measure_outlines,
    _paint_hair_behind,
    _paint_neck_and_clothes,
    _paint_ears,
    _paint_head,
    _paint_age_lines,
    _paint_beard,
    _paint_nose,
    _paint_mouth,
    _paint_eyes,
    _paint_brows,
    _paint_hair,
    _paint_earrings,
    _paint_glasses,
    _paint_hat,
)


# ---- Public functions ----


def _check_indices(indices: np.ndarray) -> np.ndarray:
    indices = np.asarray(indices)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"indices must be a 1-D array of integers, not {indices.ndim}-D of {indices.dtype}")
    return indices


def compute_face_attributes(seed: int, indices: np.ndarray) -> np.ndarray:
    """Returns the attributes of each face. All of them are visible in the image.

    Args: seed: any int. indices: (N,) integers.
    Returns: (N, len(ATTRIBUTES)) uint8, 0 or 1, in the order of ATTRIBUTES.
    """
    people = make_character(Dice(seed, _check_indices(indices)))
    return np.stack([getattr(people, trait) for trait in TRAITS.values()], axis=1).astype(np.uint8)


def draw_faces(seed: int, indices: np.ndarray, size: int) -> np.ndarray:
    """Paints the faces with these indices. A face is the same at every size, and has the same bits in every batch.

    Args: seed: any int. indices: (N,) integers. size: pixels a side, at least SMALLEST_SIZE.
    Returns: (N, size, size, 3) uint8 sRGB.
    """
    indices = _check_indices(indices)
    if not isinstance(size, int | np.integer) or size < SMALLEST_SIZE:
        raise ValueError(f"size must be a whole number of pixels, at least {SMALLEST_SIZE}, not {size!r}")
    images = np.empty((len(indices), size, size, 3), np.uint8)
    chunk = max(CHUNK_PIXELS // (size * size), 1)
    dice = Dice(seed, indices)
    people = add_measures(make_character(dice), dice)
    for start in range(0, len(indices), chunk):
        rows = slice(start, start + chunk)
        scene = _Scene(people, rows, size)
        for paint in _BACK_TO_FRONT:
            paint(scene)
        light = 255 * scene.exposure * (1 + 0.07 * scene.light_x * scene.gx)  # (N, 1, S)
        levels = np.minimum(np.maximum(scene.canvas * light[:, None] + 0.5, 0), 255).astype(np.uint8)  # (N, 3, S, S)
        images[rows] = levels.transpose(0, 2, 3, 1)
    return images
