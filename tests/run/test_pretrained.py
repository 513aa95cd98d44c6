"""The generators inside the package: their files, and how commands find them by name."""

import dataclasses
import fnmatch
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import toy_run
from numpy.testing import assert_array_equal
from saved_states import write_compact
from toy_run import get_reference_run, get_refusal, hash_tree, read_state, run_command

import dcgan_jax
from dcgan_jax import evaluate, explore, sample, train
from dcgan_jax.config import UserError
from dcgan_jax.export import __main__ as export
from dcgan_jax.export import web
from dcgan_jax.presets import PRESETS
from dcgan_jax.run import compact, pretrained, workdir

MOST_BYTES = 2_500_000  # of a file: everyone who installs the package downloads it
ROOT = Path(__file__).parents[2]


def list_files():
    return [path for path in sorted(pretrained.FOLDER.rglob("*")) if path.is_file()]


# ---- The files ----


def test_files_are_small_and_complete():
    files = {str(path.relative_to(pretrained.FOLDER)) for path in list_files()}
    needed = (compact.GENERATOR, compact.DISCRIMINATOR, compact.SUMS, "config.json", "data.json")
    assert {f"{name}/{file}" for name in pretrained.NAMES for file in needed} <= files
    assert {file.split("/")[0] for file in files} == set(pretrained.NAMES)
    assert max(path.stat().st_size for path in list_files()) <= MOST_BYTES


def test_every_file_is_package_data():
    """Those that the patterns of pyproject.toml leave out would be missing in a wheel."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["dcgan_jax"]
    for file in list_files():
        name = file.relative_to(pretrained.FOLDER.parent)
        assert any(len(Path(one).parts) == len(name.parts) and fnmatch.fnmatch(str(name), one) for one in patterns), name


@pytest.mark.parametrize(("name", "preset"), [("drawn32", "best32"), ("drawn64", "best64")])
def test_it_is_a_preset_trained_on_drawn_faces_only(name, preset):
    folder = pretrained.find_run(name)
    config, facts = workdir.read_config(folder), workdir.read_data_facts(folder)
    assert (config.run.preset, config.run.name, config.run.workdir, config.run.start) == (preset, name, "runs", "")
    assert config.nets == dataclasses.replace(PRESETS[preset].nets, compute_dtype="float32")
    assert (facts["source"]["kind"], facts["size"]) == ("drawn", config.nets.size)
    assert (folder / "half").is_dir() == bool(config.run.grow_kimg)


@pytest.mark.parametrize("name", pretrained.NAMES)
@pytest.mark.integration
def test_it_makes_varied_images(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gan = dcgan_jax.load(name)
    images = gan.sample(range(16))
    size = gan.config.nets.size
    assert images.shape == (16, size, size, 3) and gan.name == name
    assert len({image.tobytes() for image in images}) == 16
    assert images.std(0, dtype=float).mean() > 5 and images.std((1, 2), dtype=float).min() > 5  # not one face, not a plain colour
    assert_array_equal(gan.sample(9), images[9:10])
    logits = gan.discriminate(images)
    assert np.isfinite(logits).all() and len(set(logits.tolist())) > 8
    assert hash_tree(tmp_path) == {}


# ---- Names ----


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory. drawn64 is the toy run, stored compactly in a package elsewhere."""
    write_compact(get_reference_run().run, tmp_path / "package" / "drawn64")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "package")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.integration
def test_commands_take_the_name(place):
    before = hash_tree(pretrained.FOLDER)
    for command in (
        (sample, "--run", "drawn64", "--count", 2),
        (evaluate, "--run", "drawn64", "--count", 40, "--neighbours", "--probe"),
        (explore, "morph", "--run", "drawn64", "--seeds", "1,2", "--columns", 2),
        (explore, "attributes", "--run", "drawn64"),
        (export, "--run", "drawn64", "--format", "safetensors", "--out", "exported"),
        (train, *toy_run.FLAGS, "--steps", 4, "--name", "tuned", "--start", "drawn64"),
    ):
        done = run_command(*command)
        assert done.code == 0 and "dcgan_jax.report" not in done.out, done  # no logs, so no report
    own = ("drawn64-scores.jsonl", "drawn64-neighbours.png")
    for file in (*own, "samples.png", "explore/morph.png", "exported/generator.safetensors"):
        assert (place / file).is_file(), file
    assert hash_tree(pretrained.FOLDER) == before
    assert not (place / "drawn64").exists()  # it would hide the name
    params, _ = dcgan_jax.load("drawn64").discriminator
    assert_array_equal(read_state(place / "runs" / "tuned", 0)["d_params/down1/kernel"], params["down1"]["kernel"])
    card = (place / "exported" / "README.md").read_text()
    assert "license: apache-2.0" in card and "They were trained on drawn faces" in card
    assert f"| images shown in training | {toy_run.STEPS * 16} |" in card and str(place.parent) not in card


@pytest.mark.integration
def test_web_page_uses_attribute_directions_of_this_generator_only(place):
    """They are in the working directory, where those of another run may be."""
    for run in ("drawn64", str(get_reference_run().run)):
        assert run_command(explore, "attributes", "--run", run, "--out", "explore/attributes.png").code == 0
        names = {slider["name"] for slider in web._list_sliders(dcgan_jax.load("drawn64"))}
        assert ("direction 1" in names) == (run != "drawn64")


@pytest.mark.integration
def test_existing_path_comes_before_the_name(place):
    shutil.copytree(get_reference_run().run, place / "drawn64")
    assert pretrained.find_run("drawn64") == Path("drawn64")
    assert dcgan_jax.load("drawn64", step=4).step == 4  # which the packaged one lacks
    assert run_command(explore, "morph", "--run", "drawn64", "--seeds", "1,2", "--columns", 2).code == 0
    assert (place / "drawn64" / "explore" / "morph.png").is_file()
    shutil.rmtree(place / "drawn64")
    with pytest.raises(UserError, match="no such checkpoint"):
        dcgan_jax.load("drawn64", step=4)


@pytest.mark.integration
def test_folder_that_hides_the_name_is_said_and_renaming_helps(place):
    (place / "drawn64").mkdir()
    for command in ((export, "--format", "torch", "--out", "x", "--run"), (train, *toy_run.FLAGS, "--steps", 4, "--start")):
        message = get_refusal(*command, "drawn64")
        assert "drawn64: no run is there, and it hides the generator drawn64 of the package: rename it" in message
    (place / "drawn64").rmdir()
    assert run_command(export, "--run", "drawn64", "--format", "safetensors", "--out", "drawn64").code == 0
    for command in ((sample, "--run"), (train, *toy_run.FLAGS, "--steps", 4, "--start")):
        message = get_refusal(*command, "drawn64")
        assert "it hides the generator drawn64 of the package: rename it" in message
    (place / "drawn64").rename("other")
    assert dcgan_jax.load("drawn64").step == toy_run.STEPS


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("drawn46", "did you mean drawn64?"),
        ("Drawn32", "did you mean drawn32?"),
        ("runs/mine", "such as runs/article, or a generator of the package: drawn32 or drawn64"),
    ],
)
def test_unknown_name_lists_the_generators(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as fault:
        dcgan_jax.load(given)
    assert str(fault.value).startswith(f"{given}: no run is there") and str(fault.value).endswith(says)


def test_other_paths_are_left_as_they_are(tmp_path):
    for path in (tmp_path, Path("runs/drawn64"), Path("drawn128"), pretrained.FOLDER / "drawn64"):
        assert pretrained.find_run(path) == path


@pytest.mark.skipif(not (ROOT / "experiments").is_dir(), reason="the experiments are in the checkout only")
@pytest.mark.integration
def test_experiment_makes_a_folder_that_loads(tmp_path, monkeypatch):
    from experiments import pretrained as experiment

    flags = [*toy_run.FLAGS, "--steps", "4", "--name", "toy", "--workdir", str(tmp_path / "runs")]
    config = dcgan_jax.cli.parse_config(list(map(str, flags)))
    folder, gap = experiment.make_pretrained(config, tmp_path / "out")
    assert folder == tmp_path / "out" / "toy" and gap.largest < 1 / 255
    gan = dcgan_jax.load(folder)
    assert gan.step == 4 and gan.discriminate(gan.sample(range(2))).shape == (2,)
    before = hash_tree(folder)
    experiment.make_pretrained(config, tmp_path / "out")  # the run is complete: the same command only writes it again
    assert hash_tree(folder) == before
