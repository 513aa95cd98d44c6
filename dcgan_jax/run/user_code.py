"""Functions in users' Python files: imported as modules from their folder, with errors that are reported as their own."""

import atexit
import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
import types
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.run.numerics import keep_settings

# The file's package, so that `from .helper import f` works, no other module has its name, and processes that it starts find it.
PACKAGE = "dcgan_jax.run.user_files"
FOLDER = "DCGAN_JAX_USER_FOLDER"  # as in that module, which must not be imported here


def names_function(place: str) -> bool:
    """Whether a place is FILE.py:FUNCTION, or FILE.py without the function."""
    return ".py:" in place or place.endswith(".py")


class UserFunction:
    """A function in a user's file, called with an array. Modules beside the file can be imported, at any time."""

    def __init__(self, place: str, argument: str):
        """place: FILE.py:FUNCTION. argument: names the flag in messages.

        Raises: UserError that says what is wrong with the file, or which error it raised and in which of its lines.
        """
        file, _, name = place.rpartition(":")
        if not (file.endswith(".py") and name.isidentifier()):
            names = f", such as {place}:features" if place.endswith(".py") else ""
            raise UserError(
                f"`{argument}` {place}: expected FILE.py:FUNCTION{names}, a function from uint8 (B, S, S, 3) to (B, D) floats"
            )
        self.about, self.file, self.modules = f"`{argument}` {place}", Path(file).absolute(), {}
        self.settings: dict[str, object] = {}  # of JAX, which the code changed for itself
        try:
            self.file.read_bytes()
        except OSError as fault:
            raise UserError(f"{self.about}: {file}: {fault.strerror}; give the path of a Python file") from None
        # At exit, Python clears known modules in order. Of others, it ends objects in any order: a pool then prints a traceback.
        atexit.register(sys.modules.update, self.modules)
        with self._importing():
            module = self._import()
        self.function = self._find(module, name)
        self.sha256 = self._hash_files()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Calls the function and converts its result to an array. Raises: UserError with the error that it raised."""
        with self._importing():
            return np.asarray(self.function(images))

    def _import(self) -> types.ModuleType:
        package = sys.modules[PACKAGE] = types.ModuleType(PACKAGE)
        package.__path__ = [str(self.file.parent)]
        name = f"{PACKAGE}.{self.file.stem.replace('.', '_')}"
        importlib.invalidate_caches()  # a file beside may be new
        spec = importlib.util.spec_from_file_location(name, self.file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{self.file.name} is no Python file")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look for their module there
        spec.loader.exec_module(module)
        return module

    def _find(self, module: types.ModuleType, name: str) -> Callable:
        function = getattr(module, name, None)
        if callable(function) and not isinstance(function, type):
            return function
        own = [each for each, value in vars(module).items() if _is_public_function(each, value, module.__name__)]
        near = difflib.get_close_matches(name, own, n=1, cutoff=0.3) or own[:3]
        raise UserError(
            f"{self.about}: {self.file} has no function {name}; "
            + (f"it has {' and '.join(near)}" if near else "define one there with def")
        )

    @contextlib.contextmanager
    def _importing(self) -> Generator[None]:
        """Lets the code import what is beside its file, and turns its errors into a UserError.

        Afterwards those modules are hidden, so that another file may have others of the same names. Settings of JAX and NumPy and
        the working directory are as before.
        """
        folder, before, here = str(self.file.parent), set(sys.modules), os.getcwd()
        sys.path.insert(0, folder)
        os.environ[FOLDER] = folder  # it stays: a pool may start a process between two calls
        sys.modules.update(self.modules)
        try:
            with keep_settings(self.settings), np.errstate():
                yield
        except KeyboardInterrupt:
            raise
        except BaseException as fault:  # noqa: BLE001 - the code may define any
            raise self._explain(fault) from None
        finally:
            os.chdir(here)
            with contextlib.suppress(ValueError):  # the code may change the path
                sys.path.remove(folder)
            tops = {name.partition(".")[0] for name in before}
            self.modules |= {name: module for name, module in sys.modules.items() if self._is_beside(name, module, tops)}
            for name in self.modules:
                sys.modules.pop(name, None)

    def _is_beside(self, name: str, module: types.ModuleType, tops: set[str]) -> bool:
        """Whether the module came from the file's folder. tops: modules that were there before, which stay."""
        top, folder = name.partition(".")[0], self.file.parent
        if f"{name}.".startswith(f"{PACKAGE}."):
            return True
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
        is_there = (folder / top).is_dir() or (folder / f"{top}.py").is_file()  # not in an environment below the folder
        return top not in tops and is_there and Path(place).is_relative_to(folder)

    def _explain(self, fault: BaseException) -> UserError:
        """Makes one line of an error of the user's code: where in its files, which error, its message."""
        frames = [frame for frame in traceback.extract_tb(fault.__traceback__) if self._is_own(frame.filename)]
        where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: " if frames else ""
        if isinstance(fault, SyntaxError) and fault.filename and self._is_own(fault.filename):
            where, fault = f"{Path(fault.filename).name}, line {fault.lineno}: ", type(fault)(fault.msg)
        kind = "" if isinstance(fault, UserError) else f"{type(fault).__name__}: "
        return UserError(f"{self.about}: {where}{kind}{make_printable(str(fault), 500) or 'no message'}")

    def _is_own(self, filename: str) -> bool:
        # Not installed packages, which may be in an environment below the folder.
        return Path(filename).is_relative_to(self.file.parent) and "site-packages" not in filename

    def _hash_files(self) -> str:
        """Hashes the file; together with the modules beside it that it imported, if there are some."""
        files = {Path(place) for module in self.modules.values() if (place := getattr(module, "__file__", None))} - {self.file}
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (self.file, *sorted(files)) if file.is_file()]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _is_public_function(name: str, value: object, module: str) -> bool:
    is_own = callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) == module
    return is_own and not name.startswith("_")
