import contextlib
import shutil

import jax
import jax.numpy as jnp
import pytest
import tiny
from numpy.testing import assert_array_equal

from dcgan_jax.config import BadInput
from dcgan_jax.gan.state import init_state
from dcgan_jax.run import checkpoints, devices

CONFIG = tiny.tiny("article")
SHAPES = jax.eval_shape(lambda: init_state(CONFIG))


def state(step=0):
    """Every leaf another number for each step."""
    fresh = tiny.fresh_state(CONFIG)
    return jax.tree.map(lambda leaf: leaf + step if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, fresh).replace(
        step=jnp.int32(step))


def placed(sharding=None):
    return checkpoints.placed(SHAPES, sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))


def saved_at(run, *steps, keep=3):
    with checkpoints.manager(run, keep) as saved:
        for step in steps:
            checkpoints.save(saved, step, state(step))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a checkpoint of step 4, only read."""
    return saved_at(tmp_path_factory.mktemp("run"), 4)


@contextlib.contextmanager
def opened(run):
    with checkpoints.manager(run, 3) as saved:
        yield saved


def equal(ours, theirs):
    ours, theirs = tiny.leaves(ours), tiny.leaves(theirs)
    assert list(ours) == list(theirs)
    for path, leaf in ours.items():
        assert leaf.dtype == theirs[path].dtype, path
        assert_array_equal(leaf, theirs[path], err_msg=path)


# ---- Whole states ----


def test_a_state_without_statistics_comes_back(tmp_path):
    config = tiny.tiny("article", g_norm="none", d_norm="none")
    with checkpoints.manager(tmp_path, 3) as saved:
        checkpoints.save(saved, 1, tiny.fresh_state(config))
    with opened(tmp_path) as saved:
        like = checkpoints.placed(jax.eval_shape(lambda: init_state(config)), devices.shardings(config).state)
        equal(checkpoints.restore(saved, 1, like), tiny.fresh_state(config))


@pytest.mark.parametrize("where", ["one device", "two devices"])
def test_a_state_comes_back_leaf_for_leaf_wherever_it_is_placed(run, where):
    two = devices.shardings(CONFIG).state
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[1])
    place = one if where == "one device" else two
    with opened(run) as saved:
        back = checkpoints.restore(saved, 4, placed(place))
    equal(back, state(4))
    assert all(leaf.sharding.is_equivalent_to(place, leaf.ndim) for leaf in jax.tree.leaves(back))
    assert jnp.issubdtype(back.key.dtype, jax.dtypes.prng_key)


def test_the_newest_three_are_kept(tmp_path):
    saved_at(tmp_path, 0, 2, 4, 6, 8)
    assert checkpoints.list_steps(tmp_path) == [4, 6, 8]
    with opened(tmp_path) as saved:
        assert saved.latest_step() == 8
        equal(checkpoints.restore(saved, 6, placed()), state(6))


def test_a_save_copies_the_state_before_it_returns(tmp_path):
    """The next step is donated the very buffers while they are being written."""
    with checkpoints.manager(tmp_path, 3) as saved:
        gone = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(state(2))
        checkpoints.save(saved, 2, gone)
        jax.tree.map(lambda leaf: leaf.delete(), gone)
    with opened(tmp_path) as saved:
        equal(checkpoints.restore(saved, 2, placed()), state(2))


def test_a_step_that_is_there_is_not_written_again(run):
    with opened(run) as saved:
        checkpoints.save(saved, 4, state(99))
    with opened(run) as saved:
        equal(checkpoints.restore(saved, 4, placed()), state(4))


# ---- The generator alone ----


def test_the_generator_alone_is_the_whole_states_and_reads_nothing_else(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "4" / "training")  # both networks, their optimisers, the key
    step, params, stats = checkpoints.restore_generator(copy, SHAPES)
    assert step == 4
    equal(params, state(4).ema_params)
    equal(stats, state(4).ema_stats)


def test_a_step_can_be_asked_for(tmp_path):
    saved_at(tmp_path, 2, 10)
    assert checkpoints.restore_generator(tmp_path, SHAPES)[0] == 10
    step, params, _ = checkpoints.restore_generator(tmp_path, SHAPES, 2)
    assert step == 2
    equal(params, state(2).ema_params)


def test_a_step_that_is_not_there_names_those_that_are(run):
    with pytest.raises(BadInput, match=r"--step 3: .* has 4"):
        checkpoints.restore_generator(run, SHAPES, 3)


def test_reading_changes_no_file(run):
    before = sorted((str(path), path.stat().st_mtime_ns) for path in run.rglob("*"))
    checkpoints.restore_generator(run, SHAPES)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in run.rglob("*")) == before


# ---- What is not there, or not whole ----


@pytest.mark.parametrize("made", [(), ("checkpoints",), ("checkpoints", "8.orbax-checkpoint-tmp")])
def test_no_whole_checkpoint_is_one_line(tmp_path, made):
    tmp_path.joinpath(*made).mkdir(parents=True, exist_ok=True)  # the last is what a kill in the midst of writing leaves
    assert checkpoints.list_steps(tmp_path) == []
    with pytest.raises(BadInput, match="no checkpoint yet"):
        checkpoints.restore_generator(tmp_path, SHAPES)


@pytest.mark.parametrize("all_of_it", [False, True], ids=["generator", "state"])
@pytest.mark.parametrize("changes, says", [
    ({"width": 8}, "ema_params/head/bias is float32 (128,) there, float32 (256,) here"),
    ({"latent_dim": 50}, "ema_params/head/kernel is float32 (100, 128) there, float32 (50, 128) here"),
    ({"g_norm": "none"}, "ema_params/up1_norm/bias is float32 (4,) there, absent here"),
    ({"g_head_bias": False}, "ema_params/head/bias is float32 (128,) there, absent here")], ids=str)
def test_other_networks_are_one_line_that_names_the_leaf(run, all_of_it, changes, says):
    other = jax.eval_shape(lambda: init_state(tiny.tiny("article", **changes)))
    with opened(run) as saved, pytest.raises(BadInput) as mistake:
        if all_of_it:
            checkpoints.restore(saved, 4, checkpoints.placed(other, devices.shardings(CONFIG).state))
        else:
            checkpoints.restore_generator(run, other)
    assert str(mistake.value).startswith(f"{run / 'checkpoints' / '4'}: {says}")
    assert "config.json is not this checkpoint's" in str(mistake.value)


DAMAGE = [ValueError("cut\n\nshort"), OSError("gone"), KeyError("leaf"), Exception("what Orbax raises for a cut data file")]


@pytest.mark.parametrize("fault", DAMAGE, ids=lambda fault: type(fault).__name__)
def test_whatever_orbax_raises_for_damaged_files_is_one_line_with_the_way_out(run, monkeypatch, fault):
    def restore(self, directory, target):
        raise fault
    monkeypatch.setattr(checkpoints.ocp.StandardCheckpointer, "restore", restore)
    with pytest.raises(BadInput) as mistake:
        checkpoints.restore_generator(run, SHAPES)
    line = str(mistake.value)
    assert str(run / "checkpoints" / "4") in line
    assert "move this folder away" in line
    assert "\n" not in line


@pytest.mark.parametrize("lost", ["generator", "generator/_METADATA"])
def test_a_checkpoint_that_lost_files_is_one_line_and_left_for_its_owner(run, tmp_path, lost):
    copy = shutil.copytree(run, tmp_path / "copy")
    path = copy / "checkpoints" / "4" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BadInput, match="move this folder away"):
        checkpoints.restore_generator(copy, SHAPES)
    assert checkpoints.list_steps(copy) == [4]
