"""Trains runs that fail in known ways, and healthy ones, and lists the warnings of quality/diagnostics.py. A table.

    python experiments/diagnostics.py --celeba CELEBA

Without --celeba it makes only the runs on drawn faces. Each run is the trainer's own, in --workdir. Run the same command again
to resume. Exits with 1 if a run got another warning than it was made for, or none.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from dcgan_jax.run.logs import read_warnings


class Run(NamedTuple):
    name: str
    steps: int
    flags: str
    expected: str = ""  # the expected kind of warning; empty: healthy
    celeba: bool = False


RUNS = (
    Run("article", 1094, ""),
    Run("modern32", 1000, "--preset modern32"),
    Run("hinge", 800, "--loss hinge"),
    Run("least-squares", 800, "--loss least-squares"),
    Run("wasserstein", 800, "--loss wasserstein --gp-weight 10 --d-norm none"),
    Run("small-batch", 3000, "--batch-size 16"),
    Run("slow-g", 600, "--lr 4e-6 --d-lr 2e-4", "d-has-won"),
    Run("slow-g-hinge", 600, "--lr 4e-6 --d-lr 2e-4 --loss hinge", "d-has-won"),
    Run("four-g-steps", 600, "--lr 2e-3 --d-lr 2e-5 --g-steps 4", "g-collapsed"),
    Run("no-learning", 600, "--lr 1e-12", "losses-frozen"),
    Run("no-learning-small-batch", 2000, "--lr 1e-12 --batch-size 16", "losses-frozen"),
    Run("few-images", 1300, "--data drawn:300", "memorising"),
    Run("celeba-article", 1100, "", celeba=True),
    Run("celeba-modern32", 1000, "--preset modern32", celeba=True),
    Run("celeba-torch32", 1500, "--preset torch32", celeba=True),
    Run("celeba-torch64", 300, "--preset torch64", celeba=True),
    Run("celeba-no-bn", 1000, "--preset keras64 --size 32 --g-multipliers 4 4 8 --d-multipliers 1 2", celeba=True),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="runs to make; default: all")
    parser.add_argument("--celeba", default="", help="a zip or folder of aligned CelebA images")
    parser.add_argument("--workdir", default="runs/diagnostics")
    ask = parser.parse_args()

    wrong = 0
    print("| run | flags | steps | expected | seen (first at, saves) | message |\n|---|---|---:|---|---|---|", flush=True)
    for run in RUNS:
        if (run.celeba and not ask.celeba) or (ask.names and run.name not in ask.names):
            continue
        flags = [*run.flags.split(), *(["--data", ask.celeba] if run.celeba else [])]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "dcgan_jax.train",
                "--workdir",
                ask.workdir,
                "--name",
                run.name,
                *flags,
                "--steps",
                str(run.steps),
                "--save-every-steps",
                "100",
                "--no-tensorboard",
            ],
            check=True,
            stdout=sys.stderr,
        )
        seen = {}
        for step, kind, words in read_warnings(Path(ask.workdir) / run.name):
            seen.setdefault(kind, []).append((step, words))
        told = "; ".join(f"{kind} ({at[0][0]}, {len(at)})" for kind, at in seen.items()) or "none"
        words = " / ".join(at[0][1].split("; try")[0].split("; go back")[0] for at in seen.values())
        flags = f"`{run.flags}`" if run.flags else ""
        print(f"| {run.name} | {flags} | {run.steps} | {run.expected or 'none'} | {told} | {words} |", flush=True)
        wrong += run.expected not in seen if run.expected else bool(seen)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
