"""The state depends on the seed alone. Its leaves are strongly typed, and each has its own buffer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tiny import get_leaves, make_fresh_state, make_tiny_config, make_toy_state

from dcgan_jax.config import replace
from dcgan_jax.gan.state import check_finite, count_parameters, describe_state, init_state, make_optimizers

CONFIG = make_tiny_config("torch64")


def test_seed_decides_every_leaf():
    one, other = get_leaves(make_fresh_state(CONFIG)), get_leaves(make_fresh_state(replace(CONFIG, seed=1)))
    for path, leaf in one.items():
        is_random = path == "key" or path.endswith(("kernel", "scale")) and "opt" not in path
        assert np.array_equal(other[path], leaf) != is_random, path


def test_nets_are_initialised_from_separate_keys():
    # With one key, kernels of G and D with equal shapes would be equal.
    kernels = [
        leaf.ravel()[:50]
        for path, leaf in get_leaves(make_fresh_state(CONFIG)).items()
        if path.startswith(("g_params", "d_params")) and path.endswith("kernel")
    ]
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)


def test_ema_starts_as_g_in_its_own_buffers():
    state = make_fresh_state(CONFIG)
    for average, now in ((state.ema_params, state.g_params), (state.ema_stats, state.g_stats)):
        for a, b in zip(jax.tree.leaves(average), jax.tree.leaves(now), strict=True):
            assert_array_equal(a, b)
    # If two leaves shared a buffer, donating one would delete the other.
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state) if leaf is not state.key]
    assert len(set(pointers)) == len(pointers)


def test_leaves_are_strongly_typed_float32():
    """Only the step, the key and counts have another dtype."""
    for path, leaf in jax.tree.leaves_with_path(make_fresh_state(CONFIG)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name == "key":
            assert jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else:
            assert not leaf.weak_type, name  # a weakly typed leaf causes a second trace of the step
            assert leaf.dtype == (jnp.int32 if name == "step" or name.endswith("count") else jnp.float32), name


def test_shapes_need_no_computation():
    shapes = describe_state(CONFIG)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), make_fresh_state(CONFIG)
    )


def describe_leaves(state):
    def describe(leaf):
        return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)  # keys have none

    return {jax.tree_util.keystr(path): describe(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": None, "kimg": 100.0, "seed": 3, "batch_size": 8, "flip": True, "held_out": 0, "score_every_kimg": 1.0},
        {"lr_decay": "linear", "lr_warmup_kimg": 1.0, "steps": 700},
        {"condition": "Smiling,Male", "augment": ("color",), "augment_target": 0.6},
        {"d_norm": "spectral", "minibatch_std": True, "d_steps": 2},
    ],
    ids=str,
)
def test_described_state_is_the_initial_state(changes):
    """The description is cached without the settings of length, images, storage and checks."""
    config = replace(CONFIG, **changes)
    assert describe_leaves(describe_state(config)) == describe_leaves(jax.eval_shape(lambda: init_state(config)))


@pytest.mark.parametrize("changes", [{"d_norm": "spectral", "minibatch_std": True}, {"condition": "Smiling,Male"}], ids=str)
def test_toy_state_is_like_the_initial_state(changes):
    """Most tests use tiny.make_toy_state, because it needs no program."""
    config = replace(make_tiny_config("article"), **changes)
    toy, fresh = make_toy_state(config), make_fresh_state(config)
    assert describe_leaves(toy) == describe_leaves(fresh)
    ours, theirs = get_leaves(toy), get_leaves(fresh)
    for path in ours.keys() - {"key"}:
        for value in (0, 1):
            assert (ours[path] == value).all() == (theirs[path] == value).all(), path


def test_d_lr_is_of_d_alone():
    params = {"w": jnp.ones(2)}
    steps = []
    for transform in make_optimizers(replace(CONFIG, lr=1e-3, d_lr=4e-3)):
        updates, _ = transform.update({"w": jnp.ones(2)}, transform.init(params), params)
        steps.append(float(updates["w"][0]))
    np.testing.assert_allclose(steps, [-1e-3, -4e-3], rtol=1e-4)


def test_parameters_are_counted_as_numbers():
    assert count_parameters({"a": jnp.zeros((3, 4)), "b": {"c": jnp.zeros(())}}) == 13


def test_leaf_that_is_not_finite_is_named_by_path():
    state = make_fresh_state(CONFIG)
    assert all(check_finite(state).values())
    for bad in (np.nan, np.inf):
        params = state.d_params | {"down1": {"kernel": state.d_params["down1"]["kernel"].at[0, 0, 0, 0].set(bad)}}
        finite = check_finite(state.replace(d_params=params))
        assert [path for path, ok in finite.items() if not ok] == ["d_params/down1/kernel"]


@pytest.mark.parametrize(
    "changes, steps, g, d",
    [
        ({}, 4, [1, 0.75, 0.5, 0.25], [1, 0.75, 0.5, 0.25]),
        ({"d_steps": 2}, 2, [1, 0.5], [1, 0.75, 0.5, 0.25]),
        ({"updates": "alternating"}, 3, [1, 0.5], [1, 0.5]),  # G, D, G: the last update of each still has a learning rate above 0
        ({"updates": "alternating"}, 1, [1], [1]),
    ],
)
def test_decay_counts_each_nets_own_updates(changes, steps, g, d):
    config = replace(CONFIG, steps=steps, lr=1.0, lr_decay="linear", beta1=0.0, beta2=0.0, **changes)
    as_input = make_optimizers(replace(config, steps=None, minutes=1.0), jnp.float32(steps))
    for transform, shares in zip((*make_optimizers(config), *as_input), (g, d, g, d), strict=True):
        state = transform.init(jnp.zeros(()))
        for share in shares:
            update, state = transform.update(jnp.ones(()), state)
            assert_allclose(update, -share, atol=1e-6)


def test_decay_over_epochs_needs_the_image_count():
    with pytest.raises(ValueError, match="steps or kimg"):
        make_optimizers(replace(CONFIG, steps=None, epochs=1.0, lr_decay="linear"))
