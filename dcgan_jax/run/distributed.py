"""Training on several devices and in several processes: splits batches along one mesh axis, `data`, and coordinates processes."""

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
    """Connects this process with the other processes of the run. Call it before JAX uses a device. Raises: UserError."""
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
            else "check that all processes were started, with the same `coordinator` and different `process_id`s"
        )
        raise UserError(f"`coordinator` {run.coordinator}: {' '.join(str(fault).split())[:300]}; {remedy}") from None
    any_process(False)  # connects the processes now: the timeout is too short for a later wait, while one process packs images


def is_first_process() -> bool:
    """Whether this is the first process, which alone writes the files of the run."""
    return jax.process_index() == 0


def run_first_then_others(function: Callable[[], Result]) -> Result:
    """Calls function in the first process, then in the others, so that they find the files that the first one creates.

    Raises: in all processes, if the call fails in one (UserError, OSError or MemoryError), so that none waits for ever.
    """
    firsts, others = _run_turn(function, is_first_process()), _run_turn(function, not is_first_process())
    [result] = firsts or others
    return result


def run_in_first(function: Callable[[], Result]) -> Result | None:
    """Calls function only in the first process. Returns: its result there, None in others. Raises: as run_first_then_others."""
    return next(iter(_run_turn(function, is_first_process())), None)


def run_in_all(function: Callable[[], Result]) -> Result:
    """Calls function in every process. Returns: the result of this process. Raises: as run_first_then_others."""
    [result] = _run_turn(function, is_ours=True)
    return result


def _run_turn(function: Callable[[], Result], is_ours: bool) -> list[Result]:
    """Returns [function()] if it is this process's turn, else []."""
    results, fault = [], None
    if is_ours:
        try:
            results.append(function())
        except (UserError, OSError, MemoryError) as error:
            fault = error
    if any_process(fault is not None):
        raise fault or UserError("another process of this run failed; see its message")
    return results


def check_agreement(*facts: object) -> None:
    """Raises UserError if the facts differ between processes. They determine which programs run in which order."""
    if jax.process_count() > 1:
        sums = multihost_utils.process_allgather(np.array(zlib.crc32(repr(facts).encode()), np.uint32))
        if (sums != sums[0]).any():
            raise UserError(
                "the processes of this run differ in flags, in images or in the content of `workdir`; "
                "start all with the same flags and images, and with a `workdir` that all share"
            )


def any_process(here: bool) -> bool:
    """Whether `here` is true in any process. All processes must call it and get the same answer."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).any())


def share_from_first(number: int) -> int:
    """Returns the first process's number, at most 2**31 - 1, in all processes. All must call it."""
    return int(multihost_utils.broadcast_one_to_all(np.array(number, np.int32)))


class Shardings(NamedTuple):
    """How the run's arrays are split over the devices."""

    state: NamedSharding  # a full copy on each device
    batches: NamedSharding  # (k, B, S, S, C), split along B
    images: NamedSharding  # (B, ...), split along B


def make_shardings(config: Config) -> Shardings:
    """Makes the shardings over all devices of all processes. Raises: UserError if the batch cannot be split evenly."""
    count = len(jax.devices())
    batch_size = config.data.batch_size
    if batch_size % count:
        lower, upper = batch_size // count * count, -(-batch_size // count) * count
        near = " or ".join(str(size) for size in (lower, upper) if size)
        raise UserError(f"`batch_size` {batch_size}: cannot be divided by {count} devices; nearest: {near}")
    # Sorted by process, not in the order of a TPU's ring, because each process feeds adjacent rows of the batch.
    ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = jax.sharding.Mesh(np.array(ordered), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return Shardings(
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec(None, "data")),
        NamedSharding(mesh, PartitionSpec("data")),
    )


def describe_devices() -> str:
    """Describes all devices, such as '2 x cpu', '1 x NVIDIA H100' or '8 x TPU v4 in 2 processes'."""
    devices = jax.devices()
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{len(devices)} x {devices[0].device_kind}{processes}"
