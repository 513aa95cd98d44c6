"""Where arrays live: a `data` mesh axis over all devices; one device is a mesh of one."""

from typing import NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from dcgan_jax.config import BadInput, Config


class Shardings(NamedTuple):
    """How the run's arrays are split over the devices."""

    state: NamedSharding  # a copy on each
    batches: NamedSharding  # (k, images, S, S, C): images split
    images: NamedSharding  # (images, ...): images split


def shardings(config: Config) -> Shardings:
    """For all devices of this process. Raises BadInput where they cannot share a batch evenly."""
    count = len(jax.local_devices())
    batch_size = config.data.batch_size
    if batch_size % count:
        lower, upper = batch_size // count * count, -(-batch_size // count) * count
        near = " or ".join(str(size) for size in (lower, upper) if size)
        raise BadInput(f"--batch-size {batch_size}: cannot be divided by {count} devices; nearest: {near}")
    mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.local_devices())
    return Shardings(NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(None, "data")),
                     NamedSharding(mesh, PartitionSpec("data")))


def steps_per_dispatch(config: Config) -> int:
    """Steps in one call of the compiled program: more than one hides the host's overhead from an accelerator."""
    asked, between_saves = config.output.steps_per_dispatch, config.output.save_every_steps
    if asked and between_saves % asked:
        raise BadInput(f"--steps-per-dispatch {asked}: must divide --save-every-steps {between_saves}")
    if asked:
        return asked
    return 1 if jax.default_backend() == "cpu" else next(k for k in range(10, 0, -1) if between_saves % k == 0)


def describe() -> str:
    """'2 x cpu', '1 x NVIDIA H100' ..."""
    devices = jax.local_devices()
    return f"{len(devices)} x {devices[0].device_kind}"
