"""The training step, a pure function of (state, batch): updates D, then G against the new D, then the EMA.

Real and fake images pass through D separately, so that their BN statistics never mix. D's running statistics pass from the real
images to the fakes and to the fakes of G's update. The published recipes do the same: docs/published-dcgans.md, sections 2 and 4.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.core import unfreeze

from dcgan_jax.batch import Batch
from dcgan_jax.config import Config
from dcgan_jax.gan import losses, penalties
from dcgan_jax.gan.augment import adapt_probability, augment
from dcgan_jax.gan.freezing import split_frozen
from dcgan_jax.gan.models import Discriminator, Generator
from dcgan_jax.gan.pixels import scale_pixels
from dcgan_jax.gan.sampling import sample_latents
from dcgan_jax.gan.state import GanState, count_images_per_update, make_optimizers

Metrics = dict[str, jax.Array]  # names of gan/metrics.py -> () float32
Keys = dict[str, jax.Array]  # names of the streams below -> key
Kind = Literal["real", "fake"]
# f(state, batch, total_steps=None), see make_train_step
Step = Callable[..., tuple[GanState, Metrics]]
# One named stream per purpose. Two uses of randomness share a key only if the recipe says so (g_latents "same").
D_STREAMS = ("latents", "flip", "augment_real", "augment_fake", "dropout_real", "dropout_fake", "mix", "noise_real", "noise_fake")
G_STREAMS = ("latents", "augment_real", "augment_fake", "dropout_real", "dropout_fake")


def make_train_step(config: Config, sharding: jax.sharding.Sharding | None = None) -> Step:
    """Makes the training step of this config, a pure function to be jitted once.

    Args: sharding, of the (B, ...) arrays made inside the step; None: XLA decides.
    Returns: f(state, batch, total_steps=None) -> (state, metrics). batch: images (images_per_step, S, S, C) uint8 and, for a
        conditional recipe, labels (images_per_step, A) uint8. Fakes use the labels of the real images in their batch, so that
        both have the same frequencies. total_steps: () float32, the run's length, for the learning-rate schedule. It is an
        input, so that runs of all lengths share one program; None: the config's length. metrics: those of gan/metrics.py that
        the recipe has.
    """
    networks = Generator(config.nets), Discriminator(config.nets, config.optimizer.freeze_d)
    loss = losses.make_loss(config.loss)
    update = _update_alternating if config.optimizer.updates == "alternating" else _update_d_then_g

    def step(state: GanState, batch: Batch, total_steps: jax.Array | None = None) -> tuple[GanState, Metrics]:
        parts = _Parts(config, *networks, *make_optimizers(config, total_steps), loss, sharding)
        d_key, g_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        state, metrics = update(parts, state, batch, d_key, g_key)
        if state.augment_p is not None:  # not the value that D's update computed: alternating updates may have discarded it
            metrics |= {"augment_p": state.augment_p}
        state = state.replace(step=state.step + 1)
        return state.replace(ema_params=_update_ema(config, state)), metrics

    return step


def make_train_steps(config: Config, sharding: jax.sharding.Sharding | None = None) -> Step:
    """Makes a function of k steps in one call.

    Returns: f(state, batches (k, images_per_step, ...), total_steps=None) -> (state, metrics (k,) each). See make_train_step.
    """
    step = make_train_step(config, sharding)

    def run_unrolled(state: GanState, batches: Batch, total_steps: jax.Array | None = None) -> tuple[GanState, Metrics]:
        metrics = []
        for i in range(len(batches.images)):
            state, metric = step(state, _take(batches, i), total_steps)
            metrics.append(metric)
        return state, jax.tree.map(lambda *values: jnp.stack(values), *metrics)

    def run_scanned(state: GanState, batches: Batch, total_steps: jax.Array | None = None) -> tuple[GanState, Metrics]:
        return jax.lax.scan(lambda state, batch: step(state, batch, total_steps), state, batches)

    # Unrolled on CPU: XLA's own convolution (residual blocks, `g_last_kernel`) is about twenty times slower in a loop (measured).
    return run_unrolled if jax.default_backend() == "cpu" else run_scanned


def _take(batches: Batch, i: int) -> Batch:
    return jax.tree.map(lambda x: x[i], batches)


class _Parts(NamedTuple):
    """What all functions of one step use."""

    config: Config
    generator: Generator
    discriminator: Discriminator
    g_adam: optax.GradientTransformation
    d_adam: optax.GradientTransformation
    loss: losses.AdversarialLoss
    sharding: jax.sharding.Sharding | None

    def shard(self, x: jax.Array) -> jax.Array:
        """Splits a (B, ...) array over the devices."""
        return x if self.sharding is None else jax.lax.with_sharding_constraint(x, self.sharding)

    def use_exact_discriminator(self, kind: Kind) -> "_Parts":
        """Returns parts with a float32 D if the penalty on these images compares logits with those of noisy images.

        bfloat16 cannot resolve the difference that noise of 0.01 makes (docs/speed.md).
        """
        config = self.config
        gamma = config.loss.r1_gamma if kind == "real" else config.loss.r2_gamma
        if config.nets.compute_dtype != "bfloat16" or gamma == 0 or config.loss.penalty_noise == 0:
            return self
        return self._replace(
            discriminator=self.discriminator.clone(nets=dataclasses.replace(config.nets, compute_dtype="float32"))
        )


class _Fakes(NamedTuple):
    """Generated images, and their pullback to G's parameters. If D and G use the same fakes, one forward pass of G is enough.

    The pullback made before D's update is still valid in G's update, because G's parameters do not change in between.
    """

    images: jax.Array  # (B, S, S, C) float32
    pullback: Callable


# ---- Which network is updated when ----


def _update_d_then_g(
    parts: _Parts, state: GanState, batch: Batch, d_key: jax.Array, g_key: jax.Array
) -> tuple[GanState, Metrics]:
    """Updates D d_steps times, each with its own batch, then G g_steps times with the same latents."""
    optimizer, batch_size = parts.config.optimizer, parts.config.data.batch_size
    batches = jax.tree.map(lambda x: x.reshape(optimizer.d_steps, batch_size, *x.shape[1:]), batch)
    # A Python loop: XLA's own CPU convolutions are slow inside lax loops (make_train_steps). Metrics are of the last update.
    *earlier, (last, last_key) = enumerate(jax.random.split(d_key, optimizer.d_steps))
    for i, key in earlier:
        state, *_ = _update_d(parts, state, _take(batches, i), key)
    state, metrics, real, latents, fakes = _update_d(parts, state, _take(batches, last), last_key)
    keys = [_split_streams(key, G_STREAMS) for key in jax.random.split(g_key, optimizer.g_steps)]
    if optimizer.g_latents == "new":
        latents = parts.shard(sample_latents(keys[0]["latents"], batch_size, parts.config.nets))
    g_metrics: Metrics = {}
    for i, update_keys in enumerate(keys):
        reuses_fakes = i == 0 and optimizer.g_latents == "same"  # those of D's update; G's statistics contain them already
        if not reuses_fakes:
            fakes, g_stats = _generate(parts, state.g_params, state.g_stats, latents, real.labels)
            state = state.replace(g_stats=g_stats)
        state, g_metrics = _update_g(parts, state, fakes, real, update_keys)
    return state, metrics | g_metrics


def _update_alternating(
    parts: _Parts, state: GanState, batch: Batch, d_key: jax.Array, g_key: jax.Array
) -> tuple[GanState, Metrics]:
    """Updates G in even steps (so in step 0) and D in odd steps. Source: docs/published-dcgans.md, section 2.1.

    The losses, hit rates and gradient norm of the network that is not updated are those of the update that it would have made.
    """
    # Computes both updates and keeps one. On CPU, XLA's own convolutions are fifteen times slower inside a lax.cond branch.
    d_updated, metrics, real, _, fakes = _update_d(parts, state, batch, d_key)
    before_g = state.replace(g_stats=d_updated.g_stats)
    g_updated, g_metrics = _update_g(parts, before_g, fakes, real, _split_streams(g_key, G_STREAMS))
    is_g_step, key = state.step % 2 == 0, state.key
    # Without the key: it is the same in both, and JAX's check for reused keys (--debug) would refuse a second use.
    state = jax.tree.map(lambda g, d: jnp.where(is_g_step, g, d), g_updated.replace(key=None), d_updated.replace(key=None))
    return state.replace(key=key), metrics | g_metrics


# ---- D's update ----


@jax.named_scope("update_d")
def _update_d(parts: _Parts, state: GanState, batch: Batch, key: jax.Array) -> tuple[GanState, Metrics, Batch, jax.Array, _Fakes]:
    """Updates D once. Returns (state, metrics, the real batch after scaling and flips, latents, fakes)."""
    config, keys = parts.config, _split_streams(key, D_STREAMS)
    real = _prepare_real(config, batch, keys["flip"])
    latents = parts.shard(sample_latents(keys["latents"], config.data.batch_size, config.nets))
    fakes, g_stats = _generate(parts, state.g_params, state.g_stats, latents, real.labels)
    # Frozen layers are constants of the loss, so no gradient with respect to their parameters or their inputs is computed.
    frozen, trained = split_frozen(state.d_params, config.optimizer.freeze_d)
    differentiate = jax.grad(_compute_d_loss, has_aux=True)
    gradients, (d_stats, metrics) = differentiate(trained, frozen, parts, state, real, fakes.images, keys)
    updates, d_opt = parts.d_adam.update(gradients, state.d_opt, trained)
    # pyrefly: ignore[unsupported-operation] - optax declares any tree; here it is a dict, like `trained`
    d_params = frozen | optax.apply_updates(trained, updates)
    state = state.replace(d_params=d_params, d_stats=d_stats, d_opt=d_opt, g_stats=g_stats)
    loss = config.loss
    if loss.augment_target > 0:
        assert state.augment_p is not None  # init_state sets it
        # Images, not updates, so that the probability rises as fast however often D is updated.
        share = count_images_per_update(config, config.optimizer.d_steps) / (1000 * loss.augment_adapt_kimg)
        augment_p = adapt_probability(state.augment_p, metrics["d_real_hits"], loss.augment_target, share)
        state = state.replace(augment_p=augment_p)
    return state, metrics, real, latents, fakes


def _compute_d_loss(
    trained: dict, frozen: dict, parts: _Parts, state: GanState, real: Batch, fake: jax.Array, keys: Keys
) -> tuple[jax.Array, tuple[dict, Metrics]]:
    """Computes (D's loss with penalties, (D's new statistics, metrics)). real: a float32 batch; fake: (B, S, S, C) float32."""
    d_params = frozen | trained
    exact = parts.use_exact_discriminator
    with jax.named_scope("real"):  # nan_origin.py reads the scopes
        real_logits, stats_after_real = _discriminate(exact("real"), d_params, state.d_stats, real, keys, "real", state.augment_p)
    fakes = Batch(fake, real.labels)
    with jax.named_scope("fake"):
        fake_logits, stats = _discriminate(exact("fake"), d_params, stats_after_real, fakes, keys, "fake", state.augment_p)
    with jax.named_scope("loss"):
        adversarial_loss = parts.loss.d(real_logits, fake_logits).mean()
    boundary = parts.loss.boundary
    if boundary is None:
        boundary = (real_logits.mean() + fake_logits.mean()) / 2
    metrics = {
        "d_loss": adversarial_loss,
        "d_real_hits": (real_logits > boundary).mean(),
        "d_fake_hits": (fake_logits < boundary).mean(),
    }
    if not parts.config.loss.has_penalty:
        return adversarial_loss, (stats, metrics)
    # The critics use the statistics, keys and spectral norms of the passes above, so they are exactly the same functions.
    critics = {
        "real": _make_critic(exact("real"), d_params, state.d_stats, real.labels, keys, "real", state.augment_p),
        "fake": _make_critic(exact("fake"), d_params, stats_after_real, real.labels, keys, "fake", state.augment_p),
    }
    images, logits = {"real": real.images, "fake": fake}, {"real": real_logits, "fake": fake_logits}
    with jax.named_scope("penalty"):
        penalty = _compute_lazily(
            parts.config.loss.penalty_every_steps,
            state.step,
            lambda: penalties.compute_penalty(parts.config.loss, critics, images, logits, keys, parts.shard),
        )
    return adversarial_loss + penalty, (stats, metrics | {"d_penalty": penalty})


def _make_critic(
    parts: _Parts, d_params: dict, stats: dict, labels: jax.Array | None, keys: Keys, kind: Kind, augment_p: jax.Array | None
) -> penalties.Critic:
    """Makes D a function of images alone, with the same random numbers as in the pass of this kind.

    The keys are cloned, because that pass used them and JAX's check for reused keys (--debug) would refuse them.
    """

    def critic(images: jax.Array) -> jax.Array:
        cloned = {name: jax.random.clone(keys[name]) for name in (f"augment_{kind}", f"dropout_{kind}")}
        return _discriminate(parts, d_params, stats, Batch(images, labels), cloned, kind, augment_p)[0]

    return critic


def _compute_lazily(every_steps: int, step: jax.Array, compute: Callable[[], jax.Array]) -> jax.Array:
    """Returns compute() once every `every_steps` steps, else 0. Source: Karras et al. 2020, arXiv:1912.04958, section 3.1."""
    if every_steps == 1:
        return compute()
    is_due = (step + 1) % every_steps == 0  # so that log lines, written at multiples, contain the penalty
    return jax.lax.cond(is_due, compute, lambda: jnp.zeros(()))


# ---- G's update ----


@jax.named_scope("update_g")
def _update_g(parts: _Parts, state: GanState, fakes: _Fakes, real: Batch, keys: Keys) -> tuple[GanState, Metrics]:
    """Updates G once against the state's D. Returns (state, metrics)."""
    objective = jax.value_and_grad(_compute_g_loss, has_aux=True)
    (g_loss, d_stats), d_fake = objective(fakes.images, parts, state, real, keys)
    [gradients] = fakes.pullback(d_fake)
    updates, g_opt = parts.g_adam.update(gradients, state.g_opt, state.g_params)
    state = state.replace(g_params=optax.apply_updates(state.g_params, updates), g_opt=g_opt)
    state = state.replace(d_stats=d_stats) if parts.config.optimizer.d_stats_in_g_step else state
    return state, {"g_loss": g_loss, "g_grad_norm": optax.tree.norm(gradients)}


def _compute_g_loss(fake: jax.Array, parts: _Parts, state: GanState, real: Batch, keys: Keys) -> tuple[jax.Array, dict]:
    """Computes (G's loss, D's new statistics). fake: (B, S, S, C) float32."""
    real_logits, d_stats = None, state.d_stats
    if parts.loss.g_needs_real:
        with jax.named_scope("real"):
            real_logits, d_stats = _discriminate(parts, state.d_params, d_stats, real, keys, "real", state.augment_p)
    fakes = Batch(fake, real.labels)
    with jax.named_scope("fake"):
        fake_logits, d_stats = _discriminate(parts, state.d_params, d_stats, fakes, keys, "fake", state.augment_p)
    with jax.named_scope("loss"):
        return parts.loss.g(real_logits, fake_logits).mean(), d_stats


# ---- Functions of both updates ----


def _generate(parts: _Parts, params: dict, stats: dict, latents: jax.Array, labels: jax.Array | None) -> tuple[_Fakes, dict]:
    """Generates images in training mode. Returns (fakes, G's new statistics)."""

    def forward(params: dict) -> tuple[jax.Array, dict]:
        variables = {"params": params, "batch_stats": stats}
        images, new = parts.generator.apply(variables, latents, True, labels, mutable="batch_stats")
        return images, unfreeze(new).get("batch_stats", {})

    images, pullback, stats = jax.vjp(forward, params, has_aux=True)
    return _Fakes(images, pullback), stats


def _discriminate(
    parts: _Parts, params: dict, stats: dict, batch: Batch, keys: Keys, kind: Kind, augment_p: jax.Array | None
) -> tuple[jax.Array, dict]:
    """Computes (logits (B,), D's new statistics) in training mode, with augmentation. batch: float32; kind selects the keys."""
    images = augment(keys[f"augment_{kind}"], batch.images, parts.config.loss.augment, augment_p)
    rngs = {"dropout": keys[f"dropout_{kind}"]} if parts.config.nets.d_dropout > 0 else None
    variables = {"params": params, "batch_stats": stats}
    logits, new = parts.discriminator.apply(variables, images, True, batch.labels, mutable="batch_stats", rngs=rngs)
    return logits, unfreeze(new).get("batch_stats", {})


def _prepare_real(config: Config, batch: Batch, key: jax.Array) -> Batch:
    """Scales images, (B, S, S, C) uint8 -> float32 in G's output range. With `flip`, mirrors each with probability 1/2."""
    images = scale_pixels(batch.images, config.nets)
    if config.data.flip:
        is_mirrored = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
        images = jnp.where(is_mirrored, images[:, :, ::-1], images)
    return Batch(images, batch.labels)


def _split_streams(key: jax.Array, streams: tuple[str, ...]) -> Keys:
    """Splits a key into one key per name."""
    return dict(zip(streams, jax.random.split(key, len(streams)), strict=True))


def _update_ema(config: Config, state: GanState) -> dict:
    # The half-life is in images, so that it does not depend on the batch size. It ramps up from 0, so that the EMA soon forgets
    # the initial parameters. Source: Karras et al. 2020, arXiv:1912.04958, appendix B; the ramp is in its published code.
    optimizer = config.optimizer
    if optimizer.ema_half_life_kimg == 0:
        return state.g_params
    images = state.step.astype(jnp.float32) * config.images_per_step
    half_life = jnp.minimum(optimizer.ema_half_life_kimg * 1000, images * optimizer.ema_ramp)
    kept = 0.5 ** (config.images_per_step / jnp.maximum(half_life, 1e-8))
    return jax.tree.map(lambda ema, new: new + kept * (ema - new), state.ema_params, state.g_params)
