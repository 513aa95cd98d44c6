"""Compares exports with the images of the checkpoint."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
from tiny import compile_apply
from toy_run import get_reference_run

import dcgan_jax
from dcgan_jax.gan.models import Generator

SEEDS = range(20)


def generate_floats(run, seeds=SEEDS, **changes):
    """Generates images with the checkpoint's network, from 0 to 1, not rounded."""
    gan = dcgan_jax.load(run)
    params, stats = gan.generator
    apply = compile_apply(Generator(dataclasses.replace(gan.config.nets, **changes)), False)
    images = apply(params, stats, gan.latents(seeds), gan.labels(seeds))
    return (np.asarray(images) + 1) / 2


def assert_near(images, run=None, seeds=SEEDS):
    """Compares images, from 0 to 1, with those of the checkpoint."""
    run = run or get_reference_run().run
    np.testing.assert_allclose(images, generate_floats(run, seeds), rtol=0, atol=1e-4)
    gap = np.abs(np.rint(255 * images) - dcgan_jax.load(run).sample(seeds))
    assert gap.max() <= 1 and gap.mean() < 1e-2


def run_fresh_process(code, folder):
    """Runs code in a new process that has only the folder, without our package. Returns: its variable `images`."""
    (folder / "without").mkdir(exist_ok=True)
    (folder / "without" / "dcgan_jax.py").write_text("raise ImportError('an export must not need it')")
    np.save(folder / "latents.npy", dcgan_jax.load(get_reference_run().run).latents(SEEDS))
    code = f"{code}\nimport numpy\nnumpy.save('images.npy', images)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "without")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder / "images.npy")
