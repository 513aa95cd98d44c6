"""Sets up a run. First its data, folder and lock (`Plan`), then its programs, logs and checkpoints (`Session`).

Both tuples are immutable.
"""

import contextlib
import functools
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax import config as configuration
from dcgan_jax import terminal
from dcgan_jax.batch import Batch
from dcgan_jax.config import MAX_STEPS, Config, Nets, UserError
from dcgan_jax.config_rules import check_stored_config
from dcgan_jax.data import batches
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.pack import Pack, pack_images, read_labels
from dcgan_jax.data.pack_index import describe_left_out
from dcgan_jax.data.sources import open_source
from dcgan_jax.gan.freezing import split_frozen
from dcgan_jax.gan.logits import make_compute_logits
from dcgan_jax.gan.progressive import make_low_resolution_config
from dcgan_jax.gan.sampling import make_recalibrate, sample_images, select_labels
from dcgan_jax.gan.state import LABELS, GanState, check_finite, count_parameters, describe_state, drop_unread_settings, init_state
from dcgan_jax.gan.step import make_train_steps
from dcgan_jax.machine import is_out_of_memory
from dcgan_jax.run import (
    backend,
    checkpoints,
    compact,
    distributed,
    feature_summaries,
    initial_weights,
    online_score,
    product_speed,
    workdir,
)
from dcgan_jax.run.checksums import propose_remedy
from dcgan_jax.run.distributed import Shardings
from dcgan_jax.run.logs import Logs
from dcgan_jax.run.program_cache import ProgramCache
from dcgan_jax.run.random_choices import choose_real
from dcgan_jax.run.user_code import names_function

DIAGNOSED_IMAGES = 64  # number of training images, and of samples, that the diagnostics use at each save


class Plan(NamedTuple):
    """The settings, images, length and folder of a run. This process holds the lock of the folder."""

    config: Config
    path: Path
    pack: Pack
    labels: np.ndarray | None  # (N, A) uint8 of all images; None if the GAN is not conditional
    order: batches.Order
    total_steps: int
    steps_per_dispatch: int
    shardings: Shardings
    weights: dict  # initial values of fields of GanState, from --start; empty without it
    program_cache: ProgramCache | None  # where compiled programs are kept; None: only JAX's own cache is used

    def list_dispatches(self, start: int) -> Iterator[range]:
        """Yields the steps of each call of the compiled program, from start to the end."""
        return batches.split_dispatches(start, self.total_steps, self.steps_per_dispatch)

    @property
    def schedule_steps(self) -> np.float32 | None:
        """total_steps as an input of the compiled steps, for the learning-rate schedule; None if the rate does not decay."""
        return None if self.config.optimizer.lr_decay == "none" else np.float32(self.total_steps)

    def shuffle(self) -> np.ndarray:
        """Returns the positions of the training images in the order of the first epoch."""
        training = batches.select_training(self.order.image_count, self.order.held_out)
        return training[batches.permute_epoch(self.config.run.seed, 0, len(training))]

    def choose_labels(self) -> np.ndarray | None:
        """Returns the labels of samples, (LABELS, A) uint8, as frequent as in the training images. None if not conditional."""
        return None if self.labels is None else self.labels[np.resize(self.shuffle(), LABELS)]


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


# ---- First: data, folder, lock ----


@contextlib.contextmanager
def open_run(config: Config, program_cache: ProgramCache | None = None) -> Generator[Plan]:
    """Packs the images, creates or reopens the run's folder, and holds its lock inside the with block.

    program_cache: where the run's compiled programs are kept. It is not used with `debug`, which checks while it traces, nor
    with a user's own score function: that code may change this package before the step is traced.
    Raises: UserError for faults that the user can fix, also when the block runs out of memory or disk space.
    """
    config = distributed.run_in_all(functools.partial(workdir.restore_length, _choose_compute_dtype(config)))
    shardings = distributed.make_shardings(config)
    pack = distributed.run_first_then_others(functools.partial(_pack, config))
    config, labels = distributed.run_in_all(functools.partial(_read_condition, config, pack))
    order = batches.Order(config.run.seed, len(pack.images), config.images_per_step, config.guard.held_out)
    total = distributed.run_in_all(functools.partial(_count_steps, config, order, shardings))
    if config.optimizer.lr_decay != "none" and config.run.epochs is not None:  # the learning-rate decay counts steps
        config = configuration.replace(config, epochs=None, steps=total)
    steps = checkpoints.list_steps(workdir.get_run_path(config))
    distributed.check_agreement(steps, configuration.has_length(config))  # all processes must take the same branch below
    # Before the folder is created, so that an unreadable --start leaves no folder. A resumed run does not need --start.
    weights = {} if steps else distributed.run_in_all(functools.partial(initial_weights.load_initial_weights, config))
    path, lock = distributed.run_first_then_others(functools.partial(workdir.claim_folder, config, pack.index))
    steps_per_dispatch = backend.choose_steps_per_dispatch(config)
    if config.guard.debug or names_function(config.output.score_by):
        program_cache = None
    with contextlib.ExitStack() as held, _explain_faults(path):
        if lock:
            held.callback(lock.release)
        yield Plan(config, path, pack, labels, order, total, steps_per_dispatch, shardings, weights, program_cache)


def _choose_compute_dtype(config: Config) -> Config:
    """Replaces the compute dtype "auto" by that of the run if there is one, else by the first process's choice."""
    if config.nets.compute_dtype != "auto":
        return config
    path = workdir.get_run_path(config)

    def choose() -> str:
        if workdir.is_run(path):
            return workdir.read_config(path).nets.compute_dtype
        return product_speed.choose_compute_dtype(get_cache_dir())

    is_bfloat16 = distributed.any_process(distributed.run_in_first(choose) == "bfloat16")
    return configuration.replace(config, compute_dtype="bfloat16" if is_bfloat16 else "float32")


def _pack(config: Config) -> Pack:
    source = open_source(config.data.data, config.data.split)
    nets, data = config.nets, config.data
    return pack_images(source, size=nets.size, channels=nets.channels, crop=data.crop, strict=data.strict)


def _read_condition(config: Config, pack: Pack) -> tuple[Config, np.ndarray | None]:
    """Reads the labels. Replaces `condition` all by names: the networks must not change if the data gets more attributes."""
    if not config.nets.condition:
        return config, None
    names, labels = read_labels(pack, config.nets.condition)
    config = configuration.replace(config, condition=",".join(names))
    check_stored_config(config)
    return config, labels


def _count_steps(config: Config, order: batches.Order, shardings: Shardings) -> int:
    """Counts the steps of the run. Raises: UserError for too few images or too many steps."""
    if order.trained_on < order.images_per_step:
        device_count = shardings.state.mesh.size
        fits = max(1, order.trained_on // config.optimizer.d_steps // device_count) * device_count
        raise UserError(
            f"`data` {config.data.data}: {order.trained_on} training images, fewer than the {order.images_per_step} of one "
            f"step; give more images, or a `batch_size` of at most {fits}"
        )
    total = configuration.count_total_steps(config, order.trained_on)
    if total > MAX_STEPS:
        raise UserError(f"{total} steps is more than the maximum of {MAX_STEPS:,}; give a smaller `steps`, `epochs` or `kimg`")
    return total


@contextlib.contextmanager
def _explain_faults(path: Path) -> Generator[None]:
    """Turns out-of-memory and disk errors into a UserError that names the newest checkpoint."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as fault:
        if not is_out_of_memory(fault):
            raise
        kept = checkpoints.describe_kept(path)
        raise UserError(
            f"{path}: out of memory; {kept}. Use a smaller `batch_size`, `width` or `size`, and another `name`"
        ) from None
    except OSError as fault:
        place, kept = fault.filename or "the disk", checkpoints.describe_kept(path)
        raise UserError(f"{path}: {place}: {fault.strerror or fault}; {kept}. {propose_remedy(fault.errno)}") from None


def find_low_resolution(plan: Plan) -> Config | None:
    """Returns the config of the last low-resolution stage (progressive growing) if it must still be trained, else None."""
    if not plan.config.run.grow_kimg or checkpoints.list_steps(plan.path):
        return None
    low = make_stage_config(plan)
    if not configuration.has_length(low):
        return low
    total = configuration.count_total_steps(low, image_count=0)  # its length is in kimg
    is_complete = distributed.run_in_all(functools.partial(initial_weights.is_stage_complete, low, total))
    # If one process cannot read the checkpoint, all processes train the stage.
    return low if distributed.any_process(not is_complete) else None


def make_stage_config(plan: Plan) -> Config:
    """Returns the config of the last low-resolution stage: a run inside this one, which stops and resumes like any run.

    With a length in minutes, a stage that has begun keeps the kimg that it chose for itself and for its own stages.
    """
    low = make_low_resolution_config(plan.config)
    low = configuration.replace(low, workdir=str(plan.path), name=compact.LOW_RESOLUTION, wandb="")
    return distributed.run_in_all(functools.partial(workdir.restore_length, low))


# ---- The state ----


def restore_state(plan: Plan, say: Callable[[str], None] = terminal.say) -> tuple[int, GanState | None]:
    """Restores the newest intact checkpoint: (step, state), or (0, None) if there is no checkpoint.

    say: called with a warning for each broken checkpoint.
    """
    return checkpoints.restore_newest(plan.path, _make_restore_target(plan), say) or (0, None)


def make_state(plan: Plan) -> GanState:
    """Makes the state of a new run: random weights, those of --start, or those of the low-resolution stage with new layers."""
    weights = plan.weights
    if plan.config.run.grow_kimg:
        low = make_stage_config(plan)
        weights = distributed.run_in_all(functools.partial(initial_weights.grow_networks, plan.config, low))
    distributed.check_agreement(initial_weights.compute_checksum(weights))
    return jax.jit(make_init(plan.config), out_shardings=plan.shardings.state)(weights, plan.choose_labels())


def make_init(config: Config) -> Callable[..., GanState]:
    """Makes f(weights, labels) -> state: random values for all fields that are not in `weights`. Pure: jit it."""
    return lambda weights, labels: init_state(config, labels).replace(**weights)


def tidy_checkpoints(plan: Plan) -> None:
    """Removes the old checkpoints of a complete run, in case it was killed before it could do so."""
    saved = _open_checkpoints(plan)
    try:
        saved.tidy()
    finally:
        saved.close()


def _open_checkpoints(plan: Plan) -> checkpoints.Checkpoints:
    return checkpoints.Checkpoints(plan.path, plan.config.output.keep_checkpoints, online_score.find_best_step)


def _make_restore_target(plan: Plan) -> GanState:
    """Returns the shapes, dtypes and shardings of the state's leaves."""
    return checkpoints.add_sharding(describe_state(plan.config), plan.shardings.state)


# ---- Then: programs, logs, checkpoints ----


@contextlib.contextmanager
def open_session(plan: Plan, start: int, programs: Programs | None = None) -> Generator[Session]:
    """Prepares everything for training from step `start`. Closes logs and checkpoints at the end. Raises: UserError.

    programs: those of `make_programs`, if they have been compiled already.
    """
    config, path = plan.config, plan.path
    changed = workdir.compare_environment(path) if start else ""
    process = distributed.run_in_first(functools.partial(workdir.write_run_facts, path, config))
    resident = should_be_resident(plan)
    distributed.check_agreement(
        start,
        plan.total_steps,
        plan.steps_per_dispatch,
        resident,
        config.output.save_every_steps,
        config.output.score_every_kimg,
        plan.pack.index["pixels"],  # not the fingerprint: each machine may have its own copy of the files
        None if plan.labels is None else zlib.crc32(plan.labels.tobytes()),
    )
    shapes = _make_restore_target(plan)
    programs, previews = programs or make_programs(plan), choose_previews(plan)
    scorer = distributed.run_in_all(functools.partial(_open_scorer, plan, previews.sample_labels))
    logs = distributed.run_in_all(functools.partial(_open_logs, plan, start))
    _describe_run(plan, shapes, logs, start, changed)
    saved = _open_checkpoints(plan)
    try:
        yield Session(plan, programs, previews, scorer, logs, saved, process, resident)
    finally:
        logs.close()
        saved.close()  # waits until the current save is written


def should_be_resident(plan: Plan) -> bool:
    """Whether to keep all images on the device."""
    feed = plan.config.data.feed
    return feed == "resident" or (feed == "auto" and batches.fits_resident(plan.pack.images))


def iterate_batches(plan: Plan, start: int, resident: bool) -> Iterator[tuple[range, Batch]]:
    """Yields (steps, batches of these steps), from start to the end."""
    dispatches = functools.partial(plan.list_dispatches, start)
    return batches.iterate_batches(plan.pack.images, plan.labels, plan.order, dispatches, plan.shardings.batches, resident)


def make_programs(plan: Plan) -> Programs:
    """Compiles the programs of a run. They do not depend on its length."""
    config, shardings, shapes = plan.config, plan.shardings, _make_restore_target(plan)
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
    checked = None
    if labels is not None and grid_labels is not None:  # both are set or both are None
        checked = np.concatenate([labels[reals], labels[held_out], grid_labels[:DIAGNOSED_IMAGES]])
    return Previews(images[reals], images[held_out], checked, table, grid_labels)


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
