"""Handles NaNs and infinities: detects them before a save, names their origin, and rolls back to the last checkpoint."""

import jax
import numpy as np

from dcgan_jax.batch import Batch
from dcgan_jax.config import UserError
from dcgan_jax.gan.nan_origin import find_first_nan
from dcgan_jax.gan.state import GanState
from dcgan_jax.run import checkpoints, distributed, setup
from dcgan_jax.run.logs import NonFiniteError, read_warnings
from dcgan_jax.run.session import Session

ROLLED_BACK = "rolled-back"  # kind of a warning in metrics.jsonl


def require_finite(session: Session, step: int, state: GanState) -> None:
    """Raises NonFiniteError with the name of the leaf if the state contains a NaN or an infinity."""
    bad = _find_bad_leaf(session, state)
    if bad:
        raise NonFiniteError(f"step {step}: {bad} contains a NaN or an infinity")


def explain(session: Session, fault: NonFiniteError, before: GanState | None, state: GanState, batch: Batch) -> NonFiniteError:
    """Adds the origin to the message: with --debug the first layer with a NaN, else the first such leaf of the state.

    before: with --debug the state before the step, else None. batch: the batches of the dispatch, (k, ...).
    """
    if before is None:
        return NonFiniteError(f"{fault} (first affected leaf: {_find_bad_leaf(session, state) or 'none yet'})")
    first = jax.tree.map(lambda batches: batches[0], batch)
    return NonFiniteError(f"{fault} (first in {find_first_nan(session.plan.config, before, first)})")


def roll_back(session: Session, fault: NonFiniteError) -> tuple[int, GanState]:
    """Restores the newest intact checkpoint: (step, state). Training continues from it with other random numbers.

    Raises: UserError if `on_nan` is stop, or after `max_rollbacks` rollbacks.
    """
    session.checkpoints.settle()
    plan, guard, done = session.plan, session.plan.config.guard, _count_rollbacks(session)
    if guard.on_nan == "stop" or done >= guard.max_rollbacks:
        after = f" after {done} rollbacks" if done else ""
        about = f"{plan.path}: {fault}{after}; {checkpoints.describe_kept(plan.path)}"
        rates = "`lr`" if plan.config.optimizer.d_lr is None else "`lr` and `d_lr`"  # `lr` is then G's alone
        other = f"a lower {rates} or another `seed` under another `name`"
        if guard.on_nan == "stop":
            raise UserError(f"{about}. Try `on_nan` rollback, or {other}") from None
        raise UserError(f"{about}. Try {other}, or more `max_rollbacks`") from None
    step, state = setup.restore_state(plan, session.logs.say)
    if state is None:  # the initial state contains a NaN
        raise UserError(f"{plan.path}: {fault}; there is no checkpoint to return to") from None
    session.logs.rewind(step)
    session.logs.warn(step, {ROLLED_BACK: f"{fault}: went back to step {step}, continued with other random numbers"})
    distributed.run_in_first(session.logs.flush)
    return step, state


def apply_rollbacks_to_key(session: Session, start: int, state: GanState) -> GanState:
    """Changes the random key for each rollback to `start` or later. With the same key, the same NaN would appear again."""
    times = _count_rollbacks(session, since=start)
    if not times:
        return state
    # Steps are folded into the key too, but they are always smaller than 2**31.
    fold = jax.jit(lambda key: jax.random.fold_in(key, np.uint32(2**31 + times)), out_shardings=session.plan.shardings.state)
    return state.replace(key=fold(state.key))


def _find_bad_leaf(session: Session, state: GanState) -> str | None:
    finite = jax.device_get(session.programs.check_finite(state))
    return next((name for name, is_finite in finite.items() if not is_finite), None)


def _count_rollbacks(session: Session, since: int = 0) -> int:
    return sum(kind == ROLLED_BACK and step >= since for step, kind, _ in read_warnings(session.plan.path))
