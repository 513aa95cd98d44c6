"""report.html: what a run did, or several side by side, in one file that opens anywhere, from a disk and on a phone."""

import base64
import functools
import html
import io
import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dcgan_jax.config import Config, flatten, make_printable
from dcgan_jax.files import atomic_write
from dcgan_jax.run import online_score
from dcgan_jax.run.figures import choose_scale
from dcgan_jax.run.workdir import read_environment

# A page is below 5 MB, of one run or of many: its pictures and its curves share these.
PICTURES_BYTES, CURVES_BYTES = 3_000_000, 1_000_000
POINTS, POINT_BYTES = 400, 40  # of a curve; kimg, mean, least and most as JSON
SERIES = 24  # curves of a run
GRIDS = 150  # of a run; run/figures.py keeps 120
PX = (1100, 780, 550, 390, 275, 195, 137)  # longest sides of pictures in the page, the largest that has room: areas halve
EVALUATED = 20  # lines of `evaluate`, the newest
MAX_PNG_BYTES, MAX_PNG_PX = 2**26, 2**26
NOT_PICTURES = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what PIL raises for a broken PNG
GROUPS = {  # a chart each: title -> its curves and the words beside them; what else a run logs has a chart of its own
    "Losses": {"d_loss": "discriminator", "g_loss": "generator"},
    "D is right on": {"d_real_hits": "real pictures", "d_fake_hits": "drawn pictures"},
    "Gradient norms": {"g_grad_norm": "generator", "d_grad_norm": "discriminator"},
    "Images a second": {"images_per_s": ""},
    "Probability of augmentations": {"augment_p": ""},
}


class RunFacts(NamedTuple):
    """What the page tells of a run, beside what lies in its folder."""

    run: Path
    name: str  # among those on the page
    config: Config
    differences: dict[str, tuple]  # field -> (the preset's value, the run's)
    data_facts: dict  # data.json
    total: int  # steps
    step: int  # steps made
    metrics: dict[str, list[float]]  # as logs.read_metrics
    troubles: list[tuple[int, str, str]]  # as logs.read_troubles
    doubts: list[str]  # what is suspicious about the pictures


def save_report(run: RunFacts) -> None:
    """The run's own report.html, whole or not at all."""
    with atomic_write(run.run / "report.html") as partial:
        partial.write_text(render_page([run]))


def render_page(runs: Sequence[RunFacts]) -> str:
    """One page: of a run all there is to tell; of several what differs, their curves in one chart, their faces side by side."""
    room, series = PICTURES_BYTES // len(runs), [_list_series(run) for run in runs]
    points = min(POINTS, CURVES_BYTES // (POINT_BYTES * max(1, sum(map(len, series)))))
    data = [
        {
            "name": run.name,
            "curves": {name: _thin_curve(*of, points) for name, of in curves.items()},
            "grids": _list_grids(run, room),
        }
        for run, curves in zip(runs, series, strict=True)
    ]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    body = _render_run(runs[0]) if len(runs) == 1 else _render_comparison(runs)
    here = Path(__file__)
    # "</" would end the script, and "<!--" hide the rest of the page: JSON may write "<" as an escape.
    held = json.dumps({"runs": data, "groups": GROUPS}, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content='width=device-width, initial-scale=1'>
<title>{_escape(title)}</title>
<style>
{here.with_name("report.css").read_text()}</style>
<main>
<h1>{_escape(title)}</h1>
{body}
</main>
<script type=application/json id=data>{held}</script>
<script>
{here.with_name("report.js").read_text()}</script>
</html>
"""


def _render_run(run):
    reals = _fit_images([run.run / "reals.png"], run.config.nets.size, PICTURES_BYTES // 6)[1][0]
    environment = _read_environment(run.run)
    by, *flags = map(str, environment.pop("command") or [""])
    # In a notebook it is the notebook's own.
    by_verb = Path(by).name in ("train.py", "dcgan-train")
    command = shlex.join(["python", "-m", "dcgan_jax.train", *flags]) if by_verb else "dcgan_jax.train.train, called from Python"
    asked = _render_table(
        [(name, was, now) for name, (was, now) in run.differences.items()], ("", f"{run.config.run.preset} has", "this run")
    )
    training = f"<h2>Training pictures, as the networks see them</h2><img class=sheet alt='training pictures' src={reals}>"
    return f"""<p>{_escape(_render_state(run))}</p>
{_render_warnings(run)}
<h2>Faces of the same seeds, as they learn</h2>{_render_grids([run])}
<h2>Numbers</h2>{CHART}
{_render_scores(run)}
{training if reals else ""}
<h2>Asked otherwise than the preset</h2>{asked if run.differences else "<p>Nothing.</p>"}
<details><summary>All settings</summary>{_render_table(flatten(run.config).items())}</details>
<h2>Pictures</h2>{_render_table(_list_data_facts(run.data_facts))}
<h2>Made by</h2><p><code>{_escape(command, 4000)}</code></p>{_render_table(environment.items())}"""


def _render_comparison(runs):
    names = [run.name for run in runs]
    settings = [flatten(run.config) for run in runs]
    passed = ("name", "workdir")
    differing = [field for field in settings[0] if field not in passed and len({str(each[field]) for each in settings}) > 1]
    rows = [(field, *(each[field] for each in settings)) for field in differing]
    told = [_summarise_run(run) for run in runs]
    facts = [(what, *(each[what] for each in told)) for what in told[0]]
    warned = "".join(f"<h3>{_escape(run.name)}</h3>{_render_warnings(run)}" for run in runs if run.troubles or run.doubts)
    return f"""{_render_table(facts, ("", *names))}
<h2>Numbers</h2>{CHART}
<h2>Faces of the same seeds, as they learn</h2>{_render_grids(runs)}
<h2>Settings that differ</h2>{_render_table(rows, ("", *names)) if rows else "<p>None.</p>"}
{f"<h2>Warnings</h2>{warned}" if warned else ""}"""


def _summarise_run(run):
    """What a comparison's first table says of a run."""
    speeds = [value for value in run.metrics.get("images_per_s", ()) if value == value]
    best = _find_best(run)
    last = {name: run.metrics[name][-1] for name in ("d_loss", "g_loss") if run.metrics.get(name)}
    return {
        "preset": run.config.run.preset,
        "steps": f"{run.step:,} of {run.total:,}",
        "images": f"{run.step * run.config.images_per_step:,}",
        "images a second, median": f"{statistics.median(speeds):,.0f}" if speeds else "",
        "best score in training, smaller is better": f"{best['value']:.2f} at step {best['step']:,}" if best else "",
        "by": _describe_measure(best) if best else "",  # scores of different measures, N or real pictures do not compare
        "losses of D, G": ", ".join(f"{value:.3f}" for value in last.values()),
        "pictures": run.data_facts["source"]["name"],
    }


def _render_state(run):
    shown = run.step * run.config.images_per_step
    return (
        f"{run.config.run.preset}: step {run.step:,} of {run.total:,}; {shown:,} images shown, from "
        f"{run.data_facts['count']:,} pictures: {run.data_facts['source']['name']}"
    )


def _render_warnings(run):
    """Of one kind the newest words, with the steps it was seen from and to."""
    seen, newest = {}, {}
    for step, kind, words in run.troubles:
        seen.setdefault(kind, []).append(step)
        newest[kind] = words
    lines = [
        f"<b>{_escape(kind)}</b>, steps {steps[0]:,} to {steps[-1]:,}: {_escape(newest[kind], 1000)}"
        for kind, steps in list(seen.items())[:20]
    ]
    lines += [f"<b>pictures</b>: {_escape(line, 1000)}" for line in run.doubts]
    return f"<ul class=warnings>{''.join(f'<li>{line}' for line in lines)}</ul>" if lines else ""


def _render_scores(run):
    best, told = _find_best(run), ""
    if best:
        told = (
            f"<p>Best score in training, smaller is better: {best['value']:.2f} at step {best['step']:,}, by "
            f"{_escape(_describe_measure(best))}.</p>"
        )
    rows = [row for line in online_score.read_score_lines(run.run) if (row := _make_score_row(line))][-EVALUATED:]
    if rows:
        head = ("step", "score", "N", "value", "floor", "its N", "beside it", "seeds", "real pictures")
        told += (
            "<p>By evaluate, smaller is better; the floor is one half of the real pictures against the other:</p>"
            + _render_table(rows, head)
        )
    return told


def _find_best(run):
    return min(online_score.read_online_scores(run.run).values(), key=lambda line: line["value"], default=None)


def _describe_measure(line):
    """What a score in training is by: those of one measure compare."""
    return make_printable(
        f"{make_printable(str(line.get('by')), 60)}{_shorten(line, 'sha256')}, N {line.get('count')}, real pictures"
        f"{_shorten(line, 'real_fingerprint')}",
        150,
    )


def _make_score_row(line):
    """A row of `evaluate`'s table; None for lines of other kinds, and of pictures that the run was compared with."""
    values, kind, count = line.get("values"), str(line.get("score")), line.get("count", "")
    network = f"{line.get('network')}{_shorten(line, 'network_sha256')}"
    measures = {
        "sliced_wasserstein_x1e3": "sliced Wasserstein x1000",
        "inception": "FID",
        "features": f"Frechet distance by {network}",
    }
    if not isinstance(values, dict) or kind not in measures or "fake" in line:
        return None
    of = line.get("of_count", count)  # of many images sliced Wasserstein, and what stands beside a distance, are of the first
    beside = {
        "KID x1000": _format_number(values.get("kid"), 1000),
        **{
            name.replace("_", " "): _format_number(values.get(name))
            for name in ("precision", "recall", "density", "coverage", "frechet_at_infinity")
        },
    }
    beside = ", ".join(f"{name} {value}" for name, value in beside.items() if value)
    seeds = line.get("seeds")
    return (
        f"{line['step']:,}",
        measures[kind] + (f", resize {line['resize']}" if "resize" in line else ""),
        of if kind.startswith("sliced") else count,
        _format_number(values.get("mean", values.get("frechet"))),
        _format_number(line.get("floor")),
        line.get("floor_count", ""),
        beside + (f" (N {of})" if beside and of != count else ""),
        "-".join(map(str, seeds)) if isinstance(seeds, list) else "",
        f"{make_printable(str(line.get('real')), 60)}{_shorten(line, 'real_fingerprint')}",
    )


def _shorten(line, name):
    return f" {line[name][:8]}" if isinstance(line.get(name), str) and line[name] else ""


def _format_number(value, times: int = 1) -> str:
    return f"{value * times:.4g}" if isinstance(value, (int, float)) and abs(value) < 1e15 else ""


def _list_data_facts(facts):
    names = ("count", "skipped", "upscaled", "duplicates", "grey", "crop", "fingerprint")
    return [("source", facts["source"]["name"]), *((name, facts[name]) for name in names if name in facts)]


def _read_environment(run):
    """What ran it, as far as it is known."""
    found = read_environment(run)
    packages = found.get("packages")
    versions = ", ".join(f"{name} {version}" for name, version in packages.items()) if isinstance(packages, dict) else ""
    command = found.get("command")
    return {
        "command": command if isinstance(command, list) else [],
        "packages": versions,
        **{name: found[name] for name in ("devices", "python", "platform", "commit") if found.get(name)},
    }


# ---- Curves ----

CHART = """<div id=chart><p class=row><label>show <select id=group></select></label>
<label>smooth <input id=smooth type=range min=0 max=0.99 step=0.01 value=0.8></label>
<label><input id=log type=checkbox> logarithmic</label> <button id=whole hidden>whole run</button></p>
<svg id=plot role=img aria-label='curves over thousands of images; the line below reads their ends'></svg><p id=read></p>
<p class=hint>Point at the chart to read it; drag over a part to look closer.</p>
<noscript>The chart and the slider need JavaScript; the numbers are in metrics.jsonl.</noscript></div>"""


def _list_series(run):
    """Name -> (thousands of pictures shown, values). Scores have their measure in their name: the page draws what has one name
    in one chart."""
    series = {}
    scored = sorted(online_score.read_online_scores(run.run).items())
    if scored:
        steps, values = np.array([(step, line["value"]) for step, line in scored]).T
        series[f"score by {_describe_measure(scored[-1][1])}"] = steps * run.config.images_per_step / 1000, values
    kimg = np.array(run.metrics.get("step", ())) * run.config.images_per_step / 1000
    series |= {
        make_printable(name, 60): (kimg, np.array(values))
        for name, values in run.metrics.items()
        if name not in ("step", "images")
    }
    return dict(list(series.items())[:SERIES])


def _thin_curve(x, y, points):
    """[kimg, mean, least, most], each a list: means over even parts of the run, with the extremes that a mean hides."""
    there = np.abs(y) < 1e30  # a name that an earlier line lacks is NaN there
    x, y = x[there], y[there]
    if not len(x):
        return [[], [], [], []]
    starts = np.unique(np.linspace(0, len(x), min(points, len(x)), endpoint=False).astype(int))
    counts = np.diff([*starts, len(x)])
    found = (
        np.add.reduceat(x, starts) / counts,
        np.add.reduceat(y, starts) / counts,
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y, starts),
    )
    return [[float(f"{value:.4g}") if i else round(float(value), 3) for value in values] for i, values in enumerate(found)]


# ---- Pictures ----


def _render_grids(runs):
    figures = "".join(
        f"<figure><img class=sheet alt='faces of {_escape(run.name)}'><figcaption></figcaption></figure>" for run in runs
    )
    return f"""<p class=row><input id=when type=range min=0 step=1 aria-label='how far the run is'>
<button id=play>play</button></p><div id=grids>{figures}</div>"""


def _list_grids(run, room):
    """[{kimg, step, src}] in order: the first and the newest grid, and so many even ones between as have room."""
    files = {int(file.stem): file for file in (run.run / "samples").glob("*.png") if file.stem.isdecimal()}  # others are not ours
    steps, side = sorted(files), run.config.nets.size
    while steps and not _embed_image(files[steps[-1]], side, PX[0]):
        steps.pop()
    if not steps:
        return []
    px, (*_, newest) = _fit_images([files[step] for step in dict.fromkeys((steps[0], steps[-1]))], side, room)
    # Every 2nd, 4th ... grid: as the run goes on most of them stay the same, and are not encoded again. Some may be larger.
    stride = 1
    while len(steps) / stride * len(newest) > room:
        stride *= 2
    found = {steps[-1]: newest}
    for step in steps[:-1:stride][:GRIDS]:
        src = _embed_image(files[step], side, px)
        if sum(map(len, found.values())) + len(src) > room:
            break
        found[step] = src
    return [
        {"step": step, "kimg": step * run.config.images_per_step / 1000, "src": found[step]}
        for step in sorted(found)
        if found[step]
    ]


def _fit_images(files, side, room):
    """(px, pictures): these files as _embedded has them, at the largest of PX at which they have room together."""
    for px in PX:
        found = [_embed_image(file, side, px) for file in files]
        if sum(map(len, found)) <= room:
            break
    return px, found


def _embed_image(file: Path, side: int, px: int) -> str:
    """A PNG of ours as a data: address, at the size that it was before it was enlarged for the eye, or smaller: its longest side
    is px at most. "" where it is none."""
    try:
        facts = file.stat()
        return _encode_image(file, facts.st_mtime_ns, facts.st_size, side, px) if facts.st_size < MAX_PNG_BYTES else ""
    except NOT_PICTURES:
        return ""


@functools.lru_cache(maxsize=512)  # a run in training writes its report at every save
def _encode_image(file, changed_ns, size_bytes, side, px):
    with Image.open(file, formats=("PNG",)) as picture:
        if picture.width * picture.height > MAX_PNG_PX:
            raise ValueError("too large")
        small = picture.convert("RGB")
    by = choose_scale(side)
    if by > 1 and small.width % by == 0 and small.height % by == 0:
        small = small.resize((small.width // by, small.height // by), Image.Resampling.NEAREST)
    small.thumbnail((px, px))
    written = io.BytesIO()
    small.save(written, "WEBP", quality=85, method=2)
    return "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode()


# ---- Text ----


def _render_table(rows, head=()):
    def cells(kind, row):
        return "".join(f"<{kind}>{_escape(cell)}</{kind}>" for cell in row)

    top = f"<tr>{cells('th', head)}</tr>" if head else ""
    below = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class=wide><table>{top}{below}</table></div>"


def _escape(value, most: int = 300) -> str:
    value = ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else value
    return html.escape(make_printable(str(value), most))
