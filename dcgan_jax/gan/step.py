"""The training step: D on real and fake, G against the new D, the moving average; pure functions of (state, batch).

The order, the separate real and fake passes (BN statistics never mix) and the threading of D's running statistics
real -> fake -> G's fake follow the published recipes: docs/published-dcgans.md, sections 2 and 4.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dcgan_jax.config import Config
from dcgan_jax.gan import losses, penalties
from dcgan_jax.gan.augment import adapt_probability, augment
from dcgan_jax.gan.models import Discriminator, Generator
from dcgan_jax.gan.pixels import scale_pixels
from dcgan_jax.gan.sampling import sample_latents
from dcgan_jax.gan.state import GanState, make_optimizers

# One named stream a purpose: two uses of randomness never share a key unless a recipe says so (latents "same").
D_STREAMS = ("latents", "flip", "augment_real", "augment_fake", "dropout_real", "dropout_fake", "mix", "noise_real", "noise_fake")
G_STREAMS = ("latents", "augment_real", "augment_fake", "dropout_real", "dropout_fake")


def make_train_step(config: Config, sharding: jax.sharding.Sharding | None = None) -> Callable[[GanState, jax.Array], tuple]:
    """One training step of this config, as a pure function to be jitted once.

    Args: config; sharding, how (B, ...) arrays made inside the step are split over devices (none: as XLA likes).
    Returns: f(state, batch) -> (state, metrics): batch (images_per_step, S, S, C) uint8, or that and the pictures' labels,
        (images_per_step, A) uint8 of 0 and 1, where the recipe is conditional: fakes are asked to be what the real pictures
        of their batch are, so that D meets each kind as often in both; metrics, () float32 each:
        d_loss, g_loss, d_real_hits and d_fake_hits (shares D classified rightly), g_grad_norm (Euclidean length of G's whole
        gradient; g_loss and it are of G's last update), d_penalty where one is configured (0 in the steps between lazy ones),
        augment_p where it adapts itself.
    """
    nets, loss, optimizer, batch_size = config.nets, config.loss, config.optimizer, config.data.batch_size
    generator, discriminator = Generator(nets), Discriminator(nets)
    g_adam, d_adam = make_optimizers(config)
    adversarial = losses.LOSSES[loss.loss]
    penalised = loss.gp_weight > 0 or loss.r1_gamma > 0 or loss.r2_gamma > 0

    def split_over_devices(x):
        return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)

    def generate(params, stats, latents, labels):
        """(images, their pullback to params), new statistics: where D and G see the same fakes, one pass serves both."""

        def forward(params):
            images, new = generator.apply({"params": params, "batch_stats": stats}, latents, True, labels, mutable="batch_stats")
            return images, new.get("batch_stats", {})

        images, pullback, stats = jax.vjp(forward, params, has_aux=True)
        return (images, pullback), stats

    def discriminate(params, stats, images, labels, augment_key, augment_p, dropout_key):
        images = augment(augment_key, images, loss.augment, augment_p)
        logits, new = discriminator.apply(
            {"params": params, "batch_stats": stats},
            images,
            True,
            labels,
            mutable="batch_stats",
            rngs={"dropout": dropout_key} if nets.d_dropout > 0 else None,
        )
        return logits, new.get("batch_stats", {})

    def d_objective(params, stats, real, fake, labels, keys, augment_p, step):
        before = {"real": stats}
        with jax.named_scope("real"):  # scopes name the place where a NaN comes from: nan_origin.py
            real_logits, stats = discriminate(params, stats, real, labels, keys["augment_real"], augment_p, keys["dropout_real"])
        before["fake"] = stats
        with jax.named_scope("fake"):
            fake_logits, stats = discriminate(params, stats, fake, labels, keys["augment_fake"], augment_p, keys["dropout_fake"])
        with jax.named_scope("loss"):
            if loss.loss == "bce":
                adversarial_loss = losses.nonsaturating_d(real_logits, fake_logits, loss.real_label).mean()
            else:
                adversarial_loss = adversarial.d(real_logits, fake_logits).mean()
        boundary = adversarial.boundary
        if boundary is None:
            boundary = (real_logits.mean() + fake_logits.mean()) / 2
        metrics = {
            "d_loss": adversarial_loss,
            "d_real_hits": (real_logits > boundary).mean(),
            "d_fake_hits": (fake_logits < boundary).mean(),
        }
        if penalised:
            # The keys, and the vectors of spectral norms, are those of the passes above: the same function judges these images.
            def critic(images, kind):
                augment_key, dropout_key = (jax.random.clone(keys[f"{purpose}_{kind}"]) for purpose in ("augment", "dropout"))
                return discriminate(params, before[kind], images, labels, augment_key, augment_p, dropout_key)[0]

            def squared_norm(images, logits, kind):
                if loss.penalty_noise == 0:
                    return penalties.squared_gradient_norm(lambda x: critic(x, kind), images)
                noise = split_over_devices(loss.penalty_noise * jax.random.normal(keys[f"noise_{kind}"], images.shape))
                # With the logits above: of a second pass of the same images XLA would take the gradient twice.
                return penalties.squared_finite_difference(logits, critic(images + noise, kind), loss.penalty_noise)

            def penalty_terms():
                terms = []
                if loss.r1_gamma > 0:
                    terms.append(loss.r1_gamma / 2 * squared_norm(real, real_logits, "real").mean())
                if loss.r2_gamma > 0:
                    terms.append(loss.r2_gamma / 2 * squared_norm(fake, fake_logits, "fake").mean())
                if loss.gp_weight > 0:
                    mix = split_over_devices(jax.random.uniform(keys["mix"], (real.shape[0], 1, 1, 1)))
                    gp = penalties.gradient_penalty(lambda x: critic(x, "real"), real, fake, mix)
                    terms.append(loss.gp_weight * gp.mean())
                return loss.penalty_every_steps * sum(terms)

            with jax.named_scope("penalty"):
                if loss.penalty_every_steps > 1:  # Source: Karras et al. 2020, arXiv:1912.04958, section 3.1
                    is_due = (step + 1) % loss.penalty_every_steps == 0  # so that logs, of every so many steps done, meet it
                    penalty = jax.lax.cond(is_due, penalty_terms, lambda: jnp.zeros(()))
                else:
                    penalty = penalty_terms()
            metrics["d_penalty"] = penalty
            return adversarial_loss + penalty, (stats, metrics)
        return adversarial_loss, (stats, metrics)

    def g_objective(fake, d_params, d_stats, real, labels, keys, augment_p):
        real_logits = None
        if adversarial.g_needs_real:
            with jax.named_scope("real"):
                real_logits, d_stats = discriminate(
                    d_params, d_stats, real, labels, keys["augment_real"], augment_p, keys["dropout_real"]
                )
        with jax.named_scope("fake"):
            fake_logits, d_stats = discriminate(
                d_params, d_stats, fake, labels, keys["augment_fake"], augment_p, keys["dropout_fake"]
            )
        with jax.named_scope("loss"):
            return adversarial.g(real_logits, fake_logits).mean(), d_stats

    def prepare(real, key):  # (B, S, S, C) uint8 -> float32
        real = scale_pixels(real, nets)
        if config.data.flip:
            mirrored = jax.random.bernoulli(key, shape=(real.shape[0], 1, 1, 1))
            real = jnp.where(mirrored, real[:, :, ::-1], real)
        return real

    @jax.named_scope("update_d")
    def update_d(state, real, labels, key):
        keys = _split_streams(key, D_STREAMS)
        real = prepare(real, keys["flip"])
        latents = split_over_devices(sample_latents(keys["latents"], batch_size, nets))
        fakes, g_stats = generate(state.g_params, state.g_stats, latents, labels)
        gradients, (d_stats, metrics) = jax.grad(d_objective, has_aux=True)(
            state.d_params, state.d_stats, real, fakes[0], labels, keys, state.augment_p, state.step
        )
        updates, d_opt = d_adam.update(gradients, state.d_opt, state.d_params)
        d_params = optax.apply_updates(state.d_params, updates)
        state = state.replace(d_params=d_params, d_stats=d_stats, d_opt=d_opt, g_stats=g_stats)
        if loss.augment_target > 0:
            share = batch_size / (1000 * loss.augment_adapt_kimg)
            state = state.replace(
                augment_p=adapt_probability(state.augment_p, metrics["d_real_hits"], loss.augment_target, share)
            )
            metrics["augment_p"] = state.augment_p
        return state, metrics, real, latents, fakes

    @jax.named_scope("update_g")
    def update_g(state, fakes, real, labels, keys):
        fake, pullback = fakes
        objective = jax.value_and_grad(g_objective, has_aux=True)
        (g_loss, d_stats), d_fake = objective(fake, state.d_params, state.d_stats, real, labels, keys, state.augment_p)
        [gradients] = pullback(d_fake)
        updates, g_opt = g_adam.update(gradients, state.g_opt, state.g_params)
        state = state.replace(g_params=optax.apply_updates(state.g_params, updates), g_opt=g_opt)
        state = state.replace(d_stats=d_stats) if optimizer.d_stats_in_g_step else state
        return state, {"g_loss": g_loss, "g_grad_norm": optax.tree.norm(gradients)}

    def d_then_g(state, batch, d_key, g_key):
        batches = jax.tree.map(lambda x: x.reshape(optimizer.d_steps, batch_size, *x.shape[1:]), batch)
        # A Python loop: XLA's own CPU convolutions are slow inside one (see train_steps). The metrics are of D's last update.
        for i, key in enumerate(jax.random.split(d_key, optimizer.d_steps)):
            real, labels = jax.tree.map(lambda x, i=i: x[i], batches)
            state, metrics, real, latents, fakes = update_d(state, real, labels, key)
        keys = [_split_streams(key, G_STREAMS) for key in jax.random.split(g_key, optimizer.g_steps)]
        if optimizer.g_latents == "new":
            latents = split_over_devices(sample_latents(keys[0]["latents"], batch_size, nets))
        for i, update_keys in enumerate(keys):
            if i > 0 or optimizer.g_latents == "new":  # else D's fakes are G's first, and have counted in G's statistics
                fakes, g_stats = generate(state.g_params, state.g_stats, latents, labels)
                state = state.replace(g_stats=g_stats)
            state, g_metrics = update_g(state, fakes, real, labels, update_keys)
        return state, metrics | g_metrics

    def alternating(state, batch, d_key, g_key):
        # Source: docs/published-dcgans.md 2.1: one batch updates either G (even steps, so the first) or D. Both updates are
        # computed and one is kept: newmu's last convolution and blocks' are XLA's own, on CPU fifteen times slower in a branch.
        keys = _split_streams(g_key, G_STREAMS)
        real, labels = batch
        d_updated, metrics, real, _, fakes = update_d(state, real, labels, d_key)
        g_updated, g_metrics = update_g(state.replace(g_stats=d_updated.g_stats), fakes, real, labels, keys)
        is_g_step, key = state.step % 2 == 0, state.key
        # Without the key, which is the same in both and may not be used again.
        state = jax.tree.map(lambda g, d: jnp.where(is_g_step, g, d), g_updated.replace(key=None), d_updated.replace(key=None))
        return state.replace(key=key), metrics | g_metrics

    def step(state: GanState, batch: jax.Array | tuple[jax.Array, jax.Array]) -> tuple[GanState, dict[str, jax.Array]]:
        d_key, g_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        update = alternating if optimizer.updates == "alternating" else d_then_g
        state, metrics = update(state, batch if nets.condition else (batch, None), d_key, g_key)
        state = state.replace(step=state.step + 1)
        return state.replace(ema_params=_update_ema(config, state)), metrics

    return step


def make_train_steps(config: Config, sharding: jax.sharding.Sharding | None = None) -> Callable[[GanState, jax.Array], tuple]:
    """The scan of train_step: f(state, its batches stacked, (k, images_per_step, S, S, C)) -> (state, metrics of (k,))."""
    step = make_train_step(config, sharding)

    def in_a_row(state, batches):
        metrics = []
        for i in range(len(jax.tree.leaves(batches)[0])):
            state, metric = step(state, jax.tree.map(lambda x, i=i: x[i], batches))
            metrics.append(metric)
        return state, jax.tree.map(lambda *values: jnp.stack(values), *metrics)

    # XLA's own CPU convolution, newmu's last and blocks', is some twenty times slower in a loop, even of one turn (measured).
    return in_a_row if jax.default_backend() == "cpu" else lambda state, batches: jax.lax.scan(step, state, batches)


def _split_streams(key, streams):
    return dict(zip(streams, jax.random.split(key, len(streams)), strict=True))


def _update_ema(config, state):
    # Half-life in images, so that batch size does not change it, ramped so that the start is forgotten soon.
    # Source: Karras et al. 2020, arXiv:1912.04958, appendix B; the ramp is from its published code.
    optimizer = config.optimizer
    if optimizer.ema_half_life_kimg == 0:
        return state.g_params
    images = state.step.astype(jnp.float32) * config.images_per_step
    half_life = jnp.minimum(optimizer.ema_half_life_kimg * 1000, images * optimizer.ema_ramp)
    kept = 0.5 ** (config.images_per_step / jnp.maximum(half_life, 1e-8))
    return jax.tree.map(lambda ema, new: new + kept * (ema - new), state.ema_params, state.g_params)
