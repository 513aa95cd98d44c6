"""Shapes for drawn faces: signed distances (negative inside), and coverage, the share of a pixel that a shape covers.

x, y and distances are arrays in units of half an image; pixel is the size of a pixel in this unit. Only + - * /, sqrt, floor, min
and max are used, because IEEE 754 defines their rounding on every machine.
"""

import numpy as np

Number = np.ndarray | float  # an array, or one number for all elements


def clip01(values: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(values, 0), 1)


def cover(distance: np.ndarray, pixel: Number) -> np.ndarray:
    """Returns the share of each pixel inside a shape, from the signed distance at its centre. Edges are one pixel wide."""
    return clip01(0.5 - distance / pixel)


def measure_ellipse(x: np.ndarray, y: np.ndarray, rx: Number, ry: Number, square: Number = 0.0) -> np.ndarray:
    """Returns the signed distance to an ellipse, to first order: f / |grad f|. `square` 0: the ellipse; 1: its bounding box."""
    u, v = x / rx, y / ry
    a, b = u * u, v * v
    du, dv = u * (1 - square * np.minimum(b, 1)) / rx, v * (1 - square * np.minimum(a, 1)) / ry
    # The minima limit the product: without them the shape would appear again in the image's corners.
    return (a + b - square * np.minimum(a, 1) * np.minimum(b, 1) - 1) / (2 * np.sqrt(du * du + dv * dv) + 1e-6)


def cover_disc(x: np.ndarray, y: np.ndarray, radius: Number, pixel: Number) -> np.ndarray:
    """Returns the coverage by a circle, from squared distances. An edge of one pixel needs no square root."""
    return clip01(0.5 + (radius * radius - x * x - y * y) / (2 * radius * pixel))


def cover_band(y: np.ndarray, top: Number, bottom: Number, pixel: Number) -> np.ndarray:
    """Returns the coverage by the band top < y < bottom. Exact also for bands thinner than a pixel, such as eyelids."""
    half = pixel / 2
    return np.maximum(np.minimum(bottom, y + half) - np.maximum(top, y - half), 0) / pixel


def cover_line(y: np.ndarray, middle: Number, half: Number, pixel: Number) -> np.ndarray:
    return cover_band(y, middle - half, middle + half, pixel)


def make_spot(x: np.ndarray, y: Number, rx: Number, ry: Number) -> np.ndarray:
    """Makes a soft spot: 1 in the middle, and 0 with zero slope at the ellipse (rx, ry)."""
    u, v = x / rx, y / ry
    fall = np.maximum(1 - u * u - v * v, 0)
    return fall * fall


def make_wave(phase: np.ndarray) -> np.ndarray:
    """Makes a wave of period 1 between -1 and 1 from parabolas. It is close to a sine, with reproducible rounding."""
    saw = phase - np.floor(phase) - 0.5
    return 8 * saw * (2 * np.abs(saw) - 1)


def blend(a: Number, b: Number, t: Number) -> np.ndarray:
    return np.asarray(a + t * (b - a))  # one of the arguments is an array
