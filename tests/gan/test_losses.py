"""Losses: known values, PyTorch's numbers, symmetries, and finite gradients for extreme logits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import parity_inputs as inputs
import pytest
from numpy.testing import assert_allclose

from dcgan_jax.gan import losses
from dcgan_jax.gan.losses import LOSSES, nonsaturating_d

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "torch_parity.npz", allow_pickle=False)


def logits(seed=0, count=64):
    """Makes real and fake logits, (count,) float32 each."""
    return np.random.Generator(np.random.Philox(seed)).normal(0, 3, (2, count)).astype(np.float32)


def value_and_pulls(function, real, fake):
    """Returns (values (B,), gradient of their sum by the real logits, the same by the fake logits)."""
    value, pullback = jax.vjp(function, jnp.asarray(real, jnp.float32), jnp.asarray(fake, jnp.float32))
    return value, *pullback(jnp.ones_like(value))


@pytest.mark.parametrize(
    "name, d, g",
    [
        ("bce", 2 * np.log(2), np.log(2)),
        ("least-squares", 0.5, 0.5),
        ("hinge", 2.0, 0.0),
        ("wasserstein", 0.0, 0.0),
        ("relativistic-average", 2 * np.log(2), 2 * np.log(2)),
        ("relativistic-paired", np.log(2), np.log(2)),
    ],
)
def test_loss_at_zero_logits(name, d, g):
    assert_allclose(LOSSES[name].d(jnp.zeros(3), jnp.zeros(3)), np.full(3, d), rtol=1e-6)
    assert_allclose(LOSSES[name].g(jnp.zeros(3), jnp.zeros(3)), np.full(3, g), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("player", ["d", "g"])
def test_loss_is_one_float32_with_finite_gradients(name, player):
    """There is one loss per image, and its gradient is finite also for extreme logits."""
    # With logits of 1e4, exp overflows float32 and a probability is exactly 0 or 1.
    for real, fake in ((1e4, -1e4), (-1e4, 1e4), (1e4, 1e4), (-1e4, -1e4)):
        value, *pulls = value_and_pulls(getattr(LOSSES[name], player), np.full(3, real), np.full(3, fake))
        assert value.shape == (3,)
        assert value.dtype == jnp.float32
        assert np.isfinite(value).all()
        for pull in pulls:
            assert np.isfinite(pull).all()
            # The gradient is at most 1 per logit, or 2 if a logit occurs twice. Least squares has no such bound.
            assert np.abs(pull).max() <= (1.0001e4 if name == "least-squares" else 2)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_improve_a_wrong_d_and_g(name):
    """Gradient descent makes a wrong D better, and makes G fool D better."""
    # D is wrong here: real logits are far below fake ones. D's loss must raise real logits and lower fake ones; G's raises fakes.
    real, fake = np.full(4, -3.0), np.full(4, 3.0)
    _, pull_real, pull_fake = value_and_pulls(LOSSES[name].d, real, fake)
    assert (pull_real < 0).all()
    assert (pull_fake > 0).all()
    _, _, pull_fake = value_and_pulls(LOSSES[name].g, -real, -fake)
    assert (pull_fake < 0).all()


@pytest.mark.parametrize("name", ["bce", "hinge", "wasserstein", "relativistic-average", "relativistic-paired"])
def test_swapping_roles_negates_the_logits(name):
    real, fake = logits()
    assert_allclose(LOSSES[name].d(real, fake), LOSSES[name].d(-fake, -real), rtol=1e-5, atol=1e-6)


def test_least_squares_swaps_roles_around_a_half():
    real, fake = logits()
    assert_allclose(losses.least_squares_d(real, fake), losses.least_squares_d(1 - fake, 1 - real), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["relativistic-average", "relativistic-paired"])
def test_relativistic_losses_see_only_differences(name):
    real, fake = logits()
    for player in ("d", "g"):
        function = getattr(LOSSES[name], player)
        assert_allclose(function(real + 5, fake + 5), function(real, fake), rtol=1e-4, atol=1e-5)
    assert_allclose(LOSSES[name].g(real, fake), LOSSES[name].d(fake, real), rtol=0)  # G's loss is D's with the roles exchanged


def test_relativistic_average_equals_paired():
    """The losses are equal, apart from a factor of 2, if all real logits are equal and all fake ones are."""
    real, fake = np.full(5, 1.5, np.float32), np.full(5, -0.5, np.float32)
    assert_allclose(LOSSES["relativistic-average"].d(real, fake), 2 * LOSSES["relativistic-paired"].d(real, fake), rtol=1e-6)


def test_relativistic_average_equals_its_formula():
    real, fake = logits()
    sigmoid = 1 / (1 + np.exp(-np.float64([real - fake.mean(), fake - real.mean()])))
    assert_allclose(LOSSES["relativistic-average"].d(real, fake), -np.log(sigmoid[0]) - np.log1p(-sigmoid[1]), rtol=1e-4)


def test_g_losses_that_need_real_logits():
    real, fake = logits()
    for loss in LOSSES.values():
        assert np.any(value_and_pulls(loss.g, real, fake)[1] != 0) == loss.g_needs_real


# ---- PyTorch, in float64. Its least-squares loss has no factor 1/2. float32 is exact to 1e-6, or worse where 1 - p rounds. ----

OURS = {"bce": ("bce", 1.0), "hinge": ("hinge", 1.0), "least_squares": ("least-squares", 2.0)}


@pytest.mark.parametrize("name", OURS)
def test_values_and_gradients_equal_pytorch(name):
    loss, scale = LOSSES[OURS[name][0]], OURS[name][1]
    d = value_and_pulls(loss.d, inputs.REAL_LOGITS, inputs.FAKE_LOGITS)
    for got, part in zip(d, ("d", "d_grad_real", "d_grad_fake"), strict=True):
        assert_allclose(scale * got, FIXTURE[f"losses/{name}/{part}"], rtol=2e-6, atol=2e-7)
    g, _, pull = value_and_pulls(loss.g, inputs.REAL_LOGITS, inputs.FAKE_LOGITS)
    assert_allclose(scale * g, FIXTURE[f"losses/{name}/g"], rtol=2e-6)
    assert_allclose(scale * pull, FIXTURE[f"losses/{name}/g_grad"], rtol=2e-6, atol=2e-7)


def test_one_sided_smoothing_equals_pytorch_for_d():
    d = value_and_pulls(lambda real, fake: nonsaturating_d(real, fake, 0.9), inputs.REAL_LOGITS, inputs.FAKE_LOGITS)
    for got, part in zip(d, ("d", "d_grad_real", "d_grad_fake"), strict=True):
        assert_allclose(got, FIXTURE[f"losses/bce_smooth/{part}"], rtol=2e-6, atol=2e-6)


def test_smoothing_is_minimal_at_its_label():
    # The gradient by a real logit is 0 if its sigmoid equals the label.
    at_rest = np.log(0.9 / 0.1)
    assert_allclose(value_and_pulls(lambda r, f: nonsaturating_d(r, f, 0.9), [at_rest], [0.0])[1], [0.0], atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_hit_boundary_is_between_the_best_logits(name):
    """Gradient descent on D's loss moves the real logits above the boundary and the fake ones below it."""
    start = jnp.full(8, 0.4), jnp.full(8, 0.6)  # in the wrong order, and not around 0

    def descend(_, pair):
        pulls = jax.grad(lambda pair: LOSSES[name].d(*pair).mean())(pair)
        return jax.tree.map(lambda logits, pull: logits - 0.5 * pull, pair, pulls)

    real, fake = jax.jit(lambda pair: jax.lax.fori_loop(0, 400, descend, pair))(start)
    boundary = LOSSES[name].boundary
    boundary = (real.mean() + fake.mean()) / 2 if boundary is None else boundary
    assert (real > boundary).all()
    assert (fake < boundary).all()
