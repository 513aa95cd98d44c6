"""jax.export gives the same images as the checkpoint, for every kind of generator and any batch."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from exports import assert_near, run_fresh_process
from generators import VARIANTS, get_generator_case

from dcgan_jax.export.stablehlo import PLATFORMS, export_stablehlo


def load_program(it, **changes):
    return jax.export.deserialize(
        bytearray(export_stablehlo(dataclasses.replace(it.config.nets, **changes), it.params, it.stats))
    )


def run_program(program, it, count=5):
    return program.call(*(array[:count] for array in (it.latents, it.labels) if array is not None))


@pytest.mark.parametrize("way", VARIANTS)
def test_images_equal_the_networks(way):
    it = get_generator_case(way)
    images = run_program(load_program(it), it)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, it.images, atol=1e-5)


@pytest.mark.parametrize("way", ["article", "torch64, conditional"])
def test_image_does_not_depend_on_the_batch(way):
    it = get_generator_case(way)
    program = load_program(it)
    for count in (1, 2, 5):
        np.testing.assert_allclose(run_program(program, it, count), it.images[:count], atol=1e-5)


def test_bfloat16_preset_computes_in_float32():
    it = get_generator_case("torch64")
    np.testing.assert_allclose(run_program(load_program(it, compute_dtype="bfloat16"), it), it.images, atol=1e-5)


@pytest.mark.parametrize("way, convolutions", [("article", 2), ("article, refined", 6), ("torch64, last kernel", 3)])
def test_program_has_plain_convolutions_at_highest(way, convolutions):
    """Each platform has one matrix product for the head and one convolution per layer. The CPU kernels would be many products."""
    program = load_program(get_generator_case(way))
    assert program.platforms == PLATFORMS
    lines = [line for line in program.mlir_module().splitlines() if re.search(r"stablehlo\.(convolution|dot_general)", line)]
    assert sum("stablehlo.convolution" in line for line in lines) == len(PLATFORMS) * convolutions
    assert len(lines) == len(PLATFORMS) * (convolutions + 1)
    for line in lines:
        assert re.search(r"precision(_config)? = \[(#stablehlo<precision )?HIGHEST", line), line


@pytest.mark.integration
def test_stablehlo_runs_without_the_package(exported):
    assert_near(
        run_fresh_process(
            """
import jax, jax.export, numpy as np
program = jax.export.deserialize(bytearray(open("generator.stablehlo", "rb").read()))
assert program.platforms == ("cpu", "cuda", "tpu")
images = np.asarray(jax.jit(program.call)(np.load("latents.npy")))""",
            exported("stablehlo"),
        )
    )
