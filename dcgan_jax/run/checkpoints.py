"""Orbax checkpoints of the whole state, each with the digests of its arrays: what is read is what was saved, or is not used.

Digests are of values and come to the disk with them; a list of the files' own follows when the checkpoint has been read back.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from dcgan_jax import files
from dcgan_jax.config import UserError, make_printable
from dcgan_jax.files import write_json
from dcgan_jax.run import distributed

# What drawing needs; the rest of the state is the "training" item of a checkpoint, and "digests" describes both.
GENERATOR = ("ema_params", "ema_stats", "labels")
FILES = "files.json"  # in a checkpoint: what it held when it was read back
BROKEN = "broken-checkpoints"  # in the run's folder: those that did not come back as they were saved
NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)  # of filesystems that cannot, such as some 9p
# What keeps us from reading, and says nothing of what would be read: such a checkpoint is not broken.
NOT_NOW = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN)


class CorruptCheckpointError(Exception):
    """A checkpoint does not hold what was saved: the message says why, on one line."""


class Checkpoints:
    """A run's checkpoints. Saves go on in the background; an old one is removed only when a newer one has been read back."""

    def __init__(self, run: Path, keep: int, best: Callable[[Path], int | None] = lambda run: None):
        """keep: newest verified ones kept; best: the step of one more that is kept, whatever its age."""
        _silence_orbax()
        self.run, self.keep, self.best = run, keep, best
        self.unverified = None  # (step, items as they are read back, digests) of the save under way
        self.manager = ocp.CheckpointManager(
            (run / "checkpoints").absolute(), options=ocp.CheckpointManagerOptions(enable_async_checkpointing=True)
        )

    def save(self, step: int, state) -> None:
        """Copies the state off the device, then writes in the background. Raises UserError where the save before failed.

        A step that is already there is not written again.
        """
        self.settle()
        there = list_steps(self.run)
        if step in there:
            return
        if there != sorted(self.manager.all_steps()):
            self.manager.reload()  # `newest` has set one aside: the manager would think this step saved, and say nothing
        items = _split_items(state)
        digests = {name: _describe_leaves(item, _digest_leaf) for name, item in items.items()}
        on_host = jax.tree.map(
            lambda leaf: np.empty(_to_stored(leaf).shape, _to_stored(leaf).dtype), items
        )  # takes no memory yet
        try:
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    digests=ocp.args.JsonSave({"items": digests, "sha256": _digest_of_json(digests)}),
                    **{name: ocp.args.StandardSave(item) for name, item in items.items()},
                ),
            )
        except Exception as fault:  # a full disk is a ValueError of TensorStore's, or an OSError
            self._failed(step, fault)
        self.unverified = step, on_host, digests

    def settle(self) -> None:
        """Waits for the save under way, reads it back, and removes those that are too old now. Raises UserError."""
        if self.unverified is None:
            return
        (step, on_host, digests), self.unverified = self.unverified, None
        try:
            self.manager.wait_until_finished()
        except Exception as fault:
            self._failed(step, fault)
        try:
            if _read_digests(self._path(step)) != digests:
                raise CorruptCheckpointError("its digests are others")
            _check_digests(_restore_items(self._path(step), **on_host), digests)
        except CorruptCheckpointError as fault:
            raise UserError(
                f"{self._path(step)}: was written and does not come back as it was ({fault}): check the disk; "
                "the same command goes on from the checkpoint before"
            ) from None
        self.tidy()

    def tidy(self) -> None:
        """To be called where the newest one has been read: lists its files, sends them to the disk, then removes old ones."""
        steps = list_steps(self.run)
        distributed.run_in_first(lambda: _seal_files(self._path(steps[-1])))  # all have looked before the first removes any
        best = distributed.run_in_all(lambda: self.best(self.run))
        for old in steps[: -self.keep]:
            if old != best:
                self.manager.delete(old)

    def close(self) -> None:
        """To be called in any case; waits for a write that is under way, and does not read it back."""
        try:
            self.manager.close()
        except Exception as fault:
            self._failed(self.unverified[0] if self.unverified else "?", fault)

    def _path(self, step):
        return self.run / "checkpoints" / str(step)

    def _failed(self, step, fault):
        for half in (self.run / "checkpoints").glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(half, ignore_errors=True)  # it would keep a full disk full
        raise UserError(
            f"{self.run}: step {step} cannot be saved: {_describe_reason(fault)}; {describe_kept(self.run)}. Make room, or the "
            "folder writable, and give the same command again"
        ) from None


def restore_newest(run: Path, like, say: Callable[[str], None] = print):
    """(step, state) of the newest whole checkpoint, or None where there is none. Broken ones are said, and set aside by name.

    like: the state's shapes with their place on the devices, see `placed`. To be called in all processes.
    Raises: UserError where no checkpoint is whole (then all are left where they are), or where they are another network's.
    """
    steps, damaged = list_steps(run)[::-1], {}
    for step in steps:
        found, fault = distributed.run_in_all(lambda step=step: _try_restore(run / "checkpoints" / str(step), like))
        if not distributed.any_process(fault is not None):
            break
        damaged[step] = fault or "another process could not read it"
    else:
        if not steps:
            return None
        raise UserError(
            f"{run}: none of its {len(steps)} checkpoints is whole (step {steps[0]}: {damaged[steps[0]]}); restore "
            f"one from a copy of the run, or move {run} away to begin again"
        )
    for broken, why in damaged.items():
        aside = distributed.run_in_first(lambda broken=broken: _set_aside(run, broken))
        if distributed.is_first_process():
            say(f"warning: the checkpoint of step {broken} is broken ({why}): set aside as {aside}; goes on from step {step}")
    return step, found


def _try_restore(path, like):
    """(state, None), or (None, what is broken)."""
    try:
        return restore(path, like), None
    except CorruptCheckpointError as fault:
        return None, fault


def _set_aside(run, step) -> Path:
    aside = run / BROKEN / str(step)
    aside.parent.mkdir(exist_ok=True)
    while aside.exists():
        aside = aside.with_name(aside.name + "-again")
    return (run / "checkpoints" / str(step)).rename(aside)


def restore(path: Path, like):
    """The state in the checkpoint at path, verified. Raises: CorruptCheckpointError; UserError where it is of other networks."""
    found = _restore_verified(path, _split_items(like))
    return like.replace(**found["generator"], **found["training"])


def restore_generator(
    run: Path, shapes, step: int | None = None, say: Callable[[str], None] = print
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


def restore_step(run: Path, like, step: int):
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


def add_sharding(shapes, sharding: jax.sharding.Sharding | None = None):
    """The shapes with their place on the devices (none: this process's first), which is what a restore needs to know."""
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def _split_items(state):
    leaves = {name: leaf for name, leaf in vars(state).items() if leaf is not None}  # what the recipe has no use for
    return {
        "generator": {name: leaves[name] for name in GENERATOR if name in leaves},
        "training": {name: leaf for name, leaf in leaves.items() if name not in GENERATOR},
    }


# ---- Digests ----


def _restore_verified(path, items, *parts) -> dict:
    """The items of a checkpoint, like those given. parts: the only folders whose files are looked at (none: all).

    Raises: CorruptCheckpointError, and UserError where it is of other networks.
    """
    _check_files(path, *parts)
    digests = _read_digests(path)
    for name, item in items.items():
        _check_shapes(path, digests[name], item)
    found = _restore_items(path, **items)
    _check_digests(found, digests)
    return found


def _describe_leaves(tree, tell):
    """Path -> what `tell` says of each array."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tell(_to_stored(leaf))
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _to_stored(leaf):
    """An array or its shape as it lies in a checkpoint: keys as their words."""
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return jax.random.key_data(leaf) if isinstance(leaf, jax.Array) else jax.eval_shape(jax.random.key_data, leaf)


def _describe_kind(leaf) -> str:
    return f"{leaf.dtype} {leaf.shape}"


def _digest_leaf(leaf) -> str:
    """'float32 (4, 4, 8, 16) 5f3a...': what the array is, and the SHA-256 of its numbers."""
    numbers = np.ascontiguousarray(leaf)
    return f"{_describe_kind(leaf)} {hashlib.sha256(numbers.reshape(-1).view(np.uint8)).hexdigest()}"


def _hash_files(path, *parts) -> dict[str, str]:
    """Name below path -> SHA-256, of every file in these folders (none: in all) but that which keeps them."""

    def refuse(fault):  # an unreadable folder is not an empty one
        raise fault

    found = sorted(Path(folder, name) for folder, _, names in os.walk(path, onerror=refuse) for name in names)
    names = {str(file.relative_to(path)): file for file in found if file.name not in (FILES, f"{FILES}.partial")}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in names.items() if _is_in_parts(name, parts)}


def _is_in_parts(name, parts):
    return not parts or name.split("/")[0] in parts


def _seal_files(path):
    """Writes the list of its files, and waits until all is on the disk: Orbax flushes the arrays, not their descriptions."""
    if not (path / FILES).exists():
        write_json(path / FILES, _hash_files(path))
    for place in [path, *path.rglob("*"), path.parent]:
        opened = os.open(place, os.O_RDONLY)
        try:
            os.fsync(opened)
        except OSError as fault:
            if not (place.is_dir() and fault.errno in NO_FOLDER_FLUSH):
                raise
        finally:
            os.close(opened)


def _check_files(path, *parts):
    # Before Orbax reads a damaged file, whose threads then say so on stderr at length. A kill between a write and its reading
    # back leaves a checkpoint without this list; the digests of its arrays still guard it.
    if not (path / FILES).exists():
        return
    try:
        kept, there = files.load_json(path / FILES), _hash_files(path, *parts)
        differing = [name for name in kept if _is_in_parts(name, parts) and kept[name] != there.get(name)]
    except (OSError, ValueError, TypeError, AttributeError) as fault:
        _reraise_machine_fault(fault)
        raise CorruptCheckpointError(f"{FILES} cannot be read: {_describe_reason(fault)}") from None
    if differing:
        raise CorruptCheckpointError(
            f"{make_printable(differing[0], 200)} is {'not as it was written' if differing[0] in there else 'missing'}"
        )


def _digest_of_json(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read_digests(path) -> dict[str, dict[str, str]]:
    """Item -> path of a leaf -> its digest. Raises CorruptCheckpointError."""
    try:
        kept = files.load_json(path / "digests" / "metadata")  # where Orbax's JsonSave writes
        items = kept["items"]
        whole = _digest_of_json(items) == kept["sha256"]
        texts = all(isinstance(text, str) for name in ("generator", "training") for text in items[name].values())
    except FileNotFoundError:
        raise CorruptCheckpointError("it has no digests: they are missing, or it was written by an earlier version") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as fault:
        _reraise_machine_fault(fault)
        raise CorruptCheckpointError(f"its digests cannot be read: {fault.__class__.__name__}") from None
    if not (whole and texts):
        raise CorruptCheckpointError("its digests are not as they were written")
    return items


def _check_shapes(path, digests, like):
    here = _describe_leaves(like, _describe_kind)
    there = {leaf: digest.rpartition(" ")[0] for leaf, digest in digests.items()}
    for leaf in here | there:
        if there.get(leaf) != here.get(leaf):
            raise UserError(
                f"{path}: {leaf} is {there.get(leaf, 'absent')} there, {here.get(leaf, 'absent')} here: "
                "config.json is not this checkpoint's"
            )


def _check_digests(found, digests):
    for name, item in found.items():
        for leaf, digest in _describe_leaves(item, _digest_leaf).items():
            if digest != digests[name].get(leaf):
                raise CorruptCheckpointError(f"{leaf} is not as it was saved")


def _silence_orbax():
    # Orbax and its event loops log the tracebacks of faults that it also raises; TensorStore's threads call loops that are
    # closed by then, and coroutines that were left complain when they are collected.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    before = sys.unraisablehook
    if getattr(before, "__name__", "") != "unless_orbaxs":

        def unless_orbaxs(fault):
            code = getattr(fault.object, "cr_code", None)
            if str(fault.exc_value) != "Event loop is closed" and "/orbax/" not in getattr(code, "co_filename", ""):
                before(fault)

        sys.unraisablehook = unless_orbaxs
    # Orbax asks TensorStore at each save and restore how it does, for its own log. What TensorStore 0.1.86 answers is never
    # freed: 60 kB a save, which a run of weeks would feel.
    tensorstore.experimental_collect_matching_metrics = lambda *prefix, **how: []


def _restore_items(path, **items):
    _silence_orbax()
    try:
        with ocp.StandardCheckpointer() as reader:
            return {name: reader.restore((path / name).absolute(), like) for name, like in items.items()}
    except Exception as fault:  # damaged files make Orbax and TensorStore raise nearly anything, a bare Exception among it
        _reraise_machine_fault(fault)
        raise CorruptCheckpointError(_describe_reason(fault)) from fault


def _reraise_machine_fault(fault) -> None:
    """Raises it again where it tells of this machine, now, and not of the checkpoint."""
    if isinstance(fault, MemoryError) or (isinstance(fault, OSError) and fault.errno in NOT_NOW):
        raise fault
    if isinstance(fault, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(fault):
        raise MemoryError(_describe_reason(fault)) from None
    told = re.search(r"\[os_error_code='?(\d{1,4})\D", str(fault))  # TensorStore's way, in a ValueError
    if told and int(told[1]) in NOT_NOW:
        raise OSError(int(told[1]), _describe_reason(fault)) from None


def _describe_reason(fault) -> str:
    """The disk's own words where it was the disk, else the beginning of what was raised."""
    text = make_printable(str(fault))
    found = re.search(r"([A-Z][^:\[\]]+) \[os_error_code=", text)
    return found[1] if found else text[:200] or type(fault).__name__


def describe_kept(run: Path) -> str:
    """What a run that ends here has, in words."""
    if not run.is_dir():
        return "the folder is not there any more"
    steps = list_steps(run)
    return f"the checkpoint of step {steps[-1]} is kept" if steps else "no step was saved yet"
