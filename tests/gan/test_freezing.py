"""Frozen layers of D: which they are, that no step changes them, and that the step computes less for them."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from tiny import get_compiled_step, get_leaves, make_images, make_tiny_config, make_toy_state

from dcgan_jax.batch import Batch
from dcgan_jax.config import replace
from dcgan_jax.gan.freezing import split_frozen
from dcgan_jax.gan.models import Discriminator
from dcgan_jax.gan.state import describe_state
from dcgan_jax.gan.step import make_train_step
from dcgan_jax.presets import PRESETS

# Two layers before the head. Together they have every loss, layer and kind of update that frozen layers can meet.
SPECTRAL = make_tiny_config("article", d_norm="spectral", conv_bias=True, r1_gamma=0.1, penalty_every_steps=2)
EXACT = make_tiny_config("article", d_norm="none", conv_bias=True, r1_gamma=1.0, gp_weight=1.0, l2=1e-2, d_steps=2)
NOISE = make_tiny_config(
    "best64",
    r2_gamma=1.0,
    augment_adapt_kimg=0.01,
    d_refine=2,
    compute_dtype="bfloat16",
    condition="Smiling,Male",
    lr_decay="linear",
)
ALTERNATING = make_tiny_config("newmu", augment=("translation",), conv_bias=True)
CONFIGS = {"spectral": SPECTRAL, "exact": EXACT, "noise": NOISE, "alternating": ALTERNATING}
OTHERS = {preset: make_tiny_config(preset) for preset in ("keras64", "residual64")}


def get_frozen_names(params, count):
    return {f"d_params/{path}" for path in get_leaves(split_frozen(params, count).frozen)}


# ---- Which layers they are ----


@pytest.mark.parametrize("config", [*CONFIGS.values(), *OTHERS.values()], ids=[*CONFIGS, *OTHERS])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_frozen_layers_make_the_feature_map_of_their_level(config, count):
    """The gradient of D's feature map number `count` reaches all frozen parameters and no other."""
    state, net = make_toy_state(config), Discriminator(replace(config, compute_dtype="float32").nets)
    images = np.float32(make_images(config))[: config.data.batch_size] / 127.5 - 1
    labels = np.ones((len(images), len(config.nets.conditions)), np.uint8)

    @jax.jit
    def differentiate(params):
        def measure(params):
            variables = {"params": params, "batch_stats": state.d_stats}
            _, kept = net.apply(variables, images, False, labels, mutable="intermediates")
            return (kept["intermediates"]["features"][count - 1] ** 2).sum() if count else 0.0

        return jax.grad(measure)(params)

    reached = {f"d_params/{path}" for path, gradient in get_leaves(differentiate(state.d_params)).items() if gradient.any()}
    assert reached == get_frozen_names(state.d_params, count)
    assert bool(reached) == (count > 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_split_has_every_parameter_once(preset):
    config = PRESETS[preset]
    params = describe_state(replace(config, epochs=None, kimg=None, steps=10)).d_params
    levels = int(np.log2(config.nets.size // config.nets.base_px))
    sizes = []
    for count in range(levels + 1):
        frozen, trained = split_frozen(params, count)
        assert frozen | trained == params and not frozen.keys() & trained.keys()
        sizes.append(len(frozen))
    assert sizes[0] == 0 and np.all(np.diff(sizes) > 0)
    assert trained.keys() == ({"last", "basis", "head"} if config.nets.architecture == "residual" else {"head"})


# ---- No step changes them ----


def make_batch(config, seed):
    labels = np.arange(config.images_per_step * len(config.nets.conditions), dtype=np.uint8) % 3 % 2
    return Batch(make_images(config, seed), labels.reshape(config.images_per_step, -1) if config.nets.condition else None)


def take_steps(config, count=4):
    state = make_toy_state(config)
    for seed in range(count):
        state, _ = get_compiled_step(config)(state, make_batch(config, seed))
    return get_leaves(state)


@pytest.mark.integration
@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CONFIGS)
def test_frozen_parameters_stay_bit_for_bit(name, count):
    """All others change, with every penalty, augmentation, L2 and kind of update."""
    config = replace(CONFIGS[name], freeze_d=count)
    start = make_toy_state(config)
    before, after = get_leaves(start), take_steps(config)
    frozen = get_frozen_names(start.d_params, count)
    assert frozen
    for path in before:
        if path.startswith(("d_params", "g_params")):
            assert np.isfinite(after[path]).all(), path
            assert np.array_equal(after[path], before[path]) == (path in frozen), path
    layers = [path.removeprefix("d_params") for path in frozen]
    assert not [
        path for path in after if path.startswith("d_opt") and path.endswith(tuple(layers))
    ]  # Adam has no moments for them


@pytest.mark.integration
def test_spectral_norms_of_frozen_layers_stay_bit_for_bit():
    config = replace(SPECTRAL, freeze_d=1)
    before, after = get_leaves(make_toy_state(config)), take_steps(config)
    stats = [path for path in before if path.startswith("d_stats")]
    assert any("down1" in path for path in stats)
    for path in stats:
        assert np.array_equal(after[path], before[path]) == ("down1" in path), path


@pytest.mark.integration
def test_running_statistics_of_frozen_layers_follow_the_images():
    """They measure the images that D sees, and are no parameters. The step's losses do not depend on them."""
    config = replace(ALTERNATING, freeze_d=2)
    before, after = get_leaves(make_toy_state(config)), take_steps(config)
    assert not np.array_equal(after["d_stats/down2_norm/mean"], before["d_stats/down2_norm/mean"])


# ---- The others are trained as without freezing ----


@pytest.mark.integration
@pytest.mark.parametrize("name", ["exact", "noise"])
def test_trained_layers_get_the_same_gradients(name):
    """In D's first update."""
    config = replace(CONFIGS[name], d_steps=1)
    moments = []
    for count in (0, 1):
        now = replace(config, freeze_d=count)
        leaves = get_leaves(get_compiled_step(now)(make_toy_state(now), make_batch(now, 0))[0])
        moments.append({path: leaf for path, leaf in leaves.items() if path.startswith("d_opt") and "/mu/" in path})
    whole, part = moments
    assert part.keys() < whole.keys()
    for path, leaf in part.items():
        assert_allclose(leaf, whole[path], rtol=1e-3, atol=1e-5 * np.abs(whole[path]).max(), err_msg=path)


@pytest.mark.integration
def test_g_gets_its_gradient_through_frozen_layers():
    states = [
        get_leaves(get_compiled_step(config)(make_toy_state(config), make_images(config))[0])  # step 0 is G's
        for config in (ALTERNATING, replace(ALTERNATING, freeze_d=2))
    ]
    for path, leaf in states[0].items():
        if path.startswith(("g_params", "g_opt")):
            assert_allclose(states[1][path], leaf, rtol=1e-4, atol=1e-7, err_msg=path)


# ---- Less is computed ----


def count_products(**changes):
    """Counts the matrix products in the program of a step. Lowering has removed those whose results nothing uses."""
    config = make_tiny_config("article", **changes)
    program = jax.jit(make_train_step(config)).lower(describe_state(config), Batch(make_images(config)))
    return program.as_text().count("stablehlo.dot_general")


def test_each_frozen_layer_saves_four_matrix_products():
    """On real and on fake images: the gradient by its weights, and that by the input of the next layer."""
    whole = count_products()
    assert [count_products(freeze_d=count) for count in (0, 1, 2)] == [whole, whole - 4, whole - 8]


@pytest.mark.parametrize("noise", [0.0, 0.01], ids=["exact", "noise"])
def test_penalties_have_fewer_matrix_products(noise):
    counts = [count_products(freeze_d=count, r1_gamma=1.0, penalty_noise=noise) for count in (0, 1, 2)]
    assert counts[0] - 4 > counts[1] and counts[1] - 4 > counts[2]  # more than without a penalty
