"""After progressive growing, the networks start with the outputs of the low-resolution ones, at twice the side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generators import vary_leaves
from numpy.testing import assert_array_equal
from tiny import compile_apply, make_fresh_state, make_tiny_config, make_toy_state

from dcgan_jax.config import UserError, replace
from dcgan_jax.config_rules import check_config
from dcgan_jax.gan.models import Discriminator, Generator
from dcgan_jax.gan.progressive import grow_state, make_low_resolution_config
from dcgan_jax.gan.sampling import sample_latents

pytestmark = pytest.mark.integration  # compiles programs for both resolutions

LARGE = replace(make_tiny_config("article", size=32, width=8), steps=None, kimg=2.0, grow_kimg=1.0)
WAYS = {
    "plain": LARGE,
    "smooth": replace(LARGE, g_smooth=True),
    "grey": replace(LARGE, channels=1),
    "head": replace(LARGE, head_norm="channel"),
    "leaky": replace(LARGE, g_activation="leaky"),
    "sigmoid": replace(LARGE, g_output="sigmoid"),
    "refined": replace(LARGE, g_refine=2, d_refine=1),
    "conditional": replace(LARGE, condition="Smiling,Male", minibatch_std=True, augment=("color",), augment_target=0.6),
    "smooth in both stages": replace(LARGE, g_smooth=True, g_smooth_inner=1),
}
# Two low-resolution stages: 16, 32 and 64 px. The last has everything that best128 has.
TWICE = replace(LARGE, size=64, grow_kimg=(1.0, 3.0))
IN_TWO_STEPS = {
    "plain": TWICE,
    "smooth": replace(TWICE, g_smooth=True),
    "as best128": replace(TWICE, g_smooth=True, g_smooth_inner=1, g_refine=3, d_refine=1, minibatch_std=True, r1_gamma=0.1),
}


def make_trained_state(config):
    """Makes a state with weights that vary as in training."""
    state = make_toy_state(config)

    def trained(params, seed):
        params = vary_leaves(params, seed)
        # Smaller outputs, so that tanh does not saturate and the images show its input.
        return params | {"image": jax.tree.map(lambda leaf: leaf / 4, params["image"])}

    return state.replace(
        g_params=trained(state.g_params, 1), ema_params=trained(state.g_params, 3), d_params=vary_leaves(state.d_params, 2)
    )


def grow(config, small):
    return jax.jit(functools.partial(grow_state, config))(make_fresh_state(config), small)


@functools.cache
def pair(way):
    """Returns (config, the low-resolution state, the grown state)."""
    config = WAYS[way]
    small = make_trained_state(make_low_resolution_config(config))
    return config, small, grow(config, small)


@functools.cache
def grow_twice(way):
    """Returns [(config, state)] at 16, 32 and 64 px: each state is grown from the one before."""
    large = IN_TWO_STEPS[way]
    middle = make_low_resolution_config(large)
    small = make_low_resolution_config(middle)
    states = [make_trained_state(small)]
    states.append(grow(middle, states[0]))
    states.append(grow(large, states[1]))
    return list(zip((small, middle, large), states, strict=True))


def generate(config, params, stats, labels):
    latents = sample_latents(jax.random.key(5), 256, config.nets)
    return compile_apply(Generator(config.nets), True, "batch_stats")(params, stats, latents, labels)[0]


def repeat_pixels(images):
    """(B, h, w, C) -> (B, 2h, 2w, C)."""
    return np.asarray(images).repeat(2, 1).repeat(2, 2)


def assert_lines_up(one, other, tolerance):
    """Asserts that `other` is `one` on a line of slope 1. A correlation alone would not see a wrong scale."""
    one, other = (np.ravel(values).astype(float) - np.mean(values) for values in (one, other))
    assert np.corrcoef(one, other)[0, 1] > 0.98
    assert (one @ other) / (one @ one) == pytest.approx(1, abs=tolerance)


def make_labels(config, count):
    return jnp.asarray(np.arange(2 * count).reshape(count, 2) % 2) if config.nets.condition else None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", ["g_params", "ema_params"])
def test_progressive_g_gives_the_same_images_enlarged(way, which):
    config, small, large = pair(way)
    labels = make_labels(config, 256)
    before = generate(make_low_resolution_config(config), getattr(small, which), small.g_stats, labels)
    after = generate(config, getattr(large, which), large.g_stats, labels)
    assert after.shape == (256, 32, 32, config.nets.channels)
    # Interpolated pixels and the bend of tanh make the enlarged images differ a little. They must still match one by one.
    expected = repeat_pixels(before)[:, 2:-2, 2:-2].reshape(256, -1)
    grown = np.asarray(after)[:, 2:-2, 2:-2].reshape(256, -1)
    assert np.median([np.corrcoef(one, other)[0, 1] for one, other in zip(expected, grown, strict=True)]) > 0.8
    means = np.asarray(before)[:, 1:-1, 1:-1].mean((1, 2)), np.asarray(after)[:, 2:-2, 2:-2].mean((1, 2))
    # Interpolation keeps mean colours, so they show a wrong scale: 1.2 times as far apart without the slope of leaky ReLU.
    assert_lines_up(*means, tolerance=0.06)


@pytest.mark.parametrize("way", IN_TWO_STEPS)
@pytest.mark.parametrize("which", ["g_params", "ema_params"])
def test_g_gives_the_same_images_after_two_steps(way, which):
    images = [np.asarray(generate(config, getattr(state, which), state.g_stats, None)) for config, state in grow_twice(way)]
    assert [one.shape[1] for one in images] == [16, 32, 64]
    expected = repeat_pixels(repeat_pixels(images[0]))[:, 4:-4, 4:-4].reshape(256, -1)
    grown = images[2][:, 4:-4, 4:-4].reshape(256, -1)
    assert np.median([np.corrcoef(one, other)[0, 1] for one, other in zip(expected, grown, strict=True)]) > 0.7
    assert_lines_up(images[0][:, 1:-1, 1:-1].mean((1, 2)), images[2][:, 4:-4, 4:-4].mean((1, 2)), tolerance=0.08)
    # The second step alone is as exact as the first.
    assert_lines_up(images[1][:, 2:-2, 2:-2].mean((1, 2)), images[2][:, 4:-4, 4:-4].mean((1, 2)), tolerance=0.06)


@pytest.mark.parametrize("way", IN_TWO_STEPS)
def test_d_gives_equal_logits_after_two_steps(way):
    """As test_progressive_d_gives_equal_logits."""
    corners = np.random.Generator(np.random.Philox(0)).normal(0, 0.5, (256, 2, 2, 3)).astype(np.float32)
    logits = []
    for config, state in grow_twice(way):
        images = jax.image.resize(corners, (256, config.nets.size, config.nets.size, 3), "linear")
        network = compile_apply(Discriminator(config.nets), False, "batch_stats")
        logits.append(np.asarray(network(state.d_params, state.d_stats, images)[0]))
    assert_lines_up(logits[0], logits[2], tolerance=0.12)


def test_saturated_activations_stay_finite():
    config = WAYS["sigmoid"]
    small = make_toy_state(make_low_resolution_config(config))
    loud = small.replace(g_params=jax.tree.map(lambda leaf: 1e4 * leaf, small.g_params))
    for leaf in jax.tree.leaves(jax.jit(functools.partial(grow_state, config))(make_fresh_state(config), loud).g_params):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("way", ["plain", "grey", "conditional", "refined"])
def test_progressive_d_ranks_the_same_images_alike(way):
    config, small, large = pair(way)
    labels = make_labels(config, 256)
    images = generate(make_low_resolution_config(config), small.g_params, small.g_stats, labels)
    one, other = compute_logits(way, images, labels, train=True)
    assert np.corrcoef(one, other)[0, 1] > 0.8


@pytest.mark.parametrize("way", ["plain", "grey", "conditional", "refined"])
def test_progressive_d_gives_equal_logits(way):
    """With running statistics, because batch statistics would hide a wrong scale. Images without details, which interpolation
    would change."""
    config, *_ = pair(way)
    corners = np.random.Generator(np.random.Philox(0)).normal(0, 0.5, (256, 2, 2, config.nets.channels)).astype(np.float32)
    images = jax.image.resize(corners, (256, 16, 16, config.nets.channels), "linear")
    assert_lines_up(*compute_logits(way, images, make_labels(config, 256), train=False), tolerance=0.06)


def compute_logits(way, images, labels, train):
    """Computes the logits (N,) of the low-resolution D, and those of the grown D of the enlarged images."""
    config, small, large = pair(way)

    def judge(of, state, images):
        found = compile_apply(Discriminator(of.nets), train, "batch_stats")(state.d_params, state.d_stats, images, labels)
        return np.asarray(found[0])

    return judge(make_low_resolution_config(config), small, images), judge(config, large, repeat_pixels(images))


def test_inner_weights_are_copied_others_are_new():
    config, small, large = pair("conditional")
    fresh = make_fresh_state(config)
    assert jax.tree.structure(large) == jax.tree.structure(fresh)
    assert jax.tree.map(jnp.shape, large) == jax.tree.map(jnp.shape, fresh)
    assert_array_equal(large.g_params["up1"]["kernel"], small.g_params["up1"]["kernel"])
    assert_array_equal(large.g_params["head"]["kernel"], small.g_params["head"]["kernel"])
    assert_array_equal(large.d_params["down3"]["kernel"], small.d_params["down2"]["kernel"])
    assert_array_equal(large.d_params["down3_norm"]["scale"], small.d_params["down2_norm"]["scale"])
    assert_array_equal(large.d_stats["down3_norm"]["var"], small.d_stats["down2_norm"]["var"])
    for name in ("head", "condition"):
        assert_array_equal(large.d_params[name]["kernel"], small.d_params[name]["kernel"])
    for name in ("step", "g_opt", "d_opt", "labels"):
        for one, other in zip(jax.tree.leaves(getattr(large, name)), jax.tree.leaves(getattr(fresh, name)), strict=True):
            assert_array_equal(one, other)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"g_refine": 1, "d_refine": 1, "g_smooth": True, "r1_gamma": 0.1, "penalty_noise": 0.01, "penalty_every_steps": 2},
        {"d_refine": 1, "gp_weight": 1.0, "r2_gamma": 0.1, "penalty_every_steps": 2},
        {"g_refine": 1, "r1_gamma": 0.1, "penalty_every_steps": 2},
        {"lr_decay": "linear", "lr_decay_share": 0.5, "lr_warmup_kimg": 1.0},
    ],
    ids=str,
)
def test_low_resolution_stage_is_a_normal_run(changes):
    large = replace(LARGE, **changes)
    half = make_low_resolution_config(large)
    check_config(large)
    check_config(half)
    assert (half.nets.size, half.nets.width, half.run.kimg, half.run.grow_kimg) == (16, 16, 1.0, ())
    assert not half.nets.g_smooth
    if "d_refine" in changes:
        assert half.loss.r1_gamma == half.loss.r2_gamma == half.loss.penalty_noise == 0
        assert half.loss.penalty_every_steps == (2 if "gp_weight" in changes else 1)
    else:
        assert half.loss == large.loss
    assert half.nets.g_refine == half.nets.d_refine == 0


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"grow_kimg": -1.0}, "`grow_kimg` -1.0: must be at least 0 and at most"),
        ({"grow_kimg": (0.0, 1.0)}, "`grow_kimg` 0.0 1.0: each of several stages needs a number above 0"),
        ({"grow_kimg": (1.0, 2.0)}, "`grow_kimg` 1.0 2.0: the smallest side is 16 px; with `size` 32, give at most 1 number$"),
        ({"grow_kimg": (1.0,) * 5, "size": 256}, "with `size` 256, give at most 4 numbers$"),
        ({"size": 16}, "half of `size` 16 is too small"),
        ({"base_px": 8, "size": 16}, "too small"),
        ({"kernel": 5}, "needs kernel 4, not 5; give `grow_kimg` 0"),
        ({"d_norm": "spectral"}, "needs d_norm batch, not spectral"),
        ({"width": 4}, "needs `width` 6 or more"),
        ({"start": "runs/a"}, "as `start` does: give `grow_kimg` 0"),
    ],
)
def test_network_that_cannot_grow_is_one_line(changes, says):
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        check_config(replace(LARGE, **changes))
