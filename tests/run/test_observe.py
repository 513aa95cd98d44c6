import json
from types import SimpleNamespace

import numpy as np
import pytest
from toy_run import train_toy

from dcgan_jax.gan.sampling import SAMPLES_PER_BATCH
from dcgan_jax.run import observe
from dcgan_jax.run.logs import read_warnings

pytestmark = pytest.mark.integration


def test_diagnosis_uses_the_runs_images_and_is_reported(tmp_path, monkeypatch):
    """The warning is in the output, in metrics.jsonl and in the report."""
    calls, words = [], "G has collapsed: two samples differ by 1.0 grey levels"

    def diagnose(metrics, samples, reals, on_reals, on_held_out, on_samples, loss):
        calls.append((metrics.get("step", [0])[-1], samples, reals, on_reals, on_held_out, on_samples, loss))
        return {"g-collapsed": words} if calls[-1][0] >= 8 else {}

    monkeypatch.setattr("dcgan_jax.run.observe.diagnose", diagnose)
    done = train_toy(tmp_path)
    run = tmp_path / "article"
    assert done.out.count(f"warning: step 8: {words}\n") == 1 and done.out.count("warning: ") == 1  # printed once, when it is new
    assert "[g-collapsed]" in done.out.splitlines()[-3]  # in the progress line
    assert read_warnings(run) == [(8, "g-collapsed", words), (12, "g-collapsed", words)]
    assert words in (run / "report.html").read_text()
    assert [step for step, *_ in calls] == [0, 4, 8, 12]
    _, samples, reals, on_reals, on_held_out, on_samples, loss = calls[-1]
    facts = json.loads((run / "data.json").read_text())
    assert samples.shape == (4, 16, 16, 3) and samples.dtype == reals.dtype == np.uint8 and loss == "bce"
    assert (len(on_reals), len(on_held_out), len(on_samples)) == (len(reals), facts["count"] // 20, 4)
    assert np.isfinite(np.concatenate([on_reals, on_held_out, on_samples])).all()


def test_many_held_out_images_pass_d_in_batches(monkeypatch):
    """--held-out allows thousands of images. All at once would need gigabytes at every save."""
    images, sizes = np.arange(200, dtype=np.uint8).reshape(-1, 1, 1, 1), []

    def compute_logits(params, stats, images, labels):
        sizes.append(len(images))
        return images[:, 0, 0, 0].astype(np.float32)

    previews = SimpleNamespace(reals=images[:64], held_out=images, diagnosed_labels=None)
    session = SimpleNamespace(
        previews=previews,
        programs=SimpleNamespace(compute_logits=compute_logits),
        logs=SimpleNamespace(metrics={}),
        plan=SimpleNamespace(config=SimpleNamespace(loss=SimpleNamespace(loss="bce"))),
    )
    monkeypatch.setattr(observe, "diagnose", lambda metrics, grid, reals, *logits_and_loss: logits_and_loss)
    on_reals, on_held_out, on_samples, _ = observe._diagnose(session, ({}, {}), images[:20])
    assert set(sizes) == {SAMPLES_PER_BATCH}
    for logits, those in ((on_reals, images[:64]), (on_held_out, images), (on_samples, images[:20])):
        assert logits.tolist() == those.ravel().tolist()
