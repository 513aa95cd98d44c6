"""python -m dcgan_jax says what there is."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

import dcgan_jax
from dcgan_jax.__main__ import VERBS


def said(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)


def test_the_verbs_are_listed_and_there():
    done = said("dcgan_jax")
    assert done.returncode == 0
    for verb in VERBS:
        assert f"  {verb} " in done.stdout and find_spec(f"dcgan_jax.{verb}")


def test_the_version_is_told():
    assert said("dcgan_jax", "--version").stdout == f"dcgan_jax {dcgan_jax.__version__}\n"


@pytest.mark.parametrize("word, says", [("sample", "python -m dcgan_jax.sample"), ("draw", "there are train, sample")])
def test_other_words_are_one_line(word, says):
    done = said("dcgan_jax", word)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert says in done.stderr


def test_shells_complete_flags():
    assert "--condition" in said("dcgan_jax.sample", "--tyro-print-completion", "bash").stdout
