"""What a run writes for people at every save: sample grid, diagnostics, score, loss plot and report."""

import functools
from pathlib import Path

import jax
import numpy as np

from dcgan_jax import terminal
from dcgan_jax.command_lines import format_start
from dcgan_jax.data.checks import find_data_warnings
from dcgan_jax.gan.sampling import run_in_batches, sample_images
from dcgan_jax.gan.state import GanState
from dcgan_jax.presets import compare_with_preset
from dcgan_jax.quality.diagnostics import diagnose
from dcgan_jax.run import distributed, figures, online_score, report, workdir
from dcgan_jax.run.session import DIAGNOSED_IMAGES, Session
from dcgan_jax.run.setup import Plan


def save_reals(plan: Plan) -> None:
    """Writes reals.png: training images at the networks' resolution."""
    shown = plan.pack.images[plan.shuffle()[: figures.REALS_SHOWN]]
    figures.save_grid(plan.path / "reals.png", shown, columns=10)


def show_save(session: Session, step: int, state: GanState, is_scored: bool) -> None:
    """Writes sample grid, diagnostics, score, plots and report. Call it in the first process only, and before the checkpoint is
    saved: a checkpoint expects the log lines up to its step on the disk.

    Raises: UserError if another process has taken over the run.
    """
    plan, logs = session.plan, session.logs
    if not session.process:
        raise RuntimeError("called in a process other than the first")
    workdir.check_ownership(plan.path, session.process)
    generator, discriminator = jax.device_get(((state.ema_params, state.ema_stats), (state.d_params, state.d_stats)))
    grid = _save_samples(session, step, generator)
    logs.flush()
    logs.warn(step, _diagnose(session, discriminator, grid))
    logs.flush()
    if session.scorer and is_scored:
        logs.say(session.scorer.score(step, *generator))
        figures.save_scores(plan.path / "scores.png", online_score.read_score_curve(plan.path), session.scorer.by)
    if step:  # before the first step there are no losses, and importing Matplotlib takes time
        figures.save_losses(plan.path / "losses.png", logs.metrics)
    figures.delete_old_grids(plan.path / "samples", plan.config.output.save_every_steps)
    _save_report(session, step)


def get_grid_path(plan: Plan, step: int) -> Path:
    """Path of the sample grid of this step."""
    return plan.path / "samples" / f"{step:08d}.png"


def _save_samples(session: Session, step: int, generator: tuple[dict, dict]) -> np.ndarray:
    """Writes the sample grid; returns its images, (N, S, S, C) uint8."""
    plan = session.plan
    seeds = np.arange(plan.config.output.grid_images)
    grid = sample_images(plan.config.nets, *generator, seeds, session.previews.grid_labels)
    figures.save_grid(get_grid_path(plan, step), grid)
    return grid


def _diagnose(session: Session, discriminator: tuple[dict, dict], grid: np.ndarray) -> dict[str, str]:
    """Runs the diagnostics: kind -> message of each problem."""
    previews = session.previews
    images = np.concatenate([previews.reals, previews.held_out, grid[:DIAGNOSED_IMAGES]])
    compute_logits = functools.partial(session.programs.compute_logits, *discriminator)
    logits = run_in_batches(compute_logits, images, previews.diagnosed_labels)  # the user chooses how many are held out
    ends = np.cumsum([len(previews.reals), len(previews.held_out)])
    on_reals, on_held_out, on_samples = np.split(logits, ends)
    loss = session.plan.config.loss.loss
    return diagnose(session.logs.metrics, grid, previews.reals, on_reals, on_held_out, on_samples, loss)


def _save_report(session: Session, step: int) -> None:
    plan, logs = session.plan, session.logs
    facts = report.RunFacts(
        plan.path,
        plan.path.name,
        plan.config,
        compare_with_preset(plan.config),
        plan.pack.index,
        plan.total_steps,
        step,
        logs.metrics,
        logs.warnings,
        find_data_warnings(plan.pack.index),
    )
    report.save_report(facts)


def print_complete(plan: Plan, step: int) -> None:
    """Prints that the run was already complete, and how to train it longer."""
    more = "give a larger --steps, --epochs or --kimg"
    if plan.config.optimizer.lr_decay != "none":
        more = f"its learning rate has decayed to 0: add {format_start(plan.config, str(plan.path))}"
    if distributed.is_first_process():
        terminal.say(f"{plan.path} is complete: step {step} of {plan.total_steps}. More: {more}")


def say_end(session: Session, step: int) -> None:
    """Prints that the run is complete, or stopped."""
    plan = session.plan
    if step < plan.total_steps:
        session.logs.say(f"stopped at step {step:,} of {plan.total_steps:,} and saved")
        return
    grid, page = get_grid_path(plan, step), plan.path / "report.html"
    session.logs.say(f"done: {plan.total_steps:,} steps. Samples: {grid}; report: {page}")
