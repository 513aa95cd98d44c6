"""Penalties of critics with known gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from dcgan_jax.gan.penalties import gradient_penalty, squared_finite_difference, squared_gradient_norm


def make_images(seed, count=4):
    return np.random.Generator(np.random.Philox(seed)).normal(0, 1, (count, 8, 8, 3)).astype(np.float32)


WEIGHTS = np.random.Generator(np.random.Philox(9)).normal(0, 0.1, (1, 8, 8, 3)).astype(np.float32)


def linear(images):
    return (images * WEIGHTS).sum((1, 2, 3))


def test_r1_of_linear_d_is_its_squared_weight():
    assert_allclose(squared_gradient_norm(linear, make_images(0)), np.full(4, np.sum(WEIGHTS**2)), rtol=1e-5)


def test_r1_of_quadratic_d_is_per_image():
    images = make_images(0)
    norm = squared_gradient_norm(lambda x: 0.5 * jnp.square(x).sum((1, 2, 3)), images)  # the gradient is the image itself
    assert_allclose(norm, np.square(images).sum((1, 2, 3)), rtol=1e-5)


def test_noise_estimate_equals_the_gradient_on_average():
    images, noise = make_images(0), np.random.Generator(np.random.Philox(3)).normal(0, 1, (4000, 8, 8, 3)).astype(np.float32)
    many = np.tile(images, (1000, 1, 1, 1))
    for critic in (linear, lambda x: jnp.square(x).sum((1, 2, 3)) / 2):
        slopes = squared_finite_difference(critic(many), critic(many + 0.01 * noise), 0.01).reshape(1000, 4).mean(0)
        # rtol: the mean of 1,000 squares has a standard error of 4.5 %.
        assert_allclose(slopes, squared_gradient_norm(critic, images), rtol=0.2)


def test_gradient_penalty_of_linear_d_is_closed_form():
    """For a linear critic, the penalty does not depend on the point."""
    norm = np.linalg.norm(WEIGHTS)
    for mix in (0.0, 0.3, 1.0):
        penalty = gradient_penalty(linear, make_images(0), make_images(1), np.full((4, 1, 1, 1), mix, np.float32))
        assert_allclose(penalty, np.full(4, (norm - 1) ** 2), rtol=1e-4)
    unit = gradient_penalty(lambda x: linear(x) / norm, make_images(0), make_images(1), np.full((4, 1, 1, 1), 0.5, np.float32))
    assert_allclose(unit, np.zeros(4), atol=1e-10)


def test_gradient_penalty_is_taken_between_pairs():
    # The gradient of the critic |x|^2 / 2 is the point itself: the real image for mix 1, the fake for mix 0.
    real, fake = make_images(0), make_images(1)
    mix = np.array([1, 0, 0.5, 0.25], np.float32).reshape(4, 1, 1, 1)
    penalty = gradient_penalty(lambda x: 0.5 * jnp.square(x).sum((1, 2, 3)), real, fake, mix)
    points = mix * real + (1 - mix) * fake
    assert_allclose(penalty, (np.sqrt(np.square(points).sum((1, 2, 3))) - 1) ** 2, rtol=1e-4)


def test_flat_d_is_penalised_with_a_finite_gradient():
    def penalty(scale):
        return gradient_penalty(lambda x: scale * linear(x), make_images(0), make_images(1), jnp.full((4, 1, 1, 1), 0.5)).sum()

    value, slope = jax.value_and_grad(penalty)(0.0)
    assert_allclose(value, 4.0, rtol=1e-5)
    assert np.isfinite(slope)
