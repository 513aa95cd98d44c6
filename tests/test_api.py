"""The Python API gives the same results as the commands. Its errors are one line."""

import dataclasses
import importlib
import inspect
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_run import CACHE, STEPS, copy_run, get_reference_run, run_command

import dcgan_jax
from dcgan_jax import sample
from dcgan_jax.api import ImageArray
from dcgan_jax.config import UserError


@pytest.fixture(scope="module")
def gan():
    return dcgan_jax.load(get_reference_run().run)


def test_sample_equals_the_command(gan, tmp_path):
    run_command(sample, "--run", get_reference_run().run, "--seeds", "3,70-72,4294967295", "--out", tmp_path / "a.npy")
    images = gan.sample([3, 70, 71, 72, 2**32 - 1])
    np.testing.assert_array_equal(images, np.load(tmp_path / "a.npy"))
    assert images.shape == (5, 16, 16, 3) and images.dtype == np.uint8
    assert gan.step == STEPS


def test_seed_is_sampled_through_its_latent(gan):
    seeds = range(100)
    latents = gan.latents(seeds)
    assert latents.shape == (100, gan.config.nets.latent_dim) and latents.dtype == np.float32
    near = np.abs(gan.images(latents).astype(int) - gan.sample(seeds).astype(int))
    assert near.max() <= 1 and near.mean() < 1e-3  # another program may round differently


@pytest.mark.parametrize("seeds", [7, [7], (7,), np.array([7]), np.array([7], np.uint32), iter([7])])
def test_seeds_are_accepted_in_any_form(gan, seeds):
    np.testing.assert_array_equal(gan.sample(seeds), gan.sample([7, 8])[:1])


def test_one_latent_needs_no_batch(gan):
    latents = gan.latents([1, 2])
    np.testing.assert_array_equal(gan.images(latents[1]), gan.images(latents)[1:])


def test_truncation_reduces_the_spread(gan):
    spread = [gan.sample(range(64), truncation=cut).std(0, dtype=np.float64).mean() for cut in (1.0, 0.5, 0.01)]
    assert spread[0] > spread[1] > spread[2]
    np.testing.assert_allclose(gan.latents(3, 0.5), gan.latents(3) / 2)  # the latents are uniform


def test_logit_does_not_depend_on_the_batch(gan):
    images = gan.sample(range(70))
    logits = gan.discriminate(images)
    assert logits.shape == (70,) and logits.dtype == np.float32 and len(set(logits.tolist())) > 60
    np.testing.assert_allclose(gan.discriminate(images[69:]), logits[69:], rtol=1e-4, atol=1e-5)
    features = gan.features(images)
    assert features.shape[0] == 70 and features.dtype == np.float32
    np.testing.assert_allclose(gan.features(images[69:]), features[69:], rtol=1e-4, atol=1e-5)


def test_notebook_shows_samples_and_runs(gan):
    for shown, side in ((gan, (4 * 18 + 2) * 6), (gan.sample(range(4)), (2 * 18 + 2) * 6), (gan.sample(0)[0], (18 + 2) * 6)):
        with Image.open(io.BytesIO(shown._repr_png_())) as picture:
            assert picture.size == (side, side)
    assert repr(gan) == f"<{get_reference_run().run}: article, 16 px, step {STEPS}>"


def test_arrays_that_are_no_images_show_as_numbers(gan):
    images = gan.sample(range(4))
    assert isinstance(images, ImageArray)
    for other in (images / 255, images[:, :8], images[..., :2], images[0, 0], images[:0], images.mean()):
        assert getattr(other, "_repr_png_", lambda: None)() is None


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda gan: gan.sample(-1), "whole numbers from 0 to"),
        (lambda gan: gan.sample([2**32]), "whole numbers from 0 to"),
        (lambda gan: gan.sample([]), "whole numbers from 0 to"),
        (lambda gan: gan.sample(0.5), "0.5"),
        (lambda gan: gan.sample("seven"), "seven"),
        (lambda gan: gan.sample(0, condition={"Smiling": 1}), "trained without `condition`"),
        (lambda gan: gan.sample(0, condition="Smiling=1"), "`condition` 'Smiling=1': give a dict"),
        (lambda gan: gan.sample(0, truncation=0), "`truncation` 0"),
        (lambda gan: gan.latents(0, truncation=float("nan")), "`truncation` nan"),
        (lambda gan: gan.images(np.zeros((3, 7))), r"`latents` \(3, 7\): .* takes \(N, 100\)"),
        (lambda gan: gan.images(np.zeros((1, 3, 100))), "latents"),
        (lambda gan: gan.images(gan.latents(0), np.zeros((1, 1))), "trained without `condition`"),
        (lambda gan: gan.discriminate(np.zeros((1, 32, 32, 3), np.uint8)), r"takes uint8 \(N, 16, 16, 3\)"),
        (lambda gan: gan.discriminate(np.zeros((1, 16, 16, 3))), "float64"),
        (lambda gan: gan.features(np.zeros((16, 16, 3), np.uint8)), "takes uint8"),
        (lambda gan: dcgan_jax.load("nowhere"), "nowhere: no run is there"),
        (lambda gan: dcgan_jax.load(gan.name, step=5), "`step` 5"),
    ],
)
def test_invalid_values_are_one_line(gan, ask, message):
    with pytest.raises(UserError, match=message) as fault:
        ask(gan)
    assert "\n" not in str(fault.value)


def test_importing_the_package_starts_nothing():
    """Commands must be able to set options before JAX starts."""
    code = "import sys, dcgan_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- Explorations ----


def test_explorations_return_images_and_numbers(gan):
    found = gan.morph([3, 9, 5], columns=4)
    assert [name for name, _ in found.rows] == ["3 to 9", "9 to 5"] and found.columns == ["0%", "33%", "67%", "100%"]
    assert found.rows[0][1].shape == (4, 16, 16, 3) and found.title == f"{gan.name}, step {STEPS}: from seed to seed"
    assert found.numbers == {"seeds": [3, 9, 5], "shares": np.linspace(0, 1, 4, dtype=np.float32).tolist()}
    np.testing.assert_allclose(gan.arithmetic("7 - 3 + 3").result, gan.latents(7)[0], atol=1e-5)
    assert gan.walk("4-6", frames_each=2).frames == 6
    assert gan.directions(0, "factorised", count=2).directions.shape == (2, 100)
    assert gan.truncate(2, (1.0, 0.5)).seeds.tolist() == [2]


def test_notebook_shows_an_exploration_as_its_sheet(gan):
    found = gan.morph("3,9")
    with Image.open(io.BytesIO(found._repr_png_())) as picture:
        np.testing.assert_array_equal(np.asarray(picture), found.make_sheet())
    assert gan.walk("3,9", frames_each=1)._repr_png_ is None


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda gan: gan.morph("3"), "`seeds` 3: give at least two"),
        (lambda gan: gan.morph(range(1001)), "`seeds`: 1,001 seeds are more than 1,000"),
        (lambda gan: gan.morph("0-5", columns="9"), "`columns` '9': give a whole number"),
        (lambda gan: gan.walk("0-5", frames_each=1.5), "`frames_each` 1.5"),
        (lambda gan: gan.directions(0, "other"), "`method` other: give principal or factorised"),
        (lambda gan: gan.arithmetic("1 - x"), "`equation` x"),
        (lambda gan: gan.invert("nowhere.png"), "nowhere.png"),
        (lambda gan: dcgan_jax.load(gan.name, "4"), "`step` '4'"),
        (lambda gan: dcgan_jax.evaluate(gan.name, count="20"), "`count` '20': give a whole number"),
        (lambda gan: dcgan_jax.evaluate(gan.name, crop="middle"), "`crop` 'middle': give one of centre, squash,"),
        (lambda gan: dcgan_jax.export(gan.name, "onyx", "a"), "`format` 'onyx': give one of onnx,"),
        (lambda gan: dcgan_jax.prepare("drawn:40", size=33), "`size` 33"),
        (lambda gan: dcgan_jax.report([3]), "`runs`"),
        (lambda gan: dcgan_jax.report([]), "no run is there"),
    ],
)
def test_unknown_arguments_are_one_line_that_names_them(gan, ask, says):
    with pytest.raises(UserError) as fault:
        ask(gan)
    assert says in str(fault.value) and "\n" not in str(fault.value)


# ---- Commands are functions ----


COMMANDS = {"evaluate": "Evaluate", "export": "Export", "prepare": "Prepare", "report": "Report"}


@pytest.mark.parametrize("name", COMMANDS)
def test_function_arguments_are_the_commands_flags(name):
    function, flags = getattr(dcgan_jax, name), getattr(importlib.import_module(f"dcgan_jax.{name}"), COMMANDS[name])
    missing = (dataclasses.MISSING, inspect.Parameter.empty)
    ours = {name: None if of.default in missing else of.default for name, of in inspect.signature(function).parameters.items()}
    ours.pop("say", None)  # receives messages during the work
    assert ours == {of.name: None if of.default in missing else of.default for of in dataclasses.fields(flags)}


def test_functions_return_what_their_commands_print(gan, tmp_path):
    scores = dcgan_jax.evaluate(gan.name, count=20, seed=3, out=tmp_path / "scores.jsonl")
    (score,) = scores.scores
    assert (score.count, score.seeds, score.step, score.floor_count) == (20, range(3, 23), STEPS, 10)
    assert score.value == round(score.values["mean"], 3) and score.floor > 0 and scores.file == tmp_path / "scores.jsonl"
    done = run_command(dcgan_jax.evaluate, "--run", gan.name, "--count", 20, "--seed", 3, "--out", tmp_path / "again.jsonl")
    assert f"mean {score.value:.2f}" in done.out and (tmp_path / "again.jsonl").read_text() == scores.file.read_text()
    written = dcgan_jax.export(Path(gan.name), "safetensors", tmp_path / "out")
    assert written.file == tmp_path / "out" / "generator.safetensors" and written.size_bytes == written.file.stat().st_size
    assert written.comparison.largest <= 1e-4
    page = dcgan_jax.report(gan.name, tmp_path / "page.html")
    assert page.path == tmp_path / "page.html" and page.runs == [Path(gan.name)] and page.path.exists()
    pack = dcgan_jax.prepare("drawn:40", size=16)
    assert pack.images.shape == (40, 16, 16, 3) and pack.preview.exists()


def test_package_names_are_functions_after_any_import():
    """When Python imports a submodule, it would replace the function of the same name in the package."""
    code = """
import sys, types
import dcgan_jax
assert set(dcgan_jax.__all__) <= set(dir(dcgan_jax))
before = dcgan_jax.train
import dcgan_jax.train, dcgan_jax.evaluate, dcgan_jax.export, dcgan_jax.report, dcgan_jax.prepare, dcgan_jax.export.__main__
for name in ("train", "evaluate", "export", "report", "prepare"):
    function = getattr(dcgan_jax, name)
    assert isinstance(function, types.FunctionType) and function.__name__ == name, function
    assert isinstance(sys.modules[f"dcgan_jax.{name}"], types.ModuleType)
assert dcgan_jax.train is before
from dcgan_jax.train import train, main
assert train is before
import dcgan_jax.sample
assert isinstance(dcgan_jax.sample, types.ModuleType)
try:
    dcgan_jax.nothing
except AttributeError as fault:
    assert "nothing" in str(fault)
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---- The user's process ----

UNTOUCHED = """
import logging, os, signal, sys, warnings
import flax, jax, optax, orbax.checkpoint, PIL.Image, scipy.linalg, scipy.sparse, scipy.special, tensorstore  # some add filters

def look():
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    loggers = {name: (logging.getLogger(name).level, logging.getLogger(name).handlers) for name in ("", "absl", "asyncio", "jax")}
    hooks = sys.unraisablehook, sys.excepthook, tensorstore.experimental_collect_matching_metrics, logging.raiseExceptions
    return dict(jax.config.values), loggers, hooks, list(warnings.filters), signals

before = look()
import dcgan_jax
gan = dcgan_jax.load(sys.argv[1])
faces = gan.sample(range(3))
gan.discriminate(faces)
from PIL import Image
Image.fromarray(faces[0]).save(sys.argv[2])
gan.invert(sys.argv[2], starts=2, iterations=2)
try:
    dcgan_jax.load(sys.argv[3])
except dcgan_jax.config.UserError as fault:
    assert "none of its 3 checkpoints is intact" in str(fault), fault
else:
    raise AssertionError("a damaged checkpoint was loaded")
for name, ours, theirs in zip(("jax.config", "loggers", "hooks", "warnings", "signals"), look(), before):
    assert ours == theirs, (name, [one for one in ours if one not in theirs], [one for one in theirs if one not in ours])
sys.stderr.flush()
os._exit(0)  # without Python's own end, in which threads that TensorStore left behind may crash
"""


@pytest.mark.integration
@pytest.mark.parametrize("with_files", [True, False], ids=["detected by file hashes", "detected by digests"])
def test_run_in_python_leaves_the_process_unchanged(tmp_path, with_files):
    """Settings, loggers, hooks, filters and signal handlers stay as they were, even after Orbax has read a damaged checkpoint."""
    damaged = copy_run(get_reference_run().run, tmp_path)
    for step in (damaged / "checkpoints").iterdir():
        if not with_files:
            (step / "files.json").unlink()
        for file in (step / "generator").rglob("*"):
            if file.is_file() and "d" in file.parent.name:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    # Without conftest.py's settings, as in a user's process.
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(CACHE / "xla"), "JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, "-c", UNTOUCHED, get_reference_run().run, tmp_path / "face.png", damaged]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(dcgan_jax.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    if with_files:  # without files.json Orbax reads it, and its threads may still warn that their event loop is closed
        assert done.stderr == ""
