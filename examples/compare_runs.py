"""Compares two runs by score: which one generates images that are closer to the training images?

    python examples/compare_runs.py --run runs/a --against runs/b --count 5000 --repeats 3

Prints the mean score of each run with a 95 % interval, and the difference. The score is the sliced Wasserstein distance, which
needs no pretrained network: smaller is better. Appends every score to scores.jsonl in the first run.
"""

import tyro

import dcgan_jax
from dcgan_jax import cli
from dcgan_jax.config import UserError


def main(run: str, against: str, count: int = 5000, repeats: int = 3) -> None:
    """Compares two runs by score: which one generates images that are closer to the training images?

    Args:
        run: folder of the first run, such as runs/a. Its training images are what both runs are compared with.
        against: folder of the second run.
        count: images for each score.
        repeats: scores of each run, each of other seeds: at least 2.
    """
    if repeats < 2:
        raise UserError(f"`repeats` {repeats}: give at least 2, so that the difference has an interval")
    found = dcgan_jax.evaluate(run, against=against, count=count, repeats=repeats)
    for score in found.intervals:
        print(f"{score.name}: {score.mean:.2f} +- {score.half:.2f} ({count} images, {score.sets} repeats)")
    [difference] = found.differences
    verdict = "no more than the noise of sampling" if difference.is_noise else "more than the noise of sampling"
    print(f"difference: {difference.gap:+.2f} +- {difference.half:.2f}: {verdict}")


if __name__ == "__main__":
    cli.run_command(lambda: tyro.cli(main))
