"""Checks experiments/gpu.py without a GPU: a dry run of the whole script, and the variants of the convolution."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from conv_roles import equal_to_the_largest, normal_arrays
from tiny import make_tiny_config

from experiments import gpu
from experiments.accelerators import convolutions, count_with_stride, exported, operations
from experiments.conv_variants import VARIANTS, lax_forward, use_variant

ROOT = Path(__file__).parents[1]
BAD_FLAG = "--xla_no_such_flag=1"
SETTINGS = ("default", "folded pixels")


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """Runs the script with an interpreter without PyTorch and with a flag that XLA does not know. Returns its folder."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, ROOT / "experiments" / "gpu.py", "--dry-run", "--out", out, f"--flags={BAD_FLAG}"]
    done = subprocess.run(
        [*command, "--settings", *SETTINGS, "--torch-python", sys.executable],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.integration
def test_dry_run_times_settings_with_equal_losses(dry_run):
    rows = {row["name"]: row for row in json.loads((dry_run / "gpu.json").read_text("utf-8"))["rows"]}
    for name in SETTINGS:
        assert len(rows[name]["seconds"]) == 2 and rows[name]["median_s"] > 0
        assert rows[name]["difference"] <= gpu.TOLERANCE
        assert rows[name]["prepared"]["hlo"]["loops"] >= 1
    assert rows["default"]["difference"] == 0


@pytest.mark.integration
@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="this interpreter has PyTorch")
def test_dry_run_without_torch_has_rows_with_reasons(dry_run):
    rows = {row["name"]: row for row in json.loads((dry_run / "gpu.json").read_text("utf-8"))["rows"]}
    assert all("No module named 'torch'" in rows[name]["failed"] for name in gpu.TORCH)


@pytest.mark.integration
def test_dry_run_goes_past_an_unknown_flag(dry_run):
    rows = json.loads((dry_run / "gpu.json").read_text("utf-8"))["rows"]
    assert f"Unknown flag in XLA_FLAGS: {BAD_FLAG}" in next(row for row in rows if BAD_FLAG in row["name"])["failed"]
    assert rows[-1]["name"] == gpu.COMBINATION


@pytest.mark.integration
def test_dry_run_writes_one_table_line_per_row(dry_run):
    text = (dry_run / "gpu.md").read_text("utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(json.loads((dry_run / "gpu.json").read_text("utf-8"))["rows"])
    assert len({line.count("|") for line in table}) == 1


@pytest.mark.integration
def test_spent_budget_leaves_rows_not_reached(tmp_path):
    command = [sys.executable, ROOT / "experiments" / "gpu.py", "--dry-run", "--out", tmp_path, "--budget-s", "0"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    rows = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["rows"]
    assert {row["name"] for row in rows} == {*gpu.TORCH, *gpu.SETTINGS, gpu.COMBINATION}
    assert all("not reached" in row["failed"] for row in rows if row["name"] != gpu.COMBINATION)


@pytest.mark.parametrize("k, padding", [(4, "symmetric"), (5, "symmetric"), (5, "same")])
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "lax"])
def test_variants_equal_lax_in_values_and_gradients(variant, k, padding):
    x, kernel, y = normal_arrays(k, 2, 4, 3, 3, 5)

    def roles(forward):
        @jax.jit
        def run(x, kernel, y):
            value, pullback = jax.vjp(lambda x, kernel: forward(x, kernel, padding), x, kernel)
            return {"forward": value, **dict(zip(("input gradient", "weight gradient"), pullback(y), strict=True))}

        return run(x, kernel, y)

    equal_to_the_largest(roles(VARIANTS[variant]), roles(lax_forward), 1e-5)


def test_flags_are_known_to_this_jaxlib():
    spec = importlib.util.find_spec("jaxlib")
    library = b"".join(file.read_bytes() for file in Path(spec.submodule_search_locations[0]).glob("libjax_common.*"))
    flags = {flag for setting in gpu.SETTINGS.values() for flag in setting.flags}
    missing = [flag for flag in flags if re.match(r"--(\w+)", flag)[1].encode() not in library]
    assert not (library and missing)


def test_combination_takes_the_fastest_of_each_kind():
    def row(median_s, difference=0.0):
        return {"median_s": median_s, "difference": difference}

    rows = {name: row(1.0) for name in gpu.SETTINGS} | {"default, float32": row(0.1)}
    assert gpu.choose_settings(rows, gpu.SETTINGS) == []
    rows |= {"4 channels": row(0.9), "8 channels": row(0.8), "folded pixels": row(0.5, difference=1.0)}
    rows |= {"CUDA graphs": row(0.7), "unrolled steps": {"failed": "out of memory"}}
    names = gpu.choose_settings(rows, gpu.SETTINGS)
    assert sorted(names) == ["8 channels", "CUDA graphs"]
    combined = gpu.combine([gpu.SETTINGS[name] for name in names])
    assert combined.flags == (gpu.GRAPHS,) and combined.convolution == "padded8" and not combined.is_unrolled


class FakeContestant:
    """Answers like a process: instantly, with a step time that depends on its setting."""

    def __init__(self, command, log, environment):
        text = f"{command} {environment['XLA_FLAGS'] if environment else ''}"
        self.step_s = 1.0 - 0.2 * ("folded" in text) - 0.3 * ("--unrolled" in text) - 0.1 * ("CONVOLUTION" in text)
        self.is_broken = "conv_fusion" in text

    def ask(self, question, timeout_s):
        if question is None:
            return "ready"
        if isinstance(question, int):
            return self.step_s * question
        if "prepare" in question:
            return {"losses": {"d_loss": [1.0]}, "device": "fake", "hlo": {"operations": 200.0}}
        if self.is_broken:
            raise gpu.Failed("out of memory")
        return self.step_s * question["steps"] if "steps" in question else {"kernels": 200.0, "graph_launches": 1.0}

    def close(self):
        pass


def test_best_combination_is_timed_beside_torch(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "Contestant", FakeContestant)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), "--batch-sizes", "128", "--budget-s", "100000"])
    gpu.main()
    rows = {row["name"]: row for row in json.loads((tmp_path / "gpu.json").read_text("utf-8"))["rows"]}
    assert rows[gpu.COMBINATION]["median_s"] == pytest.approx(0.4)
    assert rows[gpu.COMBINATION]["relative"][gpu.SHIPPED] == pytest.approx(2.5)
    assert rows[gpu.COMBINATION]["remark"] == "CUDA graphs + folded pixels + unrolled steps"
    assert rows["convolution fusion"]["failed"] == "out of memory"
    assert "| 200.0 | 1.0 | 200.0 |" in (tmp_path / "gpu.md").read_text("utf-8")


def test_a_short_budget_leaves_settings_not_reached(monkeypatch, tmp_path):
    """Steps of a second are too slow for 3 rounds of 200 steps of everything in 6,000 s. What was started is timed."""
    monkeypatch.setattr(gpu, "Contestant", FakeContestant)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), "--batch-sizes", "128", "--budget-s", "6000"])
    gpu.main()
    rows = {row["name"]: row for row in json.loads((tmp_path / "gpu.json").read_text("utf-8"))["rows"]}
    assert len(rows["default"]["seconds"]) == 3
    assert rows["default, float32"]["failed"] == "not reached: budget spent"


def test_folded_pixels_leave_no_stride_or_dilation():
    config = make_tiny_config("torch64")
    counts = {}
    for name in ("lax", "folded"):
        with use_variant(name):
            module = exported(config, "cuda", 2).mlir_module()
        counts[name] = convolutions(module).total(), count_with_stride(module)
    assert counts["lax"][0] == counts["lax"][1] == counts["folded"][0] > 0
    assert counts["folded"][1] == 0


def test_unrolled_steps_leave_no_loop():
    with use_variant("lax", is_unrolled=True):
        assert operations(exported(make_tiny_config("torch64"), "cuda", 2).mlir_module())["while"] == 0
