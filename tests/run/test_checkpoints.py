import gc
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from saved_states import (
    CONFIG,
    DAMAGES,
    SHAPES,
    assert_equal_leaves,
    damage,
    make_state,
    make_target,
    open_checkpoints,
    restore_step,
    save_steps,
)

from dcgan_jax.config import UserError
from dcgan_jax.gan.state import describe_state
from dcgan_jax.run import checkpoints, checksums, distributed

pytestmark = pytest.mark.integration  # many saves and restores


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints of steps 2 and 4. Tests must not change it."""
    return save_steps(tmp_path_factory.mktemp("run"), 2, 4)


def restore_newest_read_only(run, say=print):
    return checkpoints.restore_newest_read_only(run, make_target(), say)


# ---- Whole states ----


@pytest.mark.parametrize(
    "changes",
    [
        {"g_norm": "none", "d_norm": "none"},
        {"d_norm": "spectral", "minibatch_std": True},
        {"augment": ("color",), "augment_target": 0.6},
    ],
    ids=["no statistics", "statistics of D only", "an adaptive probability"],
)
def test_state_of_other_presets_round_trips(tmp_path, changes):
    config = tiny.make_tiny_config("article", **changes)
    with open_checkpoints(tmp_path) as saved:
        saved.save(1, tiny.make_toy_state(config))
    like = checkpoints.add_sharding(describe_state(config), distributed.make_shardings(config).state)
    assert_equal_leaves(restore_step(tmp_path, 1, like), tiny.make_toy_state(config))


@pytest.mark.parametrize("where", ["one device", "two devices"])
def test_restore_is_exact_on_any_sharding(run, where):
    two = distributed.make_shardings(CONFIG).state
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[1])
    place = one if where == "one device" else two
    step, back = checkpoints.restore_newest(run, make_target(place))
    assert step == 4
    assert_equal_leaves(back, make_state(4))
    assert all(leaf.sharding.is_equivalent_to(place, leaf.ndim) for leaf in jax.tree.leaves(back))
    assert jnp.issubdtype(back.key.dtype, jax.dtypes.prng_key)


def test_newest_three_are_kept(tmp_path):
    save_steps(tmp_path, 0, 2, 4, 6, 8)
    assert checkpoints.list_steps(tmp_path) == [4, 6, 8]
    assert_equal_leaves(restore_step(tmp_path, 6), make_state(6))


def test_save_copies_the_state_before_it_returns(tmp_path):
    """The next step may reuse the buffers, which are donated, while the checkpoint is still being written."""
    with open_checkpoints(tmp_path) as saved:
        gone = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(make_state(2))
        saved.save(2, gone)
        jax.tree.map(lambda leaf: leaf.delete(), gone)
    assert_equal_leaves(restore_step(tmp_path, 2), make_state(2))


def test_existing_step_is_not_written_again(run):
    with open_checkpoints(run) as saved:
        saved.save(4, make_state(99))
    assert_equal_leaves(restore_step(run, 4), make_state(4))


def test_old_one_is_deleted_after_the_new_is_verified(tmp_path, monkeypatch):
    with open_checkpoints(tmp_path, keep=1) as saved:
        saved.save(2, make_state(2))
        saved.save(4, make_state(4))
        assert 2 in checkpoints.list_steps(tmp_path)  # step 4 may be written by now, but is not verified
        saved.settle()
        assert checkpoints.list_steps(tmp_path) == [4]


def test_save_is_flushed_before_an_old_one_is_deleted(tmp_path, monkeypatch):
    saved = checkpoints.Checkpoints(save_steps(tmp_path, 2), 1)
    done, fsync, delete = [], os.fsync, saved.manager.delete

    def sent(opened):
        done.append(os.readlink(f"/proc/self/fd/{opened}"))
        fsync(opened)

    monkeypatch.setattr(os, "fsync", sent)
    monkeypatch.setattr(saved.manager, "delete", lambda step: (done.append(step), delete(step)))
    saved.save(4, make_state(4))
    saved.settle()
    saved.close()
    new = tmp_path / "checkpoints" / "4"
    before = done[: done.index(2)]
    assert {str(place) for place in [new, new.parent, *new.rglob("*")]} <= {*before}


def test_unverified_newest_is_sealed_and_old_ones_go(tmp_path):
    """A process that is killed between a save and its verification leaves such a checkpoint."""
    run = save_steps(tmp_path, 2, 4, keep=2)
    (run / "checkpoints" / "4" / checksums.FILES_JSON).unlink()
    saved = checkpoints.Checkpoints(run, 1)
    saved.tidy()
    saved.close()
    assert checkpoints.list_steps(run) == [4] and (run / "checkpoints" / "4" / checksums.FILES_JSON).exists()


def test_saves_leak_no_memory(tmp_path):
    def lists():
        gc.collect()
        return sum(type(thing) is list for thing in gc.get_objects())

    counts = []
    with open_checkpoints(tmp_path, keep=1) as saved:
        for step in range(1, 11):
            saved.save(step, make_state(step))
            saved.settle()
            counts.append(lists())
    # TensorStore's metrics would leak 48 lists at each save. A cache that grows once does not change the median.
    assert np.median(np.diff(counts[2:])) < 20, counts


def test_best_checkpoint_outlives_newer_ones(tmp_path):
    best = [None]
    saved = checkpoints.Checkpoints(tmp_path, 2, lambda run: best[0])
    for step in (1, 2, 3, 4):
        saved.save(step, make_state(step))
        best[0] = best[0] or step
    saved.settle()
    assert checkpoints.list_steps(tmp_path) == [1, 3, 4]
    best[0] = 4
    saved.save(5, make_state(5))
    saved.settle()
    saved.close()
    assert checkpoints.list_steps(tmp_path) == [4, 5]
    assert_equal_leaves(restore_step(tmp_path, 4), make_state(4))


def test_vanished_run_is_described_as_such(tmp_path):
    assert checkpoints.describe_kept(tmp_path) == "no step was saved yet"
    assert checkpoints.describe_kept(tmp_path / "unmounted") == "the folder no longer exists"


def test_save_that_reads_back_wrong_ends_the_run(tmp_path):
    """Older checkpoints are kept."""
    saved = checkpoints.Checkpoints(save_steps(tmp_path, 2, keep=1), 1)
    try:
        saved.save(4, make_state(4))
        saved.manager.wait_until_finished()
        damage(tmp_path / "checkpoints" / "4", "flip")  # as a failing disk would
        with pytest.raises(UserError, match=r"checkpoints/4: differs from what was written .*check the disk"):
            saved.settle()
    finally:
        saved.close()
    assert 2 in checkpoints.list_steps(tmp_path)


def test_step_set_aside_is_written_again(tmp_path):
    """This happens if a run rolls back and its newest checkpoint is broken."""
    with open_checkpoints(save_steps(tmp_path, 2)) as saved:
        saved.save(4, make_state(4))
        saved.settle()
        damage(tmp_path / "checkpoints" / "4", "flip")
        assert checkpoints.restore_newest(tmp_path, make_target(), lambda line: None)[0] == 2
        saved.save(4, make_state(4))
    assert checkpoints.list_steps(tmp_path) == [2, 4]
    assert_equal_leaves(restore_step(tmp_path, 4), make_state(4))


# ---- The generator alone ----


def test_restore_generator_reads_only_the_generator(run, tmp_path):
    """It returns the EMA generator of the saved state."""
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "4" / "training")  # both networks, both optimizer states, the key
    step, params, stats, _ = checkpoints.restore_generator(copy, SHAPES)
    assert step == 4
    assert_equal_leaves(params, make_state(4).ema_params)
    assert_equal_leaves(stats, make_state(4).ema_stats)


def test_restore_generator_of_a_requested_step(tmp_path):
    save_steps(tmp_path, 2, 10)
    assert checkpoints.restore_generator(tmp_path, SHAPES)[0] == 10
    step, params, *_ = checkpoints.restore_generator(tmp_path, SHAPES, 2)
    assert step == 2
    assert_equal_leaves(params, make_state(2).ema_params)


def test_missing_step_names_those_that_exist(run):
    with pytest.raises(UserError, match=r"`step` 3: .* has 2, 4"):
        checkpoints.restore_generator(run, SHAPES, 3)


def test_reading_changes_no_file(run):
    before = sorted((str(path), path.stat().st_mtime_ns) for path in run.rglob("*"))
    checkpoints.restore_generator(run, SHAPES)
    checkpoints.restore_newest(run, make_target())
    assert sorted((str(path), path.stat().st_mtime_ns) for path in run.rglob("*")) == before


# ---- Missing and broken checkpoints ----


@pytest.mark.parametrize("made", [(), ("checkpoints",), ("checkpoints", "8.orbax-checkpoint-tmp")])
def test_no_checkpoint_is_one_line(tmp_path, made):
    tmp_path.joinpath(*made).mkdir(parents=True, exist_ok=True)  # the last one is left by a process that was killed during a save
    assert checkpoints.list_steps(tmp_path) == []
    assert checkpoints.restore_newest(tmp_path, make_target()) is None
    for read in (lambda: checkpoints.restore_generator(tmp_path, SHAPES), lambda: restore_newest_read_only(tmp_path)):
        with pytest.raises(UserError, match="no checkpoint yet"):
            read()


@pytest.mark.parametrize("how", DAMAGES)
def test_broken_newest_is_set_aside_for_the_previous(run, tmp_path, how):
    """A second broken checkpoint of that step does not overwrite the first."""
    copy = shutil.copytree(run, tmp_path / "copy")
    damage(copy / "checkpoints" / "4", how)
    held = sorted(str(path.relative_to(copy / "checkpoints" / "4")) for path in (copy / "checkpoints" / "4").rglob("*"))
    messages = []
    step, back = checkpoints.restore_newest(copy, make_target(), messages.append)
    assert step == 2
    assert_equal_leaves(back, make_state(2))
    aside = copy / "broken-checkpoints" / "4"
    (line,) = messages
    assert "checkpoint of step 4 is broken (" in line
    assert line.endswith(f"moved to {aside}; resumes from step 2")
    assert sorted(str(path.relative_to(aside)) for path in aside.rglob("*")) == held
    save_steps(copy, 4)  # the run saves this step again
    assert checkpoints.restore_newest(copy, make_target())[0] == 4
    damage(copy / "checkpoints" / "4", how)  # and it is damaged again
    checkpoints.restore_newest(copy, make_target(), messages.append)
    assert sorted(path.name for path in aside.parent.iterdir()) == ["4", "4-again"]


@pytest.mark.parametrize("how", DAMAGES)
def test_broken_newest_is_skipped_by_read_only_users(run, tmp_path, how):
    """They use the previous checkpoint and change no file."""
    copy = shutil.copytree(run, tmp_path / "copy")
    generator = copy / "checkpoints" / "4" / "generator"
    damage(copy / "checkpoints" / "4" if how in ("empty", "digests") else generator, how)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in copy.rglob("*"))
    messages = []
    step, params, *_ = checkpoints.restore_generator(copy, SHAPES, say=messages.append)
    assert step == 2
    assert_equal_leaves(params, make_state(2).ema_params)
    assert "checkpoint of step 4 is broken (" in messages[0] and messages[0].endswith("that of step 2 is used")
    step, state = restore_newest_read_only(copy, messages.append)
    assert step == 2 and "checkpoint of step 4 is broken (" in messages[1]
    assert_equal_leaves(state, make_state(2))
    with pytest.raises(UserError, match="checkpoints/4: .*give another `step`"):
        checkpoints.restore_generator(copy, SHAPES, 4)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in copy.rglob("*")) == before


def test_if_all_are_broken_none_is_set_aside(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    for step in "24":
        damage(copy / "checkpoints" / step, "flip")
    with pytest.raises(UserError, match=r"none of its 2 checkpoints is intact \(step 4: "):
        checkpoints.restore_newest(copy, make_target())
    with pytest.raises(UserError, match=r"none of its 2 checkpoints is intact \(step 4: .*; restore one from a copy"):
        restore_newest_read_only(copy)
    assert checkpoints.list_steps(copy) == [2, 4]
    assert not (copy / "broken-checkpoints").exists()


# ---- A full disk ----

FULL = (
    'RESOURCE_EXHAUSTED: Error writing "a/0.0" in OCDBT database at local file "x": Failed to write 2619163 bytes to '
    "file 4: No space left on device [os_error_code='28'] [source locations='...']"
)


@pytest.mark.parametrize("where", ["save", "wait_until_finished"])
def test_full_disk_is_one_line_with_what_is_kept(tmp_path, monkeypatch, where):
    saved = checkpoints.Checkpoints(save_steps(tmp_path, 2), 3)

    def full(*args, **kwargs):
        raise ValueError(FULL)

    partial = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    try:
        monkeypatch.setattr(saved.manager, where, full)
        with pytest.raises(UserError) as mistake:
            saved.save(4, make_state(4))
            partial.mkdir(exist_ok=True)
            saved.settle()
    finally:
        monkeypatch.undo()
        saved.close()
    says = f"{tmp_path}: step 4 cannot be saved: No space left on device; the checkpoint of step 2 is kept"
    assert str(mistake.value).startswith(says)
