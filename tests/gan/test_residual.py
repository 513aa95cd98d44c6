"""Residual networks: resampling, initial values, identity at first, and what the whole networks compute."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tiny import compile_apply, get_compiled_step, get_leaves, make_fresh_state, make_images, make_tiny_config, make_toy_state
from toy_run import get_refusal, read_metric_lines, read_state, run_command, train

from dcgan_jax.config import replace
from dcgan_jax.gan.models import Discriminator, Generator
from dcgan_jax.gan.penalties import squared_gradient_norm
from dcgan_jax.gan.residual import (
    ACTIVATION_GAIN,
    LEAKY_SLOPE,
    ModulatedMap,
    Pointwise,
    ResidualBlock,
    Resolution,
    WeightedSum,
    downsample,
    upsample,
)

TINY = make_tiny_config("residual64")
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


# ---- Resampling ----


def test_upsampling_is_the_transposed_convolution():
    """The taps are [1 3 3 1] / 4 along each axis, and zeros surround the image."""
    x = normal(2, 3, 5, 4)
    taps = np.outer(*[np.float32([1, 3, 3, 1]) / 4] * 2)
    kernel = taps[:, :, None, None] * np.eye(4, dtype=np.float32)
    expected = jax.lax.conv_transpose(x, kernel, (2, 2), ((2, 2), (2, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    assert_allclose(upsample(x), expected, atol=1e-6)


def test_downsampling_is_the_transpose_of_upsampling():
    small, large = normal(2, 3, 5, 4), normal(2, 6, 10, 4)
    _, pullback = jax.vjp(upsample, small)
    assert_allclose(downsample(large), pullback(large)[0] / 4, atol=1e-6)


def test_inside_of_a_constant_image_stays_constant():
    x = jnp.ones((1, 4, 4, 1))
    assert_allclose(upsample(x)[:, 1:-1, 1:-1], 1)
    assert_allclose(downsample(x)[:, 0, 0, 0], (7 / 8) ** 2)
    assert_allclose(downsample(jnp.ones((1, 8, 8, 1)))[:, 1:-1, 1:-1], 1)


# ---- Layers ----


def test_new_block_returns_its_input():
    block, x = ResidualBlock(TINY.nets, 6), normal(2, 4, 4, 8)
    params = block.init(jax.random.key(0), x)
    assert_array_equal(block.apply(params, x), x)
    changed = jax.tree.map(lambda leaf: leaf + 0.1, params)
    assert np.abs(block.apply(changed, x) - x).max() > 0.01


def test_block_is_three_convolutions_with_two_activations():
    """Compared with NumPy on a single pixel, where the 3x3 convolution is its middle. 24 channels inside are three groups."""
    block, x = ResidualBlock(TINY.nets, 6), normal(5, 1, 1, 12)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: normal(*leaf.shape), shapes)
    assert params["grouped"]["kernel"].shape == (3, 3, 8, 24)

    def leaky(y):
        return np.where(y > 0, y, LEAKY_SLOPE * y)

    inside = leaky(x[:, 0, 0] @ params["expand"]["kernel"][0, 0] + params["expand"]["bias"])
    middle = params["grouped"]["kernel"][1, 1]
    parts = [inside[:, g : g + 8] @ middle[:, g : g + 8] for g in (0, 8, 16)]
    inside = leaky(np.concatenate(parts, 1) + params["grouped"]["bias"])
    expected = x[:, 0, 0] + inside @ params["reduce"]["kernel"][0, 0]
    assert_allclose(block.apply({"params": params}, x)[:, 0, 0], expected, rtol=1e-4, atol=1e-4)


def test_stages_change_side_and_channels():
    x, key = normal(2, 4, 4, 8), jax.random.key(0)
    for resample, features, shape in (("up", 4, (2, 8, 8, 4)), ("down", 16, (2, 2, 2, 16)), ("none", 8, (2, 4, 4, 8))):
        stage = Resolution(features, TINY.nets, 6, resample)
        y, params = stage.init_with_output(key, x)
        assert y.shape == shape
        assert ("transition" in params["params"]) == (features != 8)


def test_first_map_and_last_sum_are_products_with_learned_maps():
    scales, x = normal(3, 5), normal(3, 4, 4, 5)
    kernel = normal(4, 4, 5)
    params = {"params": {"kernel": kernel}}
    assert_allclose(ModulatedMap(4).apply(params, scales), np.einsum("bc,hwc->bhwc", scales, kernel), rtol=1e-6)
    assert_allclose(WeightedSum().apply(params, x), np.einsum("bhwc,hwc->bc", x, kernel), rtol=1e-4, atol=1e-5)


# ---- The networks ----


def test_new_generator_without_blocks_is_the_same():
    """At first G is its head, the resampling and 1x1 convolutions. All blocks are the identity."""
    state = make_fresh_state(TINY)
    latents = jax.random.normal(jax.random.key(1), (3, TINY.nets.latent_dim))
    params = state.g_params
    x = ModulatedMap(4).apply({"params": params["basis"]}, latents @ params["head"]["kernel"])
    for i in (1, 2):
        x = upsample(Pointwise(16 // 2**i).apply({"params": params[f"up{i}"]["transition"]}, x))
    expected = np.tanh(Pointwise(3).apply({"params": params["image"]}, x))
    assert_allclose(compile_apply(Generator(TINY.nets), False)(params, {}, latents), expected, atol=1e-5)


@cache
def wide_state():
    return get_leaves(make_fresh_state(replace(TINY, width=16)))


@pytest.mark.parametrize(
    "layer, sd",
    [  # 6 blocks in each network: their scale is 6^(-1/4)
        ("g_params/first/block1/expand", ACTIVATION_GAIN * 6**-0.25 / 64**0.5),
        ("d_params/last/block2/expand", ACTIVATION_GAIN * 6**-0.25 / 64**0.5),
        ("g_params/first/block2/grouped", ACTIVATION_GAIN * 6**-0.25 / (9 * 16) ** 0.5),
        ("d_params/down1/block1/grouped", ACTIVATION_GAIN * 6**-0.25 / (9 * 16) ** 0.5),
        ("g_params/up1/transition", 1 / 64**0.5),
        ("g_params/head", 1 / 64**0.5),
        ("g_params/basis", 1),
        ("d_params/basis", 1 / 4),
    ],
)
def test_initial_weights_are_scaled_as_published(layer, sd):
    values = wide_state()[f"{layer}/kernel"]
    assert_allclose(values.std(), sd, rtol=5 / np.sqrt(2 * values.size))


def test_only_last_kernels_of_blocks_and_biases_are_zero():
    for path, values in wide_state().items():
        if path.startswith(("g_params", "d_params")):
            assert (not values.any()) == path.endswith(("reduce/kernel", "bias")), path


def test_logit_depends_on_its_own_image_only():
    """No normalisation: real and generated images could share a batch."""
    state = make_toy_state(TINY)
    assert state.d_stats == state.g_stats == {}
    images = normal(4, 16, 16, 3)
    apply = compile_apply(Discriminator(TINY.nets), True)
    logits = apply(state.d_params, {}, images)
    assert np.isfinite(logits).all() and logits.std() > 0
    others = images.copy()
    others[1:] = 0
    assert_allclose(apply(state.d_params, {}, others)[0], logits[0], rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 32, "channels": 1},
        {"base_px": 8, "g_multipliers": (1, 1), "d_multipliers": (3, 5)},
        {"base_px": 2, "compute_dtype": "bfloat16", "d_head_bias": True},
        {"minibatch_std": True, "d_dropout": 0.5, "condition": "Smiling,Male"},
    ],
    ids=str,
)
def test_images_fit_the_discriminator(changes):
    nets = replace(TINY, **changes).nets
    labels = jnp.ones((3, len(nets.conditions))) if nets.conditions else None
    key = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

    def run(latents):
        images, _ = Generator(nets).init_with_output(key, latents, True, labels)
        return images, Discriminator(nets).init_with_output(key, images, True, labels)[0]

    images, logits = jax.eval_shape(run, jnp.zeros((3, nets.latent_dim)))
    assert (images.shape, images.dtype) == ((3, nets.size, nets.size, nets.channels), jnp.float32)
    assert (logits.shape, logits.dtype) == ((3,), jnp.float32)


def test_implementations_agree():
    """Exports for other devices use lax alone."""
    state, latents = make_toy_state(TINY), normal(3, TINY.nets.latent_dim)
    ours, theirs = (
        compile_apply(Generator(TINY.nets, conv_implementation=way), False)(state.g_params, {}, latents)
        for way in ("auto", "lax")
    )
    assert_allclose(ours, theirs, atol=1e-5)


# ---- Training ----


def test_one_step_changes_the_zero_kernels_of_both_networks():
    start = make_fresh_state(TINY)
    state, metrics = get_compiled_step(TINY)(start, make_images(TINY))
    assert metrics["d_penalty"] > 0
    before, after = get_leaves(start), get_leaves(state)
    moved = {path for path in before if path.startswith(("g_params", "d_params")) and (before[path] != after[path]).any()}
    for net in ("g_params", "d_params"):
        layers = {path for path in before if path.startswith(net) and path.endswith("reduce/kernel")}
        assert len(layers) == 6
        assert layers <= moved
        # The kernels before them have no gradient yet.
        assert not {path for path in moved if path.startswith(net) and "/expand" in path}


def test_gradients_of_logits_and_of_r1_obey_eulers_law():
    """Without biases, D has degree 1 in the image, and in each of these kernels, which all its paths cross. R1 has degree 2."""
    params = jax.tree.map(lambda leaf: 10 * leaf, make_toy_state(TINY).d_params)
    images = normal(2, 16, 16, 3)

    def critic(params, images):
        return Discriminator(TINY.nets).apply({"params": params}, images, True)

    @jax.jit
    def differentiate(params):
        slope = jax.grad(lambda images: critic(params, images).sum())(images)
        r1, gradient = jax.value_and_grad(lambda params: squared_gradient_norm(partial(critic, params), images).sum())(params)
        return critic(params, images), slope, r1, gradient

    logits, slope, r1, gradient = differentiate(params)
    assert_allclose((slope * images).sum((1, 2, 3)), logits, rtol=1e-3)
    pairs = {path: (leaf, get_leaves(gradient)[path]) for path, leaf in get_leaves(params).items()}
    for layer in ("image", "down1/transition", "down2/transition", "basis", "head"):
        kernel, pull = pairs[f"{layer}/kernel"]
        assert_allclose((kernel * pull).sum(), 2 * r1, rtol=1e-3, err_msg=layer)


RUN = ("--preset", "residual64", "--data", "drawn:85", "--size", "16", "--base-px", "8", "--width", "4", "--batch-size", "8")
RUN += ("--save-every-steps", "2", "--log-every-steps", "1", "--grid-images", "4", "--no-tensorboard")


@pytest.mark.slow
@pytest.mark.integration
def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    for folder, lengths in (("whole", [4]), ("parts", [2, 4])):
        for steps in lengths:
            done = run_command(train, "--workdir", tmp_path / folder, *RUN, "--steps", steps)
            assert done.code == 0, done
    whole, parts = tmp_path / "whole" / "residual64", tmp_path / "parts" / "residual64"
    ours, theirs = read_state(parts, 4), read_state(whole, 4)
    assert list(ours) == list(theirs)
    for path, leaf in ours.items():
        assert_array_equal(leaf, theirs[path], err_msg=path)
    assert read_metric_lines(parts) == read_metric_lines(whole)
    assert (parts / "samples" / "00000004.png").read_bytes() == (whole / "samples" / "00000004.png").read_bytes()


def test_torch_weights_are_refused(tmp_path):
    (tmp_path / "netG.pth").write_bytes(b"")
    message = get_refusal(train, "--workdir", tmp_path, *RUN, "--steps", 2, "--start", tmp_path / "netG.pth")
    assert "PyTorch's example has no network with --architecture 'residual'" in message
