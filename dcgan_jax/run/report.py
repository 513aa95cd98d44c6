"""Renders report.html: one run, or several side by side, in a single file that needs no server and no network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcgan_jax.command_lines import format_training_command
from dcgan_jax.config import Config, flatten, has_length, make_printable
from dcgan_jax.data.file_kinds import describe_ignored
from dcgan_jax.files import atomic_write
from dcgan_jax.gan.metrics import LOSS_METRICS, group_by_chart
from dcgan_jax.run import online_score
from dcgan_jax.run.report_images import fit_images, list_grids
from dcgan_jax.run.report_scores import describe_measure, find_best, render_scores
from dcgan_jax.run.report_summary import (
    describe_best,
    describe_images_shown,
    describe_uncounted_images,
    estimate_training_s,
    find_best_of_runs,
    find_median_speed,
    format_duration,
    list_facts,
    render_facts,
)
from dcgan_jax.run.report_text import escape, render_table
from dcgan_jax.run.workdir import read_environment

# Every page is below 5 MB: the images and the curves of all its runs share these budgets.
IMAGES_BYTES, CURVES_BYTES = 3_000_000, 1_000_000
POINTS, POINT_BYTES = 400, 40  # of a curve; a point is kimg, mean, minimum and maximum as JSON
SERIES = 24  # curves of a run
CHARTS = group_by_chart()  # every other number of a run gets its own chart


class RunFacts(NamedTuple):
    """Holds what the page shows of a run in addition to the files in its folder."""

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
    """Writes the run's own report.html, whole or not at all."""
    with atomic_write(run.folder / "report.html") as partial:
        partial.write_text(render_page([run]), encoding="utf-8")


def render_page(runs: Sequence[RunFacts]) -> str:
    """The page as HTML: everything about one run, or several runs side by side: samples, curves and what differs."""
    budget_bytes, series = IMAGES_BYTES // len(runs), [_list_series(run) for run in runs]
    points = min(POINTS, CURVES_BYTES // (POINT_BYTES * max(1, sum(map(len, series)))))
    data = [
        {
            "name": run.name,
            "size": run.config.nets.size,
            "samples": run.config.output.grid_images,
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
<meta name=color-scheme content='light dark'>
<title>{escape(title)}</title>
<style>
{here.with_name("report.css").read_text(encoding="utf-8")}</style>
<main>
{body}
</main>
<footer>Written by dcgan_jax. This file is complete: it loads nothing from the network.</footer>
<dialog id=closer aria-label='one sample, enlarged'><form method=dialog><button>Close</button></form>
<canvas></canvas><p></p></dialog>
<script type=application/json id=data>{script_data}</script>
<script>
{here.with_name("report.js").read_text(encoding="utf-8")}</script>
</html>
"""


# ---- One run ----


def _render_run(run: RunFacts) -> str:
    reals = fit_images([run.folder / "reals.png"], run.config.nets.size, IMAGES_BYTES // 6)[1][0]
    environment = _summarise_environment(run.folder)
    command = format_training_command(run.config)  # not the process's own arguments, which in a notebook are the kernel's
    preset = run.config.run.preset
    changed_settings = render_table(
        [(name, was, now) for name, (was, now) in run.changed_settings.items()], ("setting", f"preset {preset}", "this run")
    )
    training = f"""<section class=reals><h2>Training images</h2>
<p class=caption>Examples, at the resolution at which the networks see them.</p>
<figure id=reals><img class=sheet alt='examples of the training images' src={reals}></figure></section>"""
    scores = render_scores(run.folder)
    facts = list_facts(run.folder, run.step, run.config.images_per_step, run.metrics, str(environment.get("devices", "")))
    return f"""<div class=first>
<header>
<p class=kind>Training report</p>
<h1>{escape(run.name)}</h1>
<p class=lead>{_render_lead(run)}</p>
{_render_progress(run)}
{render_facts(facts)}
{_render_warnings(run)}
</header>
<section class=samples aria-labelledby=samples><h2 id=samples>Samples during training</h2>
<p class=caption>Each position shows the same seed at every save, generated by the EMA generator. Select a face to enlarge it.</p>
{_render_grids([run])}</section>
{training if reals else ""}
</div>
<section><h2>Metrics</h2>{CHART}</section>
{f"<section><h2>Scores</h2>{scores}</section>" if scores else ""}
<div class=pair>
<section><h2>Settings that differ from the preset</h2>{changed_settings if run.changed_settings else "<p>None.</p>"}
<details><summary>All settings</summary>{render_table(flatten(run.config).items())}</details></section>
<section><h2>Data</h2>{render_table(_list_data_facts(run.data_facts))}</section>
</div>
<section><h2>Command and environment</h2><p class=command><code>{escape(command, 4000)}</code></p>
{render_table(environment.items())}</section>"""


def _render_lead(run: RunFacts) -> str:
    """Describes in a sentence what was trained."""
    size = run.config.nets.size
    return (
        f"A DCGAN trained with the preset <b>{escape(run.config.run.preset)}</b> at {size}&nbsp;&times;&nbsp;{size}&nbsp;px on "
        f"{run.data_facts['count']:,} images ({escape(run.data_facts['source']['name'])})."
    )


def _render_progress(run: RunFacts) -> str:
    if not has_length(run.config):
        return f"<p class=progress><span>step {_format_steps(run)}</span></p>"
    done = "Complete" if run.step >= run.total else f"{run.step / run.total:.0%} complete"
    return (
        f"<p class=progress><progress max={run.total} value={run.step} aria-label='training progress'></progress> "
        f"<span>{done}: step {run.step:,} of {run.total:,}</span></p>"
    )


def _format_steps(run: RunFacts) -> str:
    if not has_length(run.config):
        return f"{run.step:,}, of {run.config.run.minutes:g} minutes"
    return f"{run.step:,} of {run.total:,}"


def _render_warnings(run: RunFacts, title: str = "Warnings") -> str:
    """Renders one line for each kind of warning: its newest message, and its first and last step. No warnings: ""."""
    seen, newest = {}, {}
    for step, kind, message in run.warnings:
        seen.setdefault(kind, []).append(step)
        newest[kind] = message
    lines = [
        f"<b>{escape(kind)}</b>, {_describe_steps(steps)}: {escape(newest[kind], 1000)}"
        for kind, steps in list(seen.items())[:20]
    ]
    lines += [f"<b>training images</b>: {escape(line, 1000)}" for line in run.data_warnings]
    items = "".join(f"<li>{line}" for line in lines)
    return f"<div class=warnings><h3>{escape(title)}</h3><ul>{items}</ul></div>" if lines else ""


def _describe_steps(steps: list[int]) -> str:
    return f"steps {steps[0]:,} to {steps[-1]:,}" if steps[-1] > steps[0] else f"step {steps[0]:,}"


def _list_data_facts(facts: dict) -> list[tuple]:
    names = ("count", "skipped", "upscaled", "duplicates", "grey", "crop", "fingerprint")
    rows = [("source", facts["source"]["name"]), *((name, facts[name]) for name in names if name in facts)]
    left_out = facts.get("ignored_types")
    if (
        isinstance(left_out, dict) and left_out and all(type(count) is int for count in left_out.values())
    ):  # data.json may be older
        rows.append(("not among the images", describe_ignored(left_out)))
    return rows


def _summarise_environment(run: Path) -> dict:
    """Returns the command, versions and devices of the run, as far as they are known."""
    environment = read_environment(run)
    packages = environment.get("packages")
    versions = ", ".join(f"{name} {version}" for name, version in packages.items()) if isinstance(packages, dict) else ""
    return {
        "packages": versions,
        **{name: environment[name] for name in ("devices", "python", "platform", "commit") if environment.get(name)},
    }


# ---- Several runs ----


def _render_comparison(runs: Sequence[RunFacts]) -> str:
    names = [run.name for run in runs]
    settings = [flatten(run.config) for run in runs]
    ignored = ("name", "workdir")
    differing = [field for field in settings[0] if field not in ignored and len({str(each[field]) for each in settings}) > 1]
    rows = [(field, *(each[field] for each in settings)) for field in differing]
    summaries = [_summarise_run(run) for run in runs]
    facts = [(name, *(summary[name] for summary in summaries)) for name in summaries[0]]
    warnings = "".join(_render_warnings(run, run.name) for run in runs)
    earlier = describe_uncounted_images([run.folder for run in runs])
    return f"""<header>
<p class=kind>Comparison of training runs</p>
<h1>{len(runs)} runs</h1>
<p class=lead>{_render_comparison_lead(runs)}</p>
</header>
<section aria-labelledby=samples><h2 id=samples>Samples during training</h2>
<p class=caption>All runs after equally many training images{earlier}, generated by the EMA generator from the same seeds.
Select a face to enlarge it.</p>
{_render_grids(runs)}</section>
<section><h2>Results</h2>{render_table(facts, ("", *names))}</section>
<section><h2>Metrics</h2>{CHART}</section>
<section><h2>Settings that differ</h2>{render_table(rows, ("setting", *names)) if rows else "<p>None.</p>"}</section>
{f"<section><h2>Warnings</h2>{warnings}</section>" if warnings else ""}"""


def _render_comparison_lead(runs: Sequence[RunFacts]) -> str:
    """Names the run with the best score, or says why none can be named."""
    best = find_best_of_runs([run.folder for run in runs])
    if best is None:
        return "Not all of these runs were scored by the same measure during training, so none is called the best."
    line = find_best(runs[best].folder)
    assert line, "the best run has a score"
    return (
        f"<b>{escape(runs[best].name)}</b> has the best score in training: {line['value']:.2f}, by "
        f"{escape(describe_measure(line))}. Smaller is better."
    )


def _summarise_run(run: RunFacts) -> dict[str, str]:
    """Returns a run's column in the first table of a comparison."""
    speed, seconds, best = find_median_speed(run.metrics), estimate_training_s(run.metrics), find_best(run.folder)
    last = {name: run.metrics[name][-1] for name in LOSS_METRICS if run.metrics.get(name)}
    return {
        "preset": run.config.run.preset,
        "steps": _format_steps(run),
        "images shown": describe_images_shown(run.folder, run.step * run.config.images_per_step),
        "training time, about": format_duration(seconds) if seconds else "",
        "images a second, median": f"{speed:,.0f}" if speed else "",
        "best score in training, smaller is better": f"{best['value']:.2f} at step {best['step']:,}" if best else "",
        "measure": describe_measure(best) if best else "",  # scores by different measures, N or real images cannot be compared
        "losses of D, G": ", ".join(f"{value:.3f}" for value in last.values()),
        "data": run.data_facts["source"]["name"],
    }


# ---- Curves and samples ----

CHART = """<div id=chart><div class=row><label>Show <select id=group></select></label>
<label>Smoothing <input id=smooth type=range min=0 max=0.99 step=0.01 value=0.8></label>
<label><input id=log type=checkbox> Logarithmic</label> <button id=whole hidden>Whole run</button></div>
<svg id=plot role=img tabindex=0 aria-describedby=read
aria-label='curves over the images shown; arrow keys move the reading'></svg>
<p id=read aria-live=polite></p>
<p class=caption>Point at the chart, or use the arrow keys, to read values. Drag across a part to zoom in.
Bands show the smallest and largest values.</p>
<noscript>The chart and the samples need JavaScript. The numbers are in metrics.jsonl.</noscript></div>"""


def _render_grids(runs: Sequence[RunFacts]) -> str:
    figures = "".join(_render_figure(run, len(runs) > 1) for run in runs)
    return f"""<div class=row><button id=play>Play</button>
<input id=when type=range min=0 step=1 aria-label='training progress of the samples'></div><div id=grids>{figures}</div>"""


def _render_figure(run: RunFacts, is_named: bool) -> str:
    """Renders the place where report.js shows a run's samples."""
    seconds = estimate_training_s(run.metrics)
    words = [escape(run.config.run.preset), describe_best(run.folder), f"about {format_duration(seconds)}" if seconds else ""]
    head = f"<p class=name>{escape(run.name)}</p><p class=facts>{'; '.join(filter(None, words))}</p>" if is_named else ""
    sheet = f"<canvas tabindex=0 role=img aria-label='samples of {escape(run.name)}'></canvas>"
    return f"<figure>{head}{sheet}<figcaption></figcaption></figure>"


def _list_series(run: RunFacts) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (kimg, values). The name of a score includes its measure, since curves of one name share a chart."""
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
    """[kimg, mean, minimum, maximum], each a list with one value for each of at most `points` equal parts of the run."""
    is_finite = np.abs(y) < 1e30  # NaN where a line of metrics.jsonl lacks the name
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
