"""Folders of runs that were claimed but not trained."""

import pytest

from dcgan_jax.cli import parse_config, show_as_flags
from dcgan_jax.config import UserError
from dcgan_jax.run import workdir

FACTS = {"fingerprint": "f1", "pixels": "p1", "count": 1234, "source": {"name": "faces"}}
OTHERS = {"fingerprint": "f2", "pixels": "p2", "count": 56, "source": {"name": "cats"}}


def make_config(parent, *arguments):
    return parse_config(["--workdir", str(parent), "--name", "a", *arguments])


def open_run(config, facts):
    """Claims the folder and releases the lock at once. Returns: the path of the run."""
    path, lock = workdir.claim_folder(config, facts)
    lock.release()
    return path


def get_refusal(config, facts=FACTS):
    with pytest.raises(UserError) as mistake:
        open_run(config, facts)
    return show_as_flags(str(mistake.value))


def read_contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
