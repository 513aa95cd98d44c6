"""Finds what is suspicious about a set of training images: nearly alike, grey, duplicates."""

import hashlib

import numpy as np

SPREAD_OF = 2000  # images: enough for a mean over thousands of pixels, and a second's work at most
# Measured at 16 to 128 px: drawn faces 43 to 49, CelebA 50 to 70 with its crop; one photograph saved at qualities 30 to 95: 4.
ALIKE_BELOW = 8  # grey levels
CHECKED_FACTS = ("spread", "grey", "channels", "duplicates")  # of index.json: numbers that `find_data_warnings` reads
MIN_CHECKED_IMAGES = 50  # images: a person can look at fewer, and fewer may be grey or alike by chance


def hash_images(pixels: np.ndarray) -> list[bytes]:
    """A 16-byte digest of each of (n, S, S, C) uint8 images."""
    return [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in pixels]


def count_grey(pixels: np.ndarray) -> int:
    """How many of (n, S, S, C) images have R = G = B throughout; 0 where there is one channel."""
    if pixels.shape[-1] == 1:
        return 0
    # Every eighth pixel rules out nearly all images in a 64th of the time.
    candidates = [image for image in pixels if _is_grey(image[::8, ::8])]
    return sum(map(_is_grey, candidates))


def _is_grey(image: np.ndarray) -> bool:
    return bool((image == image[..., :1]).all())


def measure_spread(images: np.ndarray) -> float:
    """The mean over pixels of the standard deviation over images, in grey levels, of at most SPREAD_OF images."""
    positions = np.linspace(0, len(images) - 1, min(SPREAD_OF, len(images))).astype(int)
    mean, square = np.zeros((2, *images.shape[1:]))
    for position in positions:  # one at a time: all of them would be gigabytes at 256 px
        image = images[position].astype(float)
        mean += image / len(positions)
        square += image**2 / len(positions)
    return float(np.sqrt(np.maximum(square - mean**2, 0)).mean())  # rounding may leave -1e-12


def find_data_warnings(index: dict) -> list[str]:
    """What looks wrong with the images of an index.json: one line each with its number and what to try; [] where nothing does."""
    count, lines = index["count"], []
    if count < MIN_CHECKED_IMAGES:
        return lines
    if index["spread"] < ALIKE_BELOW:
        lines.append(
            f"the {count:,} images are nearly alike (they differ by {index['spread']:.1f} grey levels; photographs of"
            " faces by 50 to 70): G can only learn this one; look at preview.png, and try another --data or --crop"
        )
    if index["channels"] == 3 and index["grey"] >= 0.99:
        lines.append(f"{index['grey']:.1%} of the {count:,} images are grey: try --channels 1, which spends nothing on colours")
    if index["duplicates"] >= 1000 or index["duplicates"] > 0.1 * count:
        lines.append(
            f"{index['duplicates']:,} of {count:,} images are the same as an earlier one, pixel for pixel: D learns"
            " them by heart sooner; remove the copies"
        )
    return lines
