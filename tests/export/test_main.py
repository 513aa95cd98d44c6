"""The command `export`: errors are one line and leave no files."""

import pytest
import toy_run
from toy_run import copy_run, get_reference_run, get_refusal

from dcgan_jax.export import __main__

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--format", "onnx", "--out", "{there}"), ["--out", "already exists"]),
        (("--format", "torch", "--out", "{new}"), ["--base-px 8", "train a run with --preset torch64", "give --format onnx or"]),
        (("--format", "stablehlo", "--out", "{new}", "--weights", "int8"), ["--weights int8", "stablehlo supports float32"]),
        (("--format", "web", "--out", "{new}", "--weights", "bfloat16"), ["--weights bfloat16", "float32 or float16 or int8"]),
        (("--format", "onyx", "--out", "{new}"), ["onyx"]),
        (("--format", "onnx", "--out", "/proc/nowhere/a"), ["--out /proc/nowhere/a"]),
        (("--format", "onnx", "--out", "{new}", "--step", "5"), ["--step 5"]),
    ],
)
def test_bad_flags_are_one_line_and_write_nothing(tmp_path, flags, says):
    (tmp_path / "there").mkdir()
    run = copy_run(get_reference_run().run, tmp_path)
    before = toy_run.hash_tree(tmp_path)
    line = get_refusal(__main__, "--run", run, *(flag.format(there=tmp_path / "there", new=tmp_path / "new") for flag in flags))
    for word in says:
        assert word in line, line
    assert toy_run.hash_tree(tmp_path) == before
