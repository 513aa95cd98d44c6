"""Trains a DCGAN: python -m dcgan_jax.train --workdir runs/. The same command again goes on where the run stopped."""

import functools
import signal
import sys
import threading

import jax
import numpy as np

from dcgan_jax import cli
from dcgan_jax import config as configuration
from dcgan_jax.config import Config, UserError
from dcgan_jax.data import batches
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.checks import find_data_warnings
from dcgan_jax.data.pack import pack_images, read_labels
from dcgan_jax.data.sources import open_source
from dcgan_jax.gan.logits import make_compute_logits
from dcgan_jax.gan.nan_origin import find_first_nan
from dcgan_jax.gan.progressive import make_low_resolution_config
from dcgan_jax.gan.sampling import make_recalibrate, sample_images, select_labels
from dcgan_jax.gan.state import LABELS, check_finite, count_parameters, init_state
from dcgan_jax.gan.step import make_train_steps
from dcgan_jax.presets import compare_with_preset
from dcgan_jax.quality import diagnostics
from dcgan_jax.run import backend, checkpoints, distributed, figures, initial_weights, online_score, report, workdir
from dcgan_jax.run.logs import Logs, NonFiniteError, read_warnings

MAX_STEPS = 2**31 - 1  # the step is an int32
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
JUDGED = 64  # training pictures, and samples, that trouble is looked for in at a save
ROLLED_BACK = "rolled-back"
HALF = "half"  # in the run's folder: the run of half the side that it grows from


class Stop:
    """Ctrl-C, SIGTERM and a closed terminal: the step under way is finished and saved. A second Ctrl-C stops at once, to the
    last save."""

    def __init__(self):
        self.asked: signal.Signals | None = None

    def __enter__(self):
        in_main = threading.current_thread() is threading.main_thread()  # Python takes signals nowhere else
        self.before = {number: signal.getsignal(number) for number in SIGNALS if in_main}
        for number, handler in self.before.items():
            if handler is not signal.SIG_IGN:  # as nohup leaves it
                signal.signal(number, self._ask)
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
    """The whole run, start or resumption, to its end or a signal. Returns the exit code. Raises UserError."""
    backend.start_backend(get_cache_dir())
    distributed.join_processes(config.run)
    if config.guard.debug:
        backend.enable_strict_checks()
    if config.data.data == "drawn" and distributed.is_first_process():
        print("data: 20,000 drawn faces, the default. For CelebA: --data img_align_celeba.zip, or its folder (docs/celeba.md)")
    return _run(config)[0]


def _run(config):
    """(exit code, whether the run is complete)."""
    sharding = distributed.make_shardings(config)
    k = backend.choose_steps_per_dispatch(config)
    source = open_source(config.data.data, config.data.split)
    packed = distributed.run_first_then_others(
        lambda: pack_images(
            source, size=config.nets.size, channels=config.nets.channels, crop=config.data.crop, strict=config.data.strict
        )
    )
    if config.nets.condition:  # by name, that the run's networks do not depend on what "all" will mean
        config = configuration.replace(config, condition=",".join(read_labels(packed, config.nets.condition)[0]))
        configuration.check(config)
    order = batches.Order(config.run.seed, len(packed.images), config.images_per_step, config.guard.held_out)
    if order.trained_on < order.images_per_step:
        device_count = sharding.state.mesh.size
        fits = max(1, order.trained_on // config.optimizer.d_steps // device_count) * device_count
        raise UserError(
            f"`data` {config.data.data}: {order.trained_on} pictures, fewer than the {order.images_per_step} of one "
            f"step; give more, or `batch_size` {fits} at most"
        )
    total = configuration.count_total_steps(config, order.trained_on)
    if config.optimizer.lr_decay != "none" and config.run.epochs is not None:  # the optimizer knows no pictures to count them by
        config = configuration.replace(config, epochs=None, steps=total)
    if total > MAX_STEPS:
        raise UserError(f"{total} steps: more than the {MAX_STEPS:,} a run can count; give a smaller `steps`, `epochs` or `kimg`")
    # Before there is a run: a --start that cannot be read leaves none. One that has begun needs it no more.
    begun = checkpoints.list_steps(workdir.get_run_path(config))
    networks = distributed.run_in_all(lambda: {} if begun else initial_weights.load_initial_weights(config))
    run, lock = distributed.run_first_then_others(lambda: workdir.open_run(config, packed.index))
    try:
        if config.run.grow_kimg and not begun:  # a run of its own inside this one: it stops and goes on as any other
            half = configuration.replace(make_low_resolution_config(config), workdir=str(run), name=HALF, wandb="")
            steps = checkpoints.list_steps(workdir.get_run_path(half))
            code, is_complete = (0, True) if steps and steps[-1] >= configuration.count_total_steps(half, 0) else _run(half)
            if not is_complete:
                return code, False
            networks = distributed.run_in_all(lambda: initial_weights.grow_networks(config, half))
        return _train(config, run, packed, order, total, k, sharding, networks)
    except (MemoryError, jax.errors.JaxRuntimeError) as fault:
        if isinstance(fault, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(fault):
            raise
        raise UserError(
            f"{run}: out of memory; {checkpoints.describe_kept(run)}. Give a smaller `batch_size`, `width` or `size`"
        ) from None
    except OSError as fault:
        raise UserError(
            f"{run}: {fault.filename or 'the disk'}: {fault.strerror or fault}; {checkpoints.describe_kept(run)}. Make room, "
            "or the folder writable, and give the same command again"
        ) from None
    finally:
        if lock:
            lock.release()


def _train(config, run, packed, order, total, k, sharding, networks):
    shapes = jax.eval_shape(lambda: init_state(config))
    placed = checkpoints.add_sharding(shapes, sharding.state)
    start, state = checkpoints.restore_newest(run, placed) or (0, None)
    if start >= total:
        saved = checkpoints.Checkpoints(run, config.output.keep_checkpoints, online_score.find_best_step)
        saved.tidy()  # the last life may have been killed before it did
        saved.close()
        if distributed.is_first_process():
            longer = "give a larger --steps, --epochs or --kimg"
            anew = f"its step size has fallen to 0: give another --name, and --start {run}"
            more = longer if config.optimizer.lr_decay == "none" else anew
            print(f"{run} is complete: step {start} of {total}. More: {more}")
        return 0, True
    changed = workdir.compare_environment(run) if start else ""
    process = distributed.run_in_first(lambda: workdir.write_run_facts(run, config))
    use_resident = config.data.feed == "resident" or (config.data.feed == "auto" and batches.fits_resident(packed.images))
    feed = batches.gather_batches if use_resident else batches.stream_batches
    distributed.check_agreement(
        start,
        total,
        k,
        use_resident,
        config.output.save_every_steps,
        config.output.score_every_kimg,
        packed.index["fingerprint"],
        initial_weights.compute_digest(networks),
    )
    debug, images = config.guard.debug, packed.images
    conditional = bool(config.nets.condition)
    known = read_labels(packed, config.nets.condition)[1] if conditional else None  # (N, A)

    @functools.cache  # one program, and one more where the first or last dispatch is shorter
    def step_program(k):
        batch = jax.ShapeDtypeStruct((k, order.images_per_step, *images.shape[1:]), np.uint8)
        batch = (batch, jax.ShapeDtypeStruct((k, order.images_per_step, known.shape[1]), np.uint8)) if conditional else batch
        return backend.compile_program(
            make_train_steps(config, sharding.images),
            placed,
            batch,
            checked=debug,
            donate_argnames=() if debug else "state",  # debug looks at the state before once more
            in_shardings=(sharding.state, sharding.batches),
            out_shardings=sharding.state,
        )

    renew_statistics = backend.compile_program(
        make_recalibrate(config), placed, donate_argnames="state", out_shardings=sharding.state
    )
    are_finite = jax.jit(check_finite)
    judge = jax.jit(make_compute_logits(config))
    trained_on = batches.select_training(order.image_count, order.held_out)
    # Pictures that samples are compared with, spread over the set, which may be sorted; and some that D has never seen.
    of_reals = trained_on[np.linspace(0, len(trained_on) - 1, min(JUDGED, len(trained_on))).astype(int)]
    of_unseen = batches.select_held_out(order.image_count, order.held_out)
    reals, unseen = images[of_reals], images[of_unseen]
    shuffled = trained_on[batches.permute_epoch(config.run.seed, 0, len(trained_on))]
    asked = known[np.resize(shuffled, LABELS)] if conditional else None  # what samples are to be, as often as the pictures are
    of_grid = select_labels(asked, np.arange(config.output.grid_images))
    of_judged = np.concatenate([known[of_reals], known[of_unseen], of_grid[:JUDGED]]) if conditional else None

    def draw(params, stats, seeds):
        return sample_images(config.nets, params, stats, seeds, select_labels(asked, seeds))

    scorer = _scorer(config, run, packed, draw) if config.output.score_every_kimg else None

    def open_logs(start):
        return Logs(
            run,
            start=start,
            total=total,
            images_per_step=order.images_per_step,
            image_count=order.trained_on,
            every_steps=config.output.log_every_steps,
            tensorboard=config.output.tensorboard,
            wandb=config.output.wandb,
            settings=configuration.flatten(config),
            silent=not distributed.is_first_process(),
        )

    def first_bad(state):
        return next((name for name, finite in jax.device_get(are_finite(state)).items() if not finite), None)

    def must_be_finite(step, state):
        bad = first_bad(state)
        if bad:
            raise NonFiniteError(f"step {step}: {bad} holds a NaN or an infinity")

    def with_another_key(state, times):  # each time another; no step is folded in as so large a number
        fold = jax.jit(lambda key: jax.random.fold_in(key, np.uint32(2**31 + times)), out_shardings=sharding.state)
        return state.replace(key=fold(state.key)) if times else state

    def rollbacks(since=0):
        return sum(kind == ROLLED_BACK and step >= since for step, kind, _ in read_warnings(run))

    def show(step, state, scored):
        """What a save is for people, and its score. In the first process only, and before the checkpoint, which counts on the
        log's lines."""
        workdir.check_ownership(run, process)
        generator, discriminator = jax.device_get(((state.ema_params, state.ema_stats), (state.d_params, state.d_stats)))
        grid = sample_images(config.nets, *generator, np.arange(config.output.grid_images), of_grid)
        figures.save_grid(run / "samples" / f"{step:08d}.png", grid)
        logs.flush()
        logits = judge(*discriminator, np.concatenate([reals, unseen, grid[:JUDGED]]), of_judged)
        on_reals, on_unseen, on_samples = np.split(logits, [len(reals), len(reals) + len(unseen)])
        logs.trouble(step, diagnostics.diagnose(logs.metrics, grid, reals, on_reals, on_unseen, on_samples, config.loss.loss))
        logs.flush()
        if scored:
            logs.say(scorer.score(step, *generator))
            figures.save_scores(run / "scores.png", online_score.read_score_curve(run), scorer.by)
        figures.save_losses(run / "losses.png", logs.metrics)
        figures.delete_old_grids(run / "samples", config.output.save_every_steps)
        report.save_report(
            report.RunFacts(
                run,
                run.name,
                config,
                compare_with_preset(config),
                packed.index,
                total,
                step,
                logs.metrics,
                logs.found,
                find_data_warnings(packed.index),
            )
        )

    def save(step, state, scored=False):
        state = renew_statistics(state)
        must_be_finite(step, state)
        distributed.run_in_first(lambda: show(step, state, scored))
        saved.save(step, state)
        return state

    # An accelerator's numbers are read one dispatch late, so that it never waits for the host; a CPU's steps run in this thread.
    behind = 0 if jax.default_backend() == "cpu" or debug else 1

    def go_on(start, state):
        """Steps until the end, a signal, or a NaN, which is NonFiniteError. Returns the step it came to."""
        late = []  # (steps, device metrics) dispatched but not yet read
        if not start:
            state = save(0, state)
        fed = feed(images, order, batches.split_dispatches(start, total, k), sharding.batches)
        if conditional:
            fed = batches.add_labels(fed, known, order, batches.split_dispatches(start, total, k), sharding.batches)
        for steps, batch in zip(batches.split_dispatches(start, total, k), fed, strict=True):
            before = state if debug else None
            state, metrics = step_program(len(steps))(state, batch)  # returns at once; the old state is donated, gone
            late.append((steps, metrics))
            # Looked at once: a signal between a save and the break would lose steps. Several processes wait here for all.
            stopping = distributed.any_process(stop.asked is not None)
            # The first process's clock decides for all whether there is time for a score.
            scored = (
                scorer
                and scorer.is_asked(steps, total)
                and distributed.any_process(distributed.is_first_process() and scorer.has_time())
            )
            saving = steps.stop % config.output.save_every_steps == 0 or steps.stop == total or stopping or scored
            try:
                while len(late) > (0 if saving else behind):  # a save waits for its own numbers, nothing else does
                    logs.write(*late.pop(0))
                if debug:
                    must_be_finite(steps.stop, state)
            except NonFiniteError as fault:
                first = jax.tree.map(lambda batches: batches[0], batch)
                place = find_first_nan(config, before, first) if debug else first_bad(state) or "none yet"
                raise NonFiniteError(f"{fault} (first {'in' if debug else 'leaf:'} {place})") from None
            if saving:
                state = save(steps.stop, state, scored)
                logs.say(f"saved step {steps.stop:,}: {run / 'samples' / f'{steps.stop:08d}.png'}")
            if stopping:
                break
        saved.settle()
        return steps.stop

    logs = distributed.run_in_all(lambda: open_logs(start))
    logs.say(
        f"{run}: {config.run.preset}, {config.nets.size} px, G {count_parameters(shapes.g_params):,} and D "
        f"{count_parameters(shapes.d_params):,} parameters, {order.trained_on:,} pictures, batch {config.data.batch_size}, "
        f"{total:,} steps, {distributed.describe_devices()}" + (f"; goes on from step {start:,}" if start else "")
    )
    if changed:
        logs.say(f"since it was last trained: {changed}; the last bits of its numbers may differ from here on")
    if debug:
        logs.say("debug: every step is looked at; expect less than half the speed")
    saved = checkpoints.Checkpoints(run, config.output.keep_checkpoints, online_score.find_best_step)
    try:
        with Stop() as stop:
            if not start:
                init = jax.jit(lambda networks: init_state(config, asked).replace(**networks), out_shardings=sharding.state)
                state = init(networks)
                shown = images[shuffled[: figures.REALS_SHOWN]]
                distributed.run_in_first(lambda: figures.save_grid(run / "reals.png", shown, columns=10))
            while True:
                try:
                    reached = go_on(start, with_another_key(state, rollbacks(since=start)))
                    break
                except NonFiniteError as fault:
                    saved.settle()
                    if config.guard.on_nan == "stop" or rollbacks() >= config.guard.max_rollbacks:
                        gone = f" after {rollbacks()} rollbacks" if rollbacks() else ""
                        raise UserError(
                            f"{run}: {fault}{gone}; {checkpoints.describe_kept(run)}. Try a lower `lr`, "
                            "`on_nan` rollback, or another `seed` under another `name`"
                        ) from None
                    start, state = checkpoints.restore_newest(run, placed, logs.say)
                    logs.close()
                    logs = open_logs(start)
                    logs.trouble(start, {ROLLED_BACK: f"{fault}: went back to step {start} and on with other random numbers"})
                    distributed.run_in_first(logs.flush)
    finally:
        logs.close()
        saved.close()  # waits for a write that is under way
    stopping = distributed.any_process(stop.asked is not None)  # perhaps within the last save: a half is not to be gone on from
    code = cli.INTERRUPTED if stop.asked == signal.SIGINT else 0
    if reached < total:
        logs.say(f"stopped at step {reached:,} of {total:,} and saved; the same command goes on: {command()}")
        return code, False
    logs.say(f"done: {total:,} steps. Faces: {run / 'samples' / f'{total:08d}.png'}; all of it: {run / 'report.html'}")
    return code, not stopping


def _scorer(config, run, packed, draw):
    count = config.output.score_count
    if len(packed.images) < count:
        raise UserError(f"`score_count` {count}: there are {len(packed.images)} pictures; ask for as many at most")
    chosen = np.sort(batches.permute_epoch(0, count, len(packed.images))[:count])  # as evaluate chooses
    reals = online_score.RealImages(packed.images, chosen, packed.index, get_cache_dir() / "references")
    return online_score.OnlineScorer(config, run, reals, draw)


def command() -> str:
    return " ".join(["python -m dcgan_jax.train", *sys.argv[1:]])


def entry() -> None:
    """The console script."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
