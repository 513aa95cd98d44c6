import os

import jax
import pytest

from dcgan_jax import machine


def test_cores_are_those_of_the_process(monkeypatch):
    """`taskset` limits the process to some of the machine's cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert machine.count_cores() == 2


@pytest.mark.parametrize(("cpu_count", "cores"), [(8, 8), (None, 1)])
def test_cores_are_counted_without_affinity(monkeypatch, cpu_count, cores):
    """As on macOS. Python may not know the number of cores either."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cpu_count)
    assert machine.count_cores() == cores


@pytest.mark.parametrize(
    ("fault", "exhausted"),
    [
        (MemoryError(), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."), True),
        (jax.errors.JaxRuntimeError("INTERNAL: something else"), False),
        (RuntimeError("RESOURCE_EXHAUSTED: not JAX's"), False),
    ],
)
def test_out_of_memory_is_recognised(fault, exhausted):
    assert machine.is_out_of_memory(fault) is exhausted
