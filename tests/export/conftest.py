"""Exports of the toy run, made once for each test file."""

import pytest
from toy_run import get_reference_run, run_command, train_toy

from dcgan_jax.export import __main__


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function: format, flags and a run (default: the toy run) -> the folder of the export."""
    made = {}

    def make(form, *flags, run=None):
        run = run or get_reference_run().run
        if (form, flags, run) not in made:
            made[form, flags, run] = tmp_path_factory.mktemp("export") / "out"
            done = run_command(__main__, "--run", run, "--format", form, "--out", made[form, flags, run], *flags)
            assert (done.code, done.faults) == (0, []), done
            assert "of 255 grey levels" in done.out
        return made[form, flags, run]

    return make


@pytest.fixture(scope="module")
def torch_run(tmp_path_factory):
    """A run with the networks of PyTorch's example, of 16 px."""
    parent = tmp_path_factory.mktemp("torch")
    done = train_toy(
        parent,
        "--preset",
        "torch32",
        "--base-px",
        "4",
        "--name",
        "t",
        "--g-latents",
        "new",
        "--d-dropout",
        "0",
        "--no-tensorboard",
        steps=4,
    )
    assert done.code == 0, done
    return parent / "t"
