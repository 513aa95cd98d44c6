"""onnxruntime gives the same images as the checkpoint, for every kind of generator and any batch."""

import numpy as np
import pytest
from exports import SEEDS, assert_near
from generators import VARIANTS, get_generator_case
from toy_run import get_reference_run

import dcgan_jax

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install dcgan-jax[export]")


from dcgan_jax.export import STORES  # noqa: E402
from dcgan_jax.export.onnx import build_onnx_model  # noqa: E402 - it needs onnx


def run_model(model, latents, labels):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"latents": latents} | ({} if labels is None else {"labels": labels}))[0]


def build_model(it, stored_as="float32"):
    return build_onnx_model(it.flat, it.weights, 0 if it.labels is None else it.labels.shape[1], stored_as, {"preset": "a"})


@pytest.mark.parametrize("way", VARIANTS)
def test_images_equal_the_networks(way):
    it = get_generator_case(way)
    images = run_model(build_model(it), it.latents, it.labels)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, it.images, atol=1e-4)
    assert np.abs(np.rint(255 * images) - np.rint(255 * it.images)).max() <= 1


@pytest.mark.parametrize("stored_as", STORES["onnx"])
def test_smaller_weights_give_nearly_the_same_images(stored_as):
    it = get_generator_case("torch64")
    model = build_model(it, stored_as)
    error = np.abs(run_model(model, it.latents, it.labels) - it.images).max()
    least, most = {"float32": (0, 1e-4), "float16": (1e-7, 5e-3), "bfloat16": (1e-5, 5e-2), "int8": (1e-5, 1e-1)}[stored_as]
    assert least <= error < most
    kernels = sum(array.size for name, array in it.weights.items() if name.endswith("kernel"))
    bytes_each = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[stored_as]
    assert sum(len(array.raw_data) for array in model.graph.initializer) < bytes_each * kernels + 4000


def test_image_does_not_depend_on_the_batch():
    it = get_generator_case("article")
    model = build_model(it)
    for count in (1, 2, 5):
        np.testing.assert_allclose(run_model(model, it.latents[:count], None), it.images[:count], atol=1e-4)


def test_model_names_its_preset_and_versions():
    model = build_model(get_generator_case("article"))
    assert {entry.key: entry.value for entry in model.metadata_props} == {"preset": "a"}
    [opset] = model.opset_import
    assert (opset.domain, opset.version, model.ir_version) == ("", 17, 8)


@pytest.mark.integration
def test_onnx_in_onnxruntime_equals_the_checkpoint(exported):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    folder = exported("onnx")
    session = onnxruntime.InferenceSession(folder / "generator.onnx", providers=["CPUExecutionProvider"])
    latents = dcgan_jax.load(get_reference_run().run).latents(SEEDS)
    assert_near(session.run(None, {"latents": latents})[0])
