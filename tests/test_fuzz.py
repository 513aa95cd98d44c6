"""Runs a few hundred inputs of experiments/fuzz.py, the same ones each time."""

import pytest

from experiments import fuzz


@pytest.mark.integration
def test_damaged_inputs_succeed_or_are_one_line(tmp_path):
    rows = fuzz.run(count=15 * len(fuzz.READERS), seed=2, names=list(fuzz.READERS), keep=tmp_path)
    assert sum(row.inputs for row in rows) >= 300
    for row in rows:
        assert row.is_good, (row, [file.read_text() for file in tmp_path.glob("*.txt")])
        assert row.accepted + row.refused == row.inputs
