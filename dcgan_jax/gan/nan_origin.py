"""Finds the origin of a NaN or an infinity: runs one training step and checks the result of every operation.

jax.experimental.checkify is no alternative. Its float checks miss infinities (an overflowing loss, or Adam's second moment). They
report a source line, which is the same for all layers of a loop, forward and backward. Its compilation takes as long.
"""

import functools
import itertools
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun

from dcgan_jax.batch import Batch
from dcgan_jax.config import Config
from dcgan_jax.gan.state import GanState, check_finite
from dcgan_jax.gan.step import make_train_step

CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call")  # checked inside; any other call counts as one operation
# These operations only move or select numbers: a NaN in their result was in their input. So they need no check.
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


def find_first_nan(config: Config, state: GanState, batch: Batch) -> str:
    """Finds the first NaN or infinity: a leaf of the state or, if all are finite, a layer and operation of the step.

    Args: state, before the step; batch, as the step takes it. Neither is donated, and the state's key stays usable.
    Returns: a place in words, or "nowhere" if all numbers are finite. Examples: "g_params/up1/kernel, before the step",
        "D's down2 on fakes, in D's update (dot_general)", "the gradient of G's up1, in G's update (mul)". Such a gradient is by
        the layer's input or by its parameters.
    It compiles a program of its own, which takes four times as long as for the normal step (37 s for `article` on two cores).
    """
    bad = next((name for name, finite in check_finite(state).items() if not finite), None)
    if bad:
        return f"{bad}, before the step"
    state = state.replace(key=jax.random.clone(state.key))  # the run's step may have used this key already
    check_step, places = _make_checked_step(config)
    finite = check_step(state, batch).tolist()
    return next((place for place, is_finite in zip(places, finite, strict=True) if not is_finite), "nowhere")


@functools.cache
def _make_checked_step(config: Config) -> tuple[Callable[[GanState, Batch], jax.Array], list[str]]:
    """Makes (f, places). f(state, batch) -> (N,) bool, whether each operation's result is finite. Tracing f fills places (N)."""
    places = []

    def check_step(state: GanState, batch: Batch) -> jax.Array:
        closed, outcomes = jax.make_jaxpr(make_train_step(config))(state, batch), []
        _run_checked(closed.jaxpr, closed.consts, jax.tree.leaves((state, batch)), (), outcomes)
        places[:] = [place for place, _ in outcomes]
        return jnp.stack([finite for _, finite in outcomes])

    return jax.jit(check_step), places


def _run_checked(
    jaxpr: Jaxpr, consts: Sequence, args: Sequence, scopes: tuple[str, ...], outcomes: list[tuple[str, jax.Array]]
) -> list:
    """Runs the program and returns its outputs. Appends to outcomes for each operation: place, whether the result is finite."""
    values = dict(zip(itertools.chain(jaxpr.constvars, jaxpr.invars), itertools.chain(consts, args), strict=True))

    def read(atom: Literal | Var) -> jax.Array:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        here = (*scopes, *filter(None, str(equation.source_info.name_stack).split("/")))
        inner = next((value for value in equation.params.values() if isinstance(value, ClosedJaxpr)), None)
        if inner is not None and equation.primitive.name in CALLS:
            outputs = _run_checked(inner.jaxpr, inner.consts, inputs, here, outcomes)
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
    """Describes in words the scopes of step.py and Flax, such as update_d, transpose(jvp(fake)), Discriminator, down2."""
    names = [re.sub(r"\w+\(|\)", "", scope) for scope in scopes]
    net_letter = {"update_d": "D", "update_g": "G"}.get(names[0] if names else "")
    if net_letter is None:
        return "the step itself"
    net = next((net for net in ("Generator", "Discriminator") if net in names), None)
    if net:
        layer = "/".join(names[names.index(net) + 1 :]) or "activations"
        what = f"{net[0]}'s {layer}" + (" on reals" if "real" in names else " on fakes" if "fake" in names else "")
        what += " in the penalty" if "penalty" in names else ""
    elif names == names[:1]:
        what = "Adam"  # all other operations without an inner scope keep finite numbers finite
    else:
        what = f"{net_letter}'s {'penalty' if 'penalty' in names else 'loss'}"
    is_backward = any(scope.startswith("transpose(") for scope in scopes)  # inside jvp(...) it belongs to a penalty's value
    return f"{'the gradient of ' if is_backward else ''}{what}, in {net_letter}'s update"
