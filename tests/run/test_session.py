import numpy as np
import pytest
import toy_run
from toy_run import get_refusal, train

from dcgan_jax import cli
from dcgan_jax.config import UserError
from dcgan_jax.run import session, setup
from dcgan_jax.run.checkpoints import list_steps

pytestmark = pytest.mark.integration


def test_no_loss_plot_before_the_first_step(tmp_path, monkeypatch):
    def compile_steps(*args):
        raise UserError("no steps")

    monkeypatch.setattr(session, "_compile_steps", compile_steps)
    assert "no steps" in get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 1)
    assert list_steps(tmp_path / "article") == [0]
    assert not (tmp_path / "article" / "losses.png").exists()


def test_previews_are_of_the_whole_set_and_do_not_overlap(tmp_path):
    """Those of D's training images are evenly spaced, because the data set may be sorted. D never sees those held out."""
    words = map(str, ("--workdir", tmp_path, "--name", "previews", *toy_run.FLAGS, "--held-out", 8, "--steps", 1))
    with setup.open_run(cli.parse_config(list(words))) as plan:
        previews, images = session.choose_previews(plan), plan.pack.images
        positions = [[np.flatnonzero((images == one).all((1, 2, 3)))[0] for one in some] for some in previews[:2]]
    reals, held_out = positions
    assert held_out and not set(reals) & set(held_out)
    assert np.all(np.diff(reals) > 0) and reals[0] < len(images) // 4 and reals[-1] >= len(images) * 3 // 4
    assert previews.diagnosed_labels is previews.grid_labels is None  # not conditional
