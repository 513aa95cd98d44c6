"""Checks a run for known failures by its metrics and images, and suggests remedies. Pure functions.

The checks start once there are enough metrics. The thresholds lie between values measured in failing and in healthy runs
(experiments/diagnostics.py, experiments/notes/reliability.md).
"""

import bisect

import numpy as np

from dcgan_jax.gan.metrics import HITS, LOSS_METRICS, METRICS

METRICS_USED = ("step", "images", *LOSS_METRICS, *HITS, "g_grad_norm")
WINDOW_STEPS, LEAST_LINES = 500, 20  # checks use the last 500 steps of metrics.jsonl, and at least its last 20 lines
LEAST_IMAGES = 30_000  # at its start every run looks broken: samples are alike, and D makes hardly any errors
# D's hit rate on real and on generated images: 1.000 with a learning rate of D 50 times that of G; at most 0.985 on both in
# healthy runs.
WON_HITS = 0.995
# G's gradient norm divided by that of the run's first lines: 0.3 to 3 in healthy runs.
VANISHED, EXPLODED = 0.05, 20.0
# Distance between samples divided by that between training images: 0.03 to 0.12 in collapsed runs, 0.3 for an untrained G, 0.7 to
# 1.1 in healthy runs.
COLLAPSED = 0.2
# Standard deviation of G's gradient norm over the window, divided by its mean: 0.02 to 0.06 if only the batch changes (batch size
# 128 to 16), 0.2 to 0.7 in healthy runs, 0.098 once in a run extended to ten times its length. This ratio is useless for losses:
# their noise may be as large as their change, or their mean may be 0.
FROZEN = 0.075
PAIRED_IMAGES = 64  # number of samples, and of training images, whose pairs are compared
LEAST_HELD_OUT = 8
# r_v is 0 if D's mean logit of held-out images equals that of training images, and 1 if it equals that of fakes. At most 0.1 in
# healthy runs; with 300 training images it exceeds 0.5 after 300 epochs.
MEMORISED = 0.5
SURE = 4.0  # standard errors by which means must differ; this many, because every save tests again


def diagnose(
    metrics: dict[str, list[float]],
    samples: np.ndarray,
    reals: np.ndarray,
    real_logits: np.ndarray,
    held_out_logits: np.ndarray,
    sample_logits: np.ndarray,
    loss: str = "bce",
) -> dict[str, str]:
    """Checks the run for known failures. Returns {kind: message of one line} for those present.

    Args: metrics, the columns of metrics.jsonl until now; samples (n, S, S, C) uint8, the grid; reals (m, S, S, C) uint8,
        training images; real_logits, held_out_logits, sample_logits: (any number,) each, D's logits with running statistics, of
        training images, held-out images and samples; loss, the name of the adversarial loss.
    Returns: kinds are d-has-won, g-collapsed, losses-frozen and memorising. Equal arguments give equal results.
    """
    steps = metrics.get("step", [])
    columns = {name: np.array(metrics.get(name, [np.nan] * len(steps)), float) for name in METRICS_USED}
    if len(steps) < LEAST_LINES or steps[-1] < WINDOW_STEPS or columns["images"][-1] < LEAST_IMAGES:
        return {}
    start = min(bisect.bisect_right(steps, steps[-1] - WINDOW_STEPS), len(steps) - LEAST_LINES)
    window = {name: values[start:] for name, values in columns.items()}
    first = columns["g_grad_norm"][:LEAST_LINES]
    checks = {
        "d-has-won": _check_d_has_won(window, first, loss),
        "g-collapsed": _check_g_collapsed(samples[:PAIRED_IMAGES], reals[:PAIRED_IMAGES]),
        "losses-frozen": _check_losses_frozen(window),
        "memorising": _check_memorising(real_logits, held_out_logits, sample_logits),
    }
    return {kind: message for kind, message in checks.items() if message}


def _check_d_has_won(window: dict[str, np.ndarray], first: np.ndarray, loss: str) -> str | None:
    real, fake = (window[name].mean() for name in HITS)
    first, now = np.median(first), np.median(window["g_grad_norm"])
    is_lost = not VANISHED * first < now < EXPLODED * first
    # A Wasserstein critic should classify all images correctly (arXiv:1701.07875, section 3), so only G's gradient is checked.
    if not np.minimum(real, fake) >= WON_HITS or (loss == "wasserstein" and not is_lost) or np.isnan(now):
        return None
    return (
        f"D has won: over the last {_describe_span(window)} it classified {real:.1%} of real and {fake:.1%} of generated images "
        f"correctly, and G's gradient norm is {now:.3g}, {first:.3g} at the start; try a lower --d-lr, fewer "
        "--d-steps, --real-label 0.9 or --augment color translation cutout --augment-target 0.8"
    )


def measure_pairwise_distance(images: np.ndarray) -> float:
    """Measures the root-mean-square difference, in grey levels, averaged over all pairs of (N, S, S, C) uint8 images.

    Source: Odena et al. 2017, arXiv:1610.09585, section 4.2, where the similarity of pairs shows mode collapse.
    """
    flat = images.reshape(len(images), -1).astype(np.float64)  # float64 sums of squared bytes are exact, in any order
    products = flat @ flat.T
    lengths = np.diag(products)
    squares = lengths[:, None] + lengths[None] - 2 * products
    return float(np.sqrt(squares / flat.shape[1])[np.triu_indices(len(flat), 1)].mean())


def _check_g_collapsed(samples: np.ndarray, reals: np.ndarray) -> str | None:
    if min(len(samples), len(reals)) < 8:
        return None
    ours, theirs = measure_pairwise_distance(samples), measure_pairwise_distance(reals)
    if ours >= COLLAPSED * theirs:
        return None
    return (
        f"G has collapsed: two samples differ by {ours:.1f} grey levels, two training images by {theirs:.1f}; go back to "
        "an earlier checkpoint, or try a lower --lr (and --d-lr), a larger --batch-size, or --loss relativistic-paired with "
        "--r1-gamma 1"
    )


def _check_losses_frozen(window: dict[str, np.ndarray]) -> str | None:
    spread = window["g_grad_norm"].std() / max(abs(window["g_grad_norm"].mean()), 1e-30)
    if not spread < FROZEN or any(_has_moved(window[name]) for name in LOSS_METRICS):
        return None
    values = ", ".join(
        f"{METRICS[name].words} {window[name].mean():.3g} +- {window[name].std():.2g}" for name in (*LOSS_METRICS, "g_grad_norm")
    )
    return (
        f"the losses do not change: over the last {_describe_span(window)} {values}; try a higher --lr (and --d-lr), and look in "
        "reals.png for images that are all the same"
    )


def _has_moved(values: np.ndarray) -> bool:
    """Tells whether the means of the first and the second half of (N,) values differ by more than their noise."""
    before, after = np.array_split(values, 2)
    noise = np.hypot(before.std() / len(before) ** 0.5, after.std() / len(after) ** 0.5)
    return not abs(after.mean() - before.mean()) <= SURE * noise  # NaN, from lines without the metric, counts as a change


def _describe_span(window: dict[str, np.ndarray]) -> str:
    return f"{window['step'][-1] - window['step'][0]:,.0f} steps"


def _check_memorising(real_logits: np.ndarray, held_out_logits: np.ndarray, sample_logits: np.ndarray) -> str | None:
    # Source: Karras et al. 2020, arXiv:2006.06676, equation 1, on means of logits.
    if min(map(len, (real_logits, held_out_logits, sample_logits))) < LEAST_HELD_OUT:
        return None
    real, unseen, fake = (float(np.mean(logits)) for logits in (real_logits, held_out_logits, sample_logits))
    noise = np.hypot(np.std(real_logits) / len(real_logits) ** 0.5, np.std(held_out_logits) / len(held_out_logits) ** 0.5)
    if real - unseen < SURE * noise or real <= fake or real - unseen < MEMORISED * (real - fake):
        return None
    middle = (real + fake) / 2  # not the loss's boundary, which holds for batch statistics only
    return (
        f"D memorises the images: it classifies {np.mean(real_logits > middle):.0%} of training images as real and only "
        f"{np.mean(held_out_logits > middle):.0%} of held-out ones (r_v {(real - unseen) / (real - fake):.2f}); try --flip, "
        "--augment color translation cutout --augment-target 0.8, more images, or stop earlier"
    )
