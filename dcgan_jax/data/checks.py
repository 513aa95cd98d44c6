"""Checks training images for problems: nearly identical images, grey images, duplicates."""

import hashlib

import numpy as np

SPREAD_OF = 2000  # images for the spread: enough for a mean over thousands of pixels, in a second at most
# Spreads measured at 16 to 128 px: drawn faces 43 to 49; CelebA, cropped, 50 to 70; one photograph at JPEG qualities 30 to 95: 4.
ALIKE_BELOW = 8  # grey levels
CHECKED_FACTS = ("spread", "grey", "channels", "duplicates")  # the entries of index.json that `find_data_warnings` reads
MIN_CHECKED_IMAGES = 50  # fewer images can be checked by eye, and may be grey or alike by chance


def hash_images(pixels: np.ndarray) -> list[bytes]:
    """Returns a 16-byte digest of each image. pixels: (n, S, S, C) uint8."""
    return [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in pixels]


def count_grey(pixels: np.ndarray) -> int:
    """Counts the images with R = G = B in every pixel. pixels: (n, S, S, C) uint8. Returns 0 for C = 1."""
    if pixels.shape[-1] == 1:
        return 0
    # Every eighth row and column excludes nearly all colour images in 1/64 of the time.
    candidates = [image for image in pixels if _is_grey(image[::8, ::8])]
    return sum(map(_is_grey, candidates))


def _is_grey(image: np.ndarray) -> bool:
    return bool((image == image[..., :1]).all())


def measure_spread(images: np.ndarray) -> float:
    """Returns the standard deviation over at most SPREAD_OF images in grey levels, averaged over pixels: how much they differ."""
    positions = np.linspace(0, len(images) - 1, min(SPREAD_OF, len(images))).astype(int)
    mean, square = np.zeros((2, *images.shape[1:]))
    for position in positions:  # one at a time: all together would take gigabytes at 256 px
        image = images[position].astype(float)
        mean += image / len(positions)
        square += image**2 / len(positions)
    return float(np.sqrt(np.maximum(square - mean**2, 0)).mean())  # rounding errors may give -1e-12


def find_data_warnings(index: dict) -> list[str]:
    """Returns one line for each problem of the images, with a number and a remedy. index: the content of index.json."""
    count, lines = index["count"], []
    if count < MIN_CHECKED_IMAGES:
        return lines
    if index["spread"] < ALIKE_BELOW:
        lines.append(
            f"the {count:,} images are nearly alike (they differ by {index['spread']:.1f} grey levels; photographs of"
            " faces by 50 to 70): G cannot learn any variety; look at some of them, and try another --data or --crop"
        )
    if index["channels"] == 3 and index["grey"] >= 0.99:
        lines.append(f"{index['grey']:.1%} of the {count:,} images are grey: try --channels 1, which needs less computation")
    if index["duplicates"] >= 1000 or index["duplicates"] > 0.1 * count:
        lines.append(
            f"{index['duplicates']:,} of {count:,} images are the same as an earlier one, pixel for pixel: D memorises"
            " repeated images sooner; remove the copies"
        )
    return lines
