"""Switches off a fusion of XLA that computes wrong sums. Imports no JAX: it must run before JAX starts."""

import importlib.metadata
import os

OPTION = "xla_cpu_experimental_ynn_fusion_type"
SWITCH = f"--{OPTION}=-reduce"
WRONG_VERSIONS = ("0.10.2", "0.11.")  # of jaxlib; 0.10.1 and 0.12.0 compute both programs of tests/test_reductions.py correctly


def disable_wrong_reductions() -> None:
    """Sets XLA_FLAGS so that XLA's own loops compute sums on a CPU. Does nothing if jaxlib is right or the user set the option.

    In jaxlib 0.10.2 and 0.11, sums that XLA gives to YNNPACK can be wrong without any message, if a matrix product
    (github.com/jax-ml/jax/issues/39103) or a broadcast (github.com/tensorflow/tensorflow/issues/126812) is fused with the sum.
    Has no effect after JAX has compiled its first program, because XLA reads the variable once.
    """
    flags = read_flags()
    if importlib.metadata.version("jaxlib").startswith(WRONG_VERSIONS) and OPTION not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {SWITCH}".strip()


def read_flags() -> str:
    """Returns XLA_FLAGS, or the flags in a file: XLA takes a variable that begins with no dash as the path of one."""
    flags = os.environ.get("XLA_FLAGS", "")
    if not flags.strip() or flags.lstrip().startswith("-"):
        return flags
    try:
        with open(flags, encoding="utf-8") as file:
            return " ".join(file.read().split())
    except (OSError, UnicodeDecodeError):
        return flags  # XLA refuses it


def get_users_flags() -> str:
    """Returns XLA_FLAGS without what `disable_wrong_reductions` adds."""
    return os.environ.get("XLA_FLAGS", "").replace(SWITCH, "").strip()
