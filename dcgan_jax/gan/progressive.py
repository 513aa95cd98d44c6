"""Networks of twice the image side from trained ones, that begin by drawing and judging as these do: one layer more, of resizing.

After progressive growing (Karras et al. 2018, arXiv:1710.10196, section 2), which fades new layers in. Here colours pass through
the new layer in pairs of channels of opposite sign, which its activation takes apart and the next layer puts together again: the
step, and all that draws, know nothing of it (Chen et al. 2016, arXiv:1511.05641, section 2).
"""

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.config import Config, Nets, replace
from dcgan_jax.gan import conv
from dcgan_jax.gan.models import LEAKY_SLOPE, Generator, list_g_widths
from dcgan_jax.gan.sampling import sample_latents
from dcgan_jax.gan.state import GanState

MEASURED = 512  # faces by which the new normalisations are set
# Along one axis: enlarging between pixels and halving by a smooth mean; and what a blur (models.py's smooth) makes into the same.
ENLARGE, HALVE = np.float32([1, 3, 3, 1]) / 4, np.float32([1, 3, 3, 1]) / 8
BEFORE_BLUR = np.float32([0, 1, 1, 0])


def make_low_resolution_config(config: Config) -> Config:
    """The run that comes first: half the side, the same layers inside, for `grow_kimg`.

    Without what is made for the outermost layers: blocks, blur, and R1 and R2 where they hold back a D that blocks make steep.
    """
    if config.nets.d_refine:
        every = config.loss.penalty_every_steps if config.loss.gp_weight else 1
        config = replace(config, r1_gamma=0.0, r2_gamma=0.0, penalty_noise=0.0, penalty_every_steps=every)
    return replace(
        config,
        size=config.nets.size // 2,
        width=config.nets.width * 2,
        g_smooth=False,
        g_refine=0,
        d_refine=0,
        steps=None,
        epochs=None,
        kimg=config.run.grow_kimg,
        grow_kimg=0.0,
        lr_warmup_kimg=0.0,
        lr_decay="none",
        lr_decay_share=1.0,
    )


def grow_state(config: Config, state: GanState, small: GanState) -> GanState:
    """The state before step 0 with small's networks inside.

    Args: config, of the large networks, state, drawn for it; small, that `halved(config)` came to.
    """
    nets, small_nets = config.nets, make_low_resolution_config(config).nets
    key = jax.random.fold_in(small.key, 2**32 - 2)  # no step has this number, nor what draws at a save
    latents = sample_latents(key, MEASURED, small_nets)
    labels = None if small.labels is None else small.labels[:MEASURED]
    g_params, images = _grow_generator(nets, small_nets, state.g_params, small.g_params, small.g_stats, latents, labels)
    ema_params, _ = _grow_generator(nets, small_nets, state.ema_params, small.ema_params, small.ema_stats, latents, labels)
    d_params, d_stats = _grow_discriminator(nets, state, small, images)
    return state.replace(g_params=g_params, ema_params=ema_params, d_params=d_params, d_stats=d_stats, augment_p=small.augment_p)


def _grow_generator(nets: Nets, small_nets, drawn, small, small_stats, latents, labels):
    """(parameters, the small one's images): its last layer becomes the new one, behind which is an enlargement."""
    variables = {"params": small, "batch_stats": small_stats}
    images, _ = Generator(small_nets).apply(variables, latents, True, labels, mutable="batch_stats")
    # Where the last activation has flattened all, what was before it is not known: not infinitely much.
    if nets.g_output == "tanh":
        before = jnp.arctanh(jnp.clip(images, -1 + 1e-6, 1 - 1e-6))
    else:
        before = jax.scipy.special.logit(jnp.clip(images, 1e-6, 1 - 1e-6))
    mean, sd = before.mean((0, 1, 2)), jnp.sqrt(before.var((0, 1, 2)) + nets.bn_epsilon)  # (C,): BN must undo itself
    up = f"up{len(list_g_widths(small_nets))}"  # the head's is the first of them
    c, last = nets.channels, small["image"]["kernel"]  # (4, 4, C, 2 width)
    taps = np.outer(BEFORE_BLUR, BEFORE_BLUR) if nets.g_smooth else np.outer(ENLARGE, ENLARGE)
    # Of a pair (x, -x) the activation leaves x behind: relu(x) - relu(-x) = x, and leaky ones (1 + slope) x.
    through = taps[:, :, None, None] * np.eye(c, dtype=np.float32) / (1.0 if nets.g_activation == "relu" else 1 + LEAKY_SLOPE)
    norm = drawn[f"{up}_norm"]
    return drawn | {name: layer for name, layer in small.items() if name != "image"} | {
        up: {"kernel": drawn[up]["kernel"].at[:, :, :c].set(last).at[:, :, c : 2 * c].set(-last)},
        f"{up}_norm": {
            "scale": norm["scale"].at[: 2 * c].set(jnp.tile(sd, 2)),
            "bias": norm["bias"].at[: 2 * c].set(jnp.concatenate([mean, -mean])),
        },
        # What else the new layer finds counts for nothing yet.
        "image": {
            "kernel": jnp.zeros_like(drawn["image"]["kernel"]).at[:, :, :, : 2 * c].set(jnp.concatenate([through, -through], 3))
        },
    }, images


def _grow_discriminator(nets: Nets, state, small, images):
    """(parameters, statistics): before its first layer is a halving; behind that is BN now, which must undo itself."""
    c, first = nets.channels, small.d_params["down1"]["kernel"]  # (4, 4, C, 2 width)
    seen = conv.conv(images, first)
    mean, var = seen.mean((0, 1, 2)), seen.var((0, 1, 2))
    through = np.outer(HALVE, HALVE)[:, :, None, None] * np.eye(c, dtype=np.float32)  # (4, 4, C, C)
    again, drawn = first / (1 + LEAKY_SLOPE), state.d_params
    params = (
        drawn
        | {_shift_name(name): layer for name, layer in small.d_params.items()}
        | {
            "down1": {"kernel": drawn["down1"]["kernel"].at[:, :, :, : 2 * c].set(jnp.concatenate([through, -through], 3))},
            # The new channels say something at once: they are what tells sharp pictures from enlarged ones.
            "down2": {"kernel": drawn["down2"]["kernel"].at[:, :, :c].set(again).at[:, :, c : 2 * c].set(-again)},
            "down2_norm": {"scale": jnp.sqrt(var + nets.bn_epsilon), "bias": mean},
        }
    )
    stats = {_shift_name(name): layer for name, layer in small.d_stats.items()}
    return params, state.d_stats | stats | {"down2_norm": {"mean": mean, "var": var}}


def _shift_name(name: str) -> str:
    """down2 -> down3, down2_norm -> down3_norm; others stay."""
    if not name.startswith("down"):
        return name
    number, _, rest = name.removeprefix("down").partition("_")
    return f"down{int(number) + 1}" + (f"_{rest}" if rest else "")
