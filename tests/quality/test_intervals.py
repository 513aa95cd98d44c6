import numpy as np

from dcgan_jax.quality import intervals


def test_interval_covers_the_mean_at_its_level():
    random = np.random.default_rng(0)
    held = [abs(mean - 3) <= half for mean, half in (intervals.compute_interval(random.normal(3, 2, 4)) for _ in range(2000))]
    assert 0.93 < np.mean(held) < 0.97
    gaps = [intervals.compute_interval_of_difference(random.normal(3, 2, 4), random.normal(1, 1, 3)) for _ in range(2000)]
    assert 0.92 < np.mean([abs(gap - 2) <= half for gap, half in gaps]) < 0.98
    assert intervals.compute_interval_of_difference([1.0, 1.0], [3.0, 3.0]) == (-2, 0)
