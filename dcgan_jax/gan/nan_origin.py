"""Where a NaN comes from: one training step, all of whose operations are watched; the first that makes one of finite numbers."""

import functools
import itertools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from dcgan_jax.config import Config
from dcgan_jax.gan.state import GanState, check_finite
from dcgan_jax.gan.step import make_train_step

CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call")  # looked into; whatever else holds a program is one operation
# These hand numbers on or choose among them: a NaN that they give was given to them, and most of a step is such.
MOVES = (
    "broadcast_in_dim",
    "concatenate",
    "copy",
    "dynamic_slice",
    "gather",
    "max",
    "min",
    "neg",
    "pad",
    "reshape",
    "rev",
    "select_n",
    "slice",
    "squeeze",
    "stop_gradient",
    "transpose",
)


def find_first_nan(config: Config, state: GanState, batch: jax.Array) -> str:
    """The leaf of the state before the step, or else the layer and operation, where the first NaN or infinity appears.

    Args: state before the step; batch, as train_step takes it. Neither is donated, no key of the state is spent.
    Returns: such as "g_params/up1/kernel, before the step", "D's down2 on fakes, in D's update (dot_general)" or "the gradient
        of G's up1, in G's update (mul)", where a gradient is of all that its layer passes back and of its parameters; "nowhere"
        where the step is finite.
    Compiles a step of its own, which takes four times as long as the other one's (37 s for `article` on two cores).
    """
    bad = next((name for name, finite in check_finite(state).items() if not finite), None)
    if bad:
        return f"{bad}, before the step"
    state = state.replace(key=jax.random.clone(state.key))  # its own step may have spent it
    watched, places = _make_watched_step(config)
    finite = watched(state, batch).tolist()
    return next((where for where, each in zip(places, finite, strict=True) if not each), "nowhere")


@functools.cache
def _make_watched_step(config: Config) -> tuple[Callable[[GanState, jax.Array], jax.Array], list[str]]:
    """(state, batch -> whether each operation of a step gave finite numbers, those operations' places once it was traced)."""
    places = []

    def watched(state, batch):
        closed, outcomes = jax.make_jaxpr(make_train_step(config))(state, batch), []
        _run_watched(closed.jaxpr, closed.consts, jax.tree.leaves((state, batch)), (), outcomes)
        places[:] = [where for where, _ in outcomes]
        return jnp.stack([finite for _, finite in outcomes])

    return jax.jit(watched), places


def _run_watched(jaxpr: Jaxpr, consts, args, scopes, outcomes: list[tuple[str, jax.Array]]) -> list:
    """The outputs; to outcomes is added, for each operation in its turn: its place in words, whether it gave finite numbers."""
    values = dict(zip(itertools.chain(jaxpr.constvars, jaxpr.invars), itertools.chain(consts, args), strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        here = (*scopes, *filter(None, str(equation.source_info.name_stack).split("/")))
        inner = next((value for value in equation.params.values() if isinstance(value, ClosedJaxpr)), None)
        if inner is not None and equation.primitive.name in CALLS:
            outputs = _run_watched(inner.jaxpr, inner.consts, inputs, here, outcomes)
        else:
            variables = list(dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, Literal)))
            alone = Jaxpr((), variables, equation.outvars, [equation], debug_info=jaxpr.debug_info.with_unknown_names())
            outputs = jaxpr_as_fun(ClosedJaxpr(alone, ()))(*map(read, variables))
            if equation.primitive.name not in MOVES:
                outcomes += [
                    (f"{_describe_place(here)} ({equation.primitive.name})", jnp.isfinite(output).all())
                    for output in outputs
                    if jnp.issubdtype(output.dtype, jnp.floating)
                ]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _describe_place(scopes: tuple[str, ...]) -> str:
    """The scopes of step.py and Flax's modules, as JAX wraps them: update_d, transpose(jvp(fake)), Discriminator, down2."""
    names = [re.sub(r"\w+\(|\)", "", scope) for scope in scopes]
    who = {"update_d": "D", "update_g": "G"}.get(names[0] if names else "")
    if who is None:
        return "the step itself"
    net = next((net for net in ("Generator", "Discriminator") if net in names), None)
    if net:
        layer = "/".join(names[names.index(net) + 1 :]) or "activations"
        what = f"{net[0]}'s {layer}" + (" on reals" if "real" in names else " on fakes" if "fake" in names else "")
        what += " in the penalty" if "penalty" in names else ""
    elif names == names[:1]:
        what = "Adam"  # all else that is done there without a scope takes finite numbers to finite ones
    else:
        what = f"{who}'s {'penalty' if 'penalty' in names else 'loss'}"
    backwards = any(scope.startswith("transpose(") for scope in scopes)  # inside jvp(...) it is a part of a penalty's value
    return f"{'the gradient of ' if backwards else ''}{what}, in {who}'s update"
