"""Where a NaN comes from: one training step, operation by operation, until the first that makes one of finite numbers."""

import itertools
import re

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from dcgan_jax.config import Config
from dcgan_jax.gan.state import GanState, finite_leaves
from dcgan_jax.gan.step import train_step

CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call")  # looked into; whatever else holds a program is one operation


def first_nan(config: Config, state: GanState, batch: jax.Array) -> str:
    """The leaf of the state before the step, or else the layer and operation, where the first NaN or infinity appears.

    Args: state before the step; batch (images_per_step, S, S, C) uint8. Neither is donated, no key of the state is spent.
    Returns: such as "g_params/up1/kernel, before the step", "D's down2 on fakes, in D's update (dot_general)" or "the gradient
        of G's up1, in G's update (mul)", where a gradient is of all that its layer passes back and of its parameters; "nowhere"
        where the step is finite.
    Runs every operation by itself, outside jit: seconds, not milliseconds.
    """
    bad = next((name for name, finite in finite_leaves(state).items() if not finite), None)
    if bad:
        return f"{bad}, before the step"
    state = state.replace(key=jax.random.clone(state.key))  # its own step may have spent it
    closed = jax.make_jaxpr(train_step(config))(state, batch)
    return _run(closed.jaxpr, closed.consts, jax.tree.leaves((state, batch)), ())[1] or "nowhere"


def _run(jaxpr: Jaxpr, consts, args, scopes) -> tuple[list, str | None]:
    """(outputs, where the first NaN appears or None): the outputs are only there without one."""
    values = dict(zip(itertools.chain(jaxpr.constvars, jaxpr.invars), itertools.chain(consts, args), strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        here = (*scopes, *filter(None, str(equation.source_info.name_stack).split("/")))
        inner = next((value for value in equation.params.values() if isinstance(value, ClosedJaxpr)), None)
        if inner is not None and equation.primitive.name in CALLS:
            outputs, where = _run(inner.jaxpr, inner.consts, inputs, here)
            if where:
                return [], where
        else:
            variables = list(dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, Literal)))
            alone = Jaxpr((), variables, equation.outvars, [equation], debug_info=jaxpr.debug_info.with_unknown_names())
            outputs = jaxpr_as_fun(ClosedJaxpr(alone, ()))(*map(read, variables))
            if not all(map(_is_finite, outputs)):
                return [], f"{_words(here)} ({equation.primitive.name})"
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars], None


def _is_finite(value) -> bool:
    return not jnp.issubdtype(value.dtype, jnp.floating) or bool(jnp.isfinite(value).all())


def _words(scopes: tuple[str, ...]) -> str:
    """The scopes of step.py and Flax's modules, as JAX wraps them: update_d, transpose(jvp(fake)), Discriminator, down2."""
    names = [re.sub(r"\w+\(|\)", "", scope) for scope in scopes]
    who = {"update_d": "D", "update_g": "G"}.get(names[0] if names else "")
    if who is None:
        return "the step itself"
    net = next((net for net in ("Generator", "Discriminator") if net in names), None)
    if net:
        layer = "/".join(names[names.index(net) + 1:]) or "activations"
        what = f"{net[0]}'s {layer}" + (" on reals" if "real" in names else " on fakes" if "fake" in names else "")
        what += " in the penalty" if "penalty" in names else ""
    elif names == names[:1]:
        what = "Adam"  # all else that is done there without a scope takes finite numbers to finite ones
    else:
        what = f"{who}'s {'penalty' if 'penalty' in names else 'loss'}"
    backwards = any(scope.startswith("transpose(") for scope in scopes)  # inside jvp(...) it is a part of a penalty's value
    return f"{'the gradient of ' if backwards else ''}{what}, in {who}'s update"
