"""Laws of the losses: known values, PyTorch's numbers, symmetries, and finite pulls where D is certain."""

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
    """Real and fake, (count,) float32 each."""
    return np.random.Generator(np.random.Philox(seed)).normal(0, 3, (2, count)).astype(np.float32)


def value_and_pulls(function, real, fake):
    """(B,) values and the gradients of their sum with respect to both kinds of logits."""
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
def test_cost_where_every_logit_is_zero(name, d, g):
    assert_allclose(LOSSES[name].d(jnp.zeros(3), jnp.zeros(3)), np.full(3, d), rtol=1e-6)
    assert_allclose(LOSSES[name].g(jnp.zeros(3), jnp.zeros(3)), np.full(3, g), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("player", ["d", "g"])
def test_one_float32_per_image_and_finite_pulls_where_d_is_certain(name, player):
    # Far past where exp overflows float32 and where a probability is exactly 0 or 1. g of a non-relativistic loss gets no real
    # logits in the step.
    for real, fake in ((1e4, -1e4), (-1e4, 1e4), (1e4, 1e4), (-1e4, -1e4)):
        value, *pulls = value_and_pulls(getattr(LOSSES[name], player), np.full(3, real), np.full(3, fake))
        assert value.shape == (3,)
        assert value.dtype == jnp.float32
        assert np.isfinite(value).all()
        for pull in pulls:
            assert np.isfinite(pull).all()
            # All but the squares pull by at most 1 a logit, 2 where a logit is on both sides.
            assert np.abs(pull).max() <= (1.0001e4 if name == "least-squares" else 2)


@pytest.mark.parametrize("name", LOSSES)
def test_a_wrong_d_is_pulled_towards_telling_and_g_towards_fooling(name):
    # Exactly wrong: real far below, fake far above. Descent raises real logits and lowers fake ones; g raises fake ones.
    real, fake = np.full(4, -3.0), np.full(4, 3.0)
    _, pull_real, pull_fake = value_and_pulls(LOSSES[name].d, real, fake)
    assert (pull_real < 0).all()
    assert (pull_fake > 0).all()
    _, _, pull_fake = value_and_pulls(LOSSES[name].g, -real, -fake)
    assert (pull_fake < 0).all()


@pytest.mark.parametrize("name", ["bce", "hinge", "wasserstein", "relativistic-average", "relativistic-paired"])
def test_swapping_the_roles_is_negating_the_logits(name):
    real, fake = logits()
    assert_allclose(LOSSES[name].d(real, fake), LOSSES[name].d(-fake, -real), rtol=1e-5, atol=1e-6)


def test_least_squares_swaps_its_roles_around_a_half():
    real, fake = logits()
    assert_allclose(losses.least_squares_d(real, fake), losses.least_squares_d(1 - fake, 1 - real), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["relativistic-average", "relativistic-paired"])
def test_relativistic_losses_see_only_differences(name):
    real, fake = logits()
    for player in ("d", "g"):
        function = getattr(LOSSES[name], player)
        assert_allclose(function(real + 5, fake + 5), function(real, fake), rtol=1e-4, atol=1e-5)
    assert_allclose(LOSSES[name].g(real, fake), LOSSES[name].d(fake, real), rtol=0)  # the same game from the other side


def test_relativistic_average_equals_paired_where_all_images_of_a_kind_are_alike():
    real, fake = np.full(5, 1.5, np.float32), np.full(5, -0.5, np.float32)
    assert_allclose(LOSSES["relativistic-average"].d(real, fake), 2 * LOSSES["relativistic-paired"].d(real, fake), rtol=1e-6)


def test_relativistic_average_by_its_own_formula():
    real, fake = logits()
    sigmoid = 1 / (1 + np.exp(-np.float64([real - fake.mean(), fake - real.mean()])))
    assert_allclose(LOSSES["relativistic-average"].d(real, fake), -np.log(sigmoid[0]) - np.log1p(-sigmoid[1]), rtol=1e-4)


def test_which_g_losses_need_the_real_logits():
    real, fake = logits()
    for loss in LOSSES.values():
        assert np.any(value_and_pulls(loss.g, real, fake)[1] != 0) == loss.g_needs_real


# ---- PyTorch, in float64. `least_squares` there has no half; float32 keeps 1e-6 of a value, less where 1 - p rounds.

OURS = {"bce": ("bce", 1.0), "hinge": ("hinge", 1.0), "least_squares": ("least-squares", 2.0)}


@pytest.mark.parametrize("name", OURS)
def test_equals_pytorch_in_values_and_pulls(name):
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


def test_smoothing_rests_at_its_own_label():
    # The pull on a real logit vanishes where its sigmoid is the label.
    at_rest = np.log(0.9 / 0.1)
    assert_allclose(value_and_pulls(lambda r, f: nonsaturating_d(r, f, 0.9), [at_rest], [0.0])[1], [0.0], atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_the_boundary_lies_between_the_best_logits_of_real_and_fake(name):
    """Logits that D's loss pulls to: with the boundary right, a D that is right about every image is seen to be."""
    real, fake = jnp.full(8, 0.4), jnp.full(8, 0.6)  # wrong way round, and not around 0
    for _ in range(400):
        pulls = jax.grad(lambda pair: LOSSES[name].d(*pair).mean())((real, fake))
        real, fake = real - 0.5 * pulls[0], fake - 0.5 * pulls[1]
    boundary = LOSSES[name].boundary
    boundary = (real.mean() + fake.mean()) / 2 if boundary is None else boundary
    assert (real > boundary).all()
    assert (fake < boundary).all()
