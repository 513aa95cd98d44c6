"""find_first_nan names the right place for a NaN or an overflow in a known place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import make_images, make_tiny_config, make_toy_state

from dcgan_jax.batch import Batch
from dcgan_jax.gan.nan_origin import find_first_nan
from dcgan_jax.gan.state import GanState
from dcgan_jax.gan.step import make_train_step

pytestmark = pytest.mark.integration  # a checked step takes four times as long to compile
CONFIG = make_tiny_config("torch64")
HUGE = 1e30  # finite, but its square is not


def change_leaf(state: GanState, path: str, change) -> GanState:
    """Changes one leaf of the state. path: such as g_params/up1/kernel."""

    def at(keys, leaf):
        return change(leaf) if jax.tree_util.keystr(keys, simple=True, separator="/") == path else leaf

    return jax.tree.map_with_path(at, state)


def origin(config=CONFIG, *changes):
    state = make_toy_state(config)
    for path, change in changes:
        before, state = state, change_leaf(state, path, change)
        assert any(a is not b for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True)), path
    return find_first_nan(config, state, Batch(make_images(config)))


# Together they contain most operations of a step. Compiling a checked step takes seconds, so the tests share few.
AUGMENTED = make_tiny_config(
    "article", loss="relativistic-average", d_norm="spectral", augment=("color", "translation", "cutout")
)
PENALISED = make_tiny_config("article", loss="hinge", r1_gamma=1.0, d_norm="none", d_dropout=0.2, compute_dtype="bfloat16")
LAZY = make_tiny_config("article", r1_gamma=1.0, penalty_noise=0.01, penalty_every_steps=2)
SQUARED = make_tiny_config("keras64", loss="least-squares")  # without BN; this loss squares the logits


@pytest.mark.parametrize("config", [AUGMENTED, PENALISED], ids=["augmented", "penalised"])
def test_healthy_step_has_no_origin(config):
    assert origin(config) == "nowhere"


@pytest.mark.parametrize(
    "path", ["g_params/up1/kernel", "d_params/down2_norm/scale", "g_stats/head_norm/var", "ema_params/image/kernel"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_leaf_before_the_step_is_named(path, value):
    assert origin(CONFIG, (path, lambda leaf: leaf.at[..., 0].set(value))) == f"{path}, before the step"


@pytest.mark.parametrize(
    "path, where",
    [
        ("g_params/head/kernel", "G's head_norm, in D's update"),  # the layer's outputs are finite, their squares in BN are not
        ("g_params/up1/kernel", "G's up1_norm, in D's update"),
        ("d_params/down2/kernel", "D's down2_norm on reals, in D's update"),
        ("d_params/head/kernel", "Adam, in D's update"),  # all gradients are finite, their squares are not
    ],
)
def test_weight_overflow_in_the_next_layer_is_named(path, where):
    assert origin(CONFIG, (path, lambda leaf: jnp.full_like(leaf, HUGE))).startswith(f"{where} (")


@pytest.mark.parametrize("config", [PENALISED, LAZY], ids=["each step", "lazy, with noise"])
def test_penalty_overflow_without_loss_overflow(config):
    where = origin(config, ("d_params/head/kernel", lambda leaf: jnp.full_like(leaf, 1e20)), ("step", lambda step: step + 1))
    assert where.startswith("D's penalty"), where


def test_weight_overflow_in_its_own_layer_is_named():
    # BN would rescale the outputs of the layer before.
    huge = ((f"d_params/down{i}/kernel", lambda leaf: jnp.full_like(leaf, HUGE)) for i in (1, 2))
    assert origin(SQUARED, *huge).startswith("D's down2 on reals, in D's update (")


def test_update_that_overflows_d_is_named():
    # Such moments make all weights of both layers about -6e19, so the products of the second one overflow.
    moments = (("mu", 1e38), ("nu", 1e26))
    changes = [
        (f"d_opt/0/{moment}/{layer}/kernel", lambda leaf, value=value: jnp.full_like(leaf, value))
        for moment, value in moments
        for layer in ("down1", "down2")
    ]
    assert origin(CONFIG, *changes).startswith("D's down2 on fakes, in G's update (")


def test_loss_overflow_is_named():
    assert origin(SQUARED, ("d_params/head/bias", lambda leaf: leaf + HUGE)).startswith("D's loss, in D's update (")


def test_d_gradient_overflow_is_named():
    # The gradient of each feature is 1e36. BN's gradient divides it by a standard deviation far below 1.
    head = ("d_params/head/kernel", lambda leaf: jnp.full_like(leaf, 1e36))
    assert origin(CONFIG, head).startswith("the gradient of D's down2_norm on fakes, in D's update (")


def test_g_gradient_overflow_is_named():
    # Features before the last layer are huge and its weights are tiny, so images are finite. But the weights' gradient overflows.
    changes = [
        ("g_params/up2/kernel", lambda leaf: leaf * 1e38),
        ("g_params/image/kernel", lambda leaf: leaf * 1e-37),
        ("d_params/head/kernel", lambda leaf: leaf * 1e6),
    ]
    assert origin(SQUARED, *changes).startswith("the gradient of G's image, in G's update (")


def test_state_can_be_used_again():
    state = make_toy_state(CONFIG)
    before = jax.random.key_data(jax.random.clone(state.key))
    state = state.replace(key=jax.random.clone(state.key))
    find_first_nan(CONFIG, state, Batch(make_images(CONFIG)))
    state, _ = jax.jit(make_train_step(CONFIG))(state, Batch(make_images(CONFIG)))  # jax_debug_key_reuse would raise
    assert int(state.step) == 1
    assert np.array_equal(jax.random.key_data(state.key), before)
