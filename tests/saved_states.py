"""Checkpoints of a toy state whose leaves differ by step, and ways to damage them."""

import contextlib
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import tiny
from numpy.testing import assert_array_equal

from dcgan_jax.api import load
from dcgan_jax.gan.state import describe_state
from dcgan_jax.run import checkpoints, compact

CONFIG = tiny.make_tiny_config("article")


SHAPES = describe_state(CONFIG)


def make_state(step=0):
    """Makes a state whose leaves differ for each step."""
    fresh = tiny.make_toy_state(CONFIG)
    return jax.tree.map(lambda leaf: leaf + step if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, fresh).replace(
        step=jnp.int32(step)
    )


def make_target(sharding=None):
    return checkpoints.add_sharding(SHAPES, sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))


@contextlib.contextmanager
def open_checkpoints(run, keep=3):
    saved = checkpoints.Checkpoints(run, keep)
    try:
        yield saved
        saved.settle()
    finally:
        saved.close()


def save_steps(run, *steps, keep=3):
    with open_checkpoints(run, keep) as saved:
        for step in steps:
            saved.save(step, make_state(step))
    return run


def assert_equal_leaves(ours, theirs):
    ours, theirs = tiny.get_leaves(ours), tiny.get_leaves(theirs)
    assert list(ours) == list(theirs)
    for path, leaf in ours.items():
        assert leaf.dtype == theirs[path].dtype, path
        assert_array_equal(leaf, theirs[path], err_msg=path)


def restore_step(run, step, like=None):
    return checkpoints.restore(checkpoints.get_checkpoint_path(run, step), like or make_target())


def write_compact(run: Path, folder: Path) -> Path:
    """Writes the newest checkpoint of a run as a compact run."""
    gan = load(run)
    state = checkpoints.restore_step(run, checkpoints.add_sharding(describe_state(gan.config)), gan.step)
    compact.write(run, gan.step, state, gan.config, folder)
    return folder


def find_data_file(checkpoint: Path) -> Path:
    """Finds the largest file, which contains arrays of the training item."""
    return max((file for file in checkpoint.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


def damage(checkpoint: Path, how: str) -> None:
    file = find_data_file(checkpoint)
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
    elif how == "zeros":  # a power cut leaves zeros in blocks that were not written yet
        file.write_bytes(bytes(len(content)))
    elif how == "digests":
        digests = checkpoint / "digests" / "metadata"
        digests.write_text(digests.read_text().replace("a", "b", 1))


DAMAGES = ["flip", "truncate", "missing", "empty file", "empty", "zeros", "digests"]
