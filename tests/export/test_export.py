"""Behaviour that all export formats share."""

import importlib
import importlib.util
from unittest import mock

import numpy as np
import pytest
from generators import get_conditional_run
from toy_run import get_reference_run, get_refusal, run_command

import dcgan_jax
from dcgan_jax.export import __main__

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "form, flags",
    [("onnx", ("--weights", "int8")), ("onnx", ("--weights", "float16")), ("safetensors", ("--weights", "float16"))],
)
def test_smaller_weights_shrink_the_file_and_are_named(exported, form, flags):
    small, large = exported(form, *flags), exported(form)
    [name] = [file.name for file in large.glob(f"generator.{form}")]
    assert (small / name).stat().st_size < (large / name).stat().st_size
    assert flags[1] in (small / "README.md").read_text()


def test_label_table_is_exported_of_conditional_runs(exported):
    folder, gan = exported("stablehlo", run=get_conditional_run()), dcgan_jax.load(get_conditional_run())
    table = np.load(folder / "labels.npy")
    np.testing.assert_array_equal(table[np.arange(2000) % len(table)], gan.labels(range(2000)))
    assert "Smiling, Eyeglasses (labels" in (folder / "README.md").read_text()
    assert not (exported("stablehlo") / "labels.npy").exists()


@pytest.mark.parametrize("off, flags", [(2e-4, ()), (np.nan, ("--weights", "float16"))])
def test_inexact_export_is_refused(tmp_path, off, flags):
    module = importlib.import_module("dcgan_jax.export.safetensors")
    write = module.write

    def write_wrong(*arguments):
        written = write(*arguments)
        return written._replace(generate=lambda *inputs: written.generate(*inputs) + np.float32(off))

    with mock.patch.object(module, "write", write_wrong):
        done = run_command(__main__, "--run", get_reference_run().run, "--format", "safetensors", "--out", tmp_path / "a", *flags)
    assert (done.code, len(done.faults)) == (1, 1) and "nothing was written" in done.err, done
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_folder_that_the_locale_cannot_name_is_refused_first(tmp_path, form):
    line = get_refusal(__main__, "--run", tmp_path / "none", "--format", form, "--out", tmp_path / "m\udcfcller")
    assert "its name is not UTF-8: rename it" in line


@pytest.mark.parametrize("form", ["onnx", "web"])
def test_missing_onnx_package_names_the_format(tmp_path, form):
    real = importlib.util.find_spec
    with mock.patch("importlib.util.find_spec", lambda name, *rest: None if name == "onnx" else real(name, *rest)):
        line = get_refusal(__main__, "--run", get_reference_run().run, "--format", form, "--out", tmp_path / "a")
    assert f"--format {form}: needs the package onnx: pip install onnx" in line
    assert list(tmp_path.iterdir()) == []
