"""Strict JAX for all tests: two CPU devices, no silent broadcasting, no PRNG key spent twice. Warnings: pyproject.toml."""

import os
import signal

# A suite that was started in a shell's background would inherit that Ctrl-C is ignored, and hand it on.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before jax starts. Most of the tests' time is XLA compiling programs that run once on toy nets; without LLVM's optimiser that
# takes half as long. Laws hold at any level; goldens and parity are compared with tolerances that cover both.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")  # (B,) against (B, 1) logits would silently make (B, B)
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(autouse=True)
def no_strictness_left():
    """--debug, in this process, makes JAX stricter for good; a test that traces with values from outside is no leak."""
    yield
    jax.config.update("jax_check_tracer_leaks", False)
