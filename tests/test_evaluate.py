import json
import re

import numpy as np
import pytest
from evaluations import NETWORK_CODE, evaluate_run
from toy_run import DATA, copy_run, get_reference_run, get_refusal, hash_tree, run_command

from dcgan_jax import evaluate
from dcgan_jax.data import download
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.gan.sampling import sample_images
from dcgan_jax.gan.state import describe_state
from dcgan_jax.quality.sliced_wasserstein import sliced_wasserstein
from dcgan_jax.run import checkpoints, workdir

pytestmark = pytest.mark.integration


@pytest.fixture
def run(tmp_path):
    return copy_run(get_reference_run().run, tmp_path)


def test_score_line_names_its_inputs(run):
    output, (line,) = evaluate_run(run, "--count", 40, "--seed", 3)
    assert line["score"] == "sliced_wasserstein_x1e3"
    assert (line["step"], line["count"], line["seeds"], line["size"]) == (12, 40, [3, 42], 16)
    assert line["real"] == "85 drawn faces"
    assert line["real_fingerprint"] == json.loads((run / "data.json").read_text())["fingerprint"]
    assert line["values"].keys() == {"16", "mean"}
    assert line["values"]["mean"] > line["floor"] > 0  # after twelve steps, samples are not faces yet
    assert line["floor_count"] == 20
    for part in ("step 12", "N 40", "seeds 3..42", f"floor {line['floor']:.2f} at N 20"):
        assert part in output
    assert float(re.search(r"mean (\d+\.\d\d)", output)[1]) == pytest.approx(line["values"]["mean"], abs=0.006)


def test_repeated_score_is_equal_and_appended(run):
    _, first = evaluate_run(run, "--count", 30)
    _, both = evaluate_run(run, "--count", 30)
    assert both == [*first, *first]
    _, three = evaluate_run(run, "--count", 30, "--step", 4)
    assert three[2]["step"] == 4
    assert three[2]["values"] != three[0]["values"]


def test_score_is_the_distance_of_images_to_samples(run):
    """The count is the number of all images, so that no random choice is made."""
    _, (line,) = evaluate_run(run, "--count", 85)
    config = workdir.read_config(run)
    _, params, stats, _ = checkpoints.restore_generator(run, describe_state(config))
    real = pack_images(open_source(DATA), size=16, channels=3, crop="centre").images
    want = sliced_wasserstein(np.asarray(real), sample_images(config.nets, params, stats, np.arange(85)), seed=0)
    assert line["values"] == {name: round(value, 3) for name, value in want.items()}


def test_score_line_goes_to_out(run, tmp_path):
    done = run_command(evaluate, "--run", run, "--count", 20, "--out", tmp_path / "mine.jsonl")
    assert done.code == 0
    assert json.loads((tmp_path / "mine.jsonl").read_text())["count"] == 20
    assert not (run / "scores.jsonl").exists()


@pytest.mark.parametrize(
    "arguments, says",
    [
        ((), ["--count 5000", "85 images", "--count 85"]),  # the default of 5000 is not reduced silently
        (("--count", 86), ["--count 86", "85 images"]),
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
def test_bad_flags_are_one_line_and_write_nothing(run, arguments, says):
    before = hash_tree(run)
    line = get_refusal(evaluate, "--run", run, *arguments)
    assert all(part in line for part in says), line
    assert hash_tree(run) == before


# ---- Feature networks and several image sets ----


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK_CODE)
    return f"{tmp_path / 'net.py'}:features"


def test_inception_comes_from_pytorchs_cache_first(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    there = tmp_path / "hub" / "checkpoints" / download.INCEPTION.name
    there.parent.mkdir(parents=True)
    there.write_bytes(b"PK")
    assert f"{there}: the weights in it cannot be read" in get_refusal(
        evaluate, "--run", run, "--count", 20, "--inception", "download"
    )


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--against", "big.npy", "--data", DATA), "do not compare"),
        (("--repeats", 0), "--repeats 0"),
        (("--infinity",), "--infinity"),
        (("--against", "{run}/"), "is the same as --run"),
        (("--crop", "torch"), "--crop torch"),
        (("--neighbours", "--data", DATA), "--neighbours"),
    ],
)
def test_incomparable_sets_are_one_line(run, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    np.save("big.npy", np.zeros((60, 32, 32, 3), np.uint8))
    arguments = [str(argument).format(run=run) for argument in arguments]
    assert says in get_refusal(evaluate, "--run", run, "--count", 20, *arguments)
