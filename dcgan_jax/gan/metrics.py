"""Names and meanings of the metrics of a training step. The step, the logs, the report and the diagnostics use them."""

from typing import NamedTuple


class Metric(NamedTuple):
    """words: its name in messages; meaning: its definition; chart, label: its chart in the report, and the curve's name there."""

    words: str
    meaning: str
    chart: str
    label: str = ""


METRICS = {
    "d_loss": Metric("D's loss", "D's adversarial loss in its last update, without penalties", "Losses", "discriminator"),
    "g_loss": Metric("G's loss", "G's adversarial loss in its last update", "Losses", "generator"),
    "d_real_hits": Metric(
        "D's hit rate on real images", "share of real images that D classifies as real", "D's hit rate", "real images"
    ),
    "d_fake_hits": Metric(
        "D's hit rate on generated images",
        "share of generated images that D classifies as generated",
        "D's hit rate",
        "generated images",
    ),
    "g_grad_norm": Metric(
        "G's gradient norm", "Euclidean norm of G's gradient in its last update", "Gradient norms", "generator"
    ),
    "d_penalty": Metric(
        "D's penalty", "weighted sum of R1, R2 and the gradient penalty; 0 in steps that skip them", "Penalties", "discriminator"
    ),
    "augment_p": Metric(
        "augmentation probability", "probability of applying each augmentation to an image", "Augmentation probability"
    ),
    "images_per_s": Metric("speed", "real images per second since the start, without the first dispatch", "Images per second"),
}
LOSS_METRICS = ("d_loss", "g_loss")  # the curves of the loss plot
HITS = ("d_real_hits", "d_fake_hits")
# The text of a step in the progress bar and in plain log lines.
SUMMARY = "D {d_loss:.3f}  G {g_loss:.3f}  D right on real {d_real_hits:.0%} fake {d_fake_hits:.0%}"


def group_by_chart() -> dict[str, dict[str, str]]:
    """Lists for each chart its curves: metric name -> label."""
    charts: dict[str, dict[str, str]] = {}
    for name, metric in METRICS.items():
        charts.setdefault(metric.chart, {})[name] = metric.label
    return charts
