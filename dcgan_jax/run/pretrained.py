"""The generators inside this package, `drawn32` and `drawn64`: compact runs, trained on drawn faces by experiments/pretrained.py.

A command that takes a run takes their names too. `find_run` is the only place that knows them.
"""

import difflib
import os
from pathlib import Path

from dcgan_jax.config import UserError
from dcgan_jax.run import compact

NAMES = ("drawn32", "drawn64")
FOLDER = Path(__file__).parents[1] / "pretrained"


def find_run(place: str | Path) -> Path:
    """Returns the folder of the run at `place`: a path that exists, or else a generator of the package by its name."""
    return FOLDER / place if str(place) in NAMES and not os.path.lexists(place) else Path(place)


def is_packaged(run: Path) -> bool:
    """Whether a folder that `find_run` returned is in the package."""
    return run.parent == FOLDER


def get_output_folder(place: str | Path) -> Path:
    """Returns where files about a run are written: its folder. For a compact run, which never changes, the working directory."""
    return Path() if compact.is_compact(find_run(place)) else Path(place)


def name_output(place: str | Path, name: str) -> Path:
    """Returns the path of a file about a run. In the working directory the run's name precedes it: drawn64-scores.jsonl."""
    run = find_run(place)
    return get_output_folder(place) / (f"{run.absolute().name}-{name}" if compact.is_compact(run) else name)


def check_not_hiding(place: Path) -> None:
    """Raises: UserError for a place without a run, such as an export, that comes before a generator of the package."""
    if str(place) in NAMES and os.path.lexists(place):
        raise UserError(
            f"{place}: no run is there, and it hides the generator {place} of the package: rename it, or change to another folder"
        )


def suggest_name(place: Path) -> str:
    """Returns the end of the error message for a place without a run: how to name a run, or a generator of the package."""
    if near := difflib.get_close_matches(str(place), NAMES, n=1, cutoff=0.7):
        return f"did you mean {near[0]}?"
    return f"give the folder of a run, such as runs/article, or a generator of the package: {' or '.join(NAMES)}"
