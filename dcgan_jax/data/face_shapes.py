"""Shapes of drawn faces: signed distances (negative inside), and coverage, the share of a pixel that a shape covers.

x, y and distances are arrays of coordinates in half images; pixel is the size of a pixel in the same unit. Only + - * /, sqrt,
floor, min and max are used, which IEEE 754 rounds alike everywhere.
"""

import numpy as np


def clip01(values: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(values, 0), 1)


def cover(distance, pixel):
    """Coverage: the share of each pixel inside a shape, from the signed distance at its centre: an edge one pixel wide."""
    return clip01(0.5 - distance / pixel)


def measure_ellipse(x, y, rx, ry, square=0.0):
    """Signed distance to an ellipse, to first order: f / |grad f|. `square` 0 is the ellipse, 1 its bounding box."""
    u, v = x / rx, y / ry
    a, b = u * u, v * v
    du, dv = u * (1 - square * np.minimum(b, 1)) / rx, v * (1 - square * np.minimum(a, 1)) / ry
    # without the minima the product, which bends the outline, would draw the shape again in the image's corners
    return (a + b - square * np.minimum(a, 1) * np.minimum(b, 1) - 1) / (2 * np.sqrt(du * du + dv * dv) + 1e-6)


def cover_disc(x, y, radius, pixel):
    """Coverage by a circle, from squared distances: no root is needed where the edge is a pixel wide."""
    return clip01(0.5 + (radius * radius - x * x - y * y) / (2 * radius * pixel))


def cover_band(y, top, bottom, pixel):
    """Coverage of the band top < y < bottom, exact also where it is thinner than a pixel: lids and lips keep their weight."""
    half = pixel / 2
    return np.maximum(np.minimum(bottom, y + half) - np.maximum(top, y - half), 0) / pixel


def cover_line(y, middle, half, pixel):
    return cover_band(y, middle - half, middle + half, pixel)


def make_spot(x, y, rx, ry):
    """A soft spot: 1 in the middle, falling to 0 with zero slope at the ellipse (rx, ry)."""
    u, v = x / rx, y / ry
    fall = np.maximum(1 - u * u - v * v, 0)
    return fall * fall


def make_wave(phase):
    """A wave of period 1 between -1 and 1, made of parabolas: close to a sine, in exact arithmetic."""
    saw = phase - np.floor(phase) - 0.5
    return 8 * saw * (2 * np.abs(saw) - 1)


def blend(a, b, t):
    return a + t * (b - a)
