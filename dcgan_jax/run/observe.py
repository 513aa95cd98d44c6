"""What a save shows to people: sample grid, diagnostics, score, loss plot, report."""

from pathlib import Path

import jax
import numpy as np

from dcgan_jax.data.checks import find_data_warnings
from dcgan_jax.gan.sampling import sample_images
from dcgan_jax.gan.state import GanState
from dcgan_jax.presets import compare_with_preset
from dcgan_jax.quality.diagnostics import diagnose
from dcgan_jax.run import distributed, figures, online_score, report, workdir
from dcgan_jax.run.setup import CHECKED, Plan, Run


def save_reals(plan: Plan) -> None:
    """Writes reals.png: training images as the networks see them."""
    shown = plan.pack.images[plan.shuffle()[: figures.REALS_SHOWN]]
    figures.save_grid(plan.path / "reals.png", shown, columns=10)


def show_save(run: Run, step: int, state: GanState, is_scored: bool) -> None:
    """Writes what a save shows. To be called in the first process only, before the checkpoint, which counts on the log's lines.

    Raises: UserError where another process has taken the run over.
    """
    plan, logs = run.plan, run.logs
    workdir.check_ownership(plan.path, run.process)
    generator, discriminator = jax.device_get(((state.ema_params, state.ema_stats), (state.d_params, state.d_stats)))
    grid = _save_samples(run, step, generator)
    logs.flush()
    logs.warn(step, _diagnose(run, discriminator, grid))
    logs.flush()
    if is_scored:
        logs.say(run.scorer.score(step, *generator))
        figures.save_scores(plan.path / "scores.png", online_score.read_score_curve(plan.path), run.scorer.by)
    figures.save_losses(plan.path / "losses.png", logs.metrics)
    figures.delete_old_grids(plan.path / "samples", plan.config.output.save_every_steps)
    _save_report(run, step)


def get_grid_path(plan: Plan, step: int) -> Path:
    """Where the sample grid of that step is, or will be."""
    return plan.path / "samples" / f"{step:08d}.png"


def _save_samples(run, step, generator) -> np.ndarray:
    """The grid's images (N, S, S, C) uint8, written as well."""
    plan = run.plan
    seeds = np.arange(plan.config.output.grid_images)
    grid = sample_images(plan.config.nets, *generator, seeds, run.previews.grid_labels)
    figures.save_grid(get_grid_path(plan, step), grid)
    return grid


def _diagnose(run, discriminator, grid) -> dict[str, str]:
    """Kind -> message, of what the numbers and images show to be wrong."""
    previews = run.previews
    images = np.concatenate([previews.reals, previews.held_out, grid[:CHECKED]])
    logits = run.programs.compute_logits(*discriminator, images, previews.labels)
    ends = np.cumsum([len(previews.reals), len(previews.held_out)])
    on_reals, on_held_out, on_samples = np.split(logits, ends)
    loss = run.plan.config.loss.loss
    return diagnose(run.logs.metrics, grid, previews.reals, on_reals, on_held_out, on_samples, loss)


def _save_report(run, step):
    plan, logs = run.plan, run.logs
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
    """Says that a run was complete before, and how to train it longer."""
    more = "give a larger --steps, --epochs or --kimg"
    if plan.config.optimizer.lr_decay != "none":
        more = f"its step size has fallen to 0: give another --name, and --start {plan.path}"
    if distributed.is_first_process():
        print(f"{plan.path} is complete: step {step} of {plan.total_steps}. More: {more}")
