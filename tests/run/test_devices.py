import jax
import numpy as np
import pytest

from dcgan_jax.config import BadInput, Config, replace
from dcgan_jax.run import devices


def config(**changes):
    return replace(Config(), **changes)


def test_batches_are_split_by_images_and_the_state_is_on_every_device():
    sharding = devices.shardings(config(batch_size=8))
    batch = jax.device_put(np.zeros((3, 8, 2, 2, 1), np.uint8), sharding.batches)
    assert [shard.data.shape for shard in batch.addressable_shards] == [(3, 4, 2, 2, 1)] * 2
    images = jax.device_put(np.zeros((8, 5)), sharding.images)
    assert [shard.data.shape for shard in images.addressable_shards] == [(4, 5)] * 2
    state = jax.device_put(np.zeros((8, 5)), sharding.state)
    assert [shard.data.shape for shard in state.addressable_shards] == [(8, 5)] * 2


@pytest.mark.parametrize("batch_size, near", [(7, "6 or 8"), (129, "128 or 130"), (1, "nearest: 2")])
def test_a_batch_that_two_devices_cannot_share_names_the_nearest_that_they_can(batch_size, near):
    with pytest.raises(BadInput, match=f"--batch-size {batch_size}: .*2 devices.*{near}"):
        devices.shardings(config(batch_size=batch_size))


def test_one_device_is_a_mesh_of_one(monkeypatch):
    one = jax.devices()[:1]
    monkeypatch.setattr(devices.jax, "devices", lambda: one)
    sharding = devices.shardings(config(batch_size=7))
    assert all(set(place.device_set) == set(one) for place in sharding)
    assert devices.describe() == "1 x cpu"


def test_the_machine_in_words():
    assert devices.describe() == "2 x cpu"


@pytest.mark.parametrize("backend, saves, asked, k", [
    ("cpu", 500, 0, 1), ("gpu", 500, 0, 10), ("tpu", 200, 0, 10), ("gpu", 96, 0, 8), ("gpu", 7, 0, 7), ("gpu", 11, 0, 1),
    ("cpu", 500, 4, 4), ("gpu", 500, 500, 500)])
def test_dispatches_end_at_every_save(monkeypatch, backend, saves, asked, k):
    monkeypatch.setattr(devices.jax, "default_backend", lambda: backend)
    assert devices.steps_per_dispatch(config(save_every_steps=saves, steps_per_dispatch=asked)) == k
    assert saves % k == 0


def test_steps_per_dispatch_that_would_jump_over_a_save_is_refused():
    with pytest.raises(BadInput, match="--steps-per-dispatch 3: .*--save-every-steps 500"):
        devices.steps_per_dispatch(config(steps_per_dispatch=3))
