"""Saves and restores the whole state with Orbax. Checksums detect damaged checkpoints (run/checksums.py)."""

import contextlib
import gc
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from dcgan_jax import terminal
from dcgan_jax.config import UserError
from dcgan_jax.gan.state import GanState
from dcgan_jax.run import compact, distributed, pretrained
from dcgan_jax.run.checksums import (
    CorruptCheckpointError,
    check_digests,
    check_files,
    check_shapes,
    describe_leaves,
    describe_reason,
    digest_json,
    digest_leaf,
    get_errno,
    propose_remedy,
    read_digests,
    reraise_machine_fault,
    seal_files,
    to_stored,
)
from dcgan_jax.run.orbax_messages import silence_orbax

Shapes = TypeVar("Shapes")
Item = TypeVar("Item")  # what is read from a checkpoint
# A checkpoint has three items: "generator" (these fields, which sampling needs), "training" (all other fields), and "digests".
GENERATOR_FIELDS = ("ema_params", "ema_stats", "labels")
REST_S = 0.2  # TensorStore does not tell when its threads have ended; they read small files within milliseconds
BROKEN = "broken-checkpoints"  # subfolder of the run for damaged checkpoints


class Checkpoints:
    """The checkpoints of a run. A save is written in the background. Old ones are removed only after the new one is verified."""

    def __init__(self, run: Path, keep: int, best: Callable[[Path], int | None] = lambda run: None):
        """keep: number of newest checkpoints to keep. best: returns the step of one more to keep, or None."""
        self.run, self.keep, self.best = run, keep, best
        # (step, shapes to restore, digests) of the save that is not verified yet
        self.unverified: tuple[int, dict, dict] | None = None
        with contextlib.ExitStack() as silence:
            silence.enter_context(silence_orbax())  # until `close`, because Orbax writes in the background
            self.manager = ocp.CheckpointManager(
                (run / "checkpoints").absolute(), options=ocp.CheckpointManagerOptions(enable_async_checkpointing=True)
            )
            self.silence = silence.pop_all()

    def save(self, step: int, state: GanState) -> None:
        """Copies the state to the host, then writes it in the background. Does nothing if the step has a checkpoint already.

        Raises: UserError if this save or the previous one fails.
        """
        self.settle()
        steps = list_steps(self.run)
        if step in steps:
            return
        if steps != sorted(self.manager.all_steps()):
            self.manager.reload()  # after `restore_newest` moved a broken checkpoint; else the manager would skip this step
        items = _split_items(state if jax.process_count() > 1 else jax.tree.map(_get_one_copy, state))
        digests = {name: describe_leaves(item, digest_leaf) for name, item in items.items()}
        # np.empty uses no memory until it is filled.
        targets = jax.tree.map(lambda leaf: np.empty(to_stored(leaf).shape, to_stored(leaf).dtype), items)
        try:
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    digests=ocp.args.JsonSave({"items": digests, "sha256": digest_json(digests)}),
                    **{name: ocp.args.StandardSave(item) for name, item in items.items()},
                ),
            )
        except Exception as fault:  # for a full disk TensorStore raises a ValueError, Orbax an OSError
            self._raise_save_error(step, fault)
        self.unverified = step, targets, digests

    def settle(self) -> None:
        """Waits for the current save, verifies it by reading it back, and removes old checkpoints. Raises: UserError."""
        if self.unverified is None:
            return
        (step, targets, digests), self.unverified = self.unverified, None
        try:
            self.manager.wait_until_finished()
        except Exception as fault:
            self._raise_save_error(step, fault)
        try:
            if read_digests(get_checkpoint_path(self.run, step)) != digests:
                raise CorruptCheckpointError("its digests differ")
            check_digests(_restore_items(get_checkpoint_path(self.run, step), **targets), digests)
        except CorruptCheckpointError as fault:
            raise UserError(
                f"{get_checkpoint_path(self.run, step)}: differs from what was written ({fault}): check the disk; "
                "the same command resumes from the previous checkpoint"
            ) from None
        self.tidy()

    def tidy(self) -> None:
        """Hashes the files of the newest checkpoint, flushes them to disk, then removes old checkpoints.

        Call it only after the newest checkpoint was read successfully.
        """
        steps = list_steps(self.run)
        distributed.run_in_first(lambda: seal_files(get_checkpoint_path(self.run, steps[-1])))  # waits for all processes
        best = distributed.run_in_all(lambda: self.best(self.run))
        for old in steps[: -self.keep]:
            if old != best:
                self.manager.delete(old)

    def close(self) -> None:
        """Waits for the current save and frees resources; does not verify the save. Call it in any case. Raises: UserError."""
        try:
            self.manager.close()
        except Exception as fault:
            self._raise_save_error(self.unverified[0] if self.unverified else "?", fault)
        finally:
            gc.collect()  # leftover coroutines warn when they are collected: do it while Orbax is silenced
            self.silence.close()

    def _raise_save_error(self, step: int | str, fault: Exception) -> NoReturn:
        for partial in (self.run / "checkpoints").glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(partial, ignore_errors=True)  # frees space on a full disk
        about = f"{self.run}: step {step} cannot be saved: {describe_reason(fault)}; {describe_kept(self.run)}"
        code = get_errno(fault)
        raise UserError(f"{about}. {propose_remedy(code)}") from (fault if code is None else None)


def restore_newest(run: Path, like: GanState, say: Callable[[str], None] = terminal.say) -> tuple[int, GanState] | None:
    """Restores the newest intact checkpoint: (step, state), or None if there is no checkpoint. Call it in all processes.

    Broken newer checkpoints are moved to `broken-checkpoints`, each with a warning.
    Args: like: shapes, dtypes and shardings of the state, see `add_sharding`. say: called with each warning.
    Raises: UserError if all checkpoints are broken (then none is moved), or if they have other shapes.
    """
    steps, damaged = list_steps(run)[::-1], {}
    for step in steps:
        restored = distributed.run_in_all(lambda step=step: _try_restore(get_checkpoint_path(run, step), like))
        is_damaged = distributed.any_process(isinstance(restored, CorruptCheckpointError))  # a call that all processes must make
        if isinstance(restored, CorruptCheckpointError) or is_damaged:
            damaged[step] = restored if isinstance(restored, CorruptCheckpointError) else "another process could not read it"
            continue
        for broken, why in damaged.items():
            aside = distributed.run_in_first(lambda broken=broken: _set_aside(run, broken))
            if distributed.is_first_process():
                say(f"warning: the checkpoint of step {broken} is broken ({why}): moved to {aside}; resumes from step {step}")
        return step, restored
    if not steps:
        return None
    raise UserError(
        f"{run}: none of its {len(steps)} checkpoints is intact (step {steps[0]}: {damaged[steps[0]]}); restore "
        f"one from a copy of the run, or move {run} away to start again"
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
    return get_checkpoint_path(run, step).rename(aside)


def restore(path: Path, like: GanState) -> GanState:
    """Restores and verifies the checkpoint at path. Raises: CorruptCheckpointError; UserError if it has other shapes."""
    items = _restore_verified(path, _split_items(like))
    return like.replace(**items["generator"], **items["training"])


def restore_generator(
    run: Path, shapes: GanState, step: int | None = None, say: Callable[[str], None] = terminal.say
) -> tuple[int, dict, dict, np.ndarray | None]:
    """Restores only what sampling needs: (step, ema_params, ema_stats, labels), of the newest intact checkpoint or of `step`.

    Args: shapes: of the whole state, from jax.eval_shape. say: called with a warning for each broken checkpoint.
    Raises: UserError if there is no such checkpoint, or it is broken.
    """
    steps = _list_saved_steps(run)
    if step is not None and step not in steps:
        raise UserError(f"`step` {step}: no such checkpoint; {run} has {', '.join(map(str, steps))}")
    if compact.is_compact(run):
        params, stats, labels = compact.read_generator(run, shapes)
        return steps[-1], *jax.device_put((params, stats), jax.local_devices()[0]), labels
    item = {"generator": _split_items(add_sharding(shapes))["generator"]}

    def read(path: Path) -> dict:
        return _restore_verified(path, item, "generator", "digests")["generator"]

    at, generator = _read_newest_intact(run, steps, read, say) if step is None else (step, _read_step(run, step, read))
    return at, generator["ema_params"], generator["ema_stats"], generator.get("labels")


def restore_discriminator(run: Path, shapes: GanState, step: int) -> tuple[dict, dict]:
    """Restores D's parameters and statistics of one step. shapes: as in `restore_generator`. Raises: UserError."""
    if compact.is_compact(run):
        return jax.device_put(compact.read_discriminator(run, shapes), jax.local_devices()[0])
    state = restore_step(run, add_sharding(shapes), step)
    return state.d_params, state.d_stats


def restore_step(run: Path, like: GanState, step: int) -> GanState:
    """Restores the state of one step. Raises: UserError if the checkpoint is broken or has other shapes."""
    return _read_step(run, step, lambda path: restore(path, like))


def restore_newest_read_only(run: Path, like: GanState, say: Callable[[str], None] = terminal.say) -> tuple[int, GanState]:
    """Restores the newest intact checkpoint: (step, state). Unlike `restore_newest` it changes nothing in the run.

    Args: as those of `restore_newest`. Raises: UserError if there is no intact checkpoint, or if it has other shapes.
    """
    return _read_newest_intact(run, _list_saved_steps(run), lambda path: restore(path, like), say)


def _read_newest_intact(
    run: Path, steps: list[int], read: Callable[[Path], Item], say: Callable[[str], None]
) -> tuple[int, Item]:
    # Without a CheckpointManager, because it deletes files. So this also works during training and on a read-only disk.
    broken = []
    for step in steps[::-1]:
        try:
            item = read(get_checkpoint_path(run, step))
        except CorruptCheckpointError as fault:
            broken.append((step, fault))
            continue
        for newer, fault in broken:
            say(f"warning: {run}: the checkpoint of step {newer} is broken ({fault}); that of step {step} is used")
        return step, item
    newest, fault = broken[0]
    raise UserError(
        f"{run}: none of its {len(broken)} checkpoints is intact (step {newest}: {fault}); restore one from a copy of the run"
    )


def _read_step(run: Path, step: int, read: Callable[[Path], Item]) -> Item:
    path = get_checkpoint_path(run, step)
    try:
        return read(path)
    except CorruptCheckpointError as fault:
        raise UserError(f"{path}: {fault}; give another `step`, or restore it from a copy of the run") from None


def _list_saved_steps(run: Path) -> list[int]:
    """Lists the steps that have a checkpoint, ascending; at least one. Raises: UserError if there is none."""
    steps = list_steps(run)
    if not steps:
        pretrained.check_not_hiding(run)
        raise UserError(f"{run}: no checkpoint yet; train it first, or wait for its first save")
    return steps


def get_checkpoint_path(run: Path, step: int) -> Path:
    """Returns the folder of the checkpoint of a step."""
    return run / "checkpoints" / str(step)


def list_steps(run: Path) -> list[int]:
    """Lists the steps that have a checkpoint, ascending. Unfinished ones have another name until Orbax has written them.

    A compact run has the step of its weights.
    """
    if compact.is_compact(run):
        return [compact.read_step(run)]
    folder = run / "checkpoints"
    if not os.path.isdir(folder):  # Path.is_dir raises for names that no filesystem accepts
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def describe_kept(run: Path) -> str:
    """Describes in words which checkpoint a run that ends now has kept."""
    if not run.is_dir():
        return "the folder no longer exists"
    steps = list_steps(run)
    return f"the checkpoint of step {steps[-1]} is kept" if steps else "no step was saved yet"


def add_sharding(shapes: Shapes, sharding: jax.sharding.Sharding | None = None) -> Shapes:
    """Adds the sharding that a restore needs to the shapes. Default: the first device of this process."""
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def _get_one_copy(leaf: jax.Array) -> jax.Array:
    # Orbax would save a slice of each device's copy, and would compile a program for each slice.
    return leaf.addressable_data(0) if leaf.is_fully_replicated else leaf


def _split_items(state: GanState) -> dict[str, dict]:
    leaves = {name: leaf for name, leaf in vars(state).items() if leaf is not None}  # None: not used with this config
    return {
        "generator": {name: leaves[name] for name in GENERATOR_FIELDS if name in leaves},
        "training": {name: leaf for name, leaf in leaves.items() if name not in GENERATOR_FIELDS},
    }


# ---- Orbax ----


def _restore_verified(path: Path, items: dict[str, dict], *parts: str) -> dict[str, dict]:
    """Restores items of a checkpoint and verifies them.

    Args: items: name -> shapes, dtypes and shardings. parts: folders whose files are checked; none given: all.
    Raises: CorruptCheckpointError; UserError if the shapes differ.
    """
    check_files(path, *parts)
    digests = read_digests(path)
    for name, item in items.items():
        check_shapes(path, digests[name], item)
    restored = _restore_items(path, **items)
    check_digests(restored, digests)
    return restored


def _restore_items(path: Path, **items: dict) -> dict[str, dict]:
    with silence_orbax():
        try:
            with ocp.StandardCheckpointer() as reader:
                return {name: reader.restore((path / name).absolute(), like) for name, like in items.items()}
        except Exception as fault:  # for damaged files Orbax and TensorStore raise many types, even a bare Exception
            reraise_machine_fault(fault)
            reason = describe_reason(fault)
        # After a fault, TensorStore's threads (their event loop is closed) and collected coroutines print warnings. Wait for them
        # while Orbax is still silenced. This happens only with a damaged checkpoint without files.json.
        time.sleep(REST_S)
        gc.collect()
        raise CorruptCheckpointError(reason)
