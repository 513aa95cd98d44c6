import itertools
import sys
import threading
import time
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from dcgan_jax.config import Config, replace
from dcgan_jax.data import batches
from dcgan_jax.data.batches import Order, fits_resident, permute_epoch, select_held_out, select_training, split_dispatches
from dcgan_jax.run import distributed

SEEDS = st.integers(0, 2**32 - 1)


# ---- The order ----


@given(seed=SEEDS, epoch=st.integers(0, 10**6), count=st.integers(1, 300))
def test_an_epoch_is_a_permutation(seed, epoch, count):
    assert_array_equal(np.sort(permute_epoch(seed, epoch, count)), np.arange(count))


def test_the_order_is_numpys_philox():
    """This definition must not change: checkpoints of all versions depend on it, and other programs can reproduce it."""
    assert_array_equal(permute_epoch(7, 3, 1000), np.random.Generator(np.random.Philox(key=(7, 3))).permutation(1000))
    assert permute_epoch(0, 0, 10).tolist() == [0, 7, 8, 6, 9, 5, 1, 3, 2, 4]


def test_order_differs_by_epoch_and_seed():
    orders = [tuple(permute_epoch(seed, epoch, 100)) for seed, epoch in itertools.product(range(4), range(4))]
    assert len(set(orders)) == len(orders)


def test_shared_order_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        permute_epoch(0, 0, 10)[0] = 3


@given(seed=SEEDS, count=st.integers(1, 60), share=st.integers(1, 60), epochs=st.integers(1, 3))
def test_epoch_steps_are_its_permutation_less_the_rest(seed, count, share, epochs):
    """The batches of an epoch are its permutation, without the last partial batch."""
    size = min(count, share)
    order, per_epoch = Order(seed, count, size), count // size
    for epoch in range(epochs):
        positions = np.concatenate([order.indices(step) for step in range(epoch * per_epoch, (epoch + 1) * per_epoch)])
        assert_array_equal(positions, permute_epoch(seed, epoch, count)[: per_epoch * size])


def test_images_dropped_by_one_epoch_come_in_others():
    order = Order(0, image_count=19, images_per_step=10)  # each epoch drops nearly half of the images
    assert len({int(i) for step in range(12) for i in order.indices(step)}) == 19


def test_step_batch_depends_only_on_its_number():
    order = Order(5, 53, 8)
    in_a_row = [order.indices(step) for step in range(40)]
    for step in (39, 0, 17, 6, 18):
        assert_array_equal(order.indices(step), in_a_row[step])
    permute_epoch.cache_clear()  # as in a new process
    assert_array_equal(Order(5, 53, 8).indices(23), in_a_row[23])


# ---- Held-out images ----


@given(count=st.integers(0, 5000), most=st.integers(0, 100))
def test_held_out_and_kept_are_all_images_once(count, most):
    away, rest = select_held_out(count, most), select_training(count, most)
    assert away.dtype == rest.dtype == np.int64
    assert len(away) == min(most, count // 20)
    assert_array_equal(np.sort(np.concatenate([away, rest])), np.arange(count))
    assert (np.diff(rest) > 0).all()


@given(count=st.integers(20, 5000), most=st.integers(1, 100))
def test_held_out_images_are_spread_evenly(count, most):
    # The set is divided into equal parts, one for each held-out image. Each held-out image is in the middle of its part.
    away = select_held_out(count, most)
    stretch = count / len(away)
    assert (np.abs(away - (np.arange(len(away)) + 0.5) * stretch) <= 1).all()


@given(seed=SEEDS, count=st.integers(20, 300), most=st.integers(0, 30), share=st.integers(1, 10))
def test_held_out_images_are_never_trained_on(seed, count, most, share):
    """No step uses a held-out image, and an epoch uses no image twice."""
    order = Order(seed, count, share, held_out=most)
    away = set(select_held_out(count, most).tolist())
    assert order.trained_on == count - len(away)
    per_epoch = order.trained_on // share
    for epoch in range(2):
        positions = np.concatenate([order.indices(step) for step in range(epoch * per_epoch, (epoch + 1) * per_epoch)])
        assert not away & set(positions.tolist())
        assert len(set(positions.tolist())) == len(positions) == per_epoch * share


def test_kept_images_have_the_order_of_a_smaller_set():
    """The training images have the order of a set of that many images."""
    order = Order(7, 1000, 20, held_out=50)
    assert_array_equal(
        np.concatenate([order.indices(step) for step in range(47)]), select_training(1000, 50)[permute_epoch(7, 0, 950)[:940]]
    )


def test_nothing_held_out_keeps_the_order():
    assert_array_equal(Order(7, 1000, 100, held_out=0).indices(13), permute_epoch(7, 1, 1000)[300:400])
    assert_array_equal(Order(7, 19, 5, held_out=64).indices(0), permute_epoch(7, 0, 19)[:5])  # too few to hold one out


# ---- Dispatches ----


@given(start=st.integers(0, 50), length=st.integers(0, 50), k=st.integers(1, 12))
def test_dispatches_cover_every_step_once(start, length, k):
    """Every dispatch but the last ends at a multiple of k."""
    spans = list(split_dispatches(start, start + length, k))
    assert [step for span in spans for step in span] == list(range(start, start + length))
    assert all(len(span) > 0 for span in spans)
    assert all(span.stop % k == 0 for span in spans[:-1])
    assert all(len(span) <= k for span in spans)


# ---- Both feeds ----


def make_images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)


@pytest.mark.parametrize("has_tensorflow", [pytest.param(True, marks=pytest.mark.tensorflow), False])
def test_stream_and_resident_give_the_same_batches(monkeypatch, has_tensorflow):
    if has_tensorflow:
        pytest.importorskip("tensorflow")
    else:
        monkeypatch.setitem(sys.modules, "tensorflow", None)  # makes the import fail
    images, order = make_images(53), Order(3, 53, 8, held_out=2)  # 6 steps an epoch
    sharding = distributed.make_shardings(replace(Config(), batch_size=8)).batches
    for start, total, k in ((0, 14, 1), (4, 15, 1), (4, 15, 3), (0, 12, 6)):  # across epochs, and from inside one
        spans = list(split_dispatches(start, total, k))
        fed = [list(feed(images, order, iter(spans), sharding)) for feed in (batches.stream_batches, batches.gather_batches)]
        for span, streamed, resident in zip(spans, *fed, strict=True):
            expected = np.stack([images[order.indices(step)] for step in span])
            for batch in (streamed, resident):
                assert batch.sharding == sharding
                assert batch.dtype == np.uint8
                assert_array_equal(batch, expected)


@pytest.mark.parametrize("is_read", [1, 9])  # batches read before the run stops
def test_threads_gather_in_order_and_a_few_ahead(is_read):
    """Without TensorFlow at most STREAM_AHEAD batches wait in memory besides the current one, and no thread remains."""
    started, before = [], set(threading.enumerate())

    def gather(start, end):
        started.append(start)
        time.sleep(0.02 if start == 0 else 0)  # the first one finishes last
        return np.arange(start, end)

    fed = batches.gather_by_threads(gather, split_dispatches(0, 18, 2))
    for count in range(is_read):
        assert_array_equal(next(fed), [2 * count, 2 * count + 1])
        assert len(started) <= count + 1 + batches.STREAM_AHEAD
    fed.close()
    assert set(threading.enumerate()) <= before


def test_thread_faults_reach_the_step():
    def gather(start, end):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(batches.gather_by_threads(gather, split_dispatches(0, 18, 2)))


def test_batch_is_split_over_devices_by_images():
    sharding = distributed.make_shardings(replace(Config(), batch_size=8)).batches
    batch = next(batches.gather_batches(make_images(32), Order(0, 32, 8), split_dispatches(0, 8, 2), sharding))
    assert [shard.data.shape for shard in batch.addressable_shards] == [(2, 4, 4, 4, 3)] * 2


def test_feed_auto_is_resident_only_if_memory_is_left(monkeypatch):
    """`auto` keeps images on the device only if they leave enough memory."""

    def fits(gigabytes, platform, **statistics):
        device = types.SimpleNamespace(platform=platform, memory_stats=lambda: statistics or None)
        monkeypatch.setattr(batches.jax, "local_devices", lambda: [device])
        return fits_resident(types.SimpleNamespace(nbytes=gigabytes * 2**30))

    monkeypatch.setattr(batches.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**21}.get)  # 8 GiB of memory
    assert fits(3, "cpu")  # CPUs need no copy, as the next test shows
    assert not fits(5, "cpu")
    assert fits(3, "gpu", bytes_limit=80 * 2**30)
    assert not fits(30, "gpu", bytes_limit=80 * 2**30)
    assert not fits(0.1, "gpu")  # a backend without memory statistics


def test_cpu_resident_images_are_the_memory_map(tmp_path):
    """So a pack may be larger than memory. JAX does not guarantee this; without it fits_resident would need a lower limit."""
    np.save(tmp_path / "images.npy", make_images(5000))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    sharding = distributed.make_shardings(replace(Config(), batch_size=8)).batches
    for shard in batches.replicate_images(images, sharding).addressable_shards:
        assert shard.data.unsafe_buffer_pointer() == images.ctypes.data
