"""Images embedded in report.html: sample grids and sheets as WebP data URLs, within a budget of bytes."""

import base64
import functools
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dcgan_jax.run.figures import choose_scale

GRIDS = 150  # of a run; run/figures.py keeps 120
LONGEST_SIDES_PX = (1100, 780, 550, 390, 275, 195, 137)  # of embedded images; the largest that fits is used; areas halve
MAX_PNG_BYTES, MAX_PNG_PX = 2**26, 2**26
NOT_AN_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what PIL raises for a broken PNG


def list_grids(samples: Path, side: int, images_per_step: int, budget_bytes: int) -> list[dict]:
    """Lists grids as [{step, kimg, src}] in order: the first, the newest and evenly spaced ones between, within budget_bytes.

    Args: samples: the folder of STEP.png grids; side: of one image, in pixels; images_per_step: training images of a step.
    """
    files = {int(file.stem): file for file in samples.glob("*.png") if file.stem.isdecimal()}  # other files are not grids
    steps = sorted(files)
    while steps and not embed_image(files[steps[-1]], side, LONGEST_SIDES_PX[0]):
        steps.pop()
    if not steps:
        return []
    px, (*_, newest) = fit_images([files[step] for step in dict.fromkeys((steps[0], steps[-1]))], side, budget_bytes)
    # Every 2nd, 4th ... grid: most of them stay the same while the run continues, and need not be encoded again.
    stride = 1
    while len(steps) / stride * len(newest) > budget_bytes:
        stride *= 2
    embedded = {steps[-1]: newest}
    for step in steps[:-1:stride][:GRIDS]:
        src = embed_image(files[step], side, px)
        if sum(map(len, embedded.values())) + len(src) > budget_bytes:  # some may be larger than the newest
            break
        embedded[step] = src
    return [
        {"step": step, "kimg": step * images_per_step / 1000, "src": embedded[step]}
        for step in sorted(embedded)
        if embedded[step]
    ]


def fit_images(files: Sequence[Path], side: int, budget_bytes: int) -> tuple[int, list[str]]:
    """Returns (px, data URLs) of these files: px is the largest of LONGEST_SIDES_PX at which they fit into budget_bytes."""
    *larger, smallest = LONGEST_SIDES_PX
    for px in larger:
        addresses = [embed_image(file, side, px) for file in files]
        if sum(map(len, addresses)) <= budget_bytes:
            return px, addresses
    return smallest, [embed_image(file, side, smallest) for file in files]


def embed_image(file: Path, side: int, px: int) -> str:
    """Encodes a PNG of a run as a data URL; "" if the file is not a PNG.

    The image has its size from before figures.enlarge, reduced if its longest side is over px.
    """
    try:
        status = file.stat()
        return _encode_image(file, status.st_mtime_ns, status.st_size, side, px) if status.st_size < MAX_PNG_BYTES else ""
    except NOT_AN_IMAGE:
        return ""


@functools.lru_cache(maxsize=512)  # a training run writes its report at every save
def _encode_image(file: Path, changed_ns: int, size_bytes: int, side: int, px: int) -> str:
    with Image.open(file, formats=("PNG",)) as image:
        if image.width * image.height > MAX_PNG_PX:
            raise ValueError("too large")
        small = image.convert("RGB")
    scale = choose_scale(side)
    if scale > 1 and small.width % scale == 0 and small.height % scale == 0:
        small = small.resize((small.width // scale, small.height // scale), Image.Resampling.NEAREST)
    small.thumbnail((px, px))
    written = io.BytesIO()
    small.save(written, "WEBP", quality=85, method=2)
    return "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode()
