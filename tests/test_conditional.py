"""Conditional runs, from the flag --condition to the samples."""

import json
import shutil

import numpy as np
import pytest
import toy_run
from PIL import Image
from toy_run import FLAGS, copy_run, get_refusal, read_metric_lines, read_state, run_command, train_toy

import dcgan_jax
from dcgan_jax import evaluate, sample, train
from dcgan_jax.config import UserError
from dcgan_jax.data import drawn_faces
from dcgan_jax.gan.state import LABELS

pytestmark = pytest.mark.integration
# Includes all other optional parts of the state: spectral norms, minibatch standard deviation, augmentation probability.
CONDITIONAL = (
    "--condition",
    "Smiling,Eyeglasses,Male",
    "--loss",
    "hinge",
    "--d-norm",
    "spectral",
    "--conv-bias",
    "--minibatch-std",
    "--augment",
    "translation",
    "--augment-target",
    "0.6",
    "--augment-adapt-kimg",
    "0.1",
)


@pytest.fixture(scope="module")
def run():
    """Trains a conditional run of twelve steps, once per session. Tests only read it."""

    def make(folder):
        done = train_toy(folder, *CONDITIONAL)
        assert (done.code, done.faults) == (0, [])

    return toy_run.make_once("conditional", make)[0] / "article"


def sample_array(run, tmp_path, *flags):
    assert run_command(sample, "--run", run, "--count", 20, "--out", tmp_path / "faces.npy", *flags).code == 0
    return np.load(tmp_path / "faces.npy")


def test_label_table_matches_the_training_attributes(run):
    table = read_state(run, 12)["labels"]
    assert table.shape == (LABELS, 3)
    every = drawn_faces.compute_face_attributes(0, np.arange(85))
    expected = every[:, [drawn_faces.ATTRIBUTES.index(name) for name in ("Smiling", "Eyeglasses", "Male")]]
    assert abs(table.mean(0) - expected.mean(0)).max() < 0.05
    assert {tuple(row) for row in table} <= {tuple(row) for row in expected}


def test_sample_depends_on_seed_and_condition_only(run, tmp_path):
    plain, with_glasses, without = (
        sample_array(run, tmp_path, *flags) for flags in ((), ("--condition", "Eyeglasses=1"), ("--condition", "Eyeglasses=0"))
    )
    table = read_state(run, 12)["labels"][:20, 1].astype(bool)
    assert np.array_equal(plain[table], with_glasses[table]) and np.array_equal(plain[~table], without[~table])
    assert (with_glasses != without).any()


@pytest.mark.tensorflow
def test_stopped_conditional_run_resumes_exactly(run, tmp_path):
    """It trains with one feed and resumes with the other."""
    assert train_toy(tmp_path, *CONDITIONAL, steps=8).code == 0  # stops inside an epoch
    assert train_toy(tmp_path, *CONDITIONAL, "--feed", "stream").code == 0
    assert read_metric_lines(tmp_path / "article") == read_metric_lines(run)
    ours, theirs = read_state(tmp_path / "article", 12), read_state(run, 12)
    for path in theirs:
        assert np.array_equal(ours[path], theirs[path]), path


def test_evaluate_checks_the_requested_attributes(run, tmp_path):
    done = run_command(evaluate, "--run", run, "--count", 40, "--condition-accuracy", "--out", tmp_path / "scores.jsonl")
    assert done.code == 0, done
    _, line = map(json.loads, (tmp_path / "scores.jsonl").read_text().splitlines())
    assert (line["score"], line["samples"]) == ("condition_accuracy", 40)
    assert line["values"]["real images"].keys() == {"Smiling", "Eyeglasses", "Male"}
    assert "requested attributes in 40 samples, predicted by a probe on an untrained D and pixels" in done.out


def test_condition_all_is_kept_by_name_and_resumes(tmp_path):
    done = train_toy(tmp_path, "--condition", "all", "--no-tensorboard", steps=4)
    assert done.code == 0, done
    config = json.loads((tmp_path / "article" / "config.json").read_text())
    assert config["condition"] == ",".join(drawn_faces.ATTRIBUTES)
    assert train_toy(tmp_path, "--condition", "all", "--no-tensorboard", steps=6).code == 0


def test_class_folders_become_attributes(tmp_path):
    faces = drawn_faces.draw_faces(0, np.arange(60), 16)
    for i, face in enumerate(faces):
        folder = tmp_path / "pets" / ("cats" if i % 3 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face).save(folder / f"{i}.png")
    flags = ("--data", tmp_path / "pets", "--condition", "all", "--no-tensorboard")
    assert train_toy(tmp_path / "runs", *flags, steps=4).code == 0
    assert np.abs(read_state(tmp_path / "runs" / "article", 4)["labels"].mean(0) - (2 / 3, 1 / 3)).max() < 0.05
    gan = dcgan_jax.load(tmp_path / "runs" / "article")
    assert gan.attributes == ("cats", "dogs")
    assert (gan.labels(range(20)).sum(1) == 1).all()
    assert (gan.labels(range(20), {"dogs": 1}) == (0, 1)).all()  # a class excludes the others


# ---- Bad input ----


def test_missing_attributes_are_one_line(tmp_path):
    line = get_refusal(train, "--workdir", tmp_path, *FLAGS, "--steps", 4, "--condition", "Smilling")
    assert "--condition Smilling: not an attribute of 85 drawn faces; did you mean Smiling" in line
    np.save(tmp_path / "plain.npy", drawn_faces.draw_faces(0, np.arange(40), 16))
    line = get_refusal(
        train, "--workdir", tmp_path, *FLAGS, "--steps", 4, "--data", tmp_path / "plain.npy", "--condition", "Male"
    )
    assert "has no attributes; give --data with attributes" in line
    for given in ("Male,Male", "Male,", ","):
        assert "name each once" in get_refusal(train, "--workdir", tmp_path, *FLAGS, "--steps", 4, "--condition", given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.npy"]


def test_resumed_run_keeps_its_attributes(run, tmp_path):
    copy_run(run, tmp_path)
    line = get_refusal(train, "--workdir", tmp_path, *FLAGS, "--steps", 20, "--condition", "Smiling")
    assert "condition" in line
    shutil.rmtree(tmp_path / "article")


def test_impossible_condition_is_one_line(run, tmp_path):
    out = ("--out", tmp_path / "faces.npy")
    assert "write attributes with 1 or 0, such as Smiling=1" in get_refusal(sample, "--run", run, *out, "--condition", "Smiling")
    assert "did you mean Eyeglasses?" in get_refusal(sample, "--run", run, *out, "--condition", "eyeglass=1")
    plain = toy_run.get_reference_run().run
    assert "was trained without --condition" in get_refusal(sample, "--run", plain, *out, "--condition", "Male=1")
    assert "--condition-accuracy" in get_refusal(evaluate, "--run", plain, "--count", 40, "--condition-accuracy")
    np.save(tmp_path / "images.npy", drawn_faces.draw_faces(0, np.arange(40), 16))
    flags = ("--data", "drawn:85", "--count", 40, "--condition-accuracy")
    assert "--condition-accuracy" in get_refusal(evaluate, "--run", tmp_path / "images.npy", *flags)


def test_loaded_run_takes_conditions_like_the_command(run, tmp_path):
    gan = dcgan_jax.load(run)
    assert gan.attributes == ("Smiling", "Eyeglasses", "Male")
    assert np.array_equal(gan.sample(range(20)), sample_array(run, tmp_path))
    with_glasses = gan.sample(range(20), condition={"Eyeglasses": 1})
    assert np.array_equal(with_glasses, sample_array(run, tmp_path, "--condition", "Eyeglasses=1"))
    labels = gan.labels(range(20), {"Eyeglasses": 1})
    assert abs(gan.images(gan.latents(range(20)), labels).astype(int) - with_glasses).max() <= 1
    assert (gan.discriminate(with_glasses, labels) != gan.discriminate(with_glasses, 1 - labels)).all()
    for request, message in (
        (lambda: gan.images(gan.latents(0)), "is conditional"),
        (lambda: gan.sample(0, {"Smile": 1}), "Smiling"),
        (lambda: gan.sample(0, {"Smiling": 2}), "give 1 or 0"),
        (lambda: gan.discriminate(with_glasses, labels[:3]), "give .20, 3."),
    ):
        with pytest.raises(UserError, match=message):
            request()
