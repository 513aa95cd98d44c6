import numpy as np

from dcgan_jax.data import face_traits

SEED = 5


def test_random_draws_are_uniform_and_independent():
    dice = face_traits.Dice(SEED, np.arange(40_000))
    age, tone = dice("age"), dice("tone")
    for numbers in (age, tone):
        assert numbers.dtype == np.float32 and numbers.min() >= 0 and numbers.max() < 1
        # 5 standard deviations of a count in a histogram of 40,000 numbers and 20 bins
        np.testing.assert_allclose(np.histogram(numbers, 20, (0, 1))[0], 2000, atol=5 * np.sqrt(2000 * 0.95))
    for other in (tone, np.roll(age, 1)):  # another name, and the neighbouring face
        assert abs(np.corrcoef(age, other)[0, 1]) < 5 / np.sqrt(40_000)
