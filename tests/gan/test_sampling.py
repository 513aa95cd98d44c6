"""Samples depend on their seed alone, not on the batch. Recalibration gives the EMA generator its own BN statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tiny import get_leaves, make_fresh_state, make_tiny_config

from dcgan_jax.config import replace
from dcgan_jax.gan import sampling
from dcgan_jax.gan.models import Generator
from dcgan_jax.gan.sampling import SAMPLES_PER_BATCH, make_recalibrate, make_sample, sample_images, sample_latents
from dcgan_jax.gan.state import LABELS

CONFIG = make_tiny_config("torch64", width=16)
LATENTS = 64  # for the toy recalibration below, in 4 batches


@pytest.fixture(scope="module")
def state():
    """Makes a state with kernels ten times larger, so that images have contrast. Its ema_stats are still the initial ones."""
    state = make_fresh_state(CONFIG)
    return state.replace(ema_params=jax.tree.map(lambda leaf: 10 * leaf if leaf.ndim > 1 else leaf, state.g_params))


def recalibrate_steps(config, state, steps):
    """Returns the recalibrated states of these steps. Random weights use only half of the batches in step 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "RECALIBRATION_BATCHES", 4)
        patch.setattr(sampling, "FIRST_RECALIBRATION_BATCHES", 2)
        patch.setattr(sampling, "RECALIBRATION_BATCH", LATENTS // 4)
        recalibrate = jax.jit(make_recalibrate(config))
        return [recalibrate(state.replace(step=state.step + step)) for step in steps]


@pytest.fixture(scope="module")
def by_step(state):
    return recalibrate_steps(CONFIG, state, range(3))


@pytest.fixture(scope="module")
def calibrated(by_step):
    return by_step[1]


# ---- latents


@pytest.mark.parametrize("name, sd, furthest", [("torch64", 1.0, 6.0), ("article", 3**-0.5, 1.0)])
def test_latents_follow_the_preset_distribution(name, sd, furthest):
    latents = np.asarray(sample_latents(jax.random.key(0), 1000, make_tiny_config(name).nets))
    assert (latents.shape, latents.dtype) == ((1000, 100), np.float32)
    assert_allclose(latents.std(), sd, rtol=0.01)
    assert abs(latents.mean()) < 0.01
    assert 0.99 * min(furthest, 4) < np.abs(latents).max() <= furthest


# ---- statistics


def test_recalibration_changes_ema_statistics_only(state, by_step):
    """The statistics do not depend on the step, apart from step 0."""
    before, (first, after, again) = get_leaves(state), map(get_leaves, by_step)
    for path in before:
        assert np.array_equal(first[path], before[path]) != path.startswith("ema_stats"), path
        if path != "step":
            assert np.array_equal(after[path], before[path]) != path.startswith("ema_stats"), path
            assert_array_equal(again[path], after[path])


def test_recalibration_uses_all_labels_equally_often(monkeypatch):
    monkeypatch.setattr(sampling, "RECALIBRATION_BATCH", 4 * sampling.RECALIBRATION_BATCH)  # what conftest.py divided
    table = np.arange(LABELS, dtype=np.uint16)[:, None]
    repeated = np.asarray(sampling._repeat_labels(jnp.asarray(table)))
    assert repeated.shape == (sampling.RECALIBRATION_BATCHES, sampling.RECALIBRATION_BATCH, 1)
    assert set(np.bincount(repeated.ravel())) == {repeated.size // LABELS} and repeated.size >= 4096


@pytest.mark.parametrize("step, batches", [(0, 2), (1, 4)])
def test_first_layer_statistics_equal_numpy(state, by_step, step, batches):
    """Step 0 uses the first batches only. Later steps use all."""
    # The first layer is linear in the latents. So NumPy can compute mean and variance over all latents and pixels at once.
    keys = jax.random.split(jax.random.fold_in(jax.random.clone(state.key), 2**32 - 1), 4)[:batches]
    latents = np.concatenate([sample_latents(key, LATENTS // 4, CONFIG.nets) for key in keys]).astype(np.float64)
    values = (latents @ np.asarray(state.ema_params["head"]["kernel"], np.float64)).reshape(-1, 32)  # (64 * 4 * 4, C)
    assert_allclose(by_step[step].ema_stats["head_norm"]["mean"], values.mean(0), atol=1e-4)
    assert_allclose(by_step[step].ema_stats["head_norm"]["var"], values.var(0), rtol=1e-4)


def test_recalibrated_statistics_match_batch_statistics(state, calibrated):
    """With recalibrated statistics, images are nearly those that batch statistics give."""
    latents = sample_latents(jax.random.key(1), 256, CONFIG.nets)

    @jax.jit
    def images(params, stats, latents):
        generator, variables = Generator(CONFIG.nets), {"params": params, "batch_stats": stats}
        return (
            generator.apply(variables, latents, train=False),
            generator.apply(variables, latents, train=True, mutable="batch_stats")[0],
        )

    stale, expected = images(state.ema_params, state.ema_stats, latents)
    recalibrated, _ = images(state.ema_params, calibrated.ema_stats, latents)
    assert np.abs(recalibrated - expected).mean() < 0.05 * expected.std()  # statistics of 64 latents, images of 256
    assert np.abs(stale - expected).mean() > 0.5 * expected.std()


@pytest.mark.parametrize("given", [{"start": "runs/other"}, {"grow_kimg": 1.0}])
def test_trained_weights_get_all_latents_in_step_0(state, by_step, given):
    [recalibrated] = recalibrate_steps(replace(CONFIG, **given), state, [0])
    stats = recalibrated.ema_stats
    for name in stats["head_norm"]:
        assert_array_equal(stats["head_norm"][name], by_step[1].ema_stats["head_norm"][name])


def test_generator_without_bn_needs_no_recalibration():
    config = make_tiny_config("keras64")
    state = make_fresh_state(config)
    assert make_recalibrate(config)(state) is state


# ---- seeds


@pytest.fixture(scope="module")
def generate(calibrated):
    sample, state = jax.jit(make_sample(CONFIG.nets)), calibrated
    return lambda seeds: np.asarray(sample(state.ema_params, state.ema_stats, np.array(seeds, np.uint32)))


SEEDS = [0, 1, 2, 3, 2**31, 2**32 - 1]


def test_samples_are_uint8_and_differ_by_seed(generate):
    images = generate(SEEDS)
    assert (images.shape, images.dtype) == ((6, 16, 16, 3), np.uint8)
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6
    assert images.std() > 10  # with flat images, the tests of equality below would mean little


def test_sample_depends_on_its_seed_alone(generate):
    images = generate(SEEDS)
    assert_array_equal(generate(SEEDS[::-1]), images[::-1])
    assert_array_equal(generate([0, 0, 0, 0, 0, 0]), np.repeat(images[:1], 6, 0))
    assert_array_equal(generate([7, 8, 9, 3, 10, 11])[3], images[3])


@pytest.mark.parametrize("count", [1, 3])
def test_batch_size_changes_at_most_one_grey_level(generate, count):
    # So `sample_images` has one batch size: another program may sum in another order, and a value near a half rounds otherwise.
    other = generate(SEEDS[:count]).astype(int)
    assert np.abs(other - generate(SEEDS)[:count]).max() <= 1


def test_latents_of_many_seeds_are_those_of_each(calibrated):
    params, stats = calibrated.ema_params, calibrated.ema_stats
    seeds = np.arange(5, 5 + SAMPLES_PER_BATCH + 3)  # a full batch and a padded one
    together = sample_images(CONFIG.nets, params, stats, seeds)
    assert together.shape == (SAMPLES_PER_BATCH + 3, 16, 16, 3)
    for i in (0, 1, SAMPLES_PER_BATCH - 1, SAMPLES_PER_BATCH, SAMPLES_PER_BATCH + 2):
        assert_array_equal(sample_images(CONFIG.nets, params, stats, seeds[i : i + 1])[0], together[i])
    assert_array_equal(sample_images(CONFIG.nets, params, stats, seeds[::-1]), together[::-1])
