"""The length of a run that is given in minutes: times its first steps once, then chooses how many steps fit into the time.

The timed steps are thrown away. Training then begins as if the length had been given in kimg, so it depends on the clock in no
other way, and config.json reproduces it.
"""

import itertools
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax

from dcgan_jax import config as configuration
from dcgan_jax import terminal
from dcgan_jax.config import MAX_STEPS, Config
from dcgan_jax.run import distributed, session, setup
from dcgan_jax.run.session import Programs
from dcgan_jax.run.setup import Plan

# The share of the low-resolution stages in the time of a run. It is that of best64, whose lengths are 600 and 160 kimg, at 470
# and 83 images/s on two CPU cores (experiments/RESULTS.md).
LOW_RESOLUTION_SHARE = 0.4
TIMED_SHARE, MOST_TIMED_S = 0.02, 20.0  # the first steps are timed for this share of the time, but not longer
LEAST_TIMED = 3  # dispatches, however slow they are
# Measured on two CPU cores (article, best32). Both are rough: their errors are small beside those of the speed.
SAVE_FILES_S = 0.5  # a save without recalibration: grid, diagnostics, plots, report, checkpoint
START_AND_END_S = 3.0  # initial state, first use of the programs of a save, end of the process


class Timing(NamedTuple):
    """What a step and a save take, in seconds."""

    step_s: float
    save_s: float


def list_shares(stage_count: int) -> tuple[float, ...]:
    """Lists the shares of a run's stages in the time for training, from the smallest image side on: 1; 0.4, 0.6; 0.16, 0.24, 0.6.

    The stages before the last one divide their share in the same way.
    """
    shares = (1.0,)
    for _ in range(stage_count - 1):
        shares = (*(LOW_RESOLUTION_SHARE * share for share in shares), 1 - LOW_RESOLUTION_SHARE)
    return shares


def choose_length(plan: Plan, later_count: int, began_s: float) -> tuple[Plan, Programs]:
    """Chooses a length in kimg for a length in minutes. All processes use the first one's choice.

    Args: plan: of a run whose length is not known yet; later_count: number of stages of progressive growing after this run;
        began_s: when the program began, by time.monotonic.
    Returns: the plan with the length, and the compiled programs, which do not depend on it.
    """
    config, minutes = plan.config, plan.config.run.minutes
    assert minutes is not None  # else the length is known
    if distributed.is_first_process():
        terminal.say(f"{plan.path}: compiles, then times the first steps, to choose a length of {_format_minutes(minutes)}")
    earlier_count = len(config.run.grow_kimg)
    shares = list_shares(earlier_count + 1 + later_count)[earlier_count:]  # of this stage and the later ones
    opened_s = time.monotonic()
    programs = session.make_programs(plan)
    timing = time_steps(plan, programs, min(TIMED_SHARE * shares[0] * 60 * minutes, MOST_TIMED_S))
    now_s = time.monotonic()
    left_s = divide_time(60 * minutes, now_s - began_s, now_s - opened_s, shares)
    steps = distributed.share_from_first(count_steps(config, timing, left_s, plan.steps_per_dispatch))
    config = configuration.replace(config, kimg=steps * config.images_per_step / 1000)
    if config.run.grow_kimg:  # those of the stages that were trained before this one
        low = setup.make_stage_config(plan).run
        config = configuration.replace(config, grow_kimg=(*low.grow_kimg, low.kimg))
    if distributed.is_first_process():
        terminal.say(_describe_length(config, minutes, shares, timing, steps))
    return plan._replace(config=config, total_steps=steps), programs


def divide_time(all_s: float, passed_s: float, prepared_s: float, shares: Sequence[float]) -> float:
    """Returns the seconds of all_s that are left for the training of this stage.

    passed_s: since the program began; prepared_s: of them, those in which this stage's programs were compiled and timed; shares:
    of this stage and of the later ones (`list_shares`).
    """
    share, *later = shares
    left_s = all_s - passed_s - len(later) * prepared_s  # each stage has programs of its own: assume that they take as long
    # In a process that resumes between two stages, the next one has no more than its share.
    return min(share / sum(shares) * left_s, share * all_s)


def time_steps(plan: Plan, programs: Programs, at_least_s: float) -> Timing:
    """Times steps for at_least_s, and a save. Takes the median of the steps, without the first one."""
    state = setup.make_state(plan)
    ends_s = []
    for steps, batch in session.iterate_batches(plan, 0, session.decide_is_resident(plan)):
        state, metrics = programs.get_steps(len(steps))(state, batch, plan.schedule_steps)
        jax.block_until_ready(metrics)
        ends_s.append(time.monotonic())
        is_enough = len(ends_s) > LEAST_TIMED and ends_s[-1] - ends_s[0] >= at_least_s
        if distributed.any_process(is_enough and distributed.is_first_process()):
            break
    durations_s = [after - before for before, after in itertools.pairwise(ends_s)]
    start_s = time.monotonic()
    jax.block_until_ready(programs.renew_statistics(state))
    save_s = time.monotonic() - start_s + SAVE_FILES_S
    return Timing(statistics.median(durations_s) / plan.steps_per_dispatch, save_s)


def count_steps(config: Config, timing: Timing, left_s: float, steps_per_dispatch: int) -> int:
    """Counts the steps that fit into left_s seconds together with their saves and scores; at least one.

    A multiple of steps_per_dispatch if possible: a shorter last dispatch needs a program of its own.
    """
    output = config.output
    if output.score_every_kimg:
        left_s *= 1 - output.score_share
    left_s -= START_AND_END_S + 2 * timing.save_s  # the first and the last step are always saved
    steps = int(max(0.0, left_s) / (timing.step_s + timing.save_s / output.save_every_steps))
    return min(max(1, steps - steps % steps_per_dispatch if steps >= steps_per_dispatch else steps), MAX_STEPS)


def _format_minutes(minutes: float) -> str:
    return f"{minutes:g} minute{'' if minutes == 1 else 's'}"


def _describe_length(config: Config, minutes: float, shares: Sequence[float], timing: Timing, steps: int) -> str:
    images, speed = steps * config.images_per_step, config.images_per_step / timing.step_s
    is_last, is_only = len(shares) == 1, shares[0] == 1
    share = "" if is_only else ", the rest of the time" if is_last else f", {shares[0]:.0%} of the time"
    text = f"{_format_minutes(minutes)}{share}: {images:,} images of {config.nets.size} px at {speed:,.0f} images/s"
    return text + (
        "; there is no time for more, because starting and saving take most of it: give more minutes" if steps == 1 else ""
    )
