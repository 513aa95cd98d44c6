"""Where arrays live: a `data` mesh axis over the devices of all processes; one device is a mesh of one."""

import zlib
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from dcgan_jax.config import Config, Run, UserError

Result = TypeVar("Result")


def join_processes(run: Run) -> None:
    """Joins the other processes of the run, before anything touches a device. Raises UserError."""
    if not run.coordinator:
        return
    try:
        if run.coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(run.coordinator, run.processes, run.process_id)
    except (RuntimeError, ValueError) as fault:
        remedy = (
            "give `coordinator` address:port"
            if run.coordinator == "auto"
            else "check that all processes were started, with the same `coordinator` and a `process_id` each"
        )
        raise UserError(f"`coordinator` {run.coordinator}: {' '.join(str(fault).split())[:300]}; {remedy}") from None
    any_process(False)  # connects the processes now: later they would not wait minutes for one that packs


def is_first_process() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def run_first_then_others(function: Callable[[], Result]) -> Result:
    """function() in the first process, and when it is done there in the others: files are made by one, found by all.

    Raises: UserError in all processes where it, the disk or the memory fails one, so that none waits for ever.
    """
    firsts, others = _run_turn(function, is_first_process()), _run_turn(function, not is_first_process())
    [result] = firsts or others
    return result


def run_in_first(function: Callable[[], Result]) -> Result | None:
    """function() in the first process alone; its result there, None elsewhere. Raises: as run_first_then_others."""
    return next(iter(_run_turn(function, is_first_process())), None)


def run_in_all(function: Callable[[], Result]) -> Result:
    """function() in every process, each its own result. Raises: as run_first_then_others."""
    [result] = _run_turn(function, is_ours=True)
    return result


def _run_turn(function: Callable[[], Result], is_ours: bool) -> list[Result]:
    """[function()] where it is this process's turn, else []."""
    results, fault = [], None
    if is_ours:
        try:
            results.append(function())
        except (UserError, OSError, MemoryError) as found:
            fault = found
    if any_process(fault is not None):
        raise fault or UserError("another process of this run could not start or go on: see what it says")
    return results


def check_agreement(*facts: object) -> None:
    """Raises UserError where the facts, which decide what programs run when, are not the same in all processes."""
    if jax.process_count() > 1:
        sums = multihost_utils.process_allgather(np.array(zlib.crc32(repr(facts).encode()), np.uint32))
        if (sums != sums[0]).any():
            raise UserError(
                "the processes of this run differ in flags, in images or in what they see in `workdir`; "
                "start all with the same, on a folder that all share"
            )


def any_process(here: bool) -> bool:
    """Whether it is true in any process: all get the same answer and can act on it together."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).any())


class Shardings(NamedTuple):
    """How the run's arrays are split over the devices."""

    state: NamedSharding  # a copy on each
    batches: NamedSharding  # (k, images, S, S, C): images split
    images: NamedSharding  # (images, ...): images split


def make_shardings(config: Config) -> Shardings:
    """For all devices of all processes. Raises UserError where they cannot share a batch evenly."""
    count = len(jax.devices())
    batch_size = config.data.batch_size
    if batch_size % count:
        lower, upper = batch_size // count * count, -(-batch_size // count) * count
        near = " or ".join(str(size) for size in (lower, upper) if size)
        raise UserError(f"`batch_size` {batch_size}: cannot be divided by {count} devices; nearest: {near}")
    # In the order of processes, not of a TPU's ring: a process feeds neighbouring rows.
    ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = jax.sharding.Mesh(np.array(ordered), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return Shardings(
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec(None, "data")),
        NamedSharding(mesh, PartitionSpec("data")),
    )


def describe_devices() -> str:
    """'2 x cpu', '1 x NVIDIA H100', '8 x TPU v4 in 2 processes' ..."""
    devices = jax.devices()
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{len(devices)} x {devices[0].device_kind}{processes}"
