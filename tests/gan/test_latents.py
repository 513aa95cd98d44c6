"""Operations on latents keep their distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.config import Nets
from dcgan_jax.gan import latents
from dcgan_jax.gan.sampling import sample_latents

LAWS = ("normal", "uniform")


def make_latents(law, count=4, seed=0):
    nets = Nets(latent_law=law)
    return nets, sample_latents(jax.random.key(seed), count, nets)


@pytest.mark.parametrize("law", LAWS)
def test_to_normal_and_back_is_the_identity(law):
    nets, z = make_latents(law, 1000)
    points = latents.to_normal(z, nets)
    np.testing.assert_allclose(latents.from_normal(points, nets), z, atol=1e-5)
    assert abs(float(points.mean())) < 0.01 and abs(float(points.std()) - 1) < 0.01


@pytest.mark.parametrize("law", LAWS)
def test_uniform_edge_stays_finite(law):
    edge = jnp.array([[-1.0, 1.0, 0.0]])
    nets = Nets(latent_law=law)
    assert np.isfinite(latents.to_normal(edge, nets)).all()


@pytest.mark.parametrize("law", LAWS)
def test_truncation_keeps_order_and_bounds(law):
    nets, z = make_latents(law, 1000)
    cut = latents.truncate(z, 0.5, nets)
    assert np.abs(cut).max() <= 0.5 + 1e-5
    order = np.argsort(z.reshape(-1), kind="stable")
    assert np.all(np.diff(np.asarray(cut).reshape(-1)[order]) >= -1e-6)
    assert np.all(np.sign(cut) * np.sign(z) >= -1e-6 * np.sign(z))


def test_truncation_of_normal_is_resampling():
    """Compares the variance with its closed form, 1 - 2 t pdf(t) / (cdf(t) - cdf(-t))."""
    nets, z = make_latents("normal", 4000)
    pdf, inside = np.exp(-0.5) / np.sqrt(2 * np.pi), 0.6826894921
    assert float(latents.truncate(z, 1.0, nets).var()) == pytest.approx(1 - 2 * pdf / inside, rel=0.01)


@pytest.mark.parametrize(("law", "truncation"), [("normal", 8.0), ("uniform", 1.0), ("uniform", 3.0)])
def test_wide_truncation_changes_nothing(law, truncation):
    nets, z = make_latents(law)
    np.testing.assert_allclose(latents.truncate(z, truncation, nets), z, atol=2e-5)


@pytest.mark.parametrize("law", LAWS)
def test_interpolation_starts_and_ends_at_its_points(law):
    nets, (a, b, *_) = make_latents(law)
    way = latents.interpolate(a, b, jnp.array([0.0, 0.5, 1.0]), nets)
    np.testing.assert_allclose(way[0], a, atol=1e-5)
    np.testing.assert_allclose(way[2], b, atol=1e-5)
    np.testing.assert_allclose(latents.interpolate(b, a, jnp.array([0.5]), nets)[0], way[1], atol=1e-5)


@pytest.mark.parametrize("law", LAWS)
def test_interpolation_midpoint_keeps_the_norm(law):
    """With linear interpolation, the midpoint would have 0.7 times the norm, which is rare in training."""
    nets, (a, b, *_) = make_latents(law)
    half = latents.interpolate(a, b, jnp.array([0.5]), nets)[0]
    lengths = [float(jnp.linalg.norm(latents.to_normal(z, nets))) for z in (a, b, half)]
    assert lengths[2] == pytest.approx((lengths[0] + lengths[1]) / 2, rel=1e-4)


@pytest.mark.parametrize("law", LAWS)
def test_interpolation_to_itself_stays(law):
    nets, (a, *_) = make_latents(law)
    for end in (a, latents.from_normal(1.0001 * latents.to_normal(a, nets), nets)):
        way = latents.interpolate(a, end, jnp.linspace(0, 1, 5), nets)
        np.testing.assert_allclose(way, jnp.broadcast_to(a, way.shape), atol=1e-3)


@pytest.mark.parametrize("law", LAWS)
def test_loop_meets_each_anchor_and_closes(law):
    nets, anchors = make_latents(law, 3)
    way = latents.interpolate_loop(anchors, 10, nets)
    assert way.shape == (30, nets.latent_dim)
    np.testing.assert_allclose(way[::10], anchors, atol=1e-5)
    strides = jnp.linalg.norm(jnp.diff(latents.to_normal(jnp.concatenate([way, way[:1]]), nets), axis=0), axis=1)
    assert float(strides.max()) < 1.5 * float(strides.min())  # also in the last part, back to the first


@pytest.mark.parametrize("law", LAWS)
def test_move_along_is_in_sd_and_keeps_the_law(law):
    """Steps are in standard deviations, and the results keep the latents' distribution."""
    nets, z = make_latents(law)
    direction = jnp.zeros(nets.latent_dim).at[3].set(7.0)  # its length does not matter
    moved = latents.move_along(z, direction, jnp.array([-2.0, 0.0, 2.0]), nets)
    assert moved.shape == (4, 3, nets.latent_dim)
    np.testing.assert_allclose(moved[:, 1], z, atol=1e-5)
    points = latents.to_normal(moved, nets)
    np.testing.assert_allclose(points[:, 2, 3] - points[:, 0, 3], 4.0, rtol=0.05)
    if law == "uniform":
        assert np.abs(moved).max() <= 1
