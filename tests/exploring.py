"""Runs explorations by command and cuts samples out of their sheets."""

import json

import numpy as np
import pytest
import toy_run
from PIL import Image
from toy_run import get_reference_run, get_refusal, run_command

from dcgan_jax import explore

SIDE = 96  # of a 16 px face after enlarging


def explore_run(tmp_path, command, *arguments, suffix=".png", run=None):
    """Runs an exploration. Returns: (sheet, numbers, output)."""
    out = tmp_path / f"a{suffix}"
    done = run_explore(command, "--run", run or get_reference_run().run, "--out", out, *arguments)
    assert (done.code, done.faults) == (0, []), done
    numbers = json.loads(out.with_suffix(".json").read_text(), parse_constant=pytest.fail)  # NaN is not valid JSON
    assert (numbers["command"], numbers["step"], numbers["preset"]) == (command, 4 if run else toy_run.STEPS, "article")
    if suffix != ".png":
        return out, numbers, done.out
    with Image.open(out) as picture:
        return picture.copy(), numbers, done.out


def run_explore(*arguments):
    return run_command(explore, *arguments)


def get_cells(picture, row, count, rows):
    """Cuts the faces of one row out of a captioned sheet, at their original size. Counts from the lower right corner."""
    array, gap = np.asarray(picture), 2 * 2
    bottom = array.shape[0] - 2 - (rows - 1 - row) * (SIDE + gap) - gap
    right = array.shape[1] - 2
    width = count * (SIDE + gap)
    faces = [array[bottom - SIDE : bottom, right - width + i * (SIDE + gap) :][:, :SIDE] for i in range(count)]
    return np.stack(faces)[:, ::6, ::6]


def assert_near(one, other):
    assert np.abs(one.astype(int) - np.asarray(other).astype(int)).max() <= 1


def get_explore_refusal(*arguments):
    return get_refusal(explore, *arguments)
