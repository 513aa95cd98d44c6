"""Evaluations of the toy run, and feature networks in users' files."""

import json

from toy_run import run_command

from dcgan_jax import evaluate


def evaluate_run(run, *arguments):
    done = run_command(evaluate, "--run", run, *arguments)
    assert (done.code, done.faults) == (0, []), done
    return done.out, [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


NETWORK_CODE = """
import numpy as np
def features(images):  # (B, S, S, 3) uint8 -> the means of 4 x 4 blocks
    b, s, _, c = images.shape
    return images.reshape(b, 4, s // 4, 4, s // 4, c).mean((2, 4)).reshape(b, -1)
def coarse(images):  # of each half of each side
    b, s, _, c = images.shape
    return images.reshape(b, 2, s // 2, 2, s // 2, c).mean((2, 4)).reshape(b, -1)
def three_each(images):
    return images.mean((1, 2))
def three(images):
    return images[:3]
"""
