"""Prepares what the training loop uses besides the state: compiled programs, preview images, scorer, logs, checkpoints."""

import contextlib
import functools
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax import config as configuration
from dcgan_jax.batch import Batch
from dcgan_jax.config import Nets, UserError
from dcgan_jax.data import batches
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.pack_index import describe_left_out
from dcgan_jax.gan.freezing import split_frozen
from dcgan_jax.gan.logits import make_compute_logits
from dcgan_jax.gan.sampling import make_recalibrate, sample_images, select_labels
from dcgan_jax.gan.state import GanState, check_finite, count_parameters, drop_unread_settings
from dcgan_jax.gan.step import make_train_steps
from dcgan_jax.run import backend, checkpoints, distributed, feature_summaries, online_score, workdir
from dcgan_jax.run.logs import Logs
from dcgan_jax.run.random_choices import choose_real
from dcgan_jax.run.setup import Plan, make_restore_target, open_checkpoints

DIAGNOSED_IMAGES = 64  # number of training images, and of samples, that the diagnostics use at each save


class Programs(NamedTuple):
    """The compiled functions of a run."""

    # k -> compiled program of k steps: (state, batches, schedule_steps of the plan) -> (state, metrics)
    get_steps: Callable[[int], Callable]
    renew_statistics: Callable[[GanState], GanState]
    check_finite: Callable[[GanState], dict[str, jax.Array]]
    compute_logits: Callable[..., jax.Array]


class Previews(NamedTuple):
    """Images and labels that every save uses. Images are (n, S, S, C) uint8, labels (n, A) uint8 or None."""

    reals: np.ndarray  # training images, evenly spaced: the data set may be sorted
    held_out: np.ndarray  # images that D never sees
    diagnosed_labels: np.ndarray | None  # for reals, held_out and samples, concatenated in this order
    sample_labels: np.ndarray | None  # (LABELS, A): the table in the state
    grid_labels: np.ndarray | None  # for the sample grid


class Session(NamedTuple):
    """Everything that the training loop uses, except the state."""

    plan: Plan
    programs: Programs
    previews: Previews
    scorer: online_score.OnlineScorer | None
    logs: Logs
    checkpoints: checkpoints.Checkpoints
    process: str | None  # name of this process in environment.json; None in all processes but the first
    is_resident: bool  # whether all images are kept on the device

    def iterate_batches(self, start: int) -> Iterator[tuple[range, Batch]]:
        """Yields (steps, batches of these steps), from start to the end."""
        return iterate_batches(self.plan, start, self.is_resident)


@contextlib.contextmanager
def open_session(plan: Plan, start: int, programs: Programs | None = None) -> Generator[Session]:
    """Prepares everything for training from step `start`. Closes logs and checkpoints at the end. Raises: UserError.

    programs: those of `make_programs`, if they have been compiled already.
    """
    config, path = plan.config, plan.path
    changed = workdir.compare_environment(path) if start else ""
    process = distributed.run_in_first(functools.partial(workdir.write_run_facts, path, config))
    is_resident = decide_is_resident(plan)
    distributed.check_agreement(
        start,
        plan.total_steps,
        plan.steps_per_dispatch,
        is_resident,
        config.output.save_every_steps,
        config.output.score_every_kimg,
        plan.pack.index["pixels"],  # not the fingerprint: each machine may have its own copy of the files
        None if plan.labels is None else zlib.crc32(plan.labels.tobytes()),
    )
    shapes = make_restore_target(plan)
    programs, previews = programs or make_programs(plan), choose_previews(plan)
    scorer = distributed.run_in_all(functools.partial(_open_scorer, plan, previews.sample_labels))
    logs = distributed.run_in_all(functools.partial(_open_logs, plan, start))
    _describe_run(plan, shapes, logs, start, changed)
    saved = open_checkpoints(plan)
    try:
        yield Session(plan, programs, previews, scorer, logs, saved, process, is_resident)
    finally:
        logs.close()
        saved.close()  # waits until the current save is written


def decide_is_resident(plan: Plan) -> bool:
    """Decides whether to keep all images on the device."""
    feed = plan.config.data.feed
    return feed == "resident" or (feed == "auto" and batches.fits_resident(plan.pack.images))


def iterate_batches(plan: Plan, start: int, is_resident: bool) -> Iterator[tuple[range, Batch]]:
    """Yields (steps, batches of these steps), from start to the end."""
    dispatches = functools.partial(plan.list_dispatches, start)
    return batches.iterate_batches(plan.pack.images, plan.labels, plan.order, dispatches, plan.shardings.batches, is_resident)


def make_programs(plan: Plan) -> Programs:
    """Compiles the programs of a run. They do not depend on its length."""
    config, shardings, shapes = plan.config, plan.shardings, make_restore_target(plan)
    return Programs(
        # Usually one program; a shorter first or last dispatch needs a second one.
        get_steps=functools.cache(functools.partial(_compile_steps, plan, shapes)),
        renew_statistics=backend.compile_program(
            make_recalibrate(config),
            shapes,
            program_cache=plan.program_cache,
            key_parts=("recalibrate", drop_unread_settings(config)),
            donate_argnames="state",
            out_shardings=shardings.state,
        ),
        check_finite=jax.jit(check_finite),
        compute_logits=jax.jit(make_compute_logits(config)),
    )


def _compile_steps(plan: Plan, shapes: GanState, k: int) -> Callable:
    config, shardings, images = plan.config, plan.shardings, plan.pack.images
    rows, labels = (k, config.images_per_step), plan.labels
    batch = jax.eval_shape(
        lambda: Batch(
            jnp.zeros((*rows, *images.shape[1:]), jnp.uint8),
            None if labels is None else jnp.zeros((*rows, labels.shape[1]), jnp.uint8),
        )
    )
    schedule_steps = None if plan.schedule_steps is None else jax.ShapeDtypeStruct((), jnp.float32)
    return backend.compile_program(
        make_train_steps(config, shardings.images),
        shapes,
        batch,
        schedule_steps,
        debug=config.guard.debug,
        program_cache=plan.program_cache,
        key_parts=("steps", drop_unread_settings(config)),
        donate_argnames=() if config.guard.debug else "state",  # debug needs the previous state again
        in_shardings=(shardings.state, shardings.batches, shardings.state),
        out_shardings=shardings.state,
    )


def choose_previews(plan: Plan) -> Previews:
    """Chooses the images and labels that every save uses. The choice depends only on the plan."""
    images, order, labels = plan.pack.images, plan.order, plan.labels
    training = batches.select_training(order.image_count, order.held_out)
    reals = training[np.linspace(0, len(training) - 1, min(DIAGNOSED_IMAGES, len(training))).astype(int)]
    held_out = batches.select_held_out(order.image_count, order.held_out)
    table = plan.choose_labels()
    grid_labels = select_labels(table, np.arange(plan.config.output.grid_images))
    diagnosed_labels = None
    if labels is not None and grid_labels is not None:  # both are set or both are None
        diagnosed_labels = np.concatenate([labels[reals], labels[held_out], grid_labels[:DIAGNOSED_IMAGES]])
    return Previews(images[reals], images[held_out], diagnosed_labels, table, grid_labels)


def _open_scorer(plan: Plan, sample_labels: np.ndarray | None) -> online_score.OnlineScorer | None:
    """Returns None if the run is not scored. Raises: UserError."""
    if not plan.config.output.score_every_kimg:
        return None
    count, images = plan.config.output.score_count, plan.pack.images
    if len(images) < count:
        raise UserError(f"`score_count` {count}: there are only {len(images)} images; give a smaller number")
    chosen = choose_real(0, len(images), count)  # the same choice as in evaluate
    reals = feature_summaries.RealImages(images, chosen, plan.pack.index, get_cache_dir() / "references")
    sample = functools.partial(_sample, plan.config.nets, sample_labels)
    return online_score.OnlineScorer(plan.config, plan.path, reals, sample)


def _sample(nets: Nets, table: np.ndarray | None, params: dict, stats: dict, seeds: np.ndarray) -> np.ndarray:
    return sample_images(nets, params, stats, seeds, select_labels(table, seeds))


def _open_logs(plan: Plan, start: int) -> Logs:
    config = plan.config
    return Logs(
        plan.path,
        start=start,
        total=plan.total_steps,
        images_per_step=config.images_per_step,
        image_count=plan.order.trained_on,
        every_steps=config.output.log_every_steps,
        tensorboard=config.output.tensorboard,
        wandb=config.output.wandb,
        settings=configuration.flatten(config),
        silent=not distributed.is_first_process(),
    )


def _describe_run(plan: Plan, shapes: GanState, logs: Logs, start: int, changed: str) -> None:
    """Prints the first lines of a run: its settings in short, and what has changed since the last training."""
    config = plan.config
    logs.say(
        f"{plan.path}: {config.run.preset}, {config.nets.size} px, G {count_parameters(shapes.g_params):,} and D "
        f"{count_parameters(shapes.d_params):,} parameters, {plan.order.trained_on:,} images, batch {config.data.batch_size}, "
        f"{plan.total_steps:,} steps, {distributed.describe_devices()}" + (f"; resumes from step {start:,}" if start else "")
    )
    if left_out := describe_left_out(plan.pack.index):
        logs.say(f"not among the images: {left_out}")
    if config.optimizer.freeze_d:
        frozen, _ = split_frozen(shapes.d_params, config.optimizer.freeze_d)
        logs.say(f"not trained: {count_parameters(frozen):,} of D's parameters, in {', '.join(sorted(frozen))}")
    if changed:
        logs.say(f"changed since the last training: {changed}; from here on, numbers may differ in their last bits")
    if config.guard.debug:
        logs.say("debug: every step is checked; training takes more than twice as long")
