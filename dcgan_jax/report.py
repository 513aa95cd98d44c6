"""Writes a page about one run, or several side by side: python -m dcgan_jax.report runs/*"""

import dataclasses
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from dcgan_jax import cli, files
from dcgan_jax import config as configuration
from dcgan_jax.arguments import fill_flags
from dcgan_jax.config import UserError
from dcgan_jax.data.batches import count_training_images
from dcgan_jax.data.checks import CHECKED_FACTS, find_data_warnings
from dcgan_jax.presets import compare_with_preset
from dcgan_jax.run import checkpoints, compact, pretrained, workdir
from dcgan_jax.run.logs import read_metrics, read_warnings
from dcgan_jax.run.report import RunFacts, render_page

MOST = 32  # runs on one page: they share a limited number of bytes for images


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes an HTML page about one or more runs: samples during training, curves, scores, warnings and settings.

    It opens without a server. Several runs stand side by side.
    """

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN ...")]
    """folders of the runs, such as runs/*; among several, folders that are not runs are ignored"""
    out: str = ""
    """file to write; empty: report.html in the run's folder, or next to the first of several runs"""


class WrittenReport(NamedTuple):
    """The path of a written page, its runs and its size."""

    path: Path
    runs: list[Path]
    size_bytes: int


def main() -> int:
    ask = cli.parse_flags(Report, sys.argv[1:], prog="python -m dcgan_jax.report")
    written = report(**vars(ask))
    count = len(written.runs)
    print(f"{written.path}: {count} run{'s' * (count > 1)}, {written.size_bytes / 1e6:.1f} MB")
    return 0


def report(runs: str | Path | Iterable[str | Path], out: str | Path = "") -> WrittenReport:
    """Writes an HTML page about one or more runs. The arguments are the command's flags: see `Report`. Raises: UserError."""
    runs = (runs,) if isinstance(runs, str | Path) else tuple(runs)
    ask = fill_flags(Report, {"runs": tuple(str(run) if isinstance(run, Path) else run for run in runs), "out": out})
    places = _find_runs(ask.runs)
    file = Path(ask.out or (places[0] if len(places) == 1 else Path(os.path.abspath(places[0])).parent) / "report.html")
    names = [Path(os.path.abspath(place)).name for place in places]
    names = [name if names.count(name) == 1 else str(place) for place, name in zip(places, names, strict=True)]
    page = render_page([_read_run_facts(place, name) for place, name in zip(places, names, strict=True)])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(file, f".{os.getpid()}") as partial:  # a run in training may write the same page
            partial.write_text(page, encoding="utf-8")
    except OSError as fault:
        raise UserError(f"`out` {file}: {fault.strerror}; give the path of a file that can be written") from None
    return WrittenReport(file, places, len(page.encode()))


def _find_runs(given: tuple[str, ...]) -> list[Path]:
    """Returns the given folders; of several, only those that are runs. Raises: UserError for no runs, or too many."""
    places = [pretrained.find_run(place) for place in given]
    if len(places) > 1:
        places = [place for place in places if workdir.is_run(place)]
    if not places:
        raise UserError(f"{' '.join(given) or 'runs'}: no run is there; give folders of runs, such as runs/article")
    if len(places) > MOST:
        raise UserError(f"{len(places)} runs: a page can show at most {MOST}; give fewer folders")
    return places


def _read_run_facts(run: Path, name: str) -> RunFacts:
    if compact.is_compact(run):
        raise UserError(f"{run}: has weights but no logs to report; give the folder of a run that was trained here")
    config = workdir.read_config(run)
    facts = workdir.read_data_facts(run)
    metrics = read_metrics(run)
    step = max([*checkpoints.list_steps(run), *(int(step) for step in metrics.get("step", [])[-1:])], default=0)
    total = configuration.count_total_steps(config, count_training_images(facts["count"], config.guard.held_out))
    data_warnings = find_data_warnings(facts) if facts.keys() >= set(CHECKED_FACTS) else []  # data.json may be incomplete
    changed = compare_with_preset(config)
    return RunFacts(run, name, config, changed, facts, total, step, metrics, read_warnings(run), data_warnings)


def entry() -> None:
    """The console script dcgan-report."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
