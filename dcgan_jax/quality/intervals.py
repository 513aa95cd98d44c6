"""Confidence intervals of means over a few seeds or runs."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def compute_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Returns (mean, half the width of Student's confidence interval of the mean) of at least two independent values."""
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def compute_interval_of_difference(
    values: Sequence[float], others: Sequence[float], confidence: float = 0.95
) -> tuple[float, float]:
    """Returns (mean of values - mean of others, half the width of Welch's confidence interval). At least two values each.

    Source: Welch 1947, "The generalization of Student's problem when several different population variances are involved".
    """
    sets = (values, others)
    errors = [np.var(each, ddof=1) / len(each) for each in sets]
    variance = sum(errors)
    difference = float(np.mean(values) - np.mean(others))
    if not variance:
        return difference, 0.0
    freedom = variance**2 / sum(error**2 / (len(each) - 1) for error, each in zip(errors, sets, strict=True))
    return difference, float(stats.t.ppf((1 + confidence) / 2, freedom) * variance**0.5)
