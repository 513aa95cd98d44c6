"""The start of a command, before JAX is imported: streams, working directory, umask, and variables that libraries refuse.

This module imports only the standard library.
"""

import importlib
import os
import re
import sys
import time

from dcgan_jax import terminal

BEGAN_S = time.monotonic()  # about when the command began: the package imports this module first
# Beginnings of names of environment variables -> the library that reads them when it is imported, and may refuse them.
READERS = {
    "NPY_": "numpy",
    "JAX_": "jax",
    "FLAX_": "flax",
    "TQDM_": "tqdm",
    "PROTOCOL_BUFFERS_": "google.protobuf.descriptor",
    "MPL": "matplotlib",
}


def is_command() -> bool:
    """Whether this process is one of the commands: `python -m dcgan_jax...`, or a console script such as dcgan-train."""
    # While `-m` looks for its module, and imports the package for this, argv[0] is "-m".
    by_module = sys.argv[:1] == ["-m"] and any(word.split(".")[0] == "dcgan_jax" for word in sys.orig_argv)
    return by_module or os.path.basename(sys.argv[0] if sys.argv else "").startswith("dcgan-")


def prepare_command() -> None:
    """Makes the process fit for a command. Where it cannot, prints one line and exits with 2.

    The package calls it when a command imports it. This is the only place before the command's module, whose imports start JAX.
    """
    terminal.open_missing_streams()
    fault = find_missing_folder() or find_blocking_umask() or find_refused_variables()
    if fault:
        terminal.say(f"error: {fault}", "stderr")
        sys.exit(2)


def find_missing_folder() -> str:
    """Describes a working directory that was deleted or cannot be entered; "" if it is there."""
    try:
        os.getcwd()
    except OSError as fault:
        return f"the working directory cannot be used ({fault.strerror}): change to a folder that exists, such as cd /"
    return ""


def find_blocking_umask() -> str:
    """Describes a umask that denies this user the files that it creates; "" if there is none. Root may open them anyway."""
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    if mask & 0o700 and getattr(os, "geteuid", lambda: 0)() != 0:
        return f"the umask {mask:03o} denies you the files that you create: run umask 022 first"
    return ""


def find_refused_variables() -> str:
    """Describes an environment variable that a library refuses when it is imported; "" if there is none."""
    for beginning, library in READERS.items():
        names = sorted(name for name in os.environ if name.startswith(beginning))
        if not names:
            continue
        try:
            importlib.import_module(library)
        except ImportError as fault:
            if isinstance(fault, ModuleNotFoundError):
                continue  # the command needs it or not, and says so
            return _describe_refusal(library, names, fault)
        except Exception as fault:  # noqa: BLE001 - libraries raise what they like
            return _describe_refusal(library, names, fault)
    return ""


def _describe_refusal(library: str, names: list[str], fault: Exception) -> str:
    named = [name for name in names if re.search(rf"\b{re.escape(name)}\b", str(fault))]  # most libraries say which one it is
    shown = ", ".join(f"{name}={os.environ[name][:50]}" for name in named or names)
    why = " ".join(str(fault).split())[:200] or type(fault).__name__
    text = f"{library.partition('.')[0]} refuses an environment variable ({why}): correct or unset {shown}"
    return text if text.isprintable() else ascii(text)[1:-1]
