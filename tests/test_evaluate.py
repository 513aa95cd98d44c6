import hashlib
import json
import shutil

import inception_inputs
import jax
import numpy as np
import pytest
from PIL import Image
from toy_run import DATA, call, copied, files, refusal, train_toy, whole

from dcgan_jax import evaluate, sample
from dcgan_jax.data import download
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.gan.sampling import sample_images
from dcgan_jax.gan.state import init_state
from dcgan_jax.quality import inception
from dcgan_jax.quality.sliced_wasserstein import sliced_wasserstein
from dcgan_jax.run import checkpoints, feature_nets, workdir

pytestmark = pytest.mark.integration


@pytest.fixture
def run(tmp_path):
    return copied(whole().run, tmp_path)


def scored(run, *arguments):
    done = call(evaluate, "--run", run, *arguments)
    assert (done.code, done.faults) == (0, []), done
    return done.out, [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


def test_a_score_says_what_it_is_of(run):
    said, (line,) = scored(run, "--count", 40, "--seed", 3)
    assert line["score"] == "sliced_wasserstein_x1e3"
    assert (line["step"], line["count"], line["seeds"], line["size"]) == (12, 40, [3, 42], 16)
    assert line["real"] == "85 drawn faces"
    assert line["real_fingerprint"] == json.loads((run / "data.json").read_text())["fingerprint"]
    assert line["values"].keys() == {"16", "mean"}
    assert line["values"]["mean"] > line["floor"] > 0  # twelve steps draw no faces yet
    assert line["floor_count"] == 20
    for part in ("step 12", "N 40", "seeds 3..42", f"mean {line['values']['mean']:.2f}", f"floor {line['floor']:.2f} at N 20"):
        assert part in said


def test_the_same_question_has_the_same_answer_and_every_answer_is_kept(run):
    _, first = scored(run, "--count", 30)
    _, both = scored(run, "--count", 30)
    assert both == [*first, *first]
    _, three = scored(run, "--count", 30, "--step", 4)
    assert three[2]["step"] == 4
    assert three[2]["values"] != three[0]["values"]


def test_it_is_the_distance_from_the_real_pictures_to_the_faces_of_the_seeds(run):
    """With all pictures asked for, no choice of them is left to make."""
    _, (line,) = scored(run, "--count", 85)
    config = workdir.read_config(run)
    _, params, stats, _ = checkpoints.restore_generator(run, jax.eval_shape(lambda: init_state(config)))
    real = pack_images(open_source(DATA), size=16, channels=3, crop="centre").images
    want = sliced_wasserstein(np.asarray(real), sample_images(config.nets, params, stats, np.arange(85)), seed=0)
    assert line["values"] == {name: round(value, 3) for name, value in want.items()}


def test_other_real_pictures_can_be_named(run):
    _, (line,) = scored(run, "--count", 30, "--data", "drawn:50")
    assert line["real"] == "50 drawn faces"
    assert line["real_fingerprint"] != json.loads((run / "data.json").read_text())["fingerprint"]


def test_the_line_goes_where_it_is_wanted(run, tmp_path):
    done = call(evaluate, "--run", run, "--count", 20, "--out", tmp_path / "mine.jsonl")
    assert done.code == 0
    assert json.loads((tmp_path / "mine.jsonl").read_text())["count"] == 20
    assert not (run / "scores.jsonl").exists()


@pytest.mark.parametrize(
    "arguments, says",
    [
        ((), ["--count 5000", "85 pictures", "--count 85"]),  # 5000 is the default: it is not taken for fewer
        (("--count", 86), ["--count 86", "85 pictures"]),
        (("--count", 1), ["--count 1"]),
        (("--count", -3), ["--count -3"]),
        (("--count", 10, "--seed", -1), ["--seed -1"]),
        (("--count", 10, "--seed", 2**32 - 9), ["--seed 4294967287"]),
        (("--count", 10, "--step", 5), ["--step 5", "4, 8, 12"]),
        (("--count", 10, "--data", "nowhere"), ["nowhere", "does not exist"]),
        (("--count", 10, "--out", "/dev/null/x"), ["/dev/null/x", "--out"]),
    ],
    ids=str,
)
def test_a_question_that_has_no_answer_is_one_line_and_writes_nothing(run, arguments, says):
    before = files(run)
    line = refusal(evaluate, "--run", run, *arguments)
    assert all(part in line for part in says), line
    assert files(run) == before


def test_a_run_whose_pictures_have_changed_is_not_scored_silently(run):
    facts = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(facts | {"pixels": "another"}))
    line = refusal(evaluate, "--run", run, "--count", 20)
    assert "no longer holds the images" in line
    assert "--data" in line
    assert not (run / "scores.jsonl").exists()


def test_other_pictures_are_taken_whole_unless_a_split_is_asked(run):
    """A run on one split says nothing of pictures without splits."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"split": "train"}))
    _, (line,) = scored(run, "--count", 30, "--data", "drawn:60")
    assert line["real"] == "60 drawn faces"
    assert "--split" in refusal(evaluate, "--run", run, "--count", 30, "--data", "drawn:60", "--split", "valid")


def test_inception_scores_stand_beside_the_other_and_say_what_they_are_of(run, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_nets, "IMAGES_PER_CALL", 8)
    arrays = inception_inputs.weights(inception.list_weight_shapes())
    np.savez(tmp_path / "weights.npz", **arrays)
    said, (_, line) = scored(run, "--count", 12, "--inception", tmp_path / "weights.npz")
    assert (line["score"], line["count"], line["step"], line["floor_count"]) == ("inception", 12, 12, 6)
    assert line["network_sha256"] == hashlib.sha256((tmp_path / "weights.npz").read_bytes()).hexdigest()
    assert {"frechet", "kid", "kid_sd", "precision", "recall", "density", "coverage"} == line["values"].keys()
    assert line["values"]["frechet"] > 0 and line["values"]["coverage"] < 0.5  # twelve steps draw no faces yet
    of = "FID, step 12, N 12, seeds 0..11, resize TensorFlow 1 bilinear to 299 px"
    for part in (f"{of}: {line['values']['frechet']:.2f}", f"floor {line['floor']:.2f} at N 6"):
        assert part in said


def test_weights_that_are_none_are_one_line(run, tmp_path):
    np.savez(tmp_path / "others.npz", a=np.zeros(3))
    assert "are not the FID Inception's weights" in refusal(evaluate, "--run", run, "--inception", tmp_path / "others.npz")
    assert "No such file" in refusal(evaluate, "--run", run, "--inception", tmp_path / "none.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK")
    assert "is no .npz, .safetensors or .pth" in refusal(evaluate, "--run", run, "--inception", tmp_path / "cut.pth")


# ---- A function of one's own, pictures, two sides, memory ----

NET = """
import numpy as np
def features(images):  # (B, S, S, 3) uint8 -> the means of 4 x 4 blocks
    b, s, _, c = images.shape
    return images.reshape(b, 4, s // 4, 4, s // 4, c).mean((2, 4)).reshape(b, -1)
def coarse(images):  # of each half of each side
    b, s, _, c = images.shape
    return images.reshape(b, 2, s // 2, 2, s // 2, c).mean((2, 4)).reshape(b, -1)
def three_each(images):
    return images.mean((1, 2))
def three(images):
    return images[:3]
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:features"


def test_a_network_of_ones_own_is_told_by_place_and_hash(run, net, tmp_path):
    net = net.replace("features", "coarse")
    said, (_, line) = scored(run, "--count", 40, "--features", net, "--infinity")
    assert (line["score"], line["network"]) == ("features", net)
    assert line["network_sha256"] == hashlib.sha256(NET.encode()).hexdigest()
    assert line["values"].keys() >= {"frechet", "kid", "coverage", "frechet_at_infinity"}
    assert f"Frechet distance by {net}, step 12, N 40, seeds 0..39, resize its own: {line['values']['frechet']:.2f}" in said
    assert line["of_count"] == 40


def test_counts_that_a_network_cannot_score_are_one_line(run, net):
    assert "need 12 images" in refusal(evaluate, "--run", run, "--count", 11, "--features", net)
    assert "98 images at least" in refusal(evaluate, "--run", run, "--count", 40, "--features", net, "--infinity")
    few = net.replace("features", "three_each")
    assert "20 images at least" in refusal(evaluate, "--run", run, "--count", 15, "--features", few, "--infinity")


def test_the_inception_is_taken_from_pytorchs_cache_first(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    there = tmp_path / "hub" / "checkpoints" / download.INCEPTION.name
    there.parent.mkdir(parents=True)
    there.write_bytes(b"PK")
    assert f"{there}: is no .npz" in refusal(evaluate, "--run", run, "--count", 20, "--inception", "download")


@pytest.mark.parametrize(
    "place, says",
    [
        ("nowhere.py:f", "No such file"),
        ("net.py:nothing", "has no function nothing"),
        ("net.py:three", "it must give"),
        ("net.py:1", "FILE.py:FUNCTION"),
    ],
)
def test_a_network_that_is_none_is_one_line(run, net, tmp_path, monkeypatch, place, says):
    monkeypatch.chdir(tmp_path)
    assert says in refusal(evaluate, "--run", run, "--count", 20, "--features", place)


def test_a_runs_faces_score_the_same_from_a_file_a_folder_and_a_zip(run, net, tmp_path):
    _, own = scored(run, "--count", 60, "--features", net)
    data = ["--data", DATA, "--count", 60, "--features", net]
    for out in ("faces.npy", "faces/"):
        assert call(sample, "--run", run, "--count", 60, "--out", tmp_path / out).code == 0
    shutil.make_archive(tmp_path / "faces", "zip", tmp_path / "faces")
    for out in ("faces.npy", "faces/", "faces.zip"):
        done = call(evaluate, "--run", tmp_path / out, *data, "--out", tmp_path / f"{out.strip('/')}.jsonl")
        assert (done.code, done.faults) == (0, []), done
        lines = [json.loads(line) for line in (tmp_path / f"{out.strip('/')}.jsonl").read_text().splitlines()]
        assert [line["values"] for line in lines] == [line["values"] for line in own]
        assert [line["pictures"] for line in lines] == [[0, 59]] * 2


def test_two_sides_differ_or_it_is_called_noise(run, net, tmp_path):
    assert call(sample, "--run", run, "--seed", 500, "--count", 60, "--out", tmp_path / "others.npy").code == 0
    question = ["--count", 20, "--repeats", 3, "--features", net, "--data", DATA]
    said, _ = scored(run, "--against", tmp_path / "others.npy", *question)
    assert said.count("noise") == 2
    assert "more than" not in said
    np.save(tmp_path / "black.npy", np.zeros((60, 16, 16, 3), np.uint8))
    said, _ = scored(run, "--against", tmp_path / "black.npy", *question)
    assert f"features: {run} - {tmp_path / 'black.npy'}: -" in said
    assert said.count("more than the noise") == 2
    assert "(95 % of 3 sets)" in said


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--against", "big.npy", "--data", DATA), "do not compare"),
        (("--repeats", 0), "--repeats 0"),
        (("--infinity",), "--infinity"),
        (("--against", "{run}/"), "is --run itself"),
        (("--crop", "torch"), "--crop torch"),
        (("--neighbours", "--data", DATA), "--neighbours"),
    ],
)
def test_sides_that_do_not_compare_are_one_line(run, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    np.save("big.npy", np.zeros((60, 32, 32, 3), np.uint8))
    arguments = [str(argument).format(run=run) for argument in arguments]
    assert says in refusal(evaluate, "--run", run, "--count", 20, *arguments)


def test_runs_of_other_crops_do_not_compare(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"crop": "torch"}))
    assert "do not compare" in refusal(evaluate, "--run", run, "--against", other, "--count", 20)


def test_pictures_are_squares_of_one_size_and_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("few.npy", np.zeros((10, 16, 16, 3), np.uint8))
    assert "give --data" in refusal(evaluate, "--run", "few.npy", "--count", 10)
    assert "has 10 pictures" in refusal(evaluate, "--run", "few.npy", "--count", 20, "--data", DATA)
    assert "is no run" in refusal(evaluate, "--run", "few.npy", "--count", 10, "--data", DATA, "--neighbours")
    (tmp_path / "mixed").mkdir()
    for side, name in ((16, "a"), (20, "b")):
        Image.new("RGB", (side, side)).save(tmp_path / "mixed" / f"{name}.png")
    assert "b.png: is 20 x 20, not 16 x 16" in refusal(evaluate, "--run", "mixed", "--count", 2, "--data", DATA)
    (tmp_path / "mixed" / "b.png").write_bytes(b"no picture")
    assert "b.png: is no image" in refusal(evaluate, "--run", "mixed", "--count", 2, "--data", DATA)


def test_neighbours_are_a_picture_and_numbers(run, net):
    said, lines = scored(run, "--count", 40, "--features", net, "--neighbours")
    values = lines[-1]["values"]
    assert lines[-1]["score"] == "memorisation" and values.keys() == {"pixels", net}
    assert values["pixels"]["training_count"] == 81 and values["pixels"]["held_out_count"] == 4
    assert all(found["to_training_over_to_held_out"] > 0.5 for found in values.values())
    with Image.open(run / "neighbours.png") as picture:
        assert picture.width > 3.8 * picture.height  # twelve faces, under each its two neighbours
    assert "neighbours.png" in said


def test_d_as_a_representation_is_a_table(run):
    said, lines = scored(run, "--count", 20, "--probe")
    values = lines[-1]["values"]
    assert (lines[-1]["score"], lines[-1]["fitted"], lines[-1]["tested"]) == ("probe", 56, 29)
    assert values["mean"].keys() == {"D", "untrained D", "pixels", "most frequent"}
    assert all(0 <= share <= 1 for one in values["accuracy"].values() for share in one.values())
    assert "balanced mean" in said and all(name in said for name in values["accuracy"]["D"])


def test_what_none_of_the_tested_pictures_have_is_null(tmp_path):
    """Not NaN, which is no JSON."""
    assert train_toy(tmp_path, "--condition", "Smiling,Goatee", "--no-tensorboard", steps=4).code == 0
    run = tmp_path / "article"
    asked = ("--run", run, "--asked", "--data", "drawn:20")
    assert call(evaluate, *asked, "--count", 20).code == 0
    line = json.loads((run / "scores.jsonl").read_text().splitlines()[-1], parse_constant=pytest.fail)
    assert line["values"]["real pictures"]["Goatee"] is None
    assert line["values"]["real pictures"]["Smiling"] >= 0
    assert "--data: 10 drawn faces: too few" in refusal(evaluate, *asked[:-1], "drawn:10", "--count", 10)
