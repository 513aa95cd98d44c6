"""Sliced Wasserstein distance between two sets of images. Pure functions of NumPy arrays; randomness comes from a seed."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

PATCH = 7  # pixels a side, arXiv:1710.10196 section 5
_IMAGES_AT_ONCE = 64  # keeps a chunk's pyramid (3 MB at 64 px) in cache; the result does not depend on it
_DIRECTIONS_AT_ONCE = 32  # bounds the memory of projections: 2 sets x 32 x 320,000 float32 is 82 MB at N = 5000


def sliced_wasserstein(
    real: np.ndarray, fake: np.ndarray, *, seed: int = 0, patches_per_image: int = 64, directions: int = 512
) -> dict[str, float]:
    """Measures the distance between the 7x7 patches of two sets of images at each scale. 0 for equal sets; lower is better.

    Each set becomes a Laplacian pyramid. Patches are sampled from each level, normalised per colour channel by their own
    set's mean and standard deviation, and compared along random directions. Compare values at equal N, S and arguments
    only. Two halves of one data set do not score 0 but a floor, which falls with N.

    It ignores the position of patches in the image: a scrambled face scores like a face. Because each set is normalised by
    itself, it also ignores a change of brightness or contrast that is the same in all images. So read it together with FID.

    Args:
      real, fake: (N, S, S, C) uint8, same shape, C usually 1 or 3; S a power of two, at least 16.
      seed: 0 or more; the only source of patch positions and directions. Image i of `real` and image i of `fake` are cut
        at the same positions. So a set against itself gives exactly 0, and swapping the arguments changes no bit.
      patches_per_image: 128 in the paper. With 64, two sets of 5000 at 64 px cost 59 CPU-seconds and 0.9 GB; with 128 they cost
        106 and 1.7 GB (2 cores). But the floor is higher: 4.4 instead of 3.6 for two halves of real faces. Time and memory are
        proportional to N times this.
      directions: 512 equals the published 4 repeats of 128, which are averaged.
    Returns: for S = 64 {"64": .., "32": .., "16": .., "mean": ..}: 1e3 times the distance per level, and their mean.
    Raises: ValueError for other shapes, dtypes or arguments.
    Source: Karras et al. 2018, arXiv:1710.10196, section 5 (16,384 images there), and the metric published with it.
    """
    _check_images(real, fake, seed, patches_per_image, directions)
    count, side, _, channels = real.shape
    distances = {}
    for level, size in enumerate(_list_sizes(side, smallest=16)):
        random = np.random.Generator(np.random.Philox(key=(seed, size)))  # the random numbers of a level do not depend on S
        # Sampled before the corners, so that the axes do not depend on N.
        axes = _draw_unit_vectors(random, directions, PATCH * PATCH * channels)
        corners = random.integers(0, size - PATCH + 1, size=(count, patches_per_image, 2))
        # The pyramid is rebuilt per level, so that only one level of both sets is in memory (0.19 GB per set at N = 5000).
        real_patches, fake_patches = (_extract_patches(images, level, corners) for images in (real, fake))
        distances[str(size)] = 1e3 * measure_projected_distance(real_patches, fake_patches, axes)
    return distances | {"mean": float(np.mean(list(distances.values())))}


def measure_projected_distance(real: np.ndarray, fake: np.ndarray, axes: np.ndarray) -> float:
    """Averages over axes the 1-D Wasserstein-1 distance between two equally large sets of vectors, projected on each axis.

    Args: real, fake: (M, D) float32; axes: (K, D) float32 unit vectors.
    Returns: the mean over axes of the mean |difference| of sorted projections, which is the 1-D Wasserstein-1 distance.
    Source: Rabin et al. 2011, "Wasserstein barycenter and its application to texture mixing".
    """
    total = 0.0
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(axes), _DIRECTIONS_AT_ONCE):
            ours, theirs = (axes[start : start + _DIRECTIONS_AT_ONCE] @ vectors.T for vectors in (real, fake))  # (k, M)
            # Sorts the rows in place on all cores (NumPy releases the GIL): sorting takes most of the time of the score.
            list(pool.map(np.ndarray.sort, [*ours, *theirs]))
            ours -= theirs
            total += np.abs(ours, out=ours).mean(axis=1, dtype=np.float64).sum()
    return float(total / len(axes))


def build_laplacian_pyramid(images: np.ndarray, smallest: int = 16) -> list[np.ndarray]:
    """Splits images into frequency bands, finest first. The last is a small blurred copy of the images, not a difference.

    Args: images: (N, S, S, C), any real dtype; smallest: side of the last level, S divided by a power of two.
    Returns: float32 (N, S, S, C), (N, S/2, S/2, C) .. (N, smallest, smallest, C). To restore the images, repeatedly enlarge the
      last and add the one before.
    Source: Burt and Adelson 1983, "The Laplacian pyramid as a compact image code", with [1 4 6 4 1]/16 and mirrored
      borders, the values of OpenCV's pyrDown and pyrUp with BORDER_REFLECT_101 that the published metric matches.
    """
    bands, rest = [], images.astype(np.float32)
    for _ in _list_sizes(images.shape[1], smallest)[1:]:
        smaller = _pyramid_down(_pyramid_down(rest, axis=1), axis=2)
        bands.append(rest - _pyramid_up(_pyramid_up(smaller, axis=1), axis=2))
        rest = smaller
    return [*bands, rest]


def _pyramid_down(x: np.ndarray, axis: int) -> np.ndarray:
    """Blurs by [1 4 6 4 1]/16 along `axis` and keeps every second sample. The edge pixel itself is not repeated."""
    x = x.swapaxes(0, axis)
    x = np.concatenate([x[2:0:-1], x, x[-2:-3:-1]])  # sample 2i is now at 2i + 2
    y = (x[:-4:2] + x[4::2] + 4 * (x[1:-3:2] + x[3::2]) + 6 * x[2:-2:2]) / 16
    return y.swapaxes(0, axis)


def _pyramid_up(x: np.ndarray, axis: int) -> np.ndarray:
    """Puts zeros between the samples along `axis`, then blurs by [1 4 6 4 1]/8, without computing the zeros."""
    x = x.swapaxes(0, axis)
    # Mirroring the zero-filled line at its ends (a sample on the left, a zero on the right) gives these edges.
    x = np.concatenate([x[1:2], x, x[-1:]])
    y = np.empty((2 * (len(x) - 2), *x.shape[1:]), x.dtype)
    y[::2] = (x[:-2] + 6 * x[1:-1] + x[2:]) / 8
    y[1::2] = (x[1:-1] + x[2:]) / 2
    return y.swapaxes(0, axis)


def _extract_patches(images: np.ndarray, level: int, corners: np.ndarray) -> np.ndarray:
    """Extracts patches of one pyramid level: (N, S, S, C) uint8 images, (N, P, 2) corners -> (N * P, C * 49) float32."""
    count, per_image, _ = corners.shape
    patches = np.empty((count, per_image, images.shape[3], PATCH, PATCH), np.float32)
    for start in range(0, count, _IMAGES_AT_ONCE):
        part = slice(start, start + _IMAGES_AT_ONCE)
        band = build_laplacian_pyramid(images[part])[level]
        windows = np.lib.stride_tricks.sliding_window_view(band, (PATCH, PATCH), axis=(1, 2))  # (n, y, x, C, 7, 7)
        patches[part] = windows[np.arange(len(band))[:, None], corners[part, :, 0], corners[part, :, 1]]
    # Moments are in float64: the error of a float32 sum over 3e7 pixels exceeds the difference of two good sets.
    for channel in range(images.shape[3]):
        values = patches[:, :, channel]  # a view, (N, P, 7, 7)
        values -= values.mean(dtype=np.float64).astype(np.float32)
        spread = np.sqrt(np.mean([np.square(part, dtype=np.float64).mean() for part in values]))
        values /= np.float32(spread or 1)  # a blank set stays 0 instead of NaN
    return patches.reshape(count * per_image, -1)


def _draw_unit_vectors(random: np.random.Generator, count: int, dimensions: int) -> np.ndarray:
    """Samples (count, dimensions) float32 unit vectors, uniform on the sphere: a normal vector has no preferred direction."""
    vectors = random.standard_normal((count, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _list_sizes(side: int, smallest: int) -> list[int]:
    """Lists side, side / 2 .. smallest. Raises: ValueError if smallest is not in this series."""
    sizes = [side]
    while sizes[-1] > smallest and sizes[-1] % 2 == 0:
        sizes.append(sizes[-1] // 2)
    if sizes[-1] != smallest or smallest < 3:  # mirroring two pixels needs three
        raise ValueError(f"repeatedly halving a side of {side} does not give {smallest} (3 or more)")
    return sizes


def _check_images(real: np.ndarray, fake: np.ndarray, seed: int, patches_per_image: int, directions: int) -> None:
    if real.shape != fake.shape or real.ndim != 4 or real.shape[1] != real.shape[2] or 0 in real.shape:
        raise ValueError(f"real is {real.shape}, fake {fake.shape}: both must be the same (N, S, S, C), N at least 1")
    if real.dtype != np.uint8 or fake.dtype != np.uint8:
        raise ValueError(f"real is {real.dtype}, fake {fake.dtype}: both must be uint8; scale to 0..255 and round first")
    if real.shape[1] < 16 or real.shape[1] & (real.shape[1] - 1):
        raise ValueError(f"images are {real.shape[1]} px: the side must be a power of two, at least 16")
    if seed < 0 or patches_per_image < 1 or directions < 1:
        raise ValueError(
            f"seed {seed} must be at least 0; patches_per_image {patches_per_image}, directions {directions} at least 1"
        )
