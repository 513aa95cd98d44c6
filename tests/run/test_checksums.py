"""Checks that damaged checkpoints are detected."""

import errno
import json
import os
import shutil

import jax
import pytest
import tiny
from saved_states import CONFIG, DAMAGES, SHAPES, assert_equal_leaves, damage, make_state, make_target, save_steps

from dcgan_jax.config import UserError
from dcgan_jax.gan.state import describe_state
from dcgan_jax.run import checkpoints, checksums, distributed

pytestmark = pytest.mark.integration  # many damaged checkpoints


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints of steps 2 and 4. Tests must not change it."""
    return save_steps(tmp_path_factory.mktemp("run"), 2, 4)


def test_folder_flush_not_supported_is_ignored(tmp_path, monkeypatch):
    fsync = os.fsync

    def refusing(opened):
        if os.path.isdir(f"/proc/self/fd/{opened}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(opened)

    monkeypatch.setattr(os, "fsync", refusing)
    save_steps(tmp_path, 2)
    assert (tmp_path / "checkpoints" / "2" / checksums.FILES_JSON).exists()


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
def test_machine_fault_is_not_a_broken_checkpoint(run, tmp_path, monkeypatch, where, fault, raised):
    """The fault is raised, and no checkpoint is moved."""
    copy = shutil.copytree(run, tmp_path / "copy")
    before = sorted(path for path in copy.rglob("*"))

    def fails(*args, **kwargs):
        raise fault

    monkeypatch.setattr(where, fails)
    with pytest.raises(raised):
        checkpoints.restore_newest(copy, make_target(), lambda line: None)
    assert sorted(path for path in copy.rglob("*")) == before


@pytest.mark.parametrize("all_of_it", [False, True], ids=["generator", "state"])
@pytest.mark.parametrize(
    "changes, says",
    [
        ({"width": 8}, "ema_params/head/bias is float32 (128,) in the checkpoint, float32 (256,) by config.json"),
        ({"latent_dim": 50}, "ema_params/head/kernel is float32 (100, 128) in the checkpoint, float32 (50, 128) by config.json"),
        ({"g_norm": "none"}, "ema_params/up1_norm/bias is float32 (4,) in the checkpoint, absent by config.json"),
        ({"g_head_bias": False}, "ema_params/head/bias is float32 (128,) in the checkpoint, absent by config.json"),
    ],
    ids=str,
)
def test_other_networks_name_the_leaf(run, all_of_it, changes, says):
    other = describe_state(tiny.make_tiny_config("article", **changes))
    with pytest.raises(UserError) as mistake:
        if all_of_it:
            checkpoints.restore_newest(run, checkpoints.add_sharding(other, distributed.make_shardings(CONFIG).state))
        else:
            checkpoints.restore_generator(run, other)
    assert str(mistake.value).startswith(f"{run / 'checkpoints' / '4'}: {says}")
    assert "config.json belongs to another run" in str(mistake.value)
    assert checkpoints.list_steps(run) == [2, 4]  # they are intact, so none is moved


@pytest.mark.slow
def test_flipped_bit_anywhere_is_detected(run, tmp_path):
    """Flips one bit at a time, at two or three places of each file. The restored state is never wrong."""
    files = [file for file in (run / "checkpoints" / "4").rglob("*") if file.is_file() and file.stat().st_size]
    places = [(file, at) for file in files for at in range(0, file.stat().st_size, max(1, file.stat().st_size // 2))]
    counts = {2: 0, 4: 0}
    for i, (file, at) in enumerate(places):
        copy = shutil.copytree(run, tmp_path / str(i), copy_function=os.link)
        damaged = copy / file.relative_to(run)
        content = bytearray(damaged.read_bytes())
        content[at] ^= 1 << i % 8
        damaged.unlink()
        damaged.write_bytes(content)
        step, back = checkpoints.restore_newest(copy, make_target(), lambda line: None)
        assert_equal_leaves(back, make_state(step))
        counts[step] += 1
        shutil.rmtree(copy)
    assert counts == {2: len(places), 4: 0}


@pytest.mark.parametrize("how", DAMAGES)
def test_unverified_checkpoint_is_checked_by_digests(run, tmp_path, how):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "checkpoints" / "4" / checksums.FILES_JSON).unlink()
    damage(copy / "checkpoints" / "4", how)
    step, back = checkpoints.restore_newest(copy, make_target(), lambda line: None)
    assert step == 2
    assert_equal_leaves(back, make_state(2))


def test_hostile_digests_are_a_broken_checkpoint(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    sealed = [
        {"items": items, "sha256": checksums.digest_json(items)}
        for items in ({}, 3, [], {"generator": 3, "training": {}}, {"generator": {"a": 3}, "training": {}}, {"generator": {}})
    ]
    for text in ("[" * 100_000, "null", "{}", '{"items": 3, "sha256": 4}', *map(json.dumps, sealed)):
        (copy / "checkpoints" / "4" / checksums.FILES_JSON).unlink(missing_ok=True)
        (copy / "checkpoints" / "4" / "digests" / "metadata").write_text(text)
        assert checkpoints.restore_generator(copy, SHAPES, say=lambda line: None)[0] == 2


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "Free disk space"),
        (ValueError("Error writing file [os_error_code='28' description]"), "Free disk space"),
        (PermissionError(errno.EACCES, "Permission denied"), "Make the folder writable, then run the same"),
        (OSError(errno.EFBIG, "File too large"), "limit of file sizes"),
        (OSError(errno.EMFILE, "Too many open files"), "limit of open files"),
        (OSError(errno.EIO, "Input/output error"), "Check the disk"),
        (OSError(errno.ENXIO, "No such device or address"), "Run the same command again; if it fails again"),
        (ValueError("shapes differ"), "Run the same command again; if it fails again"),
    ],
)
def test_remedy_fits_the_error_of_the_operating_system(fault, remedy):
    assert remedy in checksums.propose_remedy(checksums.get_errno(fault))


def test_other_faults_have_no_code():
    assert checksums.get_errno(ValueError("shapes differ")) is None
