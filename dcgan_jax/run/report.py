"""Renders report.html: one run, or several side by side, in one file that opens anywhere, from a disk and on a phone."""

import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcgan_jax.config import Config, flatten, make_printable
from dcgan_jax.files import atomic_write
from dcgan_jax.gan.metrics import LOSS_METRICS, group_by_chart
from dcgan_jax.run import online_score
from dcgan_jax.run.report_images import fit_images, list_grids
from dcgan_jax.run.report_scores import describe_measure, find_best, render_scores
from dcgan_jax.run.report_text import escape, render_table
from dcgan_jax.run.workdir import read_environment

# A page is below 5 MB, of one run or of many: its images and its curves share these budgets.
IMAGES_BYTES, CURVES_BYTES = 3_000_000, 1_000_000
POINTS, POINT_BYTES = 400, 40  # of a curve; kimg, mean, least and most as JSON
SERIES = 24  # curves of a run
CHARTS = group_by_chart()  # every other number of a run has a chart of its own


class RunFacts(NamedTuple):
    """What the page shows of a run, in addition to the files in its folder."""

    folder: Path
    name: str  # unique on the page
    config: Config
    changed_settings: dict[str, tuple]  # field -> (the preset's value, the run's)
    data_facts: dict  # data.json
    total: int  # steps
    step: int  # steps made
    metrics: dict[str, list[float]]  # as logs.read_metrics
    warnings: list[tuple[int, str, str]]  # (step, kind, message), as logs.read_warnings
    data_warnings: list[str]  # as checks.find_data_warnings


def save_report(run: RunFacts) -> None:
    """The run's own report.html, whole or not at all."""
    with atomic_write(run.folder / "report.html") as partial:
        partial.write_text(render_page([run]))


def render_page(runs: Sequence[RunFacts]) -> str:
    """The page: all of one run; or what differs between several, their curves in one chart and their samples side by side."""
    budget_bytes, series = IMAGES_BYTES // len(runs), [_list_series(run) for run in runs]
    points = min(POINTS, CURVES_BYTES // (POINT_BYTES * max(1, sum(map(len, series)))))
    data = [
        {
            "name": run.name,
            "curves": {name: _thin_curve(*curve, points) for name, curve in curves.items()},
            "grids": list_grids(run.folder / "samples", run.config.nets.size, run.config.images_per_step, budget_bytes),
        }
        for run, curves in zip(runs, series, strict=True)
    ]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    body = _render_run(runs[0]) if len(runs) == 1 else _render_comparison(runs)
    here = Path(__file__)
    # "</" would end the script, and "<!--" would hide the rest of the page: JSON may write "<" as an escape.
    script_data = json.dumps({"runs": data, "groups": CHARTS}, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content='width=device-width, initial-scale=1'>
<title>{escape(title)}</title>
<style>
{here.with_name("report.css").read_text()}</style>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
<script type=application/json id=data>{script_data}</script>
<script>
{here.with_name("report.js").read_text()}</script>
</html>
"""


def _render_run(run: RunFacts) -> str:
    reals = fit_images([run.folder / "reals.png"], run.config.nets.size, IMAGES_BYTES // 6)[1][0]
    environment = _summarise_environment(run.folder)
    program, *flags = map(str, environment.pop("command") or [""])
    # In a notebook the program is the notebook's own.
    is_command = Path(program).name in ("train.py", "dcgan-train")
    command = (
        shlex.join(["python", "-m", "dcgan_jax.train", *flags]) if is_command else "dcgan_jax.train.train, called from Python"
    )
    changed_settings = render_table(
        [(name, was, now) for name, (was, now) in run.changed_settings.items()], ("", f"{run.config.run.preset} has", "this run")
    )
    training = f"<h2>Training images, as the networks see them</h2><img class=sheet alt='training images' src={reals}>"
    return f"""<p>{escape(_render_state(run))}</p>
{_render_warnings(run)}
<h2>Samples of the same seeds during training</h2>{_render_grids([run])}
<h2>Metrics</h2>{CHART}
{render_scores(run.folder)}
{training if reals else ""}
<h2>Settings that differ from the preset</h2>{changed_settings if run.changed_settings else "<p>None.</p>"}
<details><summary>All settings</summary>{render_table(flatten(run.config).items())}</details>
<h2>Data</h2>{render_table(_list_data_facts(run.data_facts))}
<h2>Command and environment</h2><p><code>{escape(command, 4000)}</code></p>{render_table(environment.items())}"""


def _render_comparison(runs: Sequence[RunFacts]) -> str:
    names = [run.name for run in runs]
    settings = [flatten(run.config) for run in runs]
    ignored = ("name", "workdir")
    differing = [field for field in settings[0] if field not in ignored and len({str(each[field]) for each in settings}) > 1]
    rows = [(field, *(each[field] for each in settings)) for field in differing]
    summaries = [_summarise_run(run) for run in runs]
    facts = [(name, *(summary[name] for summary in summaries)) for name in summaries[0]]
    warnings = "".join(f"<h3>{escape(run.name)}</h3>{_render_warnings(run)}" for run in runs if run.warnings or run.data_warnings)
    return f"""{render_table(facts, ("", *names))}
<h2>Metrics</h2>{CHART}
<h2>Samples of the same seeds during training</h2>{_render_grids(runs)}
<h2>Settings that differ</h2>{render_table(rows, ("", *names)) if rows else "<p>None.</p>"}
{f"<h2>Warnings</h2>{warnings}" if warnings else ""}"""


def _summarise_run(run: RunFacts) -> dict[str, str]:
    """A run's column in the first table of a comparison."""
    speeds = [value for value in run.metrics.get("images_per_s", ()) if value == value]
    best = find_best(run.folder)
    last = {name: run.metrics[name][-1] for name in LOSS_METRICS if run.metrics.get(name)}
    return {
        "preset": run.config.run.preset,
        "steps": f"{run.step:,} of {run.total:,}",
        "images": f"{run.step * run.config.images_per_step:,}",
        "images a second, median": f"{statistics.median(speeds):,.0f}" if speeds else "",
        "best score in training, smaller is better": f"{best['value']:.2f} at step {best['step']:,}" if best else "",
        "measure": describe_measure(best) if best else "",  # scores by different measures, N or real images cannot be compared
        "losses of D, G": ", ".join(f"{value:.3f}" for value in last.values()),
        "data": run.data_facts["source"]["name"],
    }


def _render_state(run: RunFacts) -> str:
    shown = run.step * run.config.images_per_step
    return (
        f"{run.config.run.preset}: step {run.step:,} of {run.total:,}; {shown:,} images shown, from "
        f"{run.data_facts['count']:,} training images: {run.data_facts['source']['name']}"
    )


def _render_warnings(run: RunFacts) -> str:
    """One line for each kind of warning: its newest message, and its first and last step."""
    seen, newest = {}, {}
    for step, kind, message in run.warnings:
        seen.setdefault(kind, []).append(step)
        newest[kind] = message
    lines = [
        f"<b>{escape(kind)}</b>, steps {steps[0]:,} to {steps[-1]:,}: {escape(newest[kind], 1000)}"
        for kind, steps in list(seen.items())[:20]
    ]
    lines += [f"<b>training images</b>: {escape(line, 1000)}" for line in run.data_warnings]
    return f"<ul class=warnings>{''.join(f'<li>{line}' for line in lines)}</ul>" if lines else ""


def _list_data_facts(facts: dict) -> list[tuple]:
    names = ("count", "skipped", "upscaled", "duplicates", "grey", "crop", "fingerprint")
    return [("source", facts["source"]["name"]), *((name, facts[name]) for name in names if name in facts)]


def _summarise_environment(run: Path) -> dict:
    """The command, versions and devices of the run, as far as they are known."""
    environment = read_environment(run)
    packages = environment.get("packages")
    versions = ", ".join(f"{name} {version}" for name, version in packages.items()) if isinstance(packages, dict) else ""
    command = environment.get("command")
    return {
        "command": command if isinstance(command, list) else [],
        "packages": versions,
        **{name: environment[name] for name in ("devices", "python", "platform", "commit") if environment.get(name)},
    }


# ---- Curves and grids ----

CHART = """<div id=chart><p class=row><label>show <select id=group></select></label>
<label>smooth <input id=smooth type=range min=0 max=0.99 step=0.01 value=0.8></label>
<label><input id=log type=checkbox> logarithmic</label> <button id=whole hidden>whole run</button></p>
<svg id=plot role=img aria-label='curves over thousands of images; the line below reads their ends'></svg><p id=read></p>
<p class=hint>Point at the chart to read it; drag over a part to look closer.</p>
<noscript>The chart and the slider need JavaScript; the numbers are in metrics.jsonl.</noscript></div>"""


def _list_series(run: RunFacts) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (thousands of images shown, values). The name of a score holds its measure: equal names share a chart."""
    series = {}
    scores = sorted(online_score.read_online_scores(run.folder).items())
    if scores:
        steps, values = np.array([(step, line["value"]) for step, line in scores]).T
        series[f"score by {describe_measure(scores[-1][1])}"] = steps * run.config.images_per_step / 1000, values
    kimg = np.array(run.metrics.get("step", ())) * run.config.images_per_step / 1000
    series |= {
        make_printable(name, 60): (kimg, np.array(values))
        for name, values in run.metrics.items()
        if name not in ("step", "images")
    }
    return dict(list(series.items())[:SERIES])


def _thin_curve(x: np.ndarray, y: np.ndarray, points: int) -> list[list[float]]:
    """[kimg, mean, least, most], each a list: means over even parts of the run, with the extremes that a mean hides."""
    is_finite = np.abs(y) < 1e30  # a name that an earlier line lacks is NaN there
    x, y = x[is_finite], y[is_finite]
    if not len(x):
        return [[], [], [], []]
    starts = np.unique(np.linspace(0, len(x), min(points, len(x)), endpoint=False).astype(int))
    counts = np.diff([*starts, len(x)])
    columns = (
        np.add.reduceat(x, starts) / counts,
        np.add.reduceat(y, starts) / counts,
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y, starts),
    )
    return [[float(f"{value:.4g}") if i else round(float(value), 3) for value in values] for i, values in enumerate(columns)]


def _render_grids(runs: Sequence[RunFacts]) -> str:
    figures = "".join(
        f"<figure><img class=sheet alt='samples of {escape(run.name)}'><figcaption></figcaption></figure>" for run in runs
    )
    return f"""<p class=row><input id=when type=range min=0 step=1 aria-label='how far the run is'>
<button id=play>play</button></p><div id=grids>{figures}</div>"""
