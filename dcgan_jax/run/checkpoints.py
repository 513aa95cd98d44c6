"""Orbax checkpoints of the whole state: what is read is what was saved (run/checksums.py), or is not used."""

import contextlib
import gc
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NoReturn, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from dcgan_jax.config import UserError
from dcgan_jax.gan.state import GanState
from dcgan_jax.run import distributed
from dcgan_jax.run.checksums import (
    CorruptCheckpointError,
    check_digests,
    check_files,
    check_shapes,
    describe_leaves,
    describe_reason,
    digest_json,
    digest_leaf,
    read_digests,
    reraise_machine_fault,
    seal_files,
    to_stored,
)

Shapes = TypeVar("Shapes")
# What sampling needs; the rest of the state is the "training" item of a checkpoint, and "digests" describes both.
GENERATOR = ("ema_params", "ema_stats", "labels")
TENSORSTORE_METRICS = "experimental_collect_matching_metrics"
REST_S = 0.2  # TensorStore cannot be asked whether it has ended; its reads of small files take milliseconds
BROKEN = "broken-checkpoints"  # in the run's folder: those that did not come back as they were saved


class Checkpoints:
    """A run's checkpoints. Saves run in the background; an old one is removed only when a newer one has been read back."""

    def __init__(self, run: Path, keep: int, best: Callable[[Path], int | None] = lambda run: None):
        """keep: newest verified ones kept; best: the step of one more that is kept, whatever its age."""
        self.run, self.keep, self.best = run, keep, best
        self.unverified: tuple[int, dict, dict] | None = (
            None  # (step, items as they are read back, digests) of the save under way
        )
        with contextlib.ExitStack() as silence:
            silence.enter_context(silence_orbax())  # until `close`: its threads write in the background
            self.manager = ocp.CheckpointManager(
                (run / "checkpoints").absolute(), options=ocp.CheckpointManagerOptions(enable_async_checkpointing=True)
            )
            self.silence = silence.pop_all()

    def save(self, step: int, state: GanState) -> None:
        """Copies the state off the device, then writes in the background. Raises UserError where the save before failed.

        A step that is already there is not written again.
        """
        self.settle()
        there = list_steps(self.run)
        if step in there:
            return
        if there != sorted(self.manager.all_steps()):
            self.manager.reload()  # `restore_newest` has set one aside: the manager would think this step saved, and say nothing
        items = _split_items(state)
        digests = {name: describe_leaves(item, digest_leaf) for name, item in items.items()}
        on_host = jax.tree.map(lambda leaf: np.empty(to_stored(leaf).shape, to_stored(leaf).dtype), items)  # takes no memory yet
        try:
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    digests=ocp.args.JsonSave({"items": digests, "sha256": digest_json(digests)}),
                    **{name: ocp.args.StandardSave(item) for name, item in items.items()},
                ),
            )
        except Exception as fault:  # a full disk is a ValueError of TensorStore's, or an OSError
            self._raise_save_error(step, fault)
        self.unverified = step, on_host, digests

    def settle(self) -> None:
        """Waits for the save under way, reads it back, and removes those that are too old now. Raises UserError."""
        if self.unverified is None:
            return
        (step, on_host, digests), self.unverified = self.unverified, None
        try:
            self.manager.wait_until_finished()
        except Exception as fault:
            self._raise_save_error(step, fault)
        try:
            if read_digests(self._get_path(step)) != digests:
                raise CorruptCheckpointError("its digests are others")
            check_digests(_restore_items(self._get_path(step), **on_host), digests)
        except CorruptCheckpointError as fault:
            raise UserError(
                f"{self._get_path(step)}: was written and does not come back as it was ({fault}): check the disk; "
                "the same command resumes from the checkpoint before"
            ) from None
        self.tidy()

    def tidy(self) -> None:
        """To be called where the newest one has been read: lists its files, sends them to the disk, then removes old ones."""
        steps = list_steps(self.run)
        distributed.run_in_first(lambda: seal_files(self._get_path(steps[-1])))  # all have looked before the first removes any
        best = distributed.run_in_all(lambda: self.best(self.run))
        for old in steps[: -self.keep]:
            if old != best:
                self.manager.delete(old)

    def close(self) -> None:
        """To be called in any case; waits for a write that is under way, and does not read it back."""
        try:
            self.manager.close()
        except Exception as fault:
            self._raise_save_error(self.unverified[0] if self.unverified else "?", fault)
        finally:
            gc.collect()  # what it left behind complains when it is collected: here, and not later
            self.silence.close()

    def _get_path(self, step: int) -> Path:
        return self.run / "checkpoints" / str(step)

    def _raise_save_error(self, step: int | str, fault: Exception) -> NoReturn:
        for half in (self.run / "checkpoints").glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(half, ignore_errors=True)  # it would keep a full disk full
        raise UserError(
            f"{self.run}: step {step} cannot be saved: {describe_reason(fault)}; {describe_kept(self.run)}. Make room, or the "
            "folder writable, and give the same command again"
        ) from None


def restore_newest(run: Path, like: GanState, say: Callable[[str], None] = print) -> tuple[int, GanState] | None:
    """(step, state) of the newest whole checkpoint, or None where there is none. Broken ones are said, and set aside by name.

    like: the state's shapes with their place on the devices, see `add_sharding`. To be called in all processes.
    Raises: UserError where no checkpoint is whole (then all are left where they are), or where they are another network's.
    """
    steps, damaged = list_steps(run)[::-1], {}
    for step in steps:
        found = distributed.run_in_all(lambda step=step: _try_restore(run / "checkpoints" / str(step), like))
        is_damaged = distributed.any_process(isinstance(found, CorruptCheckpointError))  # asked in all processes
        if isinstance(found, CorruptCheckpointError) or is_damaged:
            damaged[step] = found if isinstance(found, CorruptCheckpointError) else "another process could not read it"
            continue
        for broken, why in damaged.items():
            aside = distributed.run_in_first(lambda broken=broken: _set_aside(run, broken))
            if distributed.is_first_process():
                say(f"warning: the checkpoint of step {broken} is broken ({why}): set aside as {aside}; resumes from step {step}")
        return step, found
    if not steps:
        return None
    raise UserError(
        f"{run}: none of its {len(steps)} checkpoints is whole (step {steps[0]}: {damaged[steps[0]]}); restore "
        f"one from a copy of the run, or move {run} away to begin again"
    )


def _try_restore(path: Path, like: GanState) -> GanState | CorruptCheckpointError:
    try:
        return restore(path, like)
    except CorruptCheckpointError as fault:
        return fault


def _set_aside(run: Path, step: int) -> Path:
    aside = run / BROKEN / str(step)
    aside.parent.mkdir(exist_ok=True)
    while aside.exists():
        aside = aside.with_name(aside.name + "-again")
    return (run / "checkpoints" / str(step)).rename(aside)


def restore(path: Path, like: GanState) -> GanState:
    """The state in the checkpoint at path, verified. Raises: CorruptCheckpointError; UserError where it is of other networks."""
    found = _restore_verified(path, _split_items(like))
    return like.replace(**found["generator"], **found["training"])


def restore_generator(
    run: Path, shapes: GanState, step: int | None = None, say: Callable[[str], None] = print
) -> tuple[int, dict, dict, np.ndarray | None]:
    """(step, ema_params, ema_stats, labels) of the newest whole checkpoint, or of the one asked for; nothing else is read.

    shapes: the whole state's, from jax.eval_shape. Raises: UserError where there is no such checkpoint.
    """
    steps = list_steps(run)
    if not steps:
        raise UserError(f"{run}: no checkpoint yet; train it first, or wait for its first save")
    if step is not None and step not in steps:
        raise UserError(f"`step` {step}: {run} has {', '.join(map(str, steps))}")
    like = add_sharding(shapes)
    item = {"generator": _split_items(like)["generator"]}
    # Without a manager, which tidies up: this also reads beside a running training, and from a disk that cannot be written.
    for at in steps[::-1] if step is None else [step]:
        path = run / "checkpoints" / str(at)
        try:
            found = _restore_verified(path, item, "generator", "digests")["generator"]
            return at, found["ema_params"], found["ema_stats"], found.get("labels")
        except CorruptCheckpointError as fault:
            if step is None and at != steps[0]:
                say(f"warning: the checkpoint of step {at} is broken ({fault}): an older one is used")
                continue
            raise UserError(f"{path}: {fault}; give another `step`, or restore it from a copy of the run") from None
    raise AssertionError("the loop returns or raises")


def restore_step(run: Path, like: GanState, step: int) -> GanState:
    """The state of one step. Raises: UserError where it is damaged, or of other networks."""
    path = run / "checkpoints" / str(step)
    try:
        return restore(path, like)
    except CorruptCheckpointError as fault:
        raise UserError(f"{path}: {fault}; give another `step`, or restore it from a copy of the run") from None


def list_steps(run: Path) -> list[int]:
    """Steps that have a checkpoint, ascending; Orbax renames one into place when it is whole."""
    folder = run / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


def add_sharding(shapes: Shapes, sharding: jax.sharding.Sharding | None = None) -> Shapes:
    """The shapes with their place on the devices (none: this process's first), which is what a restore needs to know."""
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def _split_items(state: GanState) -> dict[str, dict]:
    leaves = {name: leaf for name, leaf in vars(state).items() if leaf is not None}  # what the recipe has no use for
    return {
        "generator": {name: leaves[name] for name in GENERATOR if name in leaves},
        "training": {name: leaf for name, leaf in leaves.items() if name not in GENERATOR},
    }


# ---- Orbax ----


def _restore_verified(path: Path, items: dict[str, dict], *parts: str) -> dict[str, dict]:
    """The items of a checkpoint, like those given. parts: the only folders whose files are looked at (none: all).

    Raises: CorruptCheckpointError, and UserError where it is of other networks.
    """
    check_files(path, *parts)
    digests = read_digests(path)
    for name, item in items.items():
        check_shapes(path, digests[name], item)
    found = _restore_items(path, **items)
    check_digests(found, digests)
    return found


def _restore_items(path: Path, **items: dict) -> dict[str, dict]:
    with silence_orbax():
        try:
            with ocp.StandardCheckpointer() as reader:
                return {name: reader.restore((path / name).absolute(), like) for name, like in items.items()}
        except Exception as fault:  # damaged files make Orbax and TensorStore raise nearly anything, a bare Exception among it
            reraise_machine_fault(fault)
            reason = describe_reason(fault)
        # What the fault left behind complains while Orbax is still silenced, and not later: TensorStore's threads, whose event
        # loop is closed, and coroutines when they are collected. Only a checkpoint without files.json comes here.
        time.sleep(REST_S)
        gc.collect()
        raise CorruptCheckpointError(reason)


class _Silence:
    """How many need it at present, and what stands again when none does any more: they may overlap in any order."""

    lock = threading.Lock()
    count = 0
    undo = contextlib.ExitStack()


@contextlib.contextmanager
def silence_orbax() -> Generator[None]:
    """Within it, in the whole process, Orbax says and measures only what it also raises. All is as before at the end."""
    with _Silence.lock:
        if not _Silence.count:
            _Silence.undo = _replace_hooks()
        _Silence.count += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.count -= 1
            if not _Silence.count:
                _Silence.undo.close()


def _replace_hooks() -> contextlib.ExitStack:
    undo = contextlib.ExitStack()
    # Orbax and its event loops log the tracebacks of faults that it also raises; TensorStore's threads call loops that are
    # closed by then, and coroutines that were left complain when they are collected.
    for logger in map(logging.getLogger, ("absl", "asyncio")):
        undo.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
    report = sys.unraisablehook

    def report_others(fault: "sys.UnraisableHookArgs") -> None:
        code = getattr(fault.object, "cr_code", None)
        if str(fault.exc_value) != "Event loop is closed" and "/orbax/" not in getattr(code, "co_filename", ""):
            report(fault)

    undo.callback(setattr, sys, "unraisablehook", report)
    sys.unraisablehook = report_others
    # Orbax asks TensorStore at each save and restore how it does, for its own log. What TensorStore 0.1.86 answers is never
    # freed: 60 kB a save, which a run of weeks would feel.
    undo.callback(setattr, tensorstore, TENSORSTORE_METRICS, getattr(tensorstore, TENSORSTORE_METRICS))
    setattr(tensorstore, TENSORSTORE_METRICS, lambda *prefix, **how: [])
    return undo


def describe_kept(run: Path) -> str:
    """What a run that ends here has, in words."""
    if not run.is_dir():
        return "the folder is not there any more"
    steps = list_steps(run)
    return f"the checkpoint of step {steps[-1]} is kept" if steps else "no step was saved yet"
