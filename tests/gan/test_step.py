"""The training step on toy networks: what it updates and how often, and golden losses of each preset.

test_torch_parity.py compares the numbers with PyTorch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tiny import (
    CompiledStep,
    fused_loops,
    get_compiled_step,
    get_leaves,
    make_fresh_state,
    make_images,
    make_tiny_config,
    make_toy_state,
)

from dcgan_jax.batch import Batch
from dcgan_jax.config import Config, replace
from dcgan_jax.gan import step
from dcgan_jax.gan.state import GanState, make_optimizers
from dcgan_jax.presets import PRESETS

# Covers every loss, penalty, augmentation, schedule and option that no preset has, in few programs. Fewer layers compile faster.
COMBINATIONS = {
    "least-squares": make_tiny_config(
        "torch64", base_px=8, loss="least-squares", r1_gamma=1.0, augment=("color",), g_latents="new"
    ),
    "hinge": make_tiny_config(
        "torch64",
        base_px=8,
        loss="hinge",
        r2_gamma=1.0,
        augment=("translation",),
        d_steps=2,
        g_steps=2,
        ema_half_life_kimg=0.0,
        g_refine=1,
        d_refine=2,
        penalty_noise=0.01,
        penalty_every_steps=2,
    ),
    "wasserstein": make_tiny_config(
        "article",
        base_px=8,
        loss="wasserstein",
        gp_weight=10.0,
        d_norm="none",
        augment=("cutout",),
        d_steps=2,
        penalty_every_steps=2,
    ),
    "relativistic-paired": make_tiny_config(
        "article", base_px=8, loss="relativistic-paired", d_dropout=0.2, compute_dtype="bfloat16", channels=1
    ),
    "own": make_tiny_config(
        "article",
        loss="hinge",
        d_norm="spectral",
        minibatch_std=True,
        g_smooth=True,
        init="he",
        lr_warmup_kimg=0.01,
        r1_gamma=0.1,
        penalty_every_steps=2,
    ),
    "alternating": make_tiny_config(
        "newmu", base_px=8, loss="bce", real_label=0.9, augment=("color", "cutout"), r1_gamma=1.0, d_lr=1e-3
    ),
}
TINY = {name: make_tiny_config(name) for name in PRESETS} | COMBINATIONS
OF_PRESETS = {TINY[name] for name in PRESETS}
DISTINCT = {
    config: name for name, config in reversed(TINY.items())
}  # several presets have the same toy config, such as torch-tutorial and torch64


@functools.cache
def start_of(config):
    """Makes an initial state with kernels five times larger. With N(0, 0.02) the outputs of such small networks are nearly 0.

    Residual networks begin with larger kernels, which are only doubled. Only the presets have golden values, and need the
    project's own initial state.
    """

    def enlarge(params):
        factor = 2 if config.nets.architecture == "residual" else 5
        return jax.tree.map(lambda leaf: factor * leaf if leaf.ndim > 1 else leaf, params)

    state = (make_fresh_state if config in OF_PRESETS else make_toy_state)(config)
    return state.replace(g_params=enlarge(state.g_params), d_params=enlarge(state.d_params))


def take_five_steps(train_step, config):
    """Returns (states after 0 to 5 steps, metrics of the five steps)."""
    states, metrics = [start_of(config)], []
    for seed in range(5):
        state, now = train_step(states[-1], make_images(config, seed))
        states.append(state)
        metrics.append({name: float(value) for name, value in now.items()})
    return states, metrics


@functools.cache
def five_steps(config):
    """Runs take_five_steps with the compiled step. Cached, because most tests here need it."""
    return take_five_steps(get_compiled_step(config), config)


@pytest.mark.integration
@pytest.mark.parametrize("config", DISTINCT, ids=DISTINCT.values())
def test_five_steps_stay_finite_in_one_trace(config):
    states, metrics = five_steps(config)
    assert get_compiled_step(config).traces == 1
    assert [int(state.step) for state in states] == [0, 1, 2, 3, 4, 5]
    for path, leaf in get_leaves(states[-1]).items():
        assert np.isfinite(leaf).all(), path
    names = {"d_loss", "g_loss", "d_real_hits", "d_fake_hits", "g_grad_norm"}
    adaptive = config.loss.augment_target > 0
    assert set(metrics[0]) == names | ({"d_penalty"} if config.loss.has_penalty else set()) | (
        {"augment_p"} if adaptive else set()
    )
    for now in metrics:
        assert all(np.isfinite(value) for value in now.values())
        assert 0 <= now["d_real_hits"] <= 1
        assert 0 <= now["d_fake_hits"] <= 1


# d_loss and g_loss of steps 1, 2 and 5.
GOLDEN = {
    "article": [(2.006775, 0.29414), (1.627364, 0.374902), (1.659058, 0.519325)],
    "newmu": [(1.451178, 0.76484), (1.413623, 0.684629), (1.223103, 0.925819)],
    "soumith": [(1.825464, 0.357081), (1.56663, 0.405509), (1.350818, 0.628351)],
    "torch64": [(1.681181, 0.357607), (1.654118, 0.406659), (1.641425, 0.629029)],
    "carpedm20": [(1.417989, 0.557709), (1.356217, 0.555244), (1.254149, 0.651907)],
    "keras64": [(11.249359, 27.331326), (11.386477, 20.054092), (6.417891, 18.250664)],
    "modern32": [(2.609454, 0.838966), (1.378198, 1.388832), (1.19881, 1.644868)],
    "best32": [(1.867098, 0.369623), (1.78913, 0.37113), (1.5202, 0.627936)],
    "residual64": [(0.147534, 1.215842), (5.334092, 1.612652), (3.731757, 2.011916)],
    "best64": [(1.433528, 0.587043), (1.590047, 0.430593), (1.870648, 0.329346)],
    "best128": [(1.592196, 0.538387), (1.673641, 0.38066), (1.853605, 0.357539)],
}


def check_golden(name, metrics):
    got = [(metrics[i]["d_loss"], metrics[i]["g_loss"]) for i in (0, 1, 4)]
    message = (
        f"{name}'s losses changed. If you changed its recipe, initial values or random keys on purpose, put these values "
        f"into GOLDEN and say so in the commit. Otherwise the change is a bug: {np.round(got, 6).tolist()}"
    )
    # rtol: other machines and optimisation levels of XLA sum in another order. That changes the losses by 1e-6 after five steps
    # (measured), and PyTorch's order by 1e-5. A wrong momentum, slope, learning rate or schedule changes them by 1e-3 or more.
    assert_allclose(got, GOLDEN[name], rtol=1e-4, err_msg=message)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_losses(name):
    check_golden(name, five_steps(TINY[name])[1])


@pytest.mark.integration
@pytest.mark.parametrize("name", ["article", pytest.param("torch64", marks=pytest.mark.slow)])
def test_golden_losses_with_fused_loops(name):
    """With the loop emitters that XLA uses by default and conftest.py turns off."""
    with fused_loops():
        check_golden(name, take_five_steps(CompiledStep(TINY[name]), TINY[name])[1])


def test_presets_without_a_golden_equal_one_that_has():
    """At the size of these tests, these presets are equal to others."""
    assert TINY["udacity-wide"] == TINY["article"]
    assert TINY["torch-tutorial"] == TINY["torch32"] == TINY["torch128"] == TINY["torch64"]


# ---- BN's running statistics ----


@pytest.mark.parametrize(
    "name, step_number, g, d",
    [
        ("torch64", 0, 1, 3),  # D: real, fake, and the same fakes for G's loss
        ("article", 0, 2, 3),  # G's update samples new latents
        ("soumith", 0, 1, 2),
        ("carpedm20", 0, 2, 4),  # G's second update runs both networks once more
        ("hinge", 0, 3, 6),  # two updates of D (real and fake each), two of G; G's first uses the latents of D's last
        ("newmu", 0, 1, 1),  # an update of G
        ("newmu", 1, 1, 2),  # an update of D
    ],
)
def test_bn_statistics_count_the_published_passes(name, step_number, g, d):
    # In training, the batch statistics are used and each pass changes the running ones to 0.9 old + 0.1 new. So after a step, a
    # difference in the old values is 0.9^passes as large.
    config = TINY[name]
    start, after = five_steps(config)[0][step_number : step_number + 2]
    lifted = start.replace(
        g_stats=jax.tree.map(lambda leaf: leaf + 1, start.g_stats), d_stats=jax.tree.map(lambda leaf: leaf + 1, start.d_stats)
    )
    lifted, _ = get_compiled_step(config)(lifted, make_images(config, step_number))
    for field, passes in (("g_stats", g), ("d_stats", d)):
        assert getattr(after, field)
        for low, high in zip(jax.tree.leaves(getattr(after, field)), jax.tree.leaves(getattr(lifted, field)), strict=True):
            assert_allclose(high - low, np.full(low.shape, 0.9**passes), atol=1e-5)
    for field in ("g_params", "d_params"):  # parameters do not depend on running statistics
        for before, now in zip(jax.tree.leaves(getattr(after, field)), jax.tree.leaves(getattr(lifted, field)), strict=True):
            assert_array_equal(before, now)


# ---- Which network is updated, and how often ----


def adam_counts(state):
    """Returns the number of updates of G and of D."""
    return tuple(int(next(part.count for part in chain if hasattr(part, "mu"))) for chain in (state.g_opt, state.d_opt))


@pytest.mark.parametrize(
    "name, after_one, after_two",
    [
        ("torch64", (1, 1), (2, 2)),
        ("carpedm20", (2, 1), (4, 2)),
        ("hinge", (2, 2), (4, 4)),
        ("wasserstein", (1, 2), (2, 4)),
        ("newmu", (1, 0), (1, 1)),
    ],
)
def test_updates_per_step(name, after_one, after_two):
    states = five_steps(TINY[name])[0]
    assert adam_counts(states[1]) == after_one
    assert adam_counts(states[2]) == after_two


def test_alternating_updates_g_then_d():
    states = [get_leaves(state) for state in five_steps(TINY["newmu"])[0]]
    for before, after, changed in ((states[0], states[1], "g"), (states[1], states[2], "d"), (states[2], states[3], "g")):
        kept = "d" if changed == "g" else "g"
        for path in before:
            same = np.array_equal(before[path], after[path])
            if path.startswith((f"{kept}_params", f"{kept}_opt")):
                assert same, path
            if path.startswith(f"{changed}_params"):
                assert not same, path


def test_both_batches_of_two_d_updates_count():
    config = TINY["wasserstein"]
    both = make_images(config)
    results = []
    for half in (None, slice(0, 4), slice(4, 8)):
        batch = both.copy()
        if half is not None:
            batch[half] = 255 - batch[half]
        results.append(get_leaves(get_compiled_step(config)(start_of(config), batch)[0])["d_params/down1/kernel"])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(results[a] - results[b]).max() > 1e-5


def test_step_randomness_depends_on_step_and_key():
    config = TINY["torch64"]
    state, batch = start_of(config), make_images(config)

    def g_loss(state):
        return float(get_compiled_step(config)(state, batch)[1]["g_loss"])

    assert g_loss(state) == g_loss(state)
    assert len({g_loss(state), g_loss(state.replace(step=state.step + 1)), g_loss(state.replace(key=jax.random.key(9)))}) == 3


# ---- The EMA ----


def test_ema_halves_its_distance_each_half_life():
    config = replace(Config(), batch_size=100, ema_half_life_kimg=2.0)
    state = GanState(*[None] * 10).replace(step=jnp.int32(100_000), g_params={"w": jnp.zeros(1)}, ema_params={"w": jnp.ones(1)})
    average = jax.jit(lambda state: step._update_ema(config, state))
    for _ in range(20):  # 20 steps of 100 images: one half-life
        state = state.replace(ema_params=average(state))
    assert_allclose(state.ema_params["w"], [0.5], rtol=1e-5)


def test_ema_half_life_is_in_images_not_steps():
    def kept(**changes):
        config = replace(Config(), ema_half_life_kimg=1.0, **changes)
        state = GanState(*[None] * 10).replace(step=jnp.int32(10**6), g_params={"w": jnp.zeros(1)}, ema_params={"w": jnp.ones(1)})
        return float(step._update_ema(config, state)["w"][0])

    assert_allclose(kept(batch_size=50) ** 4, kept(batch_size=200), rtol=1e-5)
    assert_allclose(kept(batch_size=50, d_steps=4), kept(batch_size=200), rtol=1e-6)
    assert_allclose(kept(batch_size=200), 0.5**0.2, rtol=1e-6)


def test_ema_of_the_first_steps_equals_its_formula():
    config = TINY["torch64"]
    states = five_steps(config)[0]
    for number in (1, 2, 5):
        half_life = min(10_000, 0.05 * number * 4)  # here the ramp limits it: 0.2 images after the first step
        kept = 0.5 ** (4 / half_life)
        before, after = get_leaves(states[number - 1].ema_params), get_leaves(states[number].ema_params)
        for path, now in get_leaves(states[number].g_params).items():
            assert_allclose(after[path], kept * before[path] + (1 - kept) * now, atol=1e-6)


def test_ema_half_life_zero_is_g_itself():
    state = five_steps(TINY["hinge"])[0][-1]
    for average, now in zip(jax.tree.leaves(state.ema_params), jax.tree.leaves(state.g_params), strict=True):
        assert_array_equal(average, now)


# ---- Networks with one weight, whose losses and gradients can be computed by hand ----


class OnePixel:
    """Replaces both networks. D's logit is w times the top left pixel; all pixels of G's images are w."""

    def __init__(self, nets, frozen=0):
        self.nets = nets

    def apply(self, variables, x, train, labels, **_):
        w = variables["params"]["w"]
        if x.ndim == 2:  # latents
            return w * jnp.ones((x.shape[0], self.nets.size, self.nets.size, self.nets.channels)), {}
        return w * x[:, 0, 0, 0], {}


@pytest.fixture
def one_pixel_step(monkeypatch):
    """Returns f(config, batch, g, d, at) -> (state, metrics) of step number `at`, from the weights g of G and d of D."""
    monkeypatch.setattr(step, "Generator", OnePixel)
    monkeypatch.setattr(step, "Discriminator", OnePixel)

    def run(config, batch, g, d, at=0):
        g_params, d_params = {"w": jnp.float32(g)}, {"w": jnp.float32(d)}
        g_adam, d_adam = make_optimizers(config)
        state = GanState(
            step=jnp.int32(at),
            key=jax.random.key(0),
            g_params=g_params,
            g_stats={},
            d_params=d_params,
            d_stats={},
            g_opt=g_adam.init(g_params),
            d_opt=d_adam.init(d_params),
            ema_params=g_params,
            ema_stats={},
        )
        return jax.jit(step.make_train_step(config))(state, Batch(batch))

    return run


@pytest.mark.parametrize("flip", [False, True])
def test_flip_mirrors_half_of_the_images(flip, one_pixel_step):
    batch = np.zeros((256, 16, 16, 3), np.uint8)
    batch[:, :, :8] = 255  # the left half is white
    _, metrics = one_pixel_step(make_tiny_config("torch64", flip=flip, batch_size=256), batch, g=0.0, d=1.0)
    # The hit rate is the share of images whose top left pixel is still white: 0.5 within three standard errors.
    assert (abs(metrics["d_real_hits"] - 0.5) < 3 / np.sqrt(4 * 256)) if flip else (metrics["d_real_hits"] == 1)
    assert metrics["d_fake_hits"] == 0  # the fakes are grey, 0, which is not below the boundary


@pytest.mark.parametrize(
    "changes, penalty, pull",
    [  # with D's weight w = 0.5, which is |d logit / d image|
        ({"r1_gamma": 3.0}, 3 / 2 * 0.5**2, 3 * 0.5),
        ({"r2_gamma": 3.0}, 3 / 2 * 0.5**2, 3 * 0.5),
        ({"gp_weight": 10.0}, 10 * (0.5 - 1) ** 2, 10 * 2 * (0.5 - 1)),
        ({"r1_gamma": 1.0, "r2_gamma": 2.0, "gp_weight": 4.0}, 0.375 + 1.0, 1.5 - 4.0),
        ({}, None, 0.0),
    ],
)
def test_penalties_are_weighted_and_added_to_d_loss(changes, penalty, pull, one_pixel_step):
    """The weights are as published: gamma / 2 for R1 and R2."""
    config = make_tiny_config("torch64", loss="wasserstein", **changes)
    state, metrics = one_pixel_step(config, np.full((4, 16, 16, 3), 255, np.uint8), g=0.2, d=0.5)
    assert_allclose(metrics["d_loss"], 0.5 * 0.2 - 0.5 * 1, rtol=1e-5)  # w times fake minus w times real
    assert ("d_penalty" in metrics) == bool(changes)
    if changes:
        assert_allclose(metrics["d_penalty"], penalty, rtol=1e-4)
    assert_allclose(state.d_opt[0].mu["w"], 0.5 * (0.2 - 1 + pull), rtol=1e-4)  # beta1 is 0.5


@pytest.mark.parametrize("which", ["r1_gamma", "r2_gamma"])
def test_penalty_noise_gives_the_gradients_pull(which, one_pixel_step):
    # D has one weight w, so the penalty is 3 / 2 w^2 times the mean square of the noise (near 1). Its gradient is twice that / w.
    config = make_tiny_config("torch64", loss="wasserstein", batch_size=256, penalty_noise=0.01, **{which: 3.0})
    state, metrics = one_pixel_step(config, np.full((256, 16, 16, 3), 255, np.uint8), g=0.2, d=0.5)
    assert_allclose(metrics["d_penalty"], 3 / 2 * 0.5**2, rtol=0.3)  # the mean of 256 squares has a standard error of 9 %
    assert_allclose(state.d_opt[0].mu["w"], 0.5 * (0.2 - 1 + 2 * metrics["d_penalty"] / 0.5), rtol=1e-3)


@pytest.mark.integration
def test_penalty_noise_uses_the_same_d_function():
    """D processes noisy images with the same augmentation, dropout masks and singular vectors as the images."""
    # With others, their effect would count as a finite difference, divided by 0.01 and squared: about 10,000 times too large.
    config = make_tiny_config(
        "article",
        base_px=8,
        d_norm="spectral",
        d_dropout=0.2,
        augment=("color", "translation", "cutout"),
        r1_gamma=2.0,
        r2_gamma=2.0,
    )
    state, batch = start_of(config), make_images(config)
    means = []
    for changes in ({}, {"penalty_noise": 0.01}):
        train_step = get_compiled_step(replace(config, **changes))
        penalties = [train_step(state.replace(key=jax.random.key(seed)), batch)[1]["d_penalty"] for seed in range(64)]
        means.append(np.mean(penalties))
    assert_allclose(*means, rtol=0.3)  # the mean of 256 squares has a standard error of 9 %


def test_lazy_penalties_scale_by_their_interval(one_pixel_step):
    """A lazy penalty is multiplied by its interval."""
    batch = np.full((4, 16, 16, 3), 255, np.uint8)
    config = make_tiny_config("torch64", loss="wasserstein", r1_gamma=3.0)
    plain, lazy = (one_pixel_step(replace(config, penalty_every_steps=every), batch, g=0.2, d=0.5, at=3) for every in (1, 4))
    assert_allclose(lazy[1]["d_penalty"], 4 * plain[1]["d_penalty"], rtol=1e-5)
    assert_allclose(lazy[0].d_opt[0].mu["w"], 0.5 * (0.2 - 1 + 4 * 3 * 0.5), rtol=1e-4)


@pytest.mark.parametrize("updates, share", [("d-then-g", 0.1), ("alternating", 0.2)])
def test_augmentation_adapts_to_d_and_is_logged(updates, share):
    """It adapts as fast in images if D is updated in every second step only. What is logged is what the state holds."""
    config = make_tiny_config(
        "article",
        base_px=8,
        updates=updates,
        augment=("color",),
        augment_target=0.45,
        augment_adapt_kimg=0.04,  # a batch of 4 images is a tenth of this
    )
    state, expected, changes = start_of(config).replace(augment_p=np.float32(0.5)), 0.5, []
    for step_number in range(4):
        state, metrics = get_compiled_step(config)(state, make_images(config))
        if updates == "d-then-g" or step_number % 2:  # D's turn
            before, hits = expected, float(metrics["d_real_hits"])
            expected = min(max(expected + share * np.sign(2 * hits - 1 - 0.45), 0), 1)
            changes.append(abs(expected - before))
        assert float(metrics["augment_p"]) == float(state.augment_p) == pytest.approx(expected, abs=1e-6)
    assert changes[0] == pytest.approx(share)  # one full step


def test_lazy_penalties_come_every_second_step():
    assert [metrics["d_penalty"] > 0 for metrics in five_steps(TINY["own"])[1]] == [False, True, False, True, False]


def test_g_update_uses_the_updated_d(one_pixel_step):
    # Adam's first step has the size of the learning rate. D's gradient is 0.2 - 1, so w goes from 0.5 to 0.5 + 0.1.
    config = make_tiny_config("torch64", loss="wasserstein", d_lr=0.1)
    state, metrics = one_pixel_step(config, np.full((4, 16, 16, 3), 255, np.uint8), g=0.2, d=0.5)
    assert_allclose(state.d_params["w"], 0.6, rtol=1e-5)
    assert_allclose(metrics["g_loss"], -0.6 * 0.2, rtol=1e-5)
    assert_allclose(state.g_opt[0].mu["w"], 0.5 * -0.6, rtol=1e-5)
    assert_allclose(metrics["g_grad_norm"], 0.6, rtol=1e-5)


@pytest.mark.parametrize("name", ["torch64", "article", "newmu"])
def test_g_grad_norm_is_of_adams_gradient(name):
    config = TINY[name]
    states, metrics = five_steps(config)
    [adam] = [part for part in states[1].g_opt if hasattr(part, "mu")]
    taken = jax.tree.leaves(get_leaves(adam.mu))  # (1 - beta1) of the first gradient, plus newmu's L2
    norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in taken)) / (1 - config.optimizer.beta1)
    assert_allclose(metrics[0]["g_grad_norm"], norm, rtol=1e-3 if config.optimizer.l2 else 1e-5)


def test_label_smoothing_changes_d_loss_alone(one_pixel_step):
    batch = np.full((4, 16, 16, 3), 255, np.uint8)
    plain, smooth = (
        one_pixel_step(make_tiny_config("torch64", real_label=label), batch, g=0.2, d=0.5)[1] for label in (1.0, 0.9)
    )
    assert_allclose(smooth["d_loss"] - plain["d_loss"], 0.1 * 0.5, rtol=1e-4)
    assert_allclose(smooth["g_loss"], plain["g_loss"], rtol=1e-4)


@pytest.mark.parametrize("kind", ["r1_gamma", "r2_gamma"])
def test_noisy_penalty_is_float32_beside_bfloat16_products(kind):
    """The penalty compares logits that differ little. Rounding of D's operands would change it by more than the difference."""
    config = make_tiny_config("torch64", base_px=8, penalty_noise=0.01, **{kind: 1.0})
    exact, rounded = (get_compiled_step(replace(config, compute_dtype=dtype)) for dtype in ("float32", "bfloat16"))
    (_, expected), (_, got) = (train_step(start_of(config), make_images(config, 0)) for train_step in (exact, rounded))
    assert abs(got["g_loss"] - expected["g_loss"]) > 1e-6, "the products are not rounded"
    # R2 is of fakes, which G makes with rounded products.
    assert_allclose(got["d_penalty"], expected["d_penalty"], rtol=1e-5 if kind == "r1_gamma" else 5e-3)
