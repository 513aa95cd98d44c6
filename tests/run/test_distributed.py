import jax
import numpy as np
import pytest

from dcgan_jax.config import Config, Run, UserError, replace
from dcgan_jax.run import distributed


def config(**changes):
    return replace(Config(), **changes)


def test_batch_is_split_and_state_is_replicated():
    sharding = distributed.make_shardings(config(batch_size=8))
    batch = jax.device_put(np.zeros((3, 8, 2, 2, 1), np.uint8), sharding.batches)
    assert [shard.data.shape for shard in batch.addressable_shards] == [(3, 4, 2, 2, 1)] * 2
    images = jax.device_put(np.zeros((8, 5)), sharding.images)
    assert [shard.data.shape for shard in images.addressable_shards] == [(4, 5)] * 2
    state = jax.device_put(np.zeros((8, 5)), sharding.state)
    assert [shard.data.shape for shard in state.addressable_shards] == [(8, 5)] * 2


@pytest.mark.parametrize("batch_size, near", [(7, "6 or 8"), (129, "128 or 130"), (1, "nearest: 2")])
def test_indivisible_batch_names_the_nearest_sizes(batch_size, near):
    with pytest.raises(UserError, match=f"`batch_size` {batch_size}: .*2 devices.*{near}"):
        distributed.make_shardings(config(batch_size=batch_size))


def test_one_device_is_a_mesh_of_one(monkeypatch):
    one = jax.devices()[:1]
    monkeypatch.setattr(distributed.jax, "devices", lambda: one)
    sharding = distributed.make_shardings(config(batch_size=7))
    assert all(set(place.device_set) == set(one) for place in sharding)
    assert distributed.describe_devices() == "1 x cpu"


def test_describe_devices_names_the_machine():
    assert distributed.describe_devices() == "2 x cpu"


# ---- Several processes ----


def test_one_process_is_first_and_waits_for_nobody():
    distributed.join_processes(Run())
    assert distributed.is_first_process()
    assert [
        turn(lambda: 7) for turn in (distributed.run_first_then_others, distributed.run_in_first, distributed.run_in_all)
    ] == [7, 7, 7]
    distributed.check_agreement(1, "flag")
    assert [distributed.any_process(here) for here in (False, True)] == [False, True]


def test_missing_cluster_is_one_line():
    with pytest.raises(UserError, match="`coordinator` auto: .*give `coordinator` address:port"):
        distributed.join_processes(Run(coordinator="auto"))
