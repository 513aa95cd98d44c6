"""Converts seeds from the forms that users write: whole numbers, and text such as 7,12,40-47."""

import operator
from collections.abc import Iterable

import numpy as np

from dcgan_jax.config import SEEDS, UserError, make_printable

MAX_SEEDS = 1_000_000  # all samples are in one array: 12 GB at 64 px

Seeds = int | str | Iterable[int]  # 7, range(8), "7,12,40-47"


def to_seed_array(seeds: Seeds, argument: str = "seeds", most: int = MAX_SEEDS) -> np.ndarray:
    """Converts seeds in any form to (N,) uint32, in their order. Raises: UserError with the argument's name."""
    if isinstance(seeds, str):
        return parse_seeds(seeds, argument, most)
    if isinstance(seeds, np.ndarray) and seeds.dtype == np.uint32 and seeds.ndim == 1:
        found = seeds
    else:
        try:
            whole = [operator.index(seed) for seed in (seeds if isinstance(seeds, Iterable) else [seeds])]
        except TypeError:
            raise UserError(f"`{argument}` {seeds!r}: give whole numbers, such as range(8)") from None
        if not whole or min(whole) < 0 or max(whole) >= SEEDS:
            raise UserError(f"`{argument}`: give whole numbers from 0 to {SEEDS - 1}")
        found = np.array(whole, np.uint32)
    if len(found) > most:
        raise UserError(f"`{argument}`: {len(found):,} seeds are more than {most:,}; give fewer at a time")
    return found


def parse_seeds(text: str, argument: str, most: int = MAX_SEEDS) -> np.ndarray:
    """Converts seeds and ranges, such as 7,12,40-47, to (N,) uint32. Raises: UserError with the argument's name."""
    spans, count = [], 0
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash) and len(part) < 50):  # int() raises for thousands of digits
            raise UserError(
                f"`{argument}` {make_printable(text, 200)}: {make_printable(part.strip(), 50)!r} is neither a seed nor a range; "
                "write them as 7,12,40-47"
            )
        span = range(int(first), int(last or first) + 1)
        if not span or span.stop > SEEDS or len(span) > most:
            raise UserError(
                f"`{argument}` {part.strip()}: seeds are whole numbers from 0 to {SEEDS - 1}; "
                f"a range must rise, and hold at most {most:,} seeds"
            )
        count += len(span)
        if count > most:
            raise UserError(f"`{argument}` {make_printable(text, 200)}: more than {most:,} seeds; give fewer at a time")
        spans.append(np.arange(span.start, span.stop, dtype=np.uint32))
    return np.concatenate(spans)


def describe_seeds(seeds: Seeds) -> str:
    """Formats seeds for captions and messages: text as it was given, numbers as 7,12,40."""
    return seeds if isinstance(seeds, str) else ",".join(map(str, to_seed_array(seeds)))
