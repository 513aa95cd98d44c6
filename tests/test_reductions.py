"""Sums over many values, at the sizes of real runs, compared with float64. All programs are compiled as users compile them."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from tiny import NEW_EMITTERS

from dcgan_jax.config import Config, replace
from dcgan_jax.gan import models, penalties, progressive, sampling
from dcgan_jax.quality import scores
from dcgan_jax.quality.sliced_wasserstein import measure_projected_distance
from dcgan_jax.run import xla_flags

NETS = Config().nets
AS_USERS = {"xla_backend_optimization_level": 3, **NEW_EMITTERS}  # conftest.py turns both off

# In jaxlib 0.10.2 the last rows of the first function are wrong, in many of the runs the sum of the second one, and the third one
# ends the process.
REPRODUCERS = """
import jax, jax.numpy as jnp, numpy as np
rows = np.arange(40_001, dtype=np.float32)[:, None] * np.float32([1, 0, 0])
sums = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
np.testing.assert_allclose(sums, rows.astype(np.float64)[:, 0] ** 2, rtol=1e-6)
count = jax.jit(lambda ones: jnp.broadcast_to(ones, (2, 1024, 1024)).sum())
assert {float(count(jnp.ones((1024, 1)))) for _ in range(50)} == {2.0 ** 21}
ones = jnp.ones((3, 1, 2, 2, 8, 8, 8))
assert float(jax.jit(lambda x: jnp.sum(x * x, axis=3))(ones).sum()) == ones.size
"""
AS_COMMAND = "from pathlib import Path; from dcgan_jax.run import backend; backend.start_backend(Path('/nonexistent'))"
AS_LIBRARY = "import dcgan_jax; dcgan_jax.load"
AS_MODULE = "from dcgan_jax.api import load"
AS_TRAINING = """
from pathlib import Path
from dcgan_jax.run import backend
with backend.configure_backend(Path('/nonexistent')): pass
"""


def draw(seed, *shape, mean=0.0):
    rng = np.random.Generator(np.random.Philox(seed))
    return rng.standard_normal(shape, np.float32) + np.float32(mean)


def compile_as_users(function):
    return jax.jit(function, compiler_options=AS_USERS)


@pytest.mark.integration
@pytest.mark.parametrize(
    "start", [AS_COMMAND, AS_LIBRARY, AS_MODULE, AS_TRAINING], ids=["command", "library", "module", "training"]
)
def test_reproducers_of_wrong_xla_sums_are_right(start):
    """github.com/jax-ml/jax/issues/39103, github.com/tensorflow/tensorflow/issues/126812, github.com/jax-ml/jax/issues/40412."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", start + REPRODUCERS], env=environment, check=True, timeout=120)


@pytest.mark.parametrize(
    "version,flags,expected",
    [
        ("0.10.1", None, None),
        ("0.10.2", None, f"--{xla_flags.OPTION}=-reduce"),
        ("0.11.0", "--xla_dump_to=/x", f"--xla_dump_to=/x --{xla_flags.OPTION}=-reduce"),
        ("0.10.2", f"--{xla_flags.OPTION}=", f"--{xla_flags.OPTION}="),
        ("0.12.0.1", "--xla_dump_to=/x", "--xla_dump_to=/x"),
    ],
)
def test_flag_is_set_for_wrong_versions_only(monkeypatch, version, flags, expected):
    """The flags of the user stay, and the user's own choice counts."""
    monkeypatch.setattr(xla_flags.importlib.metadata, "version", lambda name: version)
    monkeypatch.setenv("XLA_FLAGS", flags or "")
    if flags is None:
        monkeypatch.delenv("XLA_FLAGS")
    xla_flags.disable_wrong_reductions()
    assert os.environ.get("XLA_FLAGS") == expected


def test_flags_in_a_file_stay(monkeypatch, tmp_path):
    monkeypatch.setattr(xla_flags.importlib.metadata, "version", lambda name: "0.10.2")
    for text, theirs in (("--xla_a=1\n--xla_b=2\n", "--xla_a=1 --xla_b=2 "), (None, f"{tmp_path / 'flags'} ")):
        (tmp_path / "flags").unlink(missing_ok=True)
        if text:
            (tmp_path / "flags").write_text(text)
        monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
        xla_flags.disable_wrong_reductions()
        assert os.environ["XLA_FLAGS"] == f"{theirs}{xla_flags.SWITCH}"


@pytest.mark.parametrize("shape", [(128, 32, 32, 32), (127, 16, 16, 33), (1, 32, 32, 64), (129, 1, 1, 512)])
def test_batch_norm_and_its_gradients_equal_float64(shape):
    x, upstream = draw(0, *shape, mean=0.7), draw(1, *shape)
    scale, bias = 1 + 0.1 * draw(2, shape[-1]), draw(3, shape[-1])

    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return models.normalize_batch(NETS, True, 0.9, x, "norm")

    def run(x, scale, bias, upstream):
        def apply(x, scale, bias):
            variables = {"params": {"norm": {"scale": scale, "bias": bias}}, "batch_stats": {"norm": start}}
            y, new = Norm().apply(variables, x, mutable="batch_stats")
            return (y * upstream).sum(), (y, new["batch_stats"]["norm"])

        return jax.grad(apply, (0, 1, 2), has_aux=True)(x, scale, bias)

    start = {"mean": jnp.zeros(shape[-1]), "var": jnp.ones(shape[-1])}
    gradients, (y, stats) = compile_as_users(run)(x, scale, bias, upstream)
    x, upstream, scale, bias = (np.asarray(array, np.float64) for array in (x, upstream, scale, bias))
    axes, count = (0, 1, 2), x.size / x.shape[-1]
    mean, var = x.mean(axes), x.var(axes)
    normal = (x - mean) / np.sqrt(var + NETS.bn_epsilon)
    d_bias, d_scale = upstream.sum(axes), (upstream * normal).sum(axes)
    d_x = scale / np.sqrt(var + NETS.bn_epsilon) * (upstream - d_bias / count - normal * d_scale / count)
    assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5, atol=1e-6)
    assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-5)
    assert_allclose(y, normal * scale + bias, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(gradients, (d_x, d_scale, d_bias), strict=True):
        assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("shape", [(128, 4, 4, 256), (127, 4, 4, 512), (2, 8, 8, 33)])
def test_minibatch_std_and_its_gradient_equal_float64(shape):
    x = draw(4, *shape, mean=0.5)

    class Append(nn.Module):
        @nn.compact
        def __call__(self, x):
            return models.append_minibatch_std(self, x, True)

    def run(x):
        y, new = Append().apply({}, x, mutable="batch_stats")
        return y[0, 0, 0, -1], (y, new["batch_stats"]["minibatch_std"])

    (value, (y, running)), gradient = compile_as_users(jax.value_and_grad(run, has_aux=True))(x)
    exact = x.astype(np.float64)
    std = np.sqrt(exact.var(0) + 1e-8)
    assert_allclose(value, std.mean(), rtol=1e-5)
    assert_allclose(y[..., -1], std.mean(), rtol=1e-5)
    assert_allclose(running, 0.1 * std.mean(), rtol=1e-5)
    d_x = (exact - exact.mean(0)) / std / shape[0] / std.size
    assert_allclose(gradient, d_x, rtol=1e-3, atol=1e-4 * np.abs(d_x).max())


def test_recalibrated_statistics_equal_float64():
    """Eight batches of 128 latents become the statistics of all 1,024, at the first layer of a generator of usual width."""
    config = replace(Config(), size=16, width=32)
    generator = models.Generator(config.nets, bn_momentum=0.0)
    params = jax.tree.map(
        lambda leaf: draw(5, *leaf.shape), jax.eval_shape(lambda: generator.init(jax.random.key(0), jnp.zeros((1, 100)), True))
    )
    latents = draw(6, 1024, 100, mean=0.2)
    kernel = params["params"]["head"]["kernel"]

    def run(params, latents):
        return generator.apply(params, latents, True, None, mutable="batch_stats")[1]["batch_stats"]["head_norm"]

    batches = [compile_as_users(run)(params, part) for part in np.split(latents, 8)]
    unused = [jax.tree.map(np.zeros_like, batches[0])] * (sampling.RECALIBRATION_BATCHES - 8)
    rows = jax.tree.map(lambda *batches: np.stack(batches), *batches, *unused)
    merged = compile_as_users(sampling._merge_batches)(rows, 8)
    head = (latents.astype(np.float64) @ np.asarray(kernel, np.float64).reshape(100, -1)).reshape(-1, len(merged["mean"]))
    assert_allclose(merged["mean"], head.mean(0), rtol=1e-4, atol=1e-4)
    assert_allclose(merged["var"], head.var(0), rtol=1e-4)


@pytest.mark.parametrize("shape", [(128, 32, 32, 3), (127, 64, 64, 3), (1, 16, 16, 1)])
def test_penalties_and_image_moments_equal_float64(shape):
    """The squared gradient of each image (R1, R2), and the moments from which a grown layer begins."""
    images, weights = draw(7, *shape, mean=0.4), draw(8, *shape)
    norms = compile_as_users(lambda x, w: penalties.squared_gradient_norm(lambda images: (w * images**2).sum((1, 2, 3)) / 2, x))(
        images, weights
    )
    exact = images.astype(np.float64) * weights
    assert_allclose(norms, np.square(exact).sum((1, 2, 3)), rtol=1e-5)
    outputs = np.tanh(images)
    mean, sd = compile_as_users(lambda x: progressive._measure_before_output(NETS, x))(outputs)
    before = np.arctanh(np.clip(outputs.astype(np.float64), -1 + 1e-6, 1 - 1e-6))
    assert_allclose(mean, before.mean((0, 1, 2)), rtol=1e-4, atol=1e-4)
    assert_allclose(sd, np.sqrt(before.var((0, 1, 2)) + NETS.bn_epsilon), rtol=1e-3)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 129, 191])
def test_odd_last_batch_equals_float64(count):
    """A partial last batch is padded; its rows are summed like all others, and no row of the padding is returned."""
    images = draw(9, count, 32, 32, 3, mean=1.0)
    sums = sampling.run_in_batches(compile_as_users(lambda x: x.sum((1, 2, 3))), images)
    assert_allclose(sums, images.astype(np.float64).sum((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("count,others", [(2000, 2000), (2001, 1537)])
def test_scores_of_float32_features_equal_float64(count, others):
    """Features with a large common offset, as those of Inception have, at counts that no block size divides."""
    real, fake = draw(10, count, 48, mean=30.0), 1.1 * draw(11, others, 48, mean=30.0)
    moments = [scores.compute_moments(features) for features in (real, fake)]
    for (_, mean, covariance), features in zip(moments, (real, fake), strict=True):
        exact = features.astype(np.float64)
        assert_allclose(mean, exact.mean(0), rtol=1e-12)
        assert_allclose(covariance, np.cov(exact.T), rtol=1e-8, atol=1e-10)
    roots = np.sqrt(np.linalg.eigvals(moments[0].covariance @ moments[1].covariance).real)
    expected = np.square(moments[0].mean - moments[1].mean).sum() + sum(np.trace(m.covariance) for m in moments)
    assert_allclose(scores.frechet(*moments), expected - 2 * roots.sum(), rtol=1e-9)
    by_float32 = scores.kid(real, fake, subsets=3, subset_size=999)
    by_float64 = scores.kid(real.astype(np.float64), fake.astype(np.float64), subsets=3, subset_size=999)
    assert by_float32 == by_float64
    assert scores.score_manifolds(real, fake) == scores.score_manifolds(real.astype(np.float64), fake.astype(np.float64))


def test_projected_distance_equals_float64():
    """The last directions and vectors fill no whole block."""
    real, fake = draw(12, 32_769, 12), draw(13, 32_769, 12, mean=0.1)
    axes = draw(14, 37, 12)
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    ours, theirs = (np.sort(axes.astype(np.float64) @ vectors.T.astype(np.float64)) for vectors in (real, fake))
    assert_allclose(measure_projected_distance(real, fake, axes), np.abs(ours - theirs).mean(), rtol=1e-5)
