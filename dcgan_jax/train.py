"""Trains a DCGAN: python -m dcgan_jax.train --workdir runs/. Run the same command again to resume."""

import functools
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax

from dcgan_jax import cli, terminal
from dcgan_jax import config as configuration
from dcgan_jax.command_lines import format_training_command
from dcgan_jax.config import Config
from dcgan_jax.config_rules import check_config
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.gan.state import GanState
from dcgan_jax.places import expand_places
from dcgan_jax.run import backend, distributed, observe, recover, run_length, setup
from dcgan_jax.run.logs import NonFiniteError
from dcgan_jax.run.numerics import find_devices
from dcgan_jax.run.program_cache import ProgramCache, open_program_cache
from dcgan_jax.run.session import Session, open_session
from dcgan_jax.run.stop_signals import StopSignals
from dcgan_jax.startup import BEGAN_S


class TrainResult(NamedTuple):
    """The end of a training."""

    path: Path  # the run's folder
    step: int  # the last saved step; 0 if a low-resolution stage was stopped first
    total_steps: int  # the largest possible number while a length in minutes is not known in steps
    is_complete: bool
    stopped_by: signal.Signals | None = None  # the signal that this process received


def main() -> int:
    config = cli.parse_config(sys.argv[1:])
    program_folder = backend.start_backend(get_cache_dir())
    # Not in `train`: a notebook may replace a function of this package, and files do not show that.
    result = _train(config, BEGAN_S, open_program_cache(program_folder, BEGAN_S) if program_folder else None)
    if not result.is_complete and distributed.is_first_process():
        print(f"run the same command again to resume: {format_training_command(config)}")
    return cli.INTERRUPTED if result.stopped_by == signal.SIGINT else 0


def train(config: Config) -> TrainResult:
    """Trains a new run, or resumes one from its newest checkpoint, to its end or until a signal. Raises: UserError.

    A length in `minutes` counts from this call.
    """
    return _train(config, time.monotonic())


def _train(config: Config, began_s: float, program_cache: ProgramCache | None = None) -> TrainResult:
    config = config if config.run.name else configuration.replace(config, name=config.run.preset)
    config = expand_places(config)
    check_config(config)
    with backend.configure_backend(get_cache_dir(), debug=config.guard.debug):
        distributed.join_processes(config.run)
        find_devices()
        if config.data.data == "drawn" and distributed.is_first_process():
            terminal.say(
                "data: 20,000 drawn faces, the default. For CelebA: --data img_align_celeba.zip, or its folder (docs/celeba.md)"
            )
        return _train_stage(config, 0, began_s, program_cache)


def _train_stage(config: Config, later_count: int, began_s: float, program_cache: ProgramCache | None) -> TrainResult:
    """Trains a run. With progressive growing it first trains its low-resolution stages, each a run inside the next one.

    For a length in minutes: later_count, number of stages after this one; began_s, when the program began, by time.monotonic.
    """
    with setup.open_run(config, program_cache) as plan:
        low_resolution = setup.find_low_resolution(plan)
        if low_resolution:
            result = _train_stage(low_resolution, later_count + 1, began_s, program_cache)
            if not result.is_complete or distributed.any_process(result.stopped_by is not None):
                return TrainResult(plan.path, 0, plan.total_steps, False, result.stopped_by)
        start, state = setup.restore_state(plan)
        if start >= plan.total_steps:
            setup.tidy_checkpoints(plan)
            observe.print_complete(plan, start)
            return TrainResult(plan.path, start, plan.total_steps, is_complete=True)
        programs = None
        if not configuration.has_length(plan.config):
            plan, programs = run_length.choose_length(plan, later_count, began_s)
        with open_session(plan, start, programs) as session, StopSignals() as signals:
            if state is None:
                state = setup.make_state(plan)
                distributed.run_in_first(functools.partial(observe.save_reals, plan))
            reached = _train_to_end(session, start, state, signals)
            observe.say_end(session, reached)
            return TrainResult(plan.path, reached, plan.total_steps, reached >= plan.total_steps, signals.received)


def _train_to_end(session: Session, start: int, state: GanState, signals: StopSignals) -> int:
    """Trains to the end or a signal, with rollbacks after a NaN if the config allows them. Returns the last step."""
    while True:
        try:
            return _train_steps(session, start, recover.apply_rollbacks_to_key(session, start, state), signals)
        except NonFiniteError as fault:
            start, state = recover.roll_back(session, fault)


def _train_steps(session: Session, start: int, state: GanState, signals: StopSignals) -> int:
    """The training loop, from step `start` to the end or a signal. Returns the last step. Raises: NonFiniteError."""
    config, total = session.plan.config, session.plan.total_steps
    # An accelerator's metrics are read one dispatch late, so that it never waits for the host. A CPU's steps run in this thread.
    max_pending = 0 if jax.default_backend() == "cpu" or config.guard.debug else 1
    pending = []  # (steps, metrics on the device), dispatched but not yet read
    if start == 0:
        state = _save(session, 0, state)
    last_saved = start
    for steps, batch in session.iterate_batches(start):
        before = state if config.guard.debug else None
        # Returns at once; donates the old state.
        state, metrics = session.programs.get_steps(len(steps))(state, batch, session.plan.schedule_steps)
        pending.append((steps, metrics))
        if steps.start == last_saved:
            backend.release_memory()  # what the save and this step have freed; later steps may use other blocks
        # Read once per dispatch: if it were read again after the save, a new signal could end the loop with unsaved steps. All
        # processes wait here.
        is_stopping = distributed.any_process(signals.received is not None)
        is_scored = _is_scored(session, steps)
        is_saved = steps.stop % config.output.save_every_steps == 0 or steps.stop == total or is_stopping or is_scored
        try:
            while len(pending) > (0 if is_saved else max_pending):  # only a save waits for the metrics of its own steps
                session.logs.write(*pending.pop(0))
            if config.guard.debug:
                recover.require_finite(session, steps.stop, state)
        except NonFiniteError as fault:
            raise recover.explain(session, fault, before, state, batch) from None
        if is_saved:
            state, last_saved = _save(session, steps.stop, state, is_scored), steps.stop
            session.logs.say(f"saved step {steps.stop:,}: {observe.get_grid_path(session.plan, steps.stop)}")
        if is_stopping:
            break
    session.checkpoints.settle()
    return steps.stop


def _is_scored(session: Session, steps: range) -> bool:
    """Whether to score after these steps. The clock of the first process decides for all whether there is time for it."""
    if session.scorer is None or not session.scorer.is_due(steps, session.plan.total_steps):
        return False
    return distributed.any_process(distributed.is_first_process() and session.scorer.has_time())


def _save(session: Session, step: int, state: GanState, is_scored: bool = False) -> GanState:
    """Recalibrates the EMA generator's BN statistics, then writes the grid, the logs and a checkpoint.

    Returns: the state with these statistics. Raises: NonFiniteError.
    """
    state = session.programs.renew_statistics(state)
    recover.require_finite(session, step, state)
    distributed.run_in_first(functools.partial(observe.show_save, session, step, state, is_scored))
    backend.release_memory()  # what recalibration, grid and scores have freed; a save copies the state
    session.checkpoints.save(step, state)
    return state


def entry() -> None:
    """The console script dcgan-train."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
