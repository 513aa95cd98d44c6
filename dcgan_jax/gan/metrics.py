"""The numbers of a training step: names and meanings, once, for the step, logs, report and diagnostics."""

from typing import NamedTuple


class Metric(NamedTuple):
    """words: in a message; meaning: in a sentence; chart, label: the report's chart for it, and its curve's name there."""

    words: str
    meaning: str
    chart: str
    label: str = ""


METRICS = {
    "d_loss": Metric("D's loss", "D's adversarial loss, without penalties, of its last update", "Losses", "discriminator"),
    "g_loss": Metric("G's loss", "G's adversarial loss, of its last update", "Losses", "generator"),
    "d_real_hits": Metric("D's hits on real", "share of real images that D takes for real", "D is right on", "real images"),
    "d_fake_hits": Metric(
        "D's hits on fake", "share of generated images that D takes for generated", "D is right on", "generated images"
    ),
    "g_grad_norm": Metric(
        "G's gradient norm", "Euclidean length of G's whole gradient, of its last update", "Gradient norms", "generator"
    ),
    "d_penalty": Metric(
        "D's penalty", "R1, R2 and the gradient penalty, weighted; 0 between lazy ones", "Penalties", "discriminator"
    ),
    "augment_p": Metric(
        "probability of augmentations", "with which each augmentation acts on each image", "Probability of augmentations"
    ),
    "images_per_s": Metric("speed", "real images a second since the start, the first dispatch left out", "Images a second"),
}
LOSS_METRICS = ("d_loss", "g_loss")  # what the loss plot shows
HITS = ("d_real_hits", "d_fake_hits")
# What the progress bar and plain log lines show of a step.
SUMMARY = "D {d_loss:.3f}  G {g_loss:.3f}  D right on real {d_real_hits:.0%} fake {d_fake_hits:.0%}"


def group_by_chart() -> dict[str, dict[str, str]]:
    """Chart -> its curves' names and labels."""
    charts: dict[str, dict[str, str]] = {}
    for name, metric in METRICS.items():
        charts.setdefault(metric.chart, {})[name] = metric.label
    return charts
