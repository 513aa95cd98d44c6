"""Pins settings of JAX and Flax that change numbers, so that variables of the shell cannot do so; finds the devices."""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import threading
import types
from collections.abc import Generator, Iterable
from typing import TypeVar

import jax
from flax import config as flax_config
from jax.extend.backend import clear_backends

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.run.xla_flags import disable_wrong_reductions, get_users_flags

# Settings that change results, or raise errors in a correct program. Each has an environment variable of the same name, such as
# JAX_ENABLE_X64, and a notebook may have set it for its own work. The values are the defaults of JAX and Flax.
PINNED: dict[str, object] = {
    # data types
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_default_matmul_precision": None,
    "jax_allow_f16_reductions": True,
    # random numbers
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_enable_custom_prng": False,
    "jax_legacy_prng_key": "allow",
    # compilation
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
    "jax_memory_fitting_effort": 0.0,
    "jax_use_simplified_jaxpr_constants": False,
    "jax_no_tracing": False,
    "jax_no_execution": False,
    "eager_constant_folding": False,
    # errors for what this program checks itself, see --debug
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    "jax_transfer_guard": None,
    "jax_transfer_guard_host_to_device": None,
    "jax_transfer_guard_device_to_host": None,
    "jax_transfer_guard_device_to_device": None,
    "jax_array_garbage_collection_guard": None,
    "jax_thread_guard": False,
    # devices: this program places its arrays itself
    "jax_default_device": None,
    # Flax: how a module's random keys and names are derived
    "flax_fix_rng_separator": False,
    "flax_preserve_adopted_names": False,
    "flax_return_frozendict": False,
}
Class = TypeVar("Class")
# At import, and here alone: commands and the Python API import this module, and XLA reads the variable when it compiles its first
# program, which may be the user's own.
disable_wrong_reductions()
CHECK_S = 60  # a child process that only reads XLA_FLAGS ends within a second


class _Pins:
    """Counts the nested and overlapping uses of `pin_numerics`. The last one to end restores the user's settings."""

    lock = threading.Lock()
    count = 0
    before: dict[str, object] = {}


@contextlib.contextmanager
def pin_numerics() -> Generator[None]:
    """Inside the with block JAX has the settings in PINNED, in the whole process. It can also decorate a function."""
    with _Pins.lock:
        _Pins.before = _set_all(PINNED) | _Pins.before
        _Pins.count += 1
    try:
        yield
    finally:
        with _Pins.lock:
            _Pins.count -= 1
            if not _Pins.count:
                _set_all(_Pins.before)
                _Pins.before = {}


def pin_methods(cls: type[Class]) -> type[Class]:
    """Decorates a class: pins JAX's settings while one of its methods or properties runs."""
    for name, member in list(vars(cls).items()):
        if isinstance(member, types.FunctionType):
            setattr(cls, name, pin_numerics()(member))
        elif isinstance(member, functools.cached_property):
            member.func = pin_numerics()(member.func)
    return cls


@contextlib.contextmanager
def keep_settings(theirs: dict[str, object]) -> Generator[None]:
    """Inside the with block other people's code has its own settings, and ours are as before at its end.

    theirs: the settings in PINNED that this code changed before. Those that it changes now are added.
    """
    before = _read_all(PINNED)
    _set_all(theirs)
    try:
        yield
    finally:
        theirs.update({name: value for name, value in _read_all(PINNED).items() if not _is_equal(value, before[name])})
        _set_all(before)


def _read_all(names: Iterable[str]) -> dict[str, object]:
    """Reads settings. A version of JAX or Flax may lack some names."""
    values = jax.config.values | {name: getattr(flax_config, name) for name in names if hasattr(flax_config, name)}
    return {name: values[name] for name in names if name in values}


def _set_all(settings: dict[str, object]) -> dict[str, object]:
    """Changes settings. Returns the previous values of those that were different."""
    values = _read_all(settings)
    differing = {name: value for name, value in settings.items() if name in values and not _is_equal(values[name], value)}
    before = {name: values[name] for name in differing}
    for name, value in differing.items():
        (flax_config if name.startswith("flax_") else jax.config).update(name, value)
    return before


def _is_equal(current: object, value: object) -> bool:
    # JAX stores some texts as members of an enumeration, whose value or name is the text.
    return value in (current, getattr(current, "value", current), getattr(current, "name", current))


@functools.cache  # succeeds once for each process
def find_devices() -> None:
    """Starts JAX's devices. Raises: UserError with the environment variable to change if there are none.

    Call it before other functions of JAX, whose errors would hide the cause; with several processes, after they are joined.
    """
    flags = get_users_flags()
    if flags:
        _check_new_flags(flags)
    try:
        jax.devices()
    except Exception as fault:  # noqa: BLE001 - depends on the plugin: RuntimeError, AssertionError, ValueError
        raise UserError(_explain_no_devices(fault)) from None


def _check_new_flags(flags: str) -> None:
    """Checks flags of XLA the first time that this jaxlib gets them: a check takes seconds. Raises: as `_check_xla_flags`."""
    facts = f"{importlib.metadata.version('jaxlib')} {flags}"
    accepted = get_cache_dir() / "accepted_xla_flags" / hashlib.sha256(facts.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    if not os.path.exists(accepted):
        _check_xla_flags(flags)
        with contextlib.suppress(OSError):  # in a cache that cannot be written, flags are checked each time
            accepted.parent.mkdir(parents=True, exist_ok=True)
            accepted.touch()


def _check_xla_flags(flags: str) -> None:
    """Raises UserError for flags that XLA does not know. It ends the process then, so a child process tries them."""
    code = "import os; os.environ['JAX_PLATFORMS'] = 'cpu'; import jax; jax.devices()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECK_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):  # no process can be started here: then XLA decides
        return
    lines = [line for line in done.stderr.splitlines() if "XLA_FLAGS" in line or "flag" in line.lower()]
    if done.returncode and lines:
        why = lines[0].partition("] ")[2] or lines[0]
        variable = f"XLA_FLAGS={make_printable(flags, 200)}"
        raise UserError(f"XLA refuses the environment variable {variable} ({make_printable(why, 200)}): correct or unset it")


def _explain_no_devices(fault: Exception) -> str:
    wanted = str(jax.config.values["jax_platforms"] or jax.config.values.get("jax_platform_name") or "")
    found = _list_platforms()
    text = str(fault).partition("(set JAX_PLATFORMS")[0].partition("(you may need")[0]  # JAX's own remedies
    why = make_printable(text, 300) or "no such device was found"
    if wanted and found:
        return (
            f"the environment variable JAX_PLATFORMS={make_printable(wanted, 100)} asks for devices that JAX cannot start here "
            f"({why}). Available: {', '.join(found)}. Set JAX_PLATFORMS={found[0]}, or unset it"
        )
    read = ("JAX_", "XLA_", "CUDA_VISIBLE", "TPU_", "PJRT_")
    theirs = {**os.environ, "XLA_FLAGS": get_users_flags()}
    names = [name for name in theirs if name.startswith(read) and name != "TPU_SKIP_MDS_QUERY"]  # JAX sets that one itself
    shown = ", ".join(f"{name}={make_printable(theirs[name], 60)}" for name in sorted(names) if theirs[name])
    remedy = f"check these environment variables: {shown}" if shown else "set JAX_PLATFORMS=cpu to train on the CPU"
    return f"JAX can start no device ({why}); {remedy}"


def _list_platforms() -> list[str]:
    """Lists the platforms whose devices JAX can start here, the best one first. Leaves JAX without devices, as before."""
    wanted = jax.config.values["jax_platforms"]
    try:
        jax.config.update("jax_platforms", None)
        clear_backends()
        return sorted(
            {device.platform for device in jax.devices()} | {jax.devices("cpu")[0].platform}, key=lambda name: name == "cpu"
        )
    except Exception:  # noqa: BLE001 - as in find_devices
        return []
    finally:
        jax.config.update("jax_platforms", wanted)
        clear_backends()
