"""Runs a few hundred inputs of experiments/fuzz.py, the same ones each time."""

import pytest

from experiments import fuzz, fuzz_environment


@pytest.mark.integration
def test_damaged_inputs_succeed_or_are_one_line(tmp_path):
    rows = fuzz.run(count=12 * len(fuzz.READERS), seed=2, names=list(fuzz.READERS), keep=tmp_path)
    assert sum(row.inputs for row in rows) >= 300
    for row in rows:
        assert row.is_good, (row, [file.read_text() for file in tmp_path.glob("*.txt")])
        assert row.accepted + row.refused == row.inputs


def test_cases_of_environments_cover_every_oddity():
    cases = [fuzz_environment.draw_case(0, number) for number in range(500)]
    assert cases == [fuzz_environment.draw_case(0, number) for number in range(500)]
    oddities = [oddity for group in fuzz_environment.VARIABLES.values() for oddity in group]
    assert all(any(oddity.items() <= case.variables.items() for case in cases) for oddity in oddities)
    assert {case.streams for case in cases} >= set(fuzz_environment.STREAMS)
    assert {case.command for case in cases} == set(fuzz_environment.list_commands())
