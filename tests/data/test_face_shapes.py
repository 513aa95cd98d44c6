import numpy as np
import pytest

from dcgan_jax.data import face_shapes


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize(
    "coverage, area",
    [
        (lambda x, y, pixel: face_shapes.cover_disc(x, y, 0.5, pixel), np.pi * 0.25),
        (lambda x, y, pixel: face_shapes.cover(face_shapes.measure_ellipse(x, y, 0.8, 0.4), pixel), np.pi * 0.32),
        (lambda x, y, pixel: face_shapes.cover_band(y + 0 * x, -0.013, 0.004, pixel), 2 * 0.017),  # less than a pixel wide
    ],
)
def test_shapes_keep_soft_edges_and_area_at_any_size(coverage, area, size):
    pixel = np.float32(2 / size)
    centres = (np.arange(size, dtype=np.float32) + 0.5) * pixel - 1
    share = coverage(centres[None, :], centres[:, None], pixel)
    assert share.min() == 0 and share.max() <= 1 and np.any((share > 0) & (share < 1))
    np.testing.assert_allclose(share.sum() * pixel**2, area, rtol=0.02)
