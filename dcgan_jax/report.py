"""One page of a run, or of several side by side: python -m dcgan_jax.report runs/*"""

import dataclasses
import os
import sys
from pathlib import Path

import tyro

from dcgan_jax import cli, files
from dcgan_jax import config as configuration
from dcgan_jax.config import UserError
from dcgan_jax.data.batches import count_training_images
from dcgan_jax.data.checks import find_data_warnings
from dcgan_jax.presets import compare_with_preset
from dcgan_jax.run import checkpoints, report, workdir
from dcgan_jax.run.logs import read_metrics, read_warnings

DOUBTED = {"spread", "grey", "channels", "duplicates"}
MOST = 32  # runs on a page: each takes its share of the page's pictures


@dataclasses.dataclass(frozen=True)
class Report:
    """A page that opens without a server: curves, faces as they learn, scores, warnings, settings. Several runs: side by side."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """the runs' folders, as runs/*; what is no run among several is left out"""
    out: str = ""
    """the page; empty: report.html in the run, or for several beside the first"""


def main() -> int:
    ask = cli.parse_flags(Report, sys.argv[1:], prog="python -m dcgan_jax.report")
    places = [Path(place) for place in ask.runs]
    if len(places) > 1:
        places = [place for place in places if os.path.exists(place / "config.json")]
    if not places:
        raise UserError(f"{' '.join(ask.runs) or 'runs'}: no run is there (no config.json); give their folders, as runs/article")
    if len(places) > MOST:
        raise UserError(f"{len(places)} runs: a page holds {MOST} at most; give fewer folders")
    out = Path(ask.out or (places[0] if len(places) == 1 else Path(os.path.abspath(places[0])).parent) / "report.html")
    names = [Path(os.path.abspath(place)).name for place in places]
    names = [name if names.count(name) == 1 else str(place) for place, name in zip(places, names, strict=True)]
    page = report.render_page([_read_run_facts(place, name) for place, name in zip(places, names, strict=True)])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(out, f".{os.getpid()}") as partial:  # a run in training writes its own
            partial.write_text(page)
    except OSError as fault:
        raise UserError(f"`out` {out}: {fault.strerror}; give a file that can be written") from None
    print(f"{out}: {len(places)} run{'s' * (len(places) > 1)}, {len(page) / 1e6:.1f} MB")
    return 0


def _read_run_facts(run: Path, name: str) -> report.RunFacts:
    config = workdir.read_config(run)
    facts = workdir.read_data_facts(run)
    metrics = read_metrics(run)
    step = max([*checkpoints.list_steps(run), *(int(step) for step in metrics.get("step", [])[-1:])], default=0)
    total = configuration.count_total_steps(config, count_training_images(facts["count"], config.guard.held_out))
    data_warnings = find_data_warnings(facts) if facts.keys() >= DOUBTED else []  # a stranger's may lack what they look at
    return report.RunFacts(
        run, name, config, compare_with_preset(config), facts, total, step, metrics, read_warnings(run), data_warnings
    )


def entry() -> None:
    """The console script."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
