"""The two networks: published sizes, shapes, output ranges, initial values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tiny import compile_apply, get_leaves, make_fresh_state, make_tiny_config, make_toy_state

from dcgan_jax.config import Config, Nets, replace
from dcgan_jax.config_rules import check_config
from dcgan_jax.gan.models import Conv, ConvTranspose, Discriminator, Generator
from dcgan_jax.gan.state import count_parameters, describe_state
from dcgan_jax.presets import PRESETS


@functools.cache
def shapes(config):
    return describe_state(config)


@pytest.mark.parametrize(
    "name, g, d, g_norms, d_norms",
    [  # source: docs/published-dcgans.md, section 1; norms: gains and biases of BN
        ("newmu", 18_885_760, 17_232_768, 34_560, 3_584),
        ("soumith", 3_576_704, 2_765_568, 1_920, 1_792),
        ("torch64", 3_576_704, 2_765_568, 1_920, 1_792),
        ("torch-tutorial", 3_576_704, 2_765_568, 1_920, 1_792),
        ("torch32", 1_068_928, 663_296, 896, 768),
        ("torch128", 12_786_560, 11_164_416, 3_968, 3_840),
        ("carpedm20", 5_135_363, 4_316_545, 1_920, 1_792),
        ("article", 372_416, 167_809, 192, 384),
        ("udacity-wide", 1_072_512, 663_297, 384, 768),
        ("keras64", 3_979_651, 404_801, 0, 0),
        ("modern32", 372_416, 167_809, 192, 384),  # same networks as article
        ("best32", 1_072_512, 663_313, 384, 768),
        ("best64", 1_159_296, 713_169, 640, 960),
        ("best128", 3_670_656, 2_815_441, 1_152, 1_984),
        ("residual64", 3_587_936, 3_555_680, 0, 0),
    ],
)
def test_published_parameter_counts(name, g, d, g_norms, d_norms):
    state = shapes(PRESETS[name])
    assert (count_parameters(state.g_params), count_parameters(state.d_params)) == (g, d)
    for params, expected in ((state.g_params, g_norms), (state.d_params, d_norms)):
        assert count_parameters({layer: leaf for layer, leaf in params.items() if layer.endswith("_norm")}) == expected


@pytest.mark.parametrize(
    "preset, changes, g, d",
    [  # source: docs/published-dcgans.md, section 1: networks counted in PyTorch
        ("torch64", {"channels": 1}, 3_574_656, 2_763_520),
        ("article", {"base_px": 2}, 793_536, 691_585),  # four levels, as in students' notebooks
        ("article", {"base_px": 2, "width": 64}, 2_963_328, 2_759_425),
    ],
)
def test_counted_variants(preset, changes, g, d):
    state = shapes(replace(PRESETS[preset], **changes))
    assert (count_parameters(state.g_params), count_parameters(state.d_params)) == (g, d)


def test_newmu_first_bn_is_per_unit_others_per_channel():
    assert shapes(PRESETS["newmu"]).g_params["head_norm"]["scale"].shape == (16384,)
    assert shapes(PRESETS["newmu"]).g_stats["head_norm"]["mean"].shape == (16384,)
    assert shapes(PRESETS["torch64"]).g_params["head_norm"]["scale"].shape == (512,)


def outputs(config, batch=2):
    """Returns shapes and dtypes of images and logits, without computing them."""
    nets, state = config.nets, shapes(config)
    images = jax.eval_shape(
        lambda p, s, z: Generator(nets).apply({"params": p, "batch_stats": s}, z, train=False),
        state.g_params,
        state.g_stats,
        jax.ShapeDtypeStruct((batch, nets.latent_dim), jnp.float32),
    )
    logits = jax.eval_shape(
        lambda p, s, x: Discriminator(nets).apply({"params": p, "batch_stats": s}, x, train=False),
        state.d_params,
        state.d_stats,
        images,
    )
    return images, logits


@pytest.mark.parametrize("name", PRESETS)
def test_preset_images_fit_its_discriminator(name):
    size = PRESETS[name].nets.size
    images, logits = outputs(PRESETS[name])
    assert (images.shape, images.dtype) == ((2, size, size, 3), jnp.float32)
    assert (logits.shape, logits.dtype) == ((2,), jnp.float32)


@pytest.mark.parametrize(
    "size, options",
    [
        (16, {"channels": 1}),
        (16, {"base_px": 8, "kernel": 5}),
        (32, {"compute_dtype": "bfloat16", "head_norm": "unit"}),
        (64, {"kernel": 5, "padding": "same", "channels": 1}),
        (128, {"g_norm": "none", "d_norm": "none", "head_norm": "none"}),
        (256, {"base_px": 2}),
        (256, {"base_px": 8, "conv_bias": True}),
    ],
    ids=str,
)
def test_every_size_and_kind_of_layer(size, options):
    config = replace(Config(), steps=1, size=size, width=4, **options)
    check_config(config)
    images, logits = outputs(config, batch=3)
    assert images.shape == (3, size, size, config.nets.channels)
    assert (images.dtype, logits.dtype, logits.shape) == (jnp.float32, jnp.float32, (3,))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((shapes(config).g_params, shapes(config).d_stats)))


def test_nets_without_bn_have_no_statistics():
    state = shapes(PRESETS["keras64"])
    assert state.g_stats == state.d_stats == state.ema_stats == {}
    assert "down1_norm" not in shapes(PRESETS["torch64"]).d_params  # D's first layer never has BN
    assert "image_norm" not in shapes(PRESETS["torch64"]).g_params


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, 64, 32, 3), (2, 64, 64, 1), (64, 64, 3)])
def test_d_refuses_images_of_another_shape(shape):
    state = shapes(PRESETS["torch64"])
    with pytest.raises(ValueError, match="D needs"):
        jax.eval_shape(
            lambda p, x: Discriminator(Nets()).apply({"params": p}, x, train=True, mutable="batch_stats"),
            state.d_params,
            jax.ShapeDtypeStruct(shape, jnp.float32),
        )


@pytest.mark.parametrize("name, low, high", [("torch64", -1, 1), ("keras64", 0, 1)])
def test_images_fill_their_range(name, low, high):
    config = make_tiny_config(name, width=16)
    state = make_toy_state(config)
    latents = 1e3 * jax.random.normal(jax.random.key(0), (64, config.nets.latent_dim))  # saturates the output activation
    params = jax.tree.map(lambda leaf: 10 * leaf, state.g_params)
    images = compile_apply(Generator(config.nets), False)(params, state.g_stats, latents)
    assert low <= images.min() < low + 0.01
    assert high >= images.max() > high - 0.01


def test_bfloat16_is_close_and_returns_float32():
    config = make_tiny_config("torch64", width=16)
    state = make_toy_state(config)
    latents = jax.random.normal(jax.random.key(0), (8, 100))

    def images(nets):
        return Generator(nets).apply(
            {"params": state.g_params, "batch_stats": state.g_stats}, latents, train=True, mutable="batch_stats"
        )

    half, full = jax.jit(lambda: (images(replace(config, compute_dtype="bfloat16").nets), images(config.nets)))()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half))
    # Each rounding is 2^-8, through three layers. If all were float32, the difference would be below 1e-6.
    assert 1e-5 < np.abs(half[0] - full[0]).max() < 0.05


# ---- Initial values. At width 16 a kernel has thousands of numbers. The standard error of its sd is sd / sqrt(2 n). ----


@functools.cache
def first_values(name):
    return get_leaves(make_fresh_state(make_tiny_config(name, width=16)))


def assert_sd(values, sd):
    assert_allclose(values.std(), sd, rtol=4 / np.sqrt(2 * values.size))
    assert abs(values.mean()) < 4 * sd / np.sqrt(values.size)


@pytest.mark.parametrize("name", ["torch64", "carpedm20"])
def test_initial_weights_follow_their_distributions(name):
    """Kernels are normal with mean 0, gains are around 1, all others are 0."""
    gamma_sd = PRESETS[name].nets.gamma_init_std
    for path, values in first_values(name).items():
        if not path.startswith(("g_params", "d_params")):
            continue
        leaf = path.split("/")[-1]
        if leaf == "kernel":
            truncated = name == "carpedm20" and path.startswith("d_params/down")  # T13
            assert_sd(values, 0.0176 if truncated else 0.02)
            assert (np.abs(values).max() <= 0.04) == truncated
        elif leaf == "scale" and gamma_sd:
            assert 1e-3 < np.abs(values - 1).mean() < 0.04
        else:
            assert_array_equal(values, 1 if leaf == "scale" else 0)


def test_initial_gains_have_the_preset_sd():
    gains = [
        values - 1
        for path, values in first_values("torch64").items()
        if path.startswith(("g_params", "d_params")) and path.endswith("scale")
    ]
    assert_sd(np.concatenate(gains), 0.02)


def test_glorot_is_uniform_within_its_bound():
    kernel = first_values("keras64")["d_params/down2/kernel"]  # (4, 4, 16, 32)
    bound = np.sqrt(6 / (16 * (16 + 32)))
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert_sd(kernel, bound / np.sqrt(3))


# ---- Layers that no published DCGAN has ----


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"kernel": 5}, {"kernel": 5, "padding": "same"}], ids=str)
def test_smooth_kernel_is_the_plain_one_and_a_blur(channels, changes):
    nets = Nets(size=16, **changes)
    keys = jax.random.split(jax.random.key(0))
    # A border of zeros, because at the border the blurred kernel and a blur of the cropped output differ.
    small = jnp.pad(jax.random.normal(keys[0], (2, 8, 8, 5)), ((0, 0), (3, 3), (3, 3), (0, 0)))

    def blurred(x):
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
        return (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 16

    plain, smooth = ConvTranspose(channels, nets), ConvTranspose(channels, nets, smooth=True)
    params = jax.jit(plain.init)(keys[1], small)
    expected = jax.jit(lambda params, small: blurred(plain.apply(params, small)))(params, small)
    assert_allclose(jax.jit(smooth.apply)(params, small), expected, atol=1e-6)


@pytest.mark.integration
def test_smooth_g_has_no_checkerboard_at_first():
    """Its contrast at the start is that of a plain G."""
    plain = make_tiny_config("article", size=32, width=16)
    images = []
    for config in (plain, replace(plain, g_smooth=True)):
        state = make_fresh_state(config)
        latents = jax.random.uniform(jax.random.key(1), (64, 100), minval=-1, maxval=1)
        samples, _ = compile_apply(Generator(config.nets), True, "batch_stats")(state.g_params, state.g_stats, latents)
        images.append(np.asarray(samples)[:, 2:-2, 2:-2])
    checkers = np.indices((28, 28)).sum(0)[:, :, None] % 2 * 2 - 1
    strength = [np.square((image * checkers).mean((1, 2))).mean() for image in images]
    assert strength[1] < 0.05 * strength[0]
    assert 0.7 < images[1].std() / images[0].std() < 1.5  # without larger initial kernels it would be 6 / 16
    assert count_parameters(make_fresh_state(plain).g_params) == count_parameters(
        make_fresh_state(replace(plain, g_smooth=True)).g_params
    )


def test_he_weights_keep_the_scale_of_activations():
    nets = Nets(size=32, width=64, init="he", conv_bias=False)
    keys = jax.random.split(jax.random.key(0), 4)
    small, large = jax.random.normal(keys[0], (4, 16, 16, 128)), jax.random.normal(keys[1], (4, 32, 32, 64))
    for layer, x, key in ((ConvTranspose(64, nets), small, keys[2]), (Conv(128, nets), large, keys[3])):
        y = jax.jit(layer.apply)(jax.jit(layer.init)(key, x), x)[:, 2:-2, 2:-2]  # without the border, which padding affects
        assert_allclose(jnp.square(y).mean(), 2.0, rtol=0.1)  # a ReLU halves it to 1


def ds(config, params, stats, images, train=True):
    """Returns (D's logits, its new statistics)."""
    logits, new = compile_apply(Discriminator(config.nets), train, "batch_stats")(params, stats, images)
    return logits, new.get("batch_stats", {})


SPECTRAL = make_tiny_config("torch64", d_norm="spectral")


def test_spectral_norm_ignores_the_scale_of_weights():
    state, images = make_toy_state(SPECTRAL), jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    scaled = jax.tree.map_with_path(lambda path, leaf: leaf * (1 + len(path[-2].key)), state.d_params)
    logits = ds(SPECTRAL, state.d_params, state.d_stats, images)[0]
    assert_allclose(ds(SPECTRAL, scaled, state.d_stats, images)[0], logits, rtol=1e-4)


def test_spectral_norm_is_of_weights_not_biases():
    state = make_toy_state(make_tiny_config("torch64", d_norm="spectral", conv_bias=True))
    assert {path.split("/")[-2] for path in get_leaves(state.d_stats)} == {"kernel"}
    assert state.d_params["down1"]["bias"].shape == (4,)


@pytest.mark.integration
def test_spectral_norm_is_the_largest_singular_value():
    """The estimate of the singular vector improves with each step."""
    state, images = make_toy_state(SPECTRAL), jnp.zeros((4, 16, 16, 3))
    stats = state.d_stats
    for _ in range(60):
        _, stats = ds(SPECTRAL, state.d_params, stats, images)
    for name in ("down1", "down2", "head"):
        kernel = np.asarray(state.d_params[name]["kernel"])
        largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
        assert_allclose(stats[f"{name}_norm"][f"{name}/kernel/sigma"], largest, rtol=2e-2)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(
            jax.tree.leaves(stats), jax.tree.leaves(ds(SPECTRAL, state.d_params, stats, images, train=False)[1]), strict=True
        )
    )


@pytest.mark.parametrize("changes", [{}, {"g_norm": "none", "d_norm": "none", "conv_bias": True}], ids=str)
def test_refinement_blocks_start_at_zero_and_learn(changes):
    plain, refined = make_tiny_config("article", **changes), make_tiny_config("article", g_refine=2, d_refine=1, **changes)
    ours, theirs, latents = make_fresh_state(refined), make_fresh_state(plain), jax.random.normal(jax.random.key(0), (4, 100))
    norms = [] if changes else ["norm"]
    one, two = ({f"refine{n}_{part}" for part in ("in", "out", *norms)} for n in (1, 2))
    assert set(ours.g_params) - set(theirs.g_params) == one | two
    assert set(ours.d_params) - set(theirs.d_params) == one

    def compute_logits(config, g_params, g_stats, d_params, d_stats):
        images = Generator(config.nets).apply({"params": g_params, "batch_stats": g_stats}, latents, True, mutable="batch_stats")[
            0
        ]
        return Discriminator(config.nets).apply(
            {"params": d_params, "batch_stats": d_stats}, images, True, mutable="batch_stats"
        )[0]

    g_params, d_params = ours.g_params | theirs.g_params, ours.d_params | theirs.d_params
    slopes = jax.jit(jax.grad(lambda g, d: compute_logits(refined, g, ours.g_stats, d, ours.d_stats)[0], (0, 1)))(
        g_params, d_params
    )
    compiled = jax.jit(compute_logits, static_argnums=0)
    logits = compiled(refined, g_params, ours.g_stats, d_params, ours.d_stats)
    assert_allclose(logits, compiled(plain, theirs.g_params, theirs.g_stats, theirs.d_params, theirs.d_stats), rtol=1e-5)
    for slope, outs in zip(slopes, (("refine1_out", "refine2_out"), ("refine1_out",)), strict=True):
        assert min(np.abs(slope[out]["kernel"]).max() for out in outs) > 0  # so the next step changes the layers before it


def test_minibatch_std_of_equal_images_is_zero():
    """Outside training, a logit depends on its own image alone."""
    config = make_tiny_config("torch64", minibatch_std=True, d_norm="none", init="he")
    state, images = make_fresh_state(config), jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    alike, varied = (ds(config, state.d_params, state.d_stats, x)[1]["minibatch_std"] for x in (images[:1].repeat(4, 0), images))
    assert alike < 1e-4 < 1e-2 < varied
    _, stats = ds(config, state.d_params, state.d_stats, images)
    whole, alone = (ds(config, state.d_params, stats, x, train=False)[0][0] for x in (images, images[:1]))
    assert_allclose(whole, alone, rtol=1e-5)
    assert abs(ds(config, state.d_params, stats, images)[0][0] - whole) > 1e-6  # in training it depends on the batch
