"""Bad input to the commands: exit code 2, one line that names the place and the remedy, and no file created or lost.

The tests of single modules are in their own files (test_cli, test_sources, test_pack, test_workdir, test_checkpoints).
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from toy_run import FLAGS, STEPS, copy_run, get_reference_run, get_refusal, hash_tree, run_command, train_toy

from dcgan_jax import evaluate, prepare, sample, train
from dcgan_jax.run import distributed

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache beside the runs, so that new files in either are noticed."""
    monkeypatch.setenv("DCGAN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused_start(tmp_path, *arguments):
    """Runs a training that must be refused. Returns the error; no run may exist afterwards."""
    line = get_refusal(train, "--workdir", tmp_path / "runs", *FLAGS, "--steps", STEPS, *arguments)
    assert not (tmp_path / "runs").exists()
    return line


def test_name_that_no_filesystem_accepts_is_refused(tmp_path):
    (tmp_path / "runs").mkdir()  # else no folder is looked for in it
    line = get_refusal(train, "--workdir", tmp_path / "runs", *FLAGS, "--data", "drawn:40", "--name", "n" * 300)
    assert "File name too long; give a --workdir and --name that can be written" in line


# ---- Images ----


def write_images(folder, good=0, broken=0):
    folder.mkdir(parents=True)
    for at in range(good):
        Image.fromarray(np.full((20, 20, 3), at, np.uint8)).save(folder / f"{at:03}.png")
    for at in range(broken):
        (folder / f"broken{at:03}.jpg").write_bytes(b"\xff\xd8 cut short")
    return folder


def missing(place):
    return place / "nowhere", ["nowhere", "does not exist"]


def empty_folder(place):
    return write_images(place / "empty"), ["empty", "no images"]


def folder_of_text(place):
    (place / "text").mkdir()
    (place / "text" / "a.txt").write_text("hello")
    return place / "text", ["text", "no images"]


def too_small_folder(place):
    return write_images(place / "few", good=15), ["few", "15 training images", "fewer than the 16", "a --batch-size of at most 6"]


def broken_images(place):
    return write_images(place / "broken", good=20, broken=20), ["broken000.jpg", "cannot be used"]


def html_named_zip(place):
    (place / "img_align_celeba.zip").write_text("<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>")
    return place / "img_align_celeba.zip", ["img_align_celeba.zip", "web page"]


def cut_zip(place):
    shutil.make_archive(str(place / "cut"), "zip", write_images(place / "images", good=20))
    (place / "cut.zip").write_bytes((place / "cut.zip").read_bytes()[:-100])
    return place / "cut.zip", ["cut.zip"]


def empty_zip(place):
    (place / "zero.zip").touch()
    return place / "zero.zip", ["zero.zip"]


def wrong_array(place):
    np.save(place / "floats.npy", np.zeros((20, 16, 16, 3), np.float32))
    return place / "floats.npy", ["floats.npy", "uint8"]


def pickled_array(place):
    np.save(place / "objects.npy", np.array([{"a": 1}] * 20), allow_pickle=True)
    return place / "objects.npy", ["objects.npy"]


def text_file(place):
    (place / "faces.rar").write_text("not for us")
    return place / "faces.rar", ["faces.rar"]


UNUSABLE = [
    missing,
    empty_folder,
    folder_of_text,
    too_small_folder,
    broken_images,
    html_named_zip,
    cut_zip,
    empty_zip,
    wrong_array,
    pickled_array,
    text_file,
]


@pytest.mark.parametrize("kind", UNUSABLE, ids=lambda kind: kind.__name__)
def test_unusable_images_are_one_line(tmp_path, cache, kind):
    (tmp_path / "in").mkdir()
    data, says = kind(tmp_path / "in")
    before = hash_tree(tmp_path / "in")
    line = refused_start(tmp_path, "--data", data)
    assert all(part in line for part in says), line
    assert hash_tree(tmp_path / "in") == before
    # Fifteen images are too few for a step, but enough for a pack. All other cases leave no pack, and none an incomplete pack.
    packs = list(cache.glob("packs/*"))
    assert len(packs) == (kind is too_small_folder)
    assert not [pack for pack in packs if "@" in pack.name]


@pytest.mark.parametrize("kind", [kind for kind in UNUSABLE if kind is not too_small_folder], ids=lambda kind: kind.__name__)
def test_other_commands_refuse_them_too(tmp_path, kind):
    (tmp_path / "in").mkdir()
    data, says = kind(tmp_path / "in")
    run = copy_run(get_reference_run().run, tmp_path)
    before = hash_tree(run)
    for command, arguments in ((prepare, ("--size", 16)), (evaluate, ("--run", run, "--count", 10))):
        line = get_refusal(command, "--data", data, *arguments)
        assert all(part in line for part in says), line
    assert hash_tree(run) == before


@pytest.mark.parametrize(
    "data, says",
    [
        ("drawn:0", "drawn:0"),
        ("drawn:many", "drawn:many"),
        ("drawn:15", "15 training images"),
        pytest.param("tfds:no_such_set_at_all", "no_such_set_at_all", marks=pytest.mark.tensorflow),
        ("", "''"),
    ],
)
def test_data_that_do_not_exist_are_one_line(tmp_path, data, says):
    assert says in refused_start(tmp_path, "--data", data)


# ---- Flags ----


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--sise", 32), ["--sise", "--size"]),
        (("--preset", "artikel"), ["artikel", "article"]),
        (("--size", 33), ["--size 33", "16 or 32"]),
        (("--size", "big"), ["--size", "big"]),
        (("--batch-size", 0), ["--batch-size 0"]),
        (("--batch-size", 7), ["--batch-size 7", "2 devices", "6 or 8"]),
        (("--steps", -5), ["--steps -5"]),
        (("--epochs", 3), ["steps and epochs"]),
        (("--steps", 10**12), ["--steps 1000000000000: must be at least 1 and at most 2,147,483,647"]),
        (("--real-label", 0.9, "--loss", "hinge"), ["--real-label 0.9", "--loss bce"]),
        (("--ema-ramp", 0), ["--ema-ramp 0"]),
        (("--lr", 0), ["--lr 0"]),
        (("--width", -1), ["--width -1"]),
        (("--seed", -1), ["--seed -1"]),
        (("--name", "a/b"), ["--name a/b"]),
        (("--held-out", -5), ["--held-out -5: must be at least 0 and at most 1,000,000 images"]),
        (("--split", "train"), ["--split train"]),
        (("--g-multipliers", 1, 2, 3), ["--g-multipliers 1 2 3"]),
        (("--base-px", 3), ["--base-px", "3"]),
    ],
    ids=str,
)
def test_impossible_values_are_one_line(tmp_path, arguments, says):
    line = refused_start(tmp_path, *arguments)
    assert all(part in line for part in says), line


# ---- Runs ----


@pytest.mark.parametrize("command", [sample, evaluate])
@pytest.mark.parametrize("kind", ["nothing", "folder", "file", "the folder of runs"])
def test_path_that_is_no_run_is_one_line(tmp_path, monkeypatch, command, kind):
    monkeypatch.chdir(tmp_path)  # sample writes to samples.png there
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("mine")
    elif kind == "the folder of runs":
        copy_run(get_reference_run().run, tmp_path)
        path = tmp_path
    before = hash_tree(tmp_path)
    line = get_refusal(command, "--run", path)
    assert f"{path}: no run is there" in line
    assert ("did you mean" in line) == (kind == "the folder of runs")
    assert hash_tree(tmp_path) == before


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--width", 8), ["width was 4, is now 8", "--width 4"]),
        (("--size", 32), ["size was 16, is now 32", "--size 16"]),
        (("--preset", "torch32", "--name", "article"), ["preset was article, is now torch32"]),
        (("--lr", 1e-3), ["lr was 0.0002, is now 0.001", "--lr 0.0002"]),
        (("--batch-size", 16), ["batch_size was 8, is now 16"]),
        (("--seed", 1), ["seed was 0, is now 1"]),
        (("--no-flip",), ["flip was True, is now False", "--flip"]),
        (("--data", "drawn:86"), ["other images", "85 drawn faces", "86"]),
    ],
    ids=str,
)
def test_resume_as_another_run_changes_nothing(tmp_path, arguments, says):
    run = copy_run(get_reference_run().run, tmp_path)
    before = hash_tree(run)
    line = get_refusal(train, "--workdir", tmp_path, *FLAGS, "--steps", STEPS + 4, *arguments)
    assert str(run) in line
    assert all(part in line for part in (*says, "another --name", "move it away")), line
    assert hash_tree(run) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"width": "wide"}', '{"colour": 1}', '{"size": 33, "steps": 1}'])
@pytest.mark.parametrize("command", [train, sample, evaluate])
def test_config_edited_to_nonsense_is_one_line(tmp_path, monkeypatch, command, text):
    monkeypatch.chdir(tmp_path)
    run = copy_run(get_reference_run().run, tmp_path)
    (run / "config.json").write_text(text)
    before = hash_tree(run)
    arguments = ("--workdir", tmp_path, *FLAGS, "--steps", STEPS + 4) if command is train else ("--run", run)
    assert str(run / "config.json") in get_refusal(command, *arguments)
    assert hash_tree(run) == before
    assert not (tmp_path / "samples.png").exists()


def test_config_edited_to_other_networks_is_one_line(tmp_path):
    """The flags agree with the edited file, so only the checkpoint shows the difference."""
    run = copy_run(get_reference_run().run, tmp_path)
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(values | {"width": 8}))
    before = hash_tree(run / "checkpoints")
    line = get_refusal(train, "--workdir", tmp_path, *FLAGS, "--steps", STEPS + 4, "--width", 8)
    assert "ema_params/head/bias is float32 (256,) in the checkpoint, float32 (512,) by config.json" in line
    assert hash_tree(run / "checkpoints") == before


@pytest.mark.parametrize("place", ["workdir", "run", "foreign"])
def test_workdir_place_that_is_taken_is_one_line(tmp_path, place):
    """A file in the way stands for a read-only disk, because tests may run as root, who has all permissions."""
    work = tmp_path / "runs"
    if place == "workdir":
        work.write_text("mine")
    else:
        work.mkdir()
        if place == "run":
            (work / "article").write_text("mine")
        else:
            (work / "article").mkdir()
            (work / "article" / "thesis.txt").write_text("years of work")
    before = hash_tree(work) or work.read_text()
    line = get_refusal(train, "--workdir", work, *FLAGS, "--steps", STEPS)
    assert str(work / "article") in line
    assert (hash_tree(work) or work.read_text()) == before


def test_one_device_takes_any_batch(tmp_path, monkeypatch):
    """The batch size 7 was refused above because of the two devices, not because of the recipe."""
    one = distributed.jax.devices()[:1]
    monkeypatch.setattr(distributed.jax, "devices", lambda: one)
    assert "fewer than the 14" in refused_start(tmp_path, "--batch-size", 7, "--data", "drawn:13")


def test_refused_command_runs_when_corrected(tmp_path):
    """A refused command leaves nothing that would stop the correct command. Files that are left out are counted everywhere."""
    refused_start(tmp_path, "--data", tmp_path / "in")
    write_images(tmp_path / "in", good=20, broken=1)
    (tmp_path / "in" / "photo.HEIC").write_bytes(b"x")
    done = train_toy(tmp_path / "runs", "--data", tmp_path / "in", steps=1)
    assert done.code == 0, done
    assert "broken000.jpg" in done.err
    assert "not among the images: 1 .HEIC" in done.out
    facts = json.loads((tmp_path / "runs" / "article" / "data.json").read_text())
    assert (facts["skipped"], facts["ignored_types"]) == (1, {".HEIC": 1})
    assert "1 .HEIC" in (tmp_path / "runs" / "article" / "report.html").read_text()
    assert run_command(sample, "--run", tmp_path / "runs" / "article", "--count", 1, "--out", tmp_path / "a.png").code == 0
