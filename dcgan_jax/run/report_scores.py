"""The scores in report.html: the best one of training, and a table of those by `evaluate`."""

from pathlib import Path

from dcgan_jax.config import make_printable
from dcgan_jax.run import online_score
from dcgan_jax.run.report_text import escape, render_table

EVALUATED = 20  # lines of `evaluate`, the newest


def render_scores(run: Path) -> str:
    """The best score of training and the table of `evaluate`'s scores, "" where there are none."""
    best, text = find_best(run), ""
    if best:
        text = (
            f"<p>Best score in training, smaller is better: {best['value']:.2f} at step {best['step']:,}, by "
            f"{escape(describe_measure(best))}.</p>"
        )
    rows = [row for line in online_score.read_score_lines(run) if (row := _make_score_row(line))][-EVALUATED:]
    if rows:
        head = ("step", "score", "N", "value", "floor", "its N", "other scores", "seeds", "real images")
        text += (
            "<p>By evaluate, smaller is better; the floor is one half of the real images against the other:</p>"
            + render_table(rows, head)
        )
    return text


def find_best(run: Path) -> dict | None:
    """The line of the best score during training; None where nothing was scored."""
    return min(online_score.read_online_scores(run).values(), key=lambda line: line["value"], default=None)


def describe_measure(line: dict) -> str:
    """The network or measure, N and the real images of a score during training: scores that agree in these can be compared."""
    return make_printable(
        f"{make_printable(str(line.get('by')), 60)}{_shorten(line, 'sha256')}, N {line.get('count')}, real images"
        f"{_shorten(line, 'real_fingerprint')}",
        150,
    )


def _make_score_row(line: dict) -> tuple | None:
    """A row of `evaluate`'s table; None for lines of other kinds, and for images that were compared in place of samples."""
    values, kind, count = line.get("values"), str(line.get("score")), line.get("count", "")
    network = f"{line.get('network')}{_shorten(line, 'network_sha256')}"
    measures = {
        "sliced_wasserstein_x1e3": "sliced Wasserstein x1000",
        "inception": "FID",
        "features": f"Frechet distance by {network}",
    }
    if not isinstance(values, dict) or kind not in measures or "fake" in line:
        return None
    # Of many images, sliced Wasserstein and the secondary scores use only the first.
    first_count = line.get("of_count", count)
    secondary = {
        "KID x1000": _format_number(values.get("kid"), 1000),
        **{
            name.replace("_", " "): _format_number(values.get(name))
            for name in ("precision", "recall", "density", "coverage", "frechet_at_infinity")
        },
    }
    secondary = ", ".join(f"{name} {value}" for name, value in secondary.items() if value)
    seeds = line.get("seeds")
    return (
        f"{line['step']:,}",
        measures[kind] + (f", resize {line['resize']}" if "resize" in line else ""),
        first_count if kind.startswith("sliced") else count,
        _format_number(values.get("mean", values.get("frechet"))),
        _format_number(line.get("floor")),
        line.get("floor_count", ""),
        secondary + (f" (N {first_count})" if secondary and first_count != count else ""),
        "-".join(map(str, seeds)) if isinstance(seeds, list) else "",
        f"{make_printable(str(line.get('real')), 60)}{_shorten(line, 'real_fingerprint')}",
    )


def _shorten(line: dict, name: str) -> str:
    return f" {line[name][:8]}" if isinstance(line.get(name), str) and line[name] else ""


def _format_number(value: object, times: int = 1) -> str:
    return f"{value * times:.4g}" if isinstance(value, (int, float)) and abs(value) < 1e15 else ""
