"""Trains a DCGAN: python -m dcgan_jax.train --workdir runs/. The same command again goes on where the run stopped."""

import functools
import signal
import sys

import jax
import numpy as np

from dcgan_jax import cli
from dcgan_jax import config as configuration
from dcgan_jax.config import BadInput, Config
from dcgan_jax.data import batches
from dcgan_jax.data.pack import cache_dir, pack
from dcgan_jax.data.sources import open_source
from dcgan_jax.gan.sampling import draw_images, recalibrated
from dcgan_jax.gan.state import finite_leaves, init_state, parameter_count
from dcgan_jax.gan.step import train_steps
from dcgan_jax.run import checkpoints, devices, pictures, workdir
from dcgan_jax.run.logs import Logs, NotFinite, read_metrics

MAX_STEPS = 2**31 - 1  # the step is an int32


class Stop:
    """Ctrl-C and SIGTERM: the step under way is finished and saved. A second Ctrl-C stops at once, to the last save."""

    def __init__(self):
        self.asked: signal.Signals | None = None

    def __enter__(self):
        self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *fault):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        self.asked = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> int:
    return train(cli.parse_config(sys.argv[1:]))


def train(config: Config) -> int:
    """The whole run, start or resumption, to its end or a signal. Returns the exit code. Raises BadInput."""
    devices.start(cache_dir())
    devices.join(config.run)
    sharding = devices.shardings(config)
    k = devices.steps_per_dispatch(config)
    if config.data.data == "drawn" and devices.is_first():
        print("data: 20,000 drawn faces, the default. For CelebA: --data img_align_celeba.zip, or its folder (docs/celeba.md)")
    source = open_source(config.data.data, config.data.split)
    packed = devices.first_then_others(lambda: pack(
        source, size=config.nets.size, channels=config.nets.channels, crop=config.data.crop, strict=config.data.strict))
    images_per_step = configuration.images_per_step(config)
    if len(packed.images) < images_per_step:
        device_count = sharding.state.mesh.size
        fits = max(1, len(packed.images) // config.optimizer.d_steps // device_count) * device_count
        raise BadInput(f"--data {config.data.data}: {len(packed.images)} pictures, fewer than the {images_per_step} of one step; "
                       f"give more, or --batch-size {fits} at most")
    total = configuration.total_steps(config, len(packed.images))
    if total > MAX_STEPS:
        raise BadInput(f"{total} steps: more than the {MAX_STEPS:,} a run can count; give a smaller --steps, --epochs or --kimg")
    run = devices.first_then_others(lambda: workdir.open_run(config, packed.index))

    shapes = jax.eval_shape(lambda: init_state(config))
    placed = checkpoints.placed(shapes, sharding.state)
    saved = checkpoints.manager(run, config.output.keep_checkpoints)
    start = saved.latest_step() or 0
    if start >= total:
        saved.close()
        if devices.is_first():
            print(f"{run} is complete: step {start} of {total}. More: give a larger --steps, --epochs or --kimg")
        return 0
    if start:
        if devices.is_first():
            workdir.go_on(run, config)
        state = checkpoints.restore(saved, start, placed)
    else:
        state = jax.jit(lambda: init_state(config), out_shardings=sharding.state)()

    order = batches.Order(config.run.seed, len(packed.images), images_per_step)
    use_resident = config.data.feed == "resident" or (config.data.feed == "auto" and batches.fits_resident(packed.images))
    feed = batches.resident if use_resident else batches.stream
    devices.must_agree(start, total, k, use_resident, config.output.save_every_steps, packed.index["fingerprint"])

    @functools.cache  # one program, and one more where the first or last dispatch is shorter
    def step_program(k):
        batch = jax.ShapeDtypeStruct((k, images_per_step, *packed.images.shape[1:]), np.uint8)
        return devices.compiled(train_steps(config, sharding.images), placed, batch, donate_argnames="state",
                                in_shardings=(sharding.state, sharding.batches), out_shardings=sharding.state)

    renew_statistics = devices.compiled(recalibrated(config), placed, donate_argnames="state", out_shardings=sharding.state)
    are_finite = jax.jit(finite_leaves)
    logs = Logs(run, start=start, total=total, images_per_step=images_per_step, image_count=len(packed.images),
                every_steps=config.output.log_every_steps, tensorboard=config.output.tensorboard, silent=not devices.is_first())
    logs.say(f"{run}: {config.run.preset}, {config.nets.size} px, G {parameter_count(shapes.g_params):,} and D "
             f"{parameter_count(shapes.d_params):,} parameters, {len(packed.images):,} pictures, batch {config.data.batch_size}, "
             f"{total:,} steps, {devices.describe()}" + (f"; goes on from step {start:,}" if start else ""))

    def save(step, state):
        state = renew_statistics(state)
        bad = [name for name, finite in jax.device_get(are_finite(state)).items() if not finite]
        if bad:
            raise NotFinite(f"step {step}: {bad[0]} holds a NaN or an infinity")
        if devices.is_first():
            generator = jax.device_get((state.ema_params, state.ema_stats))  # from here no other process is needed
            grid = draw_images(config.nets, *generator, np.arange(config.output.grid_images))
            pictures.save_grid(run / "samples" / f"{step:08d}.png", grid)
            logs.flush()
            pictures.save_losses(run / "losses.png", read_metrics(run))
            pictures.save_report(run, config, packed.index, step, total)
        checkpoints.save(saved, step, state)
        return state

    # An accelerator's numbers are read one dispatch late, so that it never waits for the host; a CPU's steps run in this thread.
    behind = 0 if jax.default_backend() == "cpu" else 1
    late = []  # (steps, device metrics) dispatched but not yet read
    try:
        with Stop() as stop:
            if not start and devices.is_first():
                reals = packed.images[batches.order(config.run.seed, 0, len(packed.images))[:pictures.REALS_SHOWN]]
                pictures.save_grid(run / "reals.png", reals, columns=10)
            if not start:
                state = save(0, state)
            fed = feed(packed.images, order, batches.dispatches(start, total, k), sharding.batches)
            for steps, batch in zip(batches.dispatches(start, total, k), fed, strict=True):
                state, metrics = step_program(len(steps))(state, batch)  # returns at once; the old state is donated, gone
                late.append((steps, metrics))
                # Looked at once: a signal between a save and the break would lose steps. Several processes wait here for all.
                stopping = devices.any_process(stop.asked is not None)
                saving = steps.stop % config.output.save_every_steps == 0 or steps.stop == total or stopping
                while len(late) > (0 if saving else behind):  # a save waits for its own numbers, nothing else does
                    logs.write(*late.pop(0))
                if saving:
                    state = save(steps.stop, state)
                    logs.say(f"saved step {steps.stop:,}: {run / 'samples' / f'{steps.stop:08d}.png'}")
                if stopping:
                    break
    except NotFinite as fault:
        raise BadInput(f"{run}: {fault}; the checkpoint of step {saved.latest_step()} is good. Try a lower --lr or another "
                       "--seed under another --name") from None
    finally:
        logs.close()
        saved.close()  # waits for the last write
    if steps.stop < total:
        logs.say(f"stopped at step {steps.stop:,} of {total:,} and saved; the same command goes on: {command()}")
        return cli.INTERRUPTED if stop.asked == signal.SIGINT else 0
    logs.say(f"done: {total:,} steps. Faces: {run / 'samples' / f'{total:08d}.png'}; all of it: {run / 'report.html'}")
    return 0


def command() -> str:
    return " ".join(["python -m dcgan_jax.train", *sys.argv[1:]])


def entry() -> None:
    """The console script."""
    cli.run_verb(main)


if __name__ == "__main__":
    entry()
