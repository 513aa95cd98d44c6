"""The difference between an export and its checkpoint."""

import json

import numpy as np
import pytest
from exports import generate_floats
from toy_run import copy_run, get_reference_run, run_command

from dcgan_jax.export import __main__
from dcgan_jax.export.comparison import Deviation, describe_comparison

pytestmark = pytest.mark.integration


def test_bfloat16_run_is_exported_in_float32(tmp_path):
    """The output and the card say that the run computes in bfloat16."""
    run = copy_run(get_reference_run().run, tmp_path)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"compute_dtype": "bfloat16"}))
    assert (
        np.abs(generate_floats(run) - generate_floats(run, compute_dtype="float32")).max() > 1e-4
    )  # the comparison uses the second one
    done = run_command(__main__, "--run", run, "--format", "safetensors", "--out", tmp_path / "a")
    assert done.code == 0, done
    for words in (done.out, (tmp_path / "a" / "README.md").read_text()):
        assert "64 seeds, computed in float32," in words and "computes this run in bfloat16" in words


def test_describe_comparison_says_numbers_and_dtype():
    found = Deviation(1.26e-5, 1, 0.00071)
    for number in ("1.3e-05", "64 seeds", "1 of 255 grey levels", "0.0007 on average"):
        assert number in describe_comparison(found, "float32")
    assert "bfloat16" not in describe_comparison(found, "float32")
    assert describe_comparison(found, "bfloat16").endswith("computes this run in bfloat16")
    assert "onnxruntime" in describe_comparison(None, "float32")
