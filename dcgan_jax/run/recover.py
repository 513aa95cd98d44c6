"""NaNs and infinities: found before they are saved, their origin named, and the way back to the last checkpoint."""

import jax
import numpy as np

from dcgan_jax.batch import Batch
from dcgan_jax.config import UserError
from dcgan_jax.gan.nan_origin import find_first_nan
from dcgan_jax.gan.state import GanState
from dcgan_jax.run import checkpoints, distributed, setup
from dcgan_jax.run.logs import NonFiniteError, read_warnings
from dcgan_jax.run.setup import Session

ROLLED_BACK = "rolled-back"  # the kind of a rollback's line in metrics.jsonl


def require_finite(session: Session, step: int, state: GanState) -> None:
    """Raises NonFiniteError, naming the leaf, where the state holds a NaN or an infinity."""
    bad = _find_bad_leaf(session, state)
    if bad:
        raise NonFiniteError(f"step {step}: {bad} holds a NaN or an infinity")


def explain(session: Session, fault: NonFiniteError, before: GanState | None, state: GanState, batch: Batch) -> NonFiniteError:
    """The fault with the place it comes from: with --debug the layer, by `before`, the state before the step; else a leaf."""
    if before is None:
        return NonFiniteError(f"{fault} (first leaf: {_find_bad_leaf(session, state) or 'none yet'})")
    first = jax.tree.map(lambda batches: batches[0], batch)
    return NonFiniteError(f"{fault} (first in {find_first_nan(session.plan.config, before, first)})")


def roll_back(session: Session, fault: NonFiniteError) -> tuple[int, GanState]:
    """(step, state) of the newest whole checkpoint, to go on from with other random numbers.

    Raises: UserError where the config says that a NaN stops the run, or it has rolled back too often.
    """
    session.checkpoints.settle()
    plan, guard, done = session.plan, session.plan.config.guard, _count_rollbacks(session)
    if guard.on_nan == "stop" or done >= guard.max_rollbacks:
        after = f" after {done} rollbacks" if done else ""
        raise UserError(
            f"{plan.path}: {fault}{after}; {checkpoints.describe_kept(plan.path)}. Try a lower `lr`, "
            "`on_nan` rollback, or another `seed` under another `name`"
        ) from None
    step, state = setup.restore_state(plan, session.logs.say)
    if state is None:  # the run began with a NaN
        raise UserError(f"{plan.path}: {fault}; there is no checkpoint to go back to") from None
    session.logs.rewind(step)
    session.logs.warn(step, {ROLLED_BACK: f"{fault}: went back to step {step} and on with other random numbers"})
    distributed.run_in_first(session.logs.flush)
    return step, state


def apply_rollbacks_to_key(session: Session, start: int, state: GanState) -> GanState:
    """The state with another key after each rollback to `start` or later: the same steps again would end alike."""
    times = _count_rollbacks(session, since=start)
    if not times:
        return state
    # No step is folded in as so large a number.
    fold = jax.jit(lambda key: jax.random.fold_in(key, np.uint32(2**31 + times)), out_shardings=session.plan.shardings.state)
    return state.replace(key=fold(state.key))


def _find_bad_leaf(session: Session, state: GanState) -> str | None:
    found = jax.device_get(session.programs.check_finite(state))
    return next((name for name, is_finite in found.items() if not is_finite), None)


def _count_rollbacks(session: Session, since: int = 0) -> int:
    return sum(kind == ROLLED_BACK and step >= since for step, kind, _ in read_warnings(session.plan.path))
