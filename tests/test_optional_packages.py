"""What is optional is not needed: everything but TFDS works without TensorFlow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy_run
from toy_run import get_reference_run, read_metric_lines

import dcgan_jax

# A process of its own: here other tests may have imported TensorFlow.
WITHOUT_TENSORFLOW = """
import json, sys
from pathlib import Path

sys.modules |= dict.fromkeys(("tensorflow", "tensorflow_datasets"))  # importing them fails

from toy_run import run_command, train_toy
from dcgan_jax import evaluate, prepare, sample, train

folder = Path(sys.argv[1])
print(json.dumps([
    train_toy(folder, "--feed", "stream"),
    run_command(sample, "--run", folder / "article", "--count", "4", "--out", folder / "samples.png"),
    run_command(evaluate, "--run", folder / "article", "--count", "40"),
    train_toy(folder / "tfds", "--data", "tfds:celeb_a"),
    run_command(prepare, "--download", "celeba"),
]))
"""


@pytest.mark.integration
def test_commands_work_without_tensorflow(tmp_path):
    paths = [str(Path(toy_run.__file__).parent), str(Path(dcgan_jax.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    trained, sampled, evaluated, tfds, download = (toy_run.Result(*result) for result in json.loads(done.stdout))
    assert (trained.code, sampled.code, evaluated.code) == (0, 0, 0), (trained, sampled, evaluated)
    assert read_metric_lines(tmp_path / "article") == read_metric_lines(get_reference_run().run)  # of resident images
    for refused in (tfds, download):
        assert refused.code == 2 and len(refused.faults) == 1, refused
        assert "pip install tensorflow" in refused.err and "tensorflow-datasets" in refused.err
