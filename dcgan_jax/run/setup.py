"""Opens a run: its data, folder, lock and low-resolution stages, and the state that it starts from."""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dcgan_jax import config as configuration
from dcgan_jax import terminal
from dcgan_jax.config import MAX_STEPS, Config, UserError
from dcgan_jax.config_rules import check_stored_config
from dcgan_jax.data import batches
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.pack import Pack, pack_images, read_labels
from dcgan_jax.data.sources import open_source
from dcgan_jax.gan.progressive import make_low_resolution_config
from dcgan_jax.gan.state import LABELS, GanState, describe_state, init_state
from dcgan_jax.machine import is_out_of_memory
from dcgan_jax.run import backend, checkpoints, compact, distributed, initial_weights, online_score, product_speed, workdir
from dcgan_jax.run.checksums import propose_remedy
from dcgan_jax.run.distributed import Shardings
from dcgan_jax.run.program_cache import ProgramCache
from dcgan_jax.run.user_code import names_function


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
        fits = order.trained_on // config.optimizer.d_steps // device_count * device_count
        smaller = f", or a `batch_size` of at most {fits}" if fits else ""  # each device needs an image for each update of D
        raise UserError(
            f"`data` {config.data.data}: {order.trained_on} training images, fewer than the {order.images_per_step} of one "
            f"step; give more images{smaller}"
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
    return checkpoints.restore_newest(plan.path, make_restore_target(plan), say) or (0, None)


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
    saved = open_checkpoints(plan)
    try:
        saved.tidy()
    finally:
        saved.close()


def open_checkpoints(plan: Plan) -> checkpoints.Checkpoints:
    return checkpoints.Checkpoints(plan.path, plan.config.output.keep_checkpoints, online_score.find_best_step)


def make_restore_target(plan: Plan) -> GanState:
    """Returns the shapes, dtypes and shardings of the state's leaves."""
    return checkpoints.add_sharding(describe_state(plan.config), plan.shardings.state)
