import contextlib
import errno
import gc
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from numpy.testing import assert_array_equal

from dcgan_jax.config import UserError
from dcgan_jax.gan.state import init_state
from dcgan_jax.run import checkpoints, checksums, distributed

CONFIG = tiny.tiny("article")
SHAPES = jax.eval_shape(lambda: init_state(CONFIG))


def state(step=0):
    """Every leaf another number for each step."""
    fresh = tiny.fresh_state(CONFIG)
    return jax.tree.map(lambda leaf: leaf + step if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, fresh).replace(
        step=jnp.int32(step)
    )


def placed(sharding=None):
    return checkpoints.add_sharding(SHAPES, sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))


@contextlib.contextmanager
def opened(run, keep=3):
    saved = checkpoints.Checkpoints(run, keep)
    try:
        yield saved
        saved.settle()
    finally:
        saved.close()


def saved_at(run, *steps, keep=3):
    with opened(run, keep) as saved:
        for step in steps:
            saved.save(step, state(step))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints of steps 2 and 4, only read."""
    return saved_at(tmp_path_factory.mktemp("run"), 2, 4)


def equal(ours, theirs):
    ours, theirs = tiny.leaves(ours), tiny.leaves(theirs)
    assert list(ours) == list(theirs)
    for path, leaf in ours.items():
        assert leaf.dtype == theirs[path].dtype, path
        assert_array_equal(leaf, theirs[path], err_msg=path)


def restored(run, step, like=None):
    return checkpoints.restore(run / "checkpoints" / str(step), like or placed())


# ---- Whole states ----


@pytest.mark.parametrize(
    "changes",
    [
        {"g_norm": "none", "d_norm": "none"},
        {"d_norm": "spectral", "minibatch_std": True},
        {"augment": ("color",), "augment_target": 0.6},
    ],
    ids=["no statistics", "D's own", "an adaptive probability"],
)
def test_states_of_other_recipes_come_back(tmp_path, changes):
    config = tiny.tiny("article", **changes)
    with opened(tmp_path) as saved:
        saved.save(1, tiny.fresh_state(config))
    like = checkpoints.add_sharding(jax.eval_shape(lambda: init_state(config)), distributed.make_shardings(config).state)
    equal(restored(tmp_path, 1, like), tiny.fresh_state(config))


@pytest.mark.parametrize("where", ["one device", "two devices"])
def test_a_state_comes_back_leaf_for_leaf_wherever_it_is_placed(run, where):
    two = distributed.make_shardings(CONFIG).state
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[1])
    place = one if where == "one device" else two
    step, back = checkpoints.restore_newest(run, placed(place))
    assert step == 4
    equal(back, state(4))
    assert all(leaf.sharding.is_equivalent_to(place, leaf.ndim) for leaf in jax.tree.leaves(back))
    assert jnp.issubdtype(back.key.dtype, jax.dtypes.prng_key)


def test_the_newest_three_are_kept(tmp_path):
    saved_at(tmp_path, 0, 2, 4, 6, 8)
    assert checkpoints.list_steps(tmp_path) == [4, 6, 8]
    equal(restored(tmp_path, 6), state(6))


def test_a_save_copies_the_state_before_it_returns(tmp_path):
    """The next step is donated the very buffers while they are being written."""
    with opened(tmp_path) as saved:
        gone = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(state(2))
        saved.save(2, gone)
        jax.tree.map(lambda leaf: leaf.delete(), gone)
    equal(restored(tmp_path, 2), state(2))


def test_a_step_that_is_there_is_not_written_again(run):
    with opened(run) as saved:
        saved.save(4, state(99))
    equal(restored(run, 4), state(4))


def test_an_old_one_goes_only_when_a_newer_one_has_been_read_back(tmp_path, monkeypatch):
    with opened(tmp_path, keep=1) as saved:
        saved.save(2, state(2))
        saved.save(4, state(4))
        assert 2 in checkpoints.list_steps(tmp_path)  # that of step 4 may be on the disk by now, but nobody has looked at it
        saved.settle()
        assert checkpoints.list_steps(tmp_path) == [4]


def test_all_of_it_is_sent_to_the_disk_before_an_old_one_goes(tmp_path, monkeypatch):
    saved = checkpoints.Checkpoints(saved_at(tmp_path, 2), 1)
    done, fsync, delete = [], os.fsync, saved.manager.delete

    def sent(opened):
        done.append(os.readlink(f"/proc/self/fd/{opened}"))
        fsync(opened)

    monkeypatch.setattr(os, "fsync", sent)
    monkeypatch.setattr(saved.manager, "delete", lambda step: (done.append(step), delete(step)))
    saved.save(4, state(4))
    saved.settle()
    saved.close()
    new = tmp_path / "checkpoints" / "4"
    before = done[: done.index(2)]
    assert {str(place) for place in [new, new.parent, *new.rglob("*")]} <= {*before}


def test_a_filesystem_that_cannot_flush_a_folder_is_no_hindrance(tmp_path, monkeypatch):
    fsync = os.fsync

    def refusing(opened):
        if os.path.isdir(f"/proc/self/fd/{opened}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(opened)

    monkeypatch.setattr(os, "fsync", refusing)
    saved_at(tmp_path, 2)
    assert (tmp_path / "checkpoints" / "2" / checksums.FILES).exists()


def test_the_newest_that_was_never_read_back_is_sealed_and_old_ones_go(tmp_path):
    run = saved_at(tmp_path, 2, 4, keep=2)
    (run / "checkpoints" / "4" / checksums.FILES).unlink()
    saved = checkpoints.Checkpoints(run, 1)
    saved.tidy()
    saved.close()
    assert checkpoints.list_steps(run) == [4] and (run / "checkpoints" / "4" / checksums.FILES).exists()


JSON, ORBAX = "dcgan_jax.files.load_json", "orbax.checkpoint.StandardCheckpointer.restore"


@pytest.mark.parametrize(
    ("where", "fault", "raised"),
    [
        (JSON, OSError(errno.ESTALE, "Stale file handle"), OSError),
        (ORBAX, PermissionError(errno.EACCES, "no"), PermissionError),
        (JSON, OSError(errno.EMFILE, "Too many open files"), OSError),
        (ORBAX, MemoryError(), MemoryError),
        (ORBAX, jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), MemoryError),
        (ORBAX, ValueError(f"NOT_FOUND: Error opening: Stale file handle [os_error_code='{errno.ESTALE}']"), OSError),
    ],
)
def test_what_cannot_be_read_now_is_not_broken(run, tmp_path, monkeypatch, where, fault, raised):
    copy = shutil.copytree(run, tmp_path / "copy")
    before = sorted(path for path in copy.rglob("*"))

    def fails(*args, **kwargs):
        raise fault

    monkeypatch.setattr(where, fails)
    with pytest.raises(raised):
        checkpoints.restore_newest(copy, placed(), lambda line: None)
    assert sorted(path for path in copy.rglob("*")) == before


def test_saves_leave_nothing_in_memory(tmp_path):
    def lists():
        gc.collect()
        return sum(type(thing) is list for thing in gc.get_objects())

    counts = []
    with opened(tmp_path, keep=1) as saved:
        for step in range(1, 11):
            saved.save(step, state(step))
            saved.settle()
            counts.append(lists())
    # Of TensorStore's answers they were 48, each save. A cache that grows once, of JAX or of a test before, moves no median.
    assert np.median(np.diff(counts[2:])) < 20, counts


def test_the_best_one_outlives_newer_ones(tmp_path):
    best = [None]
    saved = checkpoints.Checkpoints(tmp_path, 2, lambda run: best[0])
    for step in (1, 2, 3, 4):
        saved.save(step, state(step))
        best[0] = best[0] or step
    saved.settle()
    assert checkpoints.list_steps(tmp_path) == [1, 3, 4]
    best[0] = 4
    saved.save(5, state(5))
    saved.settle()
    saved.close()
    assert checkpoints.list_steps(tmp_path) == [4, 5]
    equal(restored(tmp_path, 4), state(4))


def test_a_run_that_has_gone_is_told_as_gone(tmp_path):
    assert checkpoints.describe_kept(tmp_path) == "no step was saved yet"
    assert checkpoints.describe_kept(tmp_path / "unmounted") == "the folder is not there any more"


def test_one_that_does_not_come_back_as_it_was_written_ends_the_run_and_costs_no_older_one(tmp_path):
    saved = checkpoints.Checkpoints(saved_at(tmp_path, 2, keep=1), 1)
    try:
        saved.save(4, state(4))
        saved.manager.wait_until_finished()
        harm(tmp_path / "checkpoints" / "4", "flip")  # as a failing disk would
        with pytest.raises(UserError, match=r"checkpoints/4: was written and does not come back as it was .*check the disk"):
            saved.settle()
    finally:
        saved.close()
    assert 2 in checkpoints.list_steps(tmp_path)


def test_a_step_that_was_set_aside_meanwhile_is_written_again(tmp_path):
    """As when a run rolls back and finds its newest checkpoint broken."""
    with opened(saved_at(tmp_path, 2)) as saved:
        saved.save(4, state(4))
        saved.settle()
        harm(tmp_path / "checkpoints" / "4", "flip")
        assert checkpoints.restore_newest(tmp_path, placed(), lambda line: None)[0] == 2
        saved.save(4, state(4))
    assert checkpoints.list_steps(tmp_path) == [2, 4]
    equal(restored(tmp_path, 4), state(4))


# ---- The generator alone ----


def test_the_generator_alone_is_the_whole_states_and_reads_nothing_else(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "4" / "training")  # both networks, their optimisers, the key
    step, params, stats, _ = checkpoints.restore_generator(copy, SHAPES)
    assert step == 4
    equal(params, state(4).ema_params)
    equal(stats, state(4).ema_stats)


def test_a_step_can_be_asked_for(tmp_path):
    saved_at(tmp_path, 2, 10)
    assert checkpoints.restore_generator(tmp_path, SHAPES)[0] == 10
    step, params, *_ = checkpoints.restore_generator(tmp_path, SHAPES, 2)
    assert step == 2
    equal(params, state(2).ema_params)


def test_a_step_that_is_not_there_names_those_that_are(run):
    with pytest.raises(UserError, match=r"`step` 3: .* has 2, 4"):
        checkpoints.restore_generator(run, SHAPES, 3)


def test_reading_changes_no_file(run):
    before = sorted((str(path), path.stat().st_mtime_ns) for path in run.rglob("*"))
    checkpoints.restore_generator(run, SHAPES)
    checkpoints.restore_newest(run, placed())
    assert sorted((str(path), path.stat().st_mtime_ns) for path in run.rglob("*")) == before


# ---- What is not there, or not whole ----


@pytest.mark.parametrize("made", [(), ("checkpoints",), ("checkpoints", "8.orbax-checkpoint-tmp")])
def test_no_whole_checkpoint_is_one_line(tmp_path, made):
    tmp_path.joinpath(*made).mkdir(parents=True, exist_ok=True)  # the last is what a kill in the midst of writing leaves
    assert checkpoints.list_steps(tmp_path) == []
    assert checkpoints.restore_newest(tmp_path, placed()) is None
    with pytest.raises(UserError, match="no checkpoint yet"):
        checkpoints.restore_generator(tmp_path, SHAPES)


@pytest.mark.parametrize("all_of_it", [False, True], ids=["generator", "state"])
@pytest.mark.parametrize(
    "changes, says",
    [
        ({"width": 8}, "ema_params/head/bias is float32 (128,) there, float32 (256,) here"),
        ({"latent_dim": 50}, "ema_params/head/kernel is float32 (100, 128) there, float32 (50, 128) here"),
        ({"g_norm": "none"}, "ema_params/up1_norm/bias is float32 (4,) there, absent here"),
        ({"g_head_bias": False}, "ema_params/head/bias is float32 (128,) there, absent here"),
    ],
    ids=str,
)
def test_other_networks_are_one_line_that_names_the_leaf(run, all_of_it, changes, says):
    other = jax.eval_shape(lambda: init_state(tiny.tiny("article", **changes)))
    with pytest.raises(UserError) as mistake:
        if all_of_it:
            checkpoints.restore_newest(run, checkpoints.add_sharding(other, distributed.make_shardings(CONFIG).state))
        else:
            checkpoints.restore_generator(run, other)
    assert str(mistake.value).startswith(f"{run / 'checkpoints' / '4'}: {says}")
    assert "config.json is not this checkpoint's" in str(mistake.value)
    assert checkpoints.list_steps(run) == [2, 4]  # nothing is wrong with them


def data_file(checkpoint: Path) -> Path:
    """The largest file: the numbers of the training item."""
    return max((file for file in checkpoint.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


def harm(checkpoint: Path, how: str) -> None:
    file = data_file(checkpoint)
    content = bytearray(file.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif how == "truncate":
        file.write_bytes(content[: len(content) // 2])
    elif how == "missing":
        file.unlink()
    elif how == "empty file":
        file.write_bytes(b"")
    elif how == "empty":
        shutil.rmtree(checkpoint)
        checkpoint.mkdir()
    elif how == "zeros":  # what a power cut leaves of blocks that were not written yet
        file.write_bytes(bytes(len(content)))
    elif how == "digests":
        digests = checkpoint / "digests" / "metadata"
        digests.write_text(digests.read_text().replace("a", "b", 1))


HARM = ["flip", "truncate", "missing", "empty file", "empty", "zeros", "digests"]


@pytest.mark.parametrize("how", HARM)
def test_a_broken_newest_one_is_set_aside_by_name_and_the_one_before_is_used(run, tmp_path, how):
    copy = shutil.copytree(run, tmp_path / "copy")
    harm(copy / "checkpoints" / "4", how)
    held = sorted(str(path.relative_to(copy / "checkpoints" / "4")) for path in (copy / "checkpoints" / "4").rglob("*"))
    said = []
    step, back = checkpoints.restore_newest(copy, placed(), said.append)
    assert step == 2
    equal(back, state(2))
    aside = copy / "broken-checkpoints" / "4"
    (line,) = said
    assert "checkpoint of step 4 is broken (" in line
    assert line.endswith(f"set aside as {aside}; resumes from step 2")
    assert sorted(str(path.relative_to(aside)) for path in aside.rglob("*")) == held
    saved_at(copy, 4)  # the step comes again
    assert checkpoints.restore_newest(copy, placed())[0] == 4
    harm(copy / "checkpoints" / "4", how)  # and is harmed again: the first one is not overwritten
    checkpoints.restore_newest(copy, placed(), said.append)
    assert sorted(path.name for path in aside.parent.iterdir()) == ["4", "4-again"]


@pytest.mark.parametrize("how", HARM)
def test_those_who_only_draw_use_the_one_before_and_change_nothing(run, tmp_path, how):
    copy = shutil.copytree(run, tmp_path / "copy")
    generator = copy / "checkpoints" / "4" / "generator"
    harm(copy / "checkpoints" / "4" if how in ("empty", "digests") else generator, how)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in copy.rglob("*"))
    said = []
    step, params, *_ = checkpoints.restore_generator(copy, SHAPES, say=said.append)
    assert step == 2
    equal(params, state(2).ema_params)
    assert "checkpoint of step 4 is broken (" in said[0]
    with pytest.raises(UserError, match="checkpoints/4: .*give another `step`"):
        checkpoints.restore_generator(copy, SHAPES, 4)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in copy.rglob("*")) == before


def test_where_none_is_whole_all_stay_where_they_are(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    for step in "24":
        harm(copy / "checkpoints" / step, "flip")
    with pytest.raises(UserError, match=r"none of its 2 checkpoints is whole \(step 4: "):
        checkpoints.restore_newest(copy, placed())
    assert checkpoints.list_steps(copy) == [2, 4]
    assert not (copy / "broken-checkpoints").exists()


def test_every_byte_that_matters_is_looked_at(run, tmp_path):
    """Some hundred places in all files of a checkpoint, each with a bit flipped: never are other numbers given out."""
    files = [file for file in (run / "checkpoints" / "4").rglob("*") if file.is_file() and file.stat().st_size]
    places = [(file, at) for file in files for at in range(0, file.stat().st_size, max(1, file.stat().st_size // 3))]
    found = {2: 0, 4: 0}
    for i, (file, at) in enumerate(places):
        copy = shutil.copytree(run, tmp_path / str(i), copy_function=os.link)
        harmed = copy / file.relative_to(run)
        content = bytearray(harmed.read_bytes())
        content[at] ^= 1 << i % 8
        harmed.unlink()
        harmed.write_bytes(content)
        step, back = checkpoints.restore_newest(copy, placed(), lambda line: None)
        equal(back, state(step))
        found[step] += 1
        shutil.rmtree(copy)
    assert found == {2: len(places), 4: 0}


@pytest.mark.parametrize("how", HARM)
def test_one_that_was_never_read_back_is_guarded_by_the_digests_of_its_arrays(run, tmp_path, how):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "checkpoints" / "4" / checksums.FILES).unlink()
    harm(copy / "checkpoints" / "4", how)
    step, back = checkpoints.restore_newest(copy, placed(), lambda line: None)
    assert step == 2
    equal(back, state(2))


def test_a_hostile_description_of_a_checkpoint_is_one_line(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    sealed = [
        {"items": items, "sha256": checksums.digest_json(items)}
        for items in ({}, 3, [], {"generator": 3, "training": {}}, {"generator": {"a": 3}, "training": {}}, {"generator": {}})
    ]
    for text in ("[" * 100_000, "null", "{}", '{"items": 3, "sha256": 4}', *map(json.dumps, sealed)):
        (copy / "checkpoints" / "4" / checksums.FILES).unlink(missing_ok=True)
        (copy / "checkpoints" / "4" / "digests" / "metadata").write_text(text)
        assert checkpoints.restore_generator(copy, SHAPES, say=lambda line: None)[0] == 2


# ---- A disk that takes no more ----

FULL = (
    'RESOURCE_EXHAUSTED: Error writing "a/0.0" in OCDBT database at local file "x": Failed to write 2619163 bytes to '
    "file 4: No space left on device [os_error_code='28'] [source locations='...']"
)


@pytest.mark.parametrize("where", ["save", "wait_until_finished"])
def test_a_full_disk_is_one_line_that_tells_what_is_kept(tmp_path, monkeypatch, where):
    saved = checkpoints.Checkpoints(saved_at(tmp_path, 2), 3)

    def full(*args, **kwargs):
        raise ValueError(FULL)

    half = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    try:
        monkeypatch.setattr(saved.manager, where, full)
        with pytest.raises(UserError) as mistake:
            saved.save(4, state(4))
            half.mkdir(exist_ok=True)
            saved.settle()
    finally:
        monkeypatch.undo()
        saved.close()
    says = f"{tmp_path}: step 4 cannot be saved: No space left on device; the checkpoint of step 2 is kept"
    assert str(mistake.value).startswith(says)
