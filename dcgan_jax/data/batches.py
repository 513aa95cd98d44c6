"""Makes uint8 batches on the devices. Their order is a function of (seed, epoch), so a run resumes at any step without replay.

Two feeds give the same batches. "stream" gathers images from the pack ahead of each step, by tf.data, or by two threads if
TensorFlow is not installed. "resident" keeps all images on the device and gathers there, in a compiled function. Each process
gathers only the rows of its own devices.
"""

import collections
import functools
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.batch import Batch
from dcgan_jax.data.tensorflow_import import import_tensorflow

STREAM_AHEAD = 4  # batches that are gathered in advance
# The largest share of the device's memory for resident images; the step needs the rest. On CPU, JAX uses the pack's memory map
# without a copy. If it had more than half of the memory, the step would read its pages from the disk repeatedly.
RESIDENT_SHARE = 0.25
RESIDENT_SHARE_CPU = 0.5


HELD_OUT_SHARE = 20  # at most one image in 20 is held out, because small sets need their images for training


class Order(NamedTuple):
    """The order of the training images: which images each step uses."""

    seed: int
    image_count: int  # including held-out images
    images_per_step: int
    held_out: int = 0  # upper limit of held-out images: max_held_out of `select_held_out`

    @property
    def trained_on(self) -> int:
        """The number of training images: all images except the held-out ones."""
        return count_training_images(self.image_count, self.held_out)

    def indices(self, step: int) -> np.ndarray:
        """Returns the (images_per_step,) int64 positions of the images of a step. Steps count from 0.

        An epoch is a permutation of the training images, without the last partial batch.
        """
        steps_per_epoch = self.trained_on // self.images_per_step
        epoch, position = divmod(step, steps_per_epoch)
        start = position * self.images_per_step
        permutation = permute_epoch(self.seed, epoch, self.trained_on)
        return select_training(self.image_count, self.held_out)[permutation[start : start + self.images_per_step]]


def select_held_out(image_count: int, max_held_out: int) -> np.ndarray:
    """Returns the positions of the held-out images, which no step uses: (min(max_held_out, image_count // 20),) int64, ascending.

    They are spread evenly, because a data set may be sorted by class or person. They do not depend on the seed, so runs can be
    compared on the same images.
    """
    count = image_count - count_training_images(image_count, max_held_out)
    return (2 * np.arange(count, dtype=np.int64) + 1) * image_count // (2 * max(count, 1))


def count_training_images(image_count: int, max_held_out: int) -> int:
    """Returns the number of training images: all images except the held-out ones."""
    return image_count - min(max_held_out, image_count // HELD_OUT_SHARE)


@functools.lru_cache(maxsize=2)
def select_training(image_count: int, max_held_out: int) -> np.ndarray:
    """Returns the int64 positions, ascending, of the training images: all images except the held-out ones."""
    positions = np.delete(np.arange(image_count, dtype=np.int64), select_held_out(image_count, max_held_out))
    positions.flags.writeable = False  # cached, so all callers share the array
    return positions


@functools.lru_cache(maxsize=2)  # the current epoch, and the next for a stream that is ahead
def permute_epoch(seed: int, epoch: int, count: int) -> np.ndarray:
    """Returns the permutation of range(count), int64, for one epoch. By NumPy's Philox, so it does not depend on TensorFlow."""
    permutation = np.random.Generator(np.random.Philox(key=(seed, epoch))).permutation(count)
    permutation.flags.writeable = False  # cached, so all callers share the array
    return permutation


def split_dispatches(start: int, total: int, steps_per_dispatch: int) -> Iterator[range]:
    """Yields the steps of each call of the compiled program: from start to total, split at multiples of steps_per_dispatch."""
    while start < total:
        end = min(total, (start // steps_per_dispatch + 1) * steps_per_dispatch)
        yield range(start, end)
        start = end


def iterate_batches(
    images: np.ndarray,
    labels: np.ndarray | None,
    order: Order,
    dispatches: Callable[[], Iterator[range]],
    sharding: jax.sharding.NamedSharding,
    is_resident: bool,
) -> Iterator[tuple[range, Batch]]:
    """Yields (steps, batches) of each dispatch: images (k, images_per_step, S, S, C), labels (k, images_per_step, A), both uint8.

    Args: images (N, S, S, C); labels (N, A) or None; dispatches, makes the iterator of `split_dispatches`, which is read twice;
        is_resident, gather from images on the device instead of streaming them.
    """
    feed = gather_batches if is_resident else stream_batches
    for steps, some in zip(dispatches(), feed(images, order, dispatches(), sharding), strict=True):
        yield steps, Batch(some, None if labels is None else gather_labels(labels, order, steps, sharding))


def stream_batches(
    images: np.ndarray, order: Order, dispatches: Iterator[range], sharding: jax.sharding.Sharding
) -> Iterator[jax.Array]:
    """Yields (k, images_per_step, S, S, C) uint8 for each dispatch, in order, gathered in advance.

    By tf.data if TensorFlow is installed, otherwise by threads. The batches are the same.
    """
    rows = _own_rows(sharding, order.images_per_step)

    def gather(start: int, end: int) -> np.ndarray:
        return np.stack([images[order.indices(step)[rows]] for step in range(start, end)])

    try:
        tf = import_tensorflow()  # imported here, because nothing else in training uses it
    except ImportError:
        gathered = gather_by_threads(gather, dispatches)
    else:
        gathered = _gather_by_tf_data(tf, gather, dispatches, (None, rows.stop - rows.start, *images.shape[1:]))
    for batch in gathered:
        yield jax.make_array_from_process_local_data(sharding, batch, (len(batch), order.images_per_step, *images.shape[1:]))


def _gather_by_tf_data(
    tf: ModuleType, gather: Callable[[int, int], np.ndarray], dispatches: Iterator[range], shape: tuple
) -> Iterator[np.ndarray]:
    """Yields gather(start, end) of each dispatch, in order. shape: of its result, with None for an axis of variable size."""
    spans = tf.data.Dataset.from_generator(
        lambda: ((steps.start, steps.stop) for steps in dispatches), output_signature=tf.TensorSpec((2,), tf.int64)
    )
    batches = spans.map(
        lambda span: tf.ensure_shape(tf.numpy_function(gather, [span[0], span[1]], tf.uint8), shape),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    ).prefetch(STREAM_AHEAD)
    return batches.as_numpy_iterator()


def gather_by_threads(gather: Callable[[int, int], np.ndarray], dispatches: Iterator[range]) -> Generator[np.ndarray]:
    """Yields gather(start, end) of each dispatch, in order. At most STREAM_AHEAD results are computed in advance."""
    pool = ThreadPoolExecutor(2, "batches")  # one thread reads from the disk while the other copies
    waiting = collections.deque()
    try:
        for steps in dispatches:
            waiting.append(pool.submit(gather, steps.start, steps.stop))
            if len(waiting) > STREAM_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # a run that stops early leaves futures


def _own_rows(sharding: jax.sharding.Sharding, count: int) -> slice:
    """Returns the rows of each batch that belong to the devices of this process: all rows if it is the only process."""
    indices = sharding.addressable_devices_indices_map((1, count)).values()
    owned = [index[1].indices(count) for index in indices if index]  # never None for addressable devices
    return slice(min(start for start, _, _ in owned), max(stop for _, stop, _ in owned))


def gather_batches(
    images: np.ndarray, order: Order, dispatches: Iterator[range], sharding: jax.sharding.NamedSharding
) -> Iterator[jax.Array]:
    """Yields the same batches as `stream_batches`, gathered on the device from a copy of all images. CPUs need no copy."""
    copy = replicate_images(images, sharding)
    take = jax.jit(lambda images, indices: jnp.take(images, indices, axis=0), out_shardings=sharding)
    for steps in dispatches:
        yield take(copy, np.stack([order.indices(step) for step in steps]).astype(np.int32))


def gather_labels(labels: np.ndarray, order: Order, steps: range, sharding: jax.sharding.Sharding) -> jax.Array:
    """Returns the labels of these steps' images, (k, images_per_step, A) uint8. labels: (N, A), of all images."""
    rows = np.stack([labels[order.indices(step)] for step in steps])
    return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])


def replicate_images(images: np.ndarray, sharding: jax.sharding.NamedSharding) -> jax.Array:
    """Copies all images to every device of the sharding's mesh."""
    replicated = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.make_array_from_callback(images.shape, replicated, lambda _: np.asarray(images))


def fits_resident(images: np.ndarray) -> bool:
    """Whether all images fit on the device and leave enough memory for the step."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return images.nbytes <= RESIDENT_SHARE_CPU * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    statistics = device.memory_stats() or {}
    return images.nbytes <= RESIDENT_SHARE * statistics.get("bytes_limit", 0)
