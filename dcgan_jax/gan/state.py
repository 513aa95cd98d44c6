"""GanState: one pytree with everything that a training step reads or writes. Its `step` is also the position in the data."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from flax.core import unfreeze

from dcgan_jax.config import Config, Data, Guard, Output, Run, count_total_steps
from dcgan_jax.gan.freezing import split_frozen
from dcgan_jax.gan.models import Discriminator, Generator
from dcgan_jax.gan.optimizer import make_adam


class GanState(struct.PyTreeNode):
    """The state of a run, from which it resumes exactly. Parameters, statistics and Adam moments are float32 trees."""

    step: jax.Array  # () int32: number of steps done
    key: jax.Array  # () PRNG key: each step, save and rollback folds its own number into it
    g_params: dict
    g_stats: dict  # BN's running means and variances; empty without BN
    d_params: dict
    d_stats: dict  # BN, the spectral norm's vectors and values, or the minibatch standard deviation
    g_opt: optax.OptState
    d_opt: optax.OptState  # without the layers that `freeze_d` keeps fixed
    ema_params: dict  # moving average of g_params, used for samples, scores and exports
    ema_stats: dict  # BN statistics for ema_params; `sampling.make_recalibrate` recomputes them
    augment_p: jax.Array | None = None  # () float32: augmentation probability, if it is adaptive
    labels: jax.Array | None = None  # (LABELS, A) uint8: the default labels of samples, if the recipe is conditional


LABELS = 1024  # rows of `labels`
PRNG = "threefry2x32"  # not JAX's default, which a variable of the shell can change


def make_key(seed: int | jax.Array) -> jax.Array:
    """Makes the PRNG key of a seed, 0 to 2**32 - 1. All random numbers of the networks come from such keys."""
    return jax.random.key(seed, impl=PRNG)


def init_state(config: Config, labels: jax.Array | np.ndarray | None = None) -> GanState:
    """Makes the initial state, which depends on config.run.seed. Pure: jit it. `describe_state` gives only its shapes.

    labels: (LABELS, A) of 0 and 1, a random sample of the training labels. If None, a conditional recipe gets zeros.
    """
    key, g_key, d_key = jax.random.split(make_key(config.run.seed), 3)
    nets = config.nets
    if nets.condition and labels is None:
        labels = jnp.zeros((LABELS, len(nets.conditions)), jnp.uint8)
    one = None if labels is None else labels[:1]
    # `init` returns plain dicts. `unfreeze` only tells the type checker so.
    g = unfreeze(Generator(nets).init(g_key, jnp.zeros((1, nets.latent_dim)), False, one))
    d = unfreeze(Discriminator(nets).init(d_key, jnp.zeros((1, nets.size, nets.size, nets.channels)), False, one))
    g_stats, d_stats = g.get("batch_stats", {}), d.get("batch_stats", {})
    g_adam, d_adam = make_optimizers(config, jnp.ones(()))  # no initial value depends on the run's length
    return GanState(
        step=jnp.zeros((), jnp.int32),
        key=key,
        g_params=g["params"],
        g_stats=g_stats,
        d_params=d["params"],
        d_stats=d_stats,
        g_opt=g_adam.init(g["params"]),
        d_opt=d_adam.init(split_frozen(d["params"], config.optimizer.freeze_d).trained),
        # Copies, because a donated buffer must belong to one leaf only.
        ema_params=jax.tree.map(jnp.copy, g["params"]),
        ema_stats=jax.tree.map(jnp.copy, g_stats),
        augment_p=jnp.zeros(()) if config.loss.augment_target > 0 else None,
        labels=None if labels is None else jnp.asarray(labels, jnp.uint8),
    )


def describe_state(config: Config) -> GanState:
    """Returns the shapes and dtypes of `init_state(config)`, as jax.ShapeDtypeStruct leaves. Cached: do not change its dicts."""
    return _trace_shapes(drop_unread_settings(config))  # so all runs of a recipe share one trace


def drop_unread_settings(config: Config) -> Config:
    """Returns the config with defaults in all settings that the programs of a run do not read.

    They read no length, because it is an input of a step. They read no seed, except for the initial values of a state.
    Recalibration reads whether a state's first weights are random (`start`, `grow_kimg`).
    """
    run = Run(steps=1, start=config.run.start, grow_kimg=config.run.grow_kimg)
    data = Data(batch_size=config.data.batch_size, flip=config.data.flip)
    return dataclasses.replace(config, run=run, data=data, output=Output(), guard=Guard())


@functools.cache
def _trace_shapes(config: Config) -> GanState:
    return jax.eval_shape(lambda: init_state(config))


def make_optimizers(
    config: Config, total_steps: jax.Array | None = None
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Makes the optimisers of G and of D.

    total_steps: () float32, the run's length, over which the learning rate decays; None: that of the config.
    Raises: ValueError if the learning rate decays and the config has no length in steps or kimg.
    """
    optimizer = config.optimizer
    if total_steps is None and optimizer.lr_decay != "none":
        if config.run.steps is None and config.run.kimg is None:
            raise ValueError("lr_decay: the number of steps in an epoch is not known here; give the length in steps or kimg")
        total_steps = jnp.asarray(count_total_steps(config, 0), jnp.float32)
    steps_per_turn = _count_steps_per_turn(config)

    def make_one(lr: float, updates_a_step: int) -> optax.GradientTransformation:
        updates = 0 if total_steps is None else jnp.maximum(1, jnp.ceil(updates_a_step * total_steps / steps_per_turn))
        return make_adam(optimizer, lr, updates, count_images_per_update(config, updates_a_step))

    return (
        make_one(optimizer.lr, optimizer.g_steps),
        make_one(optimizer.lr if optimizer.d_lr is None else optimizer.d_lr, optimizer.d_steps),
    )


def count_images_per_update(config: Config, updates_a_step: int) -> float:
    """Counts the real images from one update of a network to its next. updates_a_step: `d_steps` or `g_steps`."""
    return config.images_per_step * _count_steps_per_turn(config) / updates_a_step


def _count_steps_per_turn(config: Config) -> int:
    """Counts the steps until a network is updated again: 2 if the networks take turns, G first."""
    return 2 if config.optimizer.updates == "alternating" else 1


def count_parameters(params: dict) -> int:
    """Counts the parameters in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def name_leaves(*trees: optax.Params | GanState) -> dict[str, jax.Array]:
    """Maps the path of each leaf in its tree, such as up1/kernel, to the leaf, in the order of jax.tree.leaves."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for tree in trees
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def check_finite(state: GanState) -> dict[str, jax.Array]:
    """Maps the path of each float leaf, such as g_params/up1/kernel, to () bool: whether all numbers are finite. Pure: jit it."""
    return {
        name: jnp.isfinite(leaf).all() for name, leaf in name_leaves(state).items() if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
