"""The numbers that a step returns: their names and meanings, once, for whoever logs, draws or checks them."""

from typing import NamedTuple


class Metric(NamedTuple):
    """meaning: in a sentence; chart, label: the report's chart it belongs to, and its curve's name there."""

    meaning: str
    chart: str
    label: str = ""


METRICS = {
    "d_loss": Metric("D's adversarial loss, without penalties, of its last update", "Losses", "discriminator"),
    "g_loss": Metric("G's adversarial loss, of its last update", "Losses", "generator"),
    "d_real_hits": Metric("share of real images that D takes for real", "D is right on", "real images"),
    "d_fake_hits": Metric("share of generated images that D takes for generated", "D is right on", "generated images"),
    "g_grad_norm": Metric("Euclidean length of G's whole gradient, of its last update", "Gradient norms", "generator"),
    "d_penalty": Metric("R1, R2 and the gradient penalty, weighted; 0 in steps without a lazy one", "Penalties", "discriminator"),
    "augment_p": Metric("probability with which each augmentation acts", "Probability of augmentations"),
}
LOSSES = ("d_loss", "g_loss")  # what the loss plot shows
# What the progress bar and plain log lines say of a step.
SUMMARY = "D {d_loss:.3f}  G {g_loss:.3f}  D right on real {d_real_hits:.0%} fake {d_fake_hits:.0%}"
