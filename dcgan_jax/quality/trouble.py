"""What the numbers and the pictures of a run say is wrong with it, in words and with what to try. Pure, and careful: it is
silent while there is little to judge by."""

import numpy as np

WINDOW_LINES = 50  # of metrics.jsonl: 500 steps at the default interval
LEAST_IMAGES = 30_000  # every run looks broken at its start: samples alike, D far ahead
WON_HITS = 0.995  # share of real and of fake pictures that D knows, over the window
VANISHED, EXPLODED = 0.1, 10.0  # G's gradient norm against the run's own median
COLLAPSED = 0.25  # mean distance between two samples over that between two training pictures
FROZEN = 1e-3  # spread of a loss over the window, in its own size
LEAST_HELD_OUT = 16  # fewer say nothing about D
MEMORISED = 0.6  # r_v: 0 where D takes held-out pictures for training ones, 1 where it takes them for fakes


def found(metrics: dict[str, list[float]], samples: np.ndarray, reals: np.ndarray, on_reals: np.ndarray, on_held_out: np.ndarray,
          on_samples: np.ndarray) -> dict[str, str]:
    """Kind -> one line, of what is wrong now.

    Args: metrics, columns of metrics.jsonl until now; samples (n, S, S, C) and reals (m, S, S, C) uint8: G's grid and training
        pictures; on_reals, on_held_out, on_samples: D's logits, with running statistics, for training pictures, for some that
        were never trained on, and for samples.
    """
    if not metrics.get("images") or metrics["images"][-1] < LEAST_IMAGES or len(metrics["images"]) < WINDOW_LINES:
        return {}
    window = {name: np.array(values[-WINDOW_LINES:], float) for name, values in metrics.items()}
    judged = {"d-has-won": _d_has_won(metrics, window), "g-collapsed": _g_collapsed(samples, reals),
              "losses-frozen": _losses_frozen(window), "memorising": _memorising(on_reals, on_held_out, on_samples)}
    return {kind: words for kind, words in judged.items() if words}


def _d_has_won(metrics, window):
    real, fake = window["d_real_hits"].mean(), window["d_fake_hits"].mean()
    now, usual = np.median(window["g_grad_norm"]), np.median(metrics["g_grad_norm"])
    if min(real, fake) < WON_HITS or VANISHED * usual < now < EXPLODED * usual:
        return None
    return (f"D has won: it knows {real:.1%} of real and {fake:.1%} of drawn pictures, and G's gradient norm is {now:.3g} where "
            f"it was {usual:.3g}; try a lower --d-lr, --real-label 0.9, --augment color translation cutout, or another --loss")


def pairwise_distance(images: np.ndarray) -> float:
    """Mean root-mean-square difference in grey levels between two of (N, S, S, C) uint8 pictures, seen at 8 x 8 pixels."""
    side = images.shape[1]
    small = images.astype(np.float64).reshape(len(images), 8, side // 8, 8, side // 8, -1).mean((2, 4)).reshape(len(images), -1)
    squares = np.maximum(((small[:, None] - small[None]) ** 2).mean(-1), 0)
    return float(np.sqrt(squares)[np.triu_indices(len(images), 1)].mean())


def _g_collapsed(samples, reals):
    if min(len(samples), len(reals)) < 8:
        return None
    ours, theirs = pairwise_distance(samples), pairwise_distance(reals)
    if ours > COLLAPSED * theirs:
        return None
    return (f"G has collapsed: two samples differ by {ours:.1f} grey levels, two training pictures by {theirs:.1f}; go back to "
            "an earlier checkpoint, or try a lower --lr, a larger --batch-size, or --loss relativistic-paired with --r1-gamma 1")


def _losses_frozen(window):
    spreads = {name: np.ptp(window[name]) / max(np.abs(window[name]).mean(), 1e-12) for name in ("d_loss", "g_loss")}
    if max(spreads.values()) > FROZEN:
        return None
    return (f"the losses stand still: over {WINDOW_LINES} lines D's varied by {spreads['d_loss']:.2%} and G's by "
            f"{spreads['g_loss']:.2%}; try a higher --lr, and look at reals.png for pictures that are all the same")


def _memorising(on_reals, on_held_out, on_samples):
    # Source: Karras et al. 2020, arXiv:2006.06676, equation 1, on means of logits.
    if min(map(len, (on_reals, on_held_out, on_samples))) < LEAST_HELD_OUT:
        return None
    real, unseen, fake = (float(np.mean(logits)) for logits in (on_reals, on_held_out, on_samples))
    noise = 2 * np.hypot(np.std(on_reals) / len(on_reals) ** 0.5, np.std(on_held_out) / len(on_held_out) ** 0.5)
    if real - unseen < noise or real <= fake or (real - unseen) / (real - fake) < MEMORISED:
        return None
    middle = (real + fake) / 2
    return (f"D learns the pictures by heart: it takes {np.mean(on_reals > middle):.0%} of training pictures for real and only "
            f"{np.mean(on_held_out > middle):.0%} of held-out ones (r_v {(real - unseen) / (real - fake):.2f}); try --flip, "
            "--augment color translation cutout, more pictures, or stop earlier")
