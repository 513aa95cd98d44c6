"""Each command writes a picture and its numbers; what cannot be explored is one line."""

import json
import re

import numpy as np
import pytest
import toy_run
from PIL import Image
from toy_run import call, copied, files, refusal, whole

import dcgan_jax
from dcgan_jax import api, explore
from dcgan_jax.explorations import directions
from dcgan_jax.gan import latents
from dcgan_jax.run import figures

pytestmark = pytest.mark.integration
SIDE = 96  # of a 16 px face, enlarged


@pytest.fixture(scope="module")
def gan():
    return dcgan_jax.load(whole().run)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A run that draws what it is asked to, of four steps; only read."""
    parent = tmp_path_factory.mktemp("conditional")
    assert toy_run.train_toy(parent, "--condition", "Smiling,Male", "--no-tensorboard", steps=4).code == 0
    return parent / "article"


def explored(tmp_path, command, *arguments, suffix=".png", run=None):
    """(the picture, its numbers, what was said)."""
    out = tmp_path / f"a{suffix}"
    done = call_explore(command, "--run", run or whole().run, "--out", out, *arguments)
    assert (done.code, done.faults) == (0, []), done
    numbers = json.loads(out.with_suffix(".json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert (numbers["command"], numbers["step"], numbers["preset"]) == (command, 4 if run else toy_run.STEPS, "article")
    if suffix != ".png":
        return out, numbers, done.out
    with Image.open(out) as picture:
        return picture.copy(), numbers, done.out


def call_explore(*arguments):
    return call(explore, *arguments)


def cells(picture, row, count, rows):
    """The faces of a row of a captioned sheet, as they were before they were enlarged: found from the lower right corner."""
    array, gap = np.asarray(picture), 2 * 2
    bottom = array.shape[0] - 2 - (rows - 1 - row) * (SIDE + gap) - gap
    right = array.shape[1] - 2
    width = count * (SIDE + gap)
    faces = [array[bottom - SIDE : bottom, right - width + i * (SIDE + gap) :][:, :SIDE] for i in range(count)]
    return np.stack(faces)[:, ::6, ::6]


def near(one, other):
    assert np.abs(one.astype(int) - np.asarray(other).astype(int)).max() <= 1


# ---- Ways ----


def test_a_morph_goes_from_the_very_face_of_one_seed_to_the_next(tmp_path, gan):
    picture, numbers, _ = explored(tmp_path, "morph", "--seeds", "3,9,5", "--columns", 12)
    assert numbers["seeds"] == [3, 9, 5] and len(numbers["shares"]) == 12
    for row, (a, b) in enumerate(((3, 9), (9, 5))):
        faces = cells(picture, row, 12, 2)
        near(faces[[0, -1]], gan.sample([a, b]))
        strides = np.abs(np.diff(faces.astype(float), axis=0)).mean((1, 2, 3))
        assert strides.max() < np.abs(faces[0].astype(float) - faces[-1]).mean()  # no jump


def test_truncation_draws_faces_together(tmp_path, gan):
    cuts = (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.01)
    picture, numbers, _ = explored(tmp_path, "truncate", "--seeds", "0,1", "--truncations", *cuts)
    assert numbers["spread_grey_levels"] == sorted(numbers["spread_grey_levels"], reverse=True)
    near(cells(picture, 1, 8, 2)[[0, 3]], [gan.sample(1)[0], gan.sample(1, truncation=0.7)[0]])


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_a_walk_is_an_endless_film_through_all_seeds(tmp_path, gan, suffix):
    film, numbers, _ = explored(tmp_path, "walk", "--seeds", "4-6", "--frames-each", 5, "--frames-a-second", 20, suffix=suffix)
    with Image.open(film) as film:
        assert (film.n_frames, film.info["loop"], numbers["frames"]) == (15, 0, 15)
        film.seek(5)
        film.load()
        assert film.info["duration"] == 50
        sheet = np.asarray(film.convert("RGB"))
        assert (sheet[:40] < 128).any()  # what it is stands above
        frame = sheet[-262:-6, 12:268][8::16, 8::16].astype(float)  # middles of pixels
    assert np.abs(frame - gan.sample(5)[0]).mean() < 12
    assert np.abs(frame - gan.sample(4)[0]).mean() > 2 * np.abs(frame - gan.sample(5)[0]).mean()


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_a_film_of_the_least_speed_is_one(tmp_path, suffix):
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    figures.save_animation(tmp_path / f"a{suffix}", frames, 0.01)
    with Image.open(tmp_path / f"a{suffix}") as film:
        film.load()
        assert film.info["duration"] == 100_000


def test_an_mp4_is_one_where_pyav_is_and_else_a_line(tmp_path):
    try:
        import av
    except ImportError:
        line = explore_refusal("walk", "--run", whole().run, "--out", tmp_path / "a.mp4", "--frames-each", 2)
        assert "pip install av" in line
        return
    out = tmp_path / "a.mp4"
    assert call_explore("walk", "--run", whole().run, "--out", out, "--frames-each", 4, "--seeds", "0-2").code == 0
    with av.open(out) as film:
        assert sum(1 for _ in film.decode(video=0)) == 12


def test_arithmetic_of_a_seed_with_itself_is_the_seed(tmp_path, gan):
    picture, numbers, _ = explored(tmp_path, "arithmetic", "--equation", "7 - 3-5 + 3-5")
    near(cells(picture, 3, 9, 4)[:1], gan.sample(7))
    np.testing.assert_allclose(numbers["result"], gan.latents(7)[0], atol=1e-4)


def test_arithmetic_is_of_means(tmp_path, gan):
    _, numbers, _ = explored(tmp_path, "arithmetic", "--equation", "1,2 + 3 - 4,5")
    nets = gan.config.nets
    z = np.asarray(latents.to_normal(gan.latents(range(6)), nets))
    wanted = latents.from_normal(z[1:3].mean(0) + z[3] - z[4:6].mean(0), nets)
    np.testing.assert_allclose(numbers["result"], wanted, atol=1e-4)


# ---- Directions ----


@pytest.mark.parametrize("method", ["principal", "factorised"])
def test_strips_move_the_face_both_ways(tmp_path, gan, method):
    picture, numbers, _ = explored(tmp_path, "directions", "--method", method, "--count", 3, "--seeds", "2,4")
    faces = [cells(picture, row, 7, 6) for row in range(6)]
    near(faces[0][3:4], gan.sample(2))
    near(faces[5][3:4], gan.sample(4))
    found = np.array(numbers["directions"])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)
    assert numbers["shares_of_variance"] == sorted(numbers["shares_of_variance"], reverse=True)
    points, nets = gan.latents([4]), gan.config.nets
    near(faces[5][:1], gan.images(latents.move_along(points, found[2].astype(np.float32), np.float32([-3]), nets)[0]))


def test_attributes_have_a_direction_each_with_what_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(directions, "FIT_SAMPLES", 200)
    monkeypatch.setattr(directions, "EFFECT_SAMPLES", 20)
    picture, numbers, said = explored(tmp_path, "attributes", "--attributes", "Smiling", "Male")
    names, changes = numbers["attributes"], np.array(numbers["changes_sd"])
    assert np.array(numbers["directions"]).shape == (len(names), 100) and changes.shape == (len(names),) * 2
    assert len(numbers["probe_balanced_accuracy"]) == len(names)
    assert np.diag(changes).mean() > 0.5  # each grows along its own direction
    assert re.search(r"^Smiling +\d\.\d{3} +-?\d+\.\d\d  \w+ -?\d+\.\d\d$", said, re.M)
    assert picture.height > 2 * SIDE


@pytest.fixture
def few(monkeypatch):
    """Directions fitted to few faces: which they are does not matter."""
    monkeypatch.setattr(directions, "FIT_SAMPLES", 60)
    monkeypatch.setattr(directions, "EFFECT_SAMPLES", 4)


def test_a_run_of_one_level_has_directions(tmp_path, few):
    assert toy_run.train_toy(tmp_path, "--base-px", "8", "--no-tensorboard", steps=4).code == 0
    for command in ("attributes", "directions"):
        explored(tmp_path, command, run=tmp_path / "article")


def test_what_all_or_no_pictures_have_is_left_out(tmp_path, few):
    arguments = ("--data", "drawn:20")  # of which 13 are fitted to
    _, numbers, said = explored(tmp_path, "attributes", *arguments)
    left = numbers["left_out"]
    assert left and not {*left} & {*numbers["attributes"]}
    assert f"left out: {', '.join(left)}: of the 13 images" in said
    line = explore_refusal("attributes", "--run", whole().run, "--out", tmp_path / "a.png", *arguments, "--attributes", left[0])
    assert f"--attributes {left[0]}: of the 13 images that the probe is fitted to, all or none have it" in line


def test_faces_that_are_all_alike_have_no_directions(tmp_path, few, monkeypatch):
    monkeypatch.setattr(api.TrainedGAN, "images", lambda run, points, labels=None: np.zeros((len(points), 16, 16, 3), np.uint8))
    assert "D sees no difference between the faces of step 12" in explore_refusal(
        "attributes", "--run", whole().run, "--out", tmp_path / "a.png"
    )


def test_a_conditional_run_has_directions_beside_what_it_is_asked(tmp_path, few, conditional):
    asked = ("--seeds", "3,5", "--attributes", "Young", "--condition", "Male=1")
    picture, numbers, _ = explored(tmp_path, "attributes", *asked, run=conditional)
    near(cells(picture, 1, 7, 2)[3:4], dcgan_jax.load(conditional).sample(5, {"Male": 1}))
    assert numbers["condition"] == "Male=1"


# ---- A photo ----


def test_a_face_of_the_generator_is_inverted(tmp_path, gan):
    face = gan.sample(77)[0]
    Image.fromarray(face).save(tmp_path / "face.png")
    picture, numbers, said = explored(tmp_path, "invert", "--photo", tmp_path / "face.png", "--starts", 9, "--iterations", 60)
    near(cells(picture, 0, 10, 1)[:1], face[None])
    assert len(numbers["losses"]) == 9 and numbers["losses"] == sorted(numbers["losses"])
    assert sorted(numbers["start_of"]) == list(range(9))
    assert numbers["losses"][0] < numbers["loss_of_untouched_seeds"] / 3
    assert np.median(numbers["losses_before"]) == pytest.approx(numbers["loss_of_untouched_seeds"])
    assert (np.array(numbers["losses"]) < numbers["losses_before"]).all()
    near(cells(picture, 0, 10, 1)[1:2], gan.images(np.float32(numbers["latents"][:1])))
    assert "nearest face" in said


def test_a_conditional_run_looks_among_the_faces_that_are_asked_for(tmp_path, conditional):
    gan = dcgan_jax.load(conditional)
    Image.fromarray(gan.sample(77, {"Male": 1, "Smiling": 0})[0]).save(tmp_path / "face.png")
    picture, numbers, _ = explored(
        tmp_path,
        "invert",
        "--photo",
        tmp_path / "face.png",
        "--starts",
        9,
        "--iterations",
        40,
        "--condition",
        "Male=1,Smiling=0",
        run=conditional,
    )
    assert numbers["losses"][0] < numbers["loss_of_untouched_seeds"]
    asked = gan.labels([0], {"Male": 1, "Smiling": 0})
    near(cells(picture, 0, 10, 1)[1:2], gan.images(np.float32(numbers["latents"][:1]), asked))


def test_a_picture_that_is_no_face_is_warned_of(tmp_path):
    checks = np.indices((16, 16)).sum(0) % 2 * 255
    Image.fromarray(checks.astype(np.uint8)).save(tmp_path / "checks.png")
    done = call_explore(
        "invert", "--run", whole().run, "--photo", tmp_path / "checks.png", "--iterations", 5, "--out", tmp_path / "a.png"
    )
    assert done.code == 0 and len(done.faults) == 1
    assert "checks.png: nothing that the generator draws is much like it" in done.faults[0]


# ---- Bad input ----


def explore_refusal(*arguments):
    return refusal(explore, *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mroph"], ["mroph", "did you mean morph"]),
        (["zzz"], ["there are truncate"]),
        (["--tyro-print-completion", "bash"], ["--tyro-print-completion: a command comes first: truncate"]),
        (["morph", "--seeds", "3"], ["--seeds 3", "at least two"]),
        (["morph", "--seeds", "x,2"], ["--seeds", "'x'"]),
        (["morph", "--seeds", "0-5000"], ["at most 1,000"]),
        (["morph", "--columns", "1"], ["--columns 1"]),
        (["morph", "--out", "a.jpg"], ["--out a.jpg", ".png"]),
        (["walk", "--out", "a.png"], [".webp or .gif or .mp4"]),
        (["walk", "--frames-each", "0"], ["--frames-each 0"]),
        (["walk", "--frames-a-second", "0"], ["--frames-a-second 0"]),
        (["walk", "--out", "a.gif", "--frames-a-second", "0.001"], ["--frames-a-second 0.001", "0.01 to 100"]),
        (["truncate", "--truncations", "0"], ["--truncations 0"]),
        (["truncate", "--truncations", "nan"], ["--truncations nan"]),
        (["arithmetic", "--equation", "1 -- 2"], ["--equation"]),
        (["arithmetic", "--equation", ""], ["--equation"]),
        (["arithmetic", "--noise-seed", "-1"], ["--noise-seed -1", "0 or more"]),
        (["directions", "--count", "101"], ["--count 101", "100"]),
        (["attributes", "--attributes", "Smile"], ["--attributes Smile", "Smiling"]),
        (["attributes", "--data", "drawn:19"], ["--data: 19 drawn faces: too few", "20 or more"]),
        (["invert"], ["--photo ''", "no file"]),
        (["invert", "--photo", "nowhere.png"], ["nowhere.png"]),
        (["invert", "--photo", __file__], ["test_explore.py", "not an image"]),
        (["invert", "--photo", __file__, "--starts", "0"], ["--starts 0"]),
        (["morph", "--condition", "Smiling=1"], ["--condition Smiling", "trained without --condition"]),
        (["morph", "--condition", "Smiling"], ["--condition Smiling"]),
        (["morph", "--step", "5"], ["--step 5"]),
        (["morph", "--sedes", "3"], ["--sedes", "--seeds"]),
    ],
)
def test_what_cannot_be_explored_is_one_line(tmp_path, arguments, says):
    command, *flags = arguments
    line = explore_refusal(command, "--run", copied(whole().run, tmp_path), *flags)
    for word in says:
        assert word in line, line


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("folder.png", "folder.png is a folder"),
        ("other.png", "other.json is a folder"),
        ("file/a.png", "--out"),
        (f"{'a' * 251}.png", "File name too long"),
    ],
    ids=["folder", "numbers", "in a file", "long"],
)
def test_a_place_that_cannot_be_written_is_one_line_before_the_work(tmp_path, monkeypatch, out, says):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "other.json").mkdir()
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(api.TrainedGAN, "morph", pytest.fail)
    before = files(tmp_path)
    line = explore_refusal("morph", "--run", whole().run, "--out", tmp_path / out)
    assert f"--out {tmp_path / out}: " in line and says in line
    assert files(tmp_path) == before


def test_help_names_each_command():
    for arguments in ((), ("--help",)):
        done = call_explore(*arguments)
        assert done.code in (0, None)
        for name in explore.COMMANDS:
            assert name in done.out


def test_a_conditional_run_is_explored_as_asked(tmp_path, conditional):
    for command in ("morph", "walk", "truncate", "directions", "arithmetic"):
        picture, *_ = explored(
            tmp_path, command, "--condition", "Male=1", suffix=".webp" if command == "walk" else ".png", run=conditional
        )
        if command == "morph":
            near(cells(picture, 0, 9, 5)[[0, -1]], dcgan_jax.load(conditional).sample([0, 1], {"Male": 1}))
