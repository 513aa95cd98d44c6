"""DCGANs that generate faces, in functional JAX.

The Python API consists of the functions `load`, `train`, `evaluate`, `export`, `report` and `prepare`. Each takes plain arguments
and returns a typed result. Each is imported when it is first used. Commands are modules: python -m dcgan_jax lists them.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from dcgan_jax import startup

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dcgan_jax.api import load
    from dcgan_jax.evaluate import evaluate
    from dcgan_jax.export import export
    from dcgan_jax.prepare import prepare
    from dcgan_jax.report import report
    from dcgan_jax.train import train

__all__ = ["evaluate", "export", "load", "prepare", "report", "train"]

# Function -> the module that defines it. These modules import JAX, and a command must set JAX up before that (run/backend.py).
_MODULES = {"load": "api", **{name: name for name in ("evaluate", "export", "prepare", "report", "train")}}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """A package whose name `train` stays the function, also after `import dcgan_jax.train`. Python would bind it to the module.

    The module can still be imported: with `from dcgan_jax.train import ...` or `importlib.import_module`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

if startup.is_command():
    startup.prepare_command()
