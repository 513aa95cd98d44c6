import json
import re

import jax
import numpy as np
import pytest
import toy_run
from toy_run import get_reference_run, get_refusal, run_command, train, train_toy

from dcgan_jax import sample
from dcgan_jax.config import Config, UserError, replace
from dcgan_jax.run import distributed, product_speed, setup, workdir
from dcgan_jax.run.checkpoints import list_steps
from dcgan_jax.run.logs import Logs

pytestmark = pytest.mark.integration


def test_default_data_message_names_celeba(tmp_path, monkeypatch):
    """Stops after this line, so that the 20,000 faces need not be painted."""

    def stops(*args):
        raise UserError("enough")

    monkeypatch.setattr(setup, "open_source", stops)
    done = toy_run.run_command(train, "--workdir", tmp_path)
    assert done.code == 2
    assert re.match(r"data: 20,000 drawn faces, the default\. For CelebA: --data ", done.out)


def test_too_few_images_for_any_batch(tmp_path):
    line = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 4, "--data", "drawn:3", "--d-steps", 5)
    assert line.endswith("training images, fewer than the 40 of one step; give more images"), line


def test_epochs_become_steps_for_a_decaying_rate(tmp_path):
    """With a learning-rate decay, the config stores the length in steps."""
    command = (train, "--workdir", tmp_path, *toy_run.FLAGS, "--lr-decay", "linear", "--lr-decay-share", 0.5)
    assert run_command(*command, "--epochs", 0.8).code == 0  # an epoch has five steps
    by_steps = run_command(*command, "--steps", 4, "--name", "other")
    assert by_steps.code == 0
    run = tmp_path / "article"
    ours, theirs = toy_run.read_state(run, 4), toy_run.read_state(tmp_path / "other", 4)
    assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs)))
    assert f"{run} is complete: step 4 of 4" in run_command(*command, "--epochs", 0.8).out
    assert "so it is fixed). Resume it with --steps 4" in get_refusal(*command, "--epochs", 1.6)


@pytest.mark.parametrize(
    "flags",
    [
        ("--data", "drawn:10"),
        ("--epochs", 10**9),
        ("--condition", "Nonsense"),
        ("--score-by", "none.py:f", "--score-every-kimg", 1, "--score-count", 60),
    ],
    ids=lambda flags: flags[0][2:],
)
def test_fault_of_one_process_ends_all(tmp_path, monkeypatch, flags):
    """Otherwise the other processes would wait for it for ever, for example if it has fewer images."""
    faults = []
    monkeypatch.setattr(distributed, "any_process", lambda here: faults.append(here) or here)
    length = () if "--epochs" in flags else ("--steps", 4)
    get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, *length, *flags)
    assert faults[-1] is True


def test_impossible_score_is_named_before_any_step(tmp_path):
    flags = ["--workdir", tmp_path, *toy_run.FLAGS, "--steps", 4, "--score-every-kimg", 1]
    assert "--score-count 2000" in get_refusal(train, *flags)
    assert "--score-by none.py:f: none.py: No such file" in get_refusal(
        train, *flags, "--score-count", 60, "--score-by", "none.py:f"
    )
    assert "has a score; leave out --step for the newest, or train with --score-every-kimg" in get_refusal(
        sample, "--run", get_reference_run().run, "--step", "best"
    )


def test_resume_from_step_zero_keeps_start_weights(tmp_path, monkeypatch):
    """The checkpoint of step 0 contains the weights of --start, so a stop before the next save does not lose them."""
    start = ("--start", get_reference_run().run, "--no-tensorboard")
    assert train_toy(tmp_path / "straight", *start, steps=2).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Logs, "write", lambda self, steps, values: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert train_toy(tmp_path / "stopped", *start, steps=2).code == 2
    assert list_steps(tmp_path / "stopped" / "article") == [0]
    assert train_toy(tmp_path / "stopped", *start, steps=2).code == 0
    ours, theirs = (toy_run.read_state(tmp_path / name / "article", 2) for name in ("stopped", "straight"))
    for path, leaf in ours.items():
        assert np.array_equal(leaf, theirs[path]), path


def test_all_processes_take_the_dtype_of_the_first(monkeypatch):
    """As in another process than the first, which neither measures nor looks for the run."""
    config = replace(Config(), compute_dtype="auto")
    monkeypatch.setattr(setup.distributed, "run_in_first", lambda function: None)
    for is_bfloat16, chosen in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(setup.distributed, "any_process", lambda here, is_bfloat16=is_bfloat16: is_bfloat16)
        assert setup._choose_compute_dtype(config).nets.compute_dtype == chosen


def test_automatic_dtype_is_chosen_once(tmp_path, monkeypatch):
    """A resumed run keeps what it started with, also on a machine where the other dtype is faster. It resumes exactly."""
    speeds = iter([4.0])
    monkeypatch.setattr(product_speed, "measure_speedup", lambda: next(speeds))
    monkeypatch.setenv("DCGAN_JAX_CACHE", str(tmp_path / "cache"))
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"
    assert train_toy(stopped, "--compute-dtype", "auto", steps=2).code == 0
    assert json.loads((stopped / "article" / "environment.json").read_text(encoding="utf-8"))["bfloat16_speedup"] == 4.0
    monkeypatch.setattr(product_speed, "choose_compute_dtype", lambda cache: "float32")
    assert train_toy(stopped, "--compute-dtype", "auto", steps=4).code == 0
    assert workdir.read_config(stopped / "article").nets.compute_dtype == "bfloat16"
    assert train_toy(straight, "--compute-dtype", "bfloat16", steps=4).code == 0
    ours, theirs = (toy_run.read_state(folder / "article", 4) for folder in (stopped, straight))
    assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs)))
