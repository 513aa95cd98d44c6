"""Conditional GANs: labels affect both networks in every part of the step. Unconditional presets do not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal
from tiny import (
    CompiledStep,
    compile_apply,
    fused_loops,
    get_compiled_step,
    get_leaves,
    make_fresh_state,
    make_images,
    make_tiny_config,
    make_toy_state,
)

from dcgan_jax.batch import Batch
from dcgan_jax.gan.logits import make_compute_logits, make_extract_features
from dcgan_jax.gan.models import Discriminator, Generator
from dcgan_jax.gan.sampling import make_recalibrate, sample_images, select_labels
from dcgan_jax.gan.state import LABELS, init_state
from dcgan_jax.gan.step import make_train_step, make_train_steps

pytestmark = pytest.mark.integration  # compiles programs of conditional networks

CONFIG = make_tiny_config("article", condition="Smiling,Male,Hat", g_latents="same")
TABLE = np.random.default_rng(0).integers(0, 2, (LABELS, 3), np.uint8)
BATCH = Batch(make_images(CONFIG), TABLE[:4])


def test_other_weights_start_as_without_attributes():
    ours, theirs = (
        get_leaves(make_fresh_state(CONFIG).d_params),
        get_leaves(make_fresh_state(make_tiny_config("article", g_latents="same")).d_params),
    )
    assert ours.keys() - theirs.keys() == {"condition/kernel"}
    for path in theirs:
        assert_array_equal(ours[path], theirs[path], err_msg=path)
    assert make_fresh_state(make_tiny_config("article", g_latents="same")).labels is None


def test_d_adds_the_projection_of_features_on_labels():
    """Compares with NumPy. Source: Miyato and Koyama 2018, equation 3."""
    state = make_toy_state(CONFIG)
    apply = compile_apply(Discriminator(CONFIG.nets), False, "intermediates")
    images = jnp.asarray(BATCH[0], jnp.float32) / 127.5 - 1
    logits, captured = apply(state.d_params, state.d_stats, images, BATCH[1])
    features = np.asarray(captured["intermediates"]["features"][-1]).reshape(4, -1)
    unconditional = features @ np.asarray(state.d_params["head"]["kernel"])[:, 0] + np.asarray(state.d_params["head"]["bias"])
    projection = np.sum(features @ np.asarray(state.d_params["condition"]["kernel"]) * (2.0 * BATCH[1] - 1), 1) / 3**0.5
    assert_allclose(logits, unconditional + projection, rtol=1e-4, atol=1e-6)


def test_g_images_depend_on_the_attributes():
    config = make_tiny_config("article", condition="Smiling,Male,Hat")
    state, latents = make_toy_state(config), jnp.ones((2, 100)) / 2
    labels = np.array([[0, 0, 1], [1, 0, 1]])
    images = compile_apply(Generator(config.nets), False)(state.g_params, state.g_stats, latents, labels)
    assert np.abs(images[0] - images[1]).max() > 1e-4


PENALISED = make_tiny_config(
    "article",
    condition="Smiling,Male,Hat",
    d_norm="spectral",
    minibatch_std=True,
    d_steps=2,
    r1_gamma=1.0,
    flip=True,
    gp_weight=1.0,
    loss="relativistic-average",
    d_dropout=0.1,
)


@pytest.mark.parametrize(
    "config",
    [CONFIG, make_tiny_config("newmu", condition="Smiling,Male,Hat"), PENALISED],
    ids=["d-then-g", "alternating", "penalised"],
)
def test_step_updates_embeddings_and_keeps_shapes(config):
    before = make_toy_state(config)
    batch = Batch(make_images(config), TABLE[: len(make_images(config))])
    after, metrics = get_compiled_step(config)(before, batch)
    after, metrics = get_compiled_step(config)(after, batch)  # alternating updates: first G, then D
    assert all(np.isfinite(value) for value in metrics.values())
    assert np.abs(after.d_params["condition"]["kernel"] - before.d_params["condition"]["kernel"]).max() > 0
    head = np.abs(after.g_params["head"]["kernel"] - before.g_params["head"]["kernel"])
    assert head.shape[0] == config.nets.latent_dim + 3 and head[-3:].max() > 0
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)
    assert get_compiled_step(config).traces == 1


def test_step_depends_on_the_labels():
    ours, theirs = (
        get_compiled_step(CONFIG)(make_toy_state(CONFIG), Batch(BATCH.images, labels))[1] for labels in (BATCH[1], 1 - BATCH[1])
    )
    assert ours["d_loss"] != theirs["d_loss"] and ours["g_loss"] != theirs["g_loss"]


@pytest.mark.slow
def test_scan_and_two_devices_give_the_same():
    other = Batch(make_images(CONFIG, 1), TABLE[4:8])
    stacked = Batch(*(np.stack(parts) for parts in zip(BATCH, other, strict=True)))
    with fused_loops():  # both programs must agree bit for bit
        one_step = CompiledStep(CONFIG)
        expected, _ = one_step(one_step(make_toy_state(CONFIG), BATCH)[0], other)
        state, _ = jax.jit(make_train_steps(CONFIG))(make_toy_state(CONFIG), stacked)
    for path, leaf in get_leaves(state).items():
        assert_array_equal(leaf, get_leaves(expected)[path], err_msg=path)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    step = jax.jit(make_train_step(CONFIG, split), in_shardings=(whole, split), out_shardings=(whole, whole))
    _, metrics = step(jax.device_put(make_toy_state(CONFIG), whole), jax.device_put(BATCH, split))
    assert_allclose(metrics["d_loss"], get_compiled_step(CONFIG)(make_toy_state(CONFIG), BATCH)[1]["d_loss"], rtol=1e-5)


def test_sample_labels_are_the_tables_unless_given():
    state = jax.jit(lambda: init_state(CONFIG, TABLE))()
    assert_array_equal(state.labels, TABLE)
    state = jax.jit(make_recalibrate(CONFIG))(state)
    seeds = np.array([0, 5, LABELS + 5])
    labels = select_labels(state.labels, seeds)
    assert_array_equal(labels, TABLE[[0, 5, 5]])
    generator = jax.device_get((state.ema_params, state.ema_stats))
    samples = sample_images(CONFIG.nets, *generator, seeds, labels)
    assert_array_equal(sample_images(CONFIG.nets, *generator, seeds[1:2], labels[1:2])[0], samples[1])
    flipped = sample_images(CONFIG.nets, *generator, seeds, 1 - labels)
    assert (samples != flipped).any((1, 2, 3)).all()


def test_recalibration_uses_the_sampled_attributes():
    ours, theirs = (
        jax.jit(make_recalibrate(CONFIG))(jax.jit(lambda table=table: init_state(CONFIG, table))())
        for table in (TABLE, np.ones_like(TABLE))
    )
    assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(*map(jax.tree.leaves, (ours.ema_stats, theirs.ema_stats)), strict=True))


def test_logits_and_features_use_the_labels():
    state = make_fresh_state(CONFIG)
    compute_logits = jax.jit(make_compute_logits(CONFIG))
    ours, theirs = (compute_logits(state.d_params, state.d_stats, BATCH[0], labels) for labels in (BATCH[1], 1 - BATCH[1]))
    assert ours.shape == (4,) and np.abs(ours - theirs).max() > 0
    plain = make_tiny_config("article", g_latents="same")
    features = jax.jit(make_extract_features(CONFIG))(state.d_params, state.d_stats, BATCH[0])
    unconditional = make_fresh_state(plain)
    expected = jax.jit(make_extract_features(plain))(unconditional.d_params, unconditional.d_stats, BATCH[0])
    assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
