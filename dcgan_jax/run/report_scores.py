"""Scores in report.html: the best one during training, and a table of those by `evaluate`."""

from pathlib import Path
from typing import NamedTuple

from dcgan_jax.config import make_printable
from dcgan_jax.run import online_score
from dcgan_jax.run.report_text import escape, render_table

EVALUATED = 20  # rows of the table: the newest scores


class ScoreRow(NamedTuple):
    """Holds a score by `evaluate`, as text."""

    step: str
    measure: str
    count: str  # N, images from each side
    value: str
    floor: str  # one half of the real images against the other
    floor_count: str  # images in each half
    secondary: str  # KID, precision, recall ...
    seeds: str
    real: str  # the real images' name, and the start of their fingerprint


HEAD = ScoreRow("step", "score", "N", "value", "floor", "N of the floor", "other scores", "seeds", "real images")


def render_scores(run: Path) -> str:
    """Renders the best score in training and the table of `evaluate`'s scores. No scores: ""."""
    best, text = find_best(run), ""
    if best:
        text = (
            f"<p>Best score in training, smaller is better: {best['value']:.2f} at step {best['step']:,}, by "
            f"{escape(describe_measure(best))}.</p>"
        )
    rows = list_evaluated(run)[-EVALUATED:]
    if rows:
        text += (
            "<p>Scores by <code>python -m dcgan_jax.evaluate</code>; smaller is better. The floor is the score of one half of "
            f"the real images against the other half.</p>{render_table(rows, HEAD)}"
        )
    return text


def list_evaluated(run: Path, step: int | None = None) -> list[ScoreRow]:
    """Lists the scores by `evaluate`, of this step or of all, oldest first."""
    lines = (line for line in online_score.read_score_lines(run) if step in (None, line["step"]))
    return [row for line in lines if (row := _make_score_row(line))]


def find_evaluated(run: Path) -> ScoreRow | None:
    """Returns the best score by `evaluate`: FID if there is one, else another network's distance, else sliced Wasserstein.

    Only scores with the newest one's measure, N and real images are compared. No scores: None.
    """
    rows = [row for row in list_evaluated(run) if row.value]
    for start in ("FID", "Frechet distance", ""):
        found = [row for row in rows if row.measure.startswith(start)]
        if found:
            same = [
                row for row in found if (row.measure, row.count, row.real) == (found[-1].measure, found[-1].count, found[-1].real)
            ]
            return min(same, key=lambda row: float(row.value))
    return None


def find_best(run: Path) -> dict | None:
    """Returns the line of scores.jsonl with the best score during training; None without scores."""
    return min(online_score.read_online_scores(run).values(), key=lambda line: line["value"], default=None)


def describe_measure(line: dict) -> str:
    """The measure, N and the real images of a score during training: scores can be compared where these are equal."""
    return make_printable(
        f"{make_printable(Path(str(line.get('by'))).name, 60)}{_shorten(line, 'sha256')}, N {line.get('count')}, real images"
        f" {online_score.identify_real_images(line)[:8]}".rstrip(),
        150,
    )


def _make_score_row(line: dict) -> ScoreRow | None:
    """Returns None if the line is not a score of samples."""
    values, kind, count = line.get("values"), str(line.get("score")), line.get("count", "")
    network = f"{line.get('network')}{_shorten(line, 'network_sha256')}"
    measures = {
        "sliced_wasserstein_x1e3": "sliced Wasserstein x1000",
        "inception": "FID",
        "features": f"Frechet distance by {network}",
    }
    if not isinstance(values, dict) or kind not in measures or "fake" in line:
        return None
    # Sliced Wasserstein and the secondary scores use only some of many images.
    kept_count = line.get("of_count", count)
    secondary = {
        "KID x1000": _format_number(values.get("kid"), 1000),
        **{
            name.replace("_", " "): _format_number(values.get(name))
            for name in ("precision", "recall", "density", "coverage", "frechet_at_infinity")
        },
    }
    secondary = ", ".join(f"{name} {value}" for name, value in secondary.items() if value)
    seeds = line.get("seeds")
    return ScoreRow(
        f"{line['step']:,}",
        measures[kind] + (f", resize {line['resize']}" if "resize" in line else ""),
        str(kept_count if kind.startswith("sliced") else count),
        _format_number(values.get("mean", values.get("frechet"))),
        _format_number(line.get("floor")),
        str(line.get("floor_count", "")),
        secondary + (f" (N {kept_count})" if secondary and kept_count != count else ""),
        "-".join(map(str, seeds)) if isinstance(seeds, list) else "",
        f"{make_printable(str(line.get('real')), 60)}{_shorten(line, 'real_fingerprint')}",
    )


def _shorten(line: dict, name: str) -> str:
    return f" {line[name][:8]}" if isinstance(line.get(name), str) and line[name] else ""


def _format_number(value: object, times: int = 1) -> str:
    return f"{value * times:.4g}" if isinstance(value, (int, float)) and abs(value) < 1e15 else ""
