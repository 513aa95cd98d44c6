"""Reads arrays from weight files: .npz, .safetensors, and PyTorch's .pth or .pt. Pickles are parsed, never executed."""

import io
import math
import pickletools
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from dcgan_jax.config import UserError, make_printable

# PyTorch storage class -> dtype.
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
MAX_ARRAY_BYTES = 2**32  # all arrays together
LEGACY = bytes.fromhex("8a0a6cfc9c46f920")  # pickled magic number of files from before PyTorch 1.6


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a weight file: name -> array. Raises: UserError if it cannot be read or contains anything but arrays."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        if start[2:].startswith(LEGACY):
            return _read_legacy(path.read_bytes() if path.stat().st_size <= MAX_ARRAY_BYTES else b"")
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_ARRAY_BYTES:
                raise ValueError("it is too large")
            [pickles] = [[name for name in archive.namelist() if name.endswith("data.pkl")]]
            if pickles:
                folder = pickles[0].removesuffix("data.pkl")
                tensors = _find_tensors(_read_pickle(archive.read(pickles[0])))
                return {name: tensor.to_array(archive.read(f"{folder}data/{tensor.key}")) for name, tensor in tensors.items()}
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except OSError as fault:
        raise UserError(f"{path}: {fault.strerror or fault}") from None
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        safetensors.SafetensorError,
    ) as fault:  # a file from elsewhere can be broken in many ways
        raise UserError(f"{path}: is not a .npz, .safetensors or .pth of arrays ({make_printable(str(fault), 200)})") from None


class _Tensor(NamedTuple):
    """A tensor of the pickle: a view into a storage, which is a separate file or part."""

    dtype: np.dtype
    key: str
    offset: int  # in elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def to_array(self, storage: bytes) -> np.ndarray:
        if self.offset < 0 or min((*self.shape, *self.stride), default=0) < 0 or math.prod(self.shape) > len(storage):
            raise ValueError("an array is larger than its stored data")  # with strides of 0, a small file could fill all memory
        stride = [step * self.dtype.itemsize for step in self.stride]
        # Raises if shape and strides exceed the buffer.
        return np.ndarray(self.shape, self.dtype, storage, self.offset * self.dtype.itemsize, stride).copy()


class _Name(NamedTuple):
    """A class or function that the pickle would import."""

    module: str
    name: str


class _Reference(NamedTuple):
    """A reference to a storage outside of the pickle."""

    fields: tuple


_MARK = object()


def _read_pickle(data: bytes | io.BytesIO) -> Any:
    """Evaluates one pickle. Allows only dicts, lists, tuples, numbers, strings and _Tensor. Raises: ValueError for others."""
    stack, memo = [], {}
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINFLOAT"):
            stack.append(argument)
        elif name in ("NONE", "NEWTRUE", "NEWFALSE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append(
                {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[name]
            )
        elif name == "GLOBAL" and isinstance(argument, str):
            stack.append(_Name(*argument.split(" ")))
        elif name == "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "BINPERSID":
            stack.append(_Reference(stack.pop()))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_make_object(called, arguments))
        elif name in ("SETITEM", "SETITEMS"):
            items = _pop_to_mark(stack) if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = _pop_to_mark(stack) if name == "APPENDS" else [stack.pop()]
            stack[-1].extend(items)
        elif name == "BUILD":
            stack.pop()  # attributes of an OrderedDict: PyTorch's version number of each module
        else:
            raise ValueError(f"it contains {name}")
    raise ValueError("it ends too soon")


def _pop_to_mark(stack: list) -> list:
    """Removes the topmost mark and all entries above it. Returns: these entries."""
    mark = len(stack) - 1 - stack[::-1].index(_MARK)
    items = stack[mark + 1 :]
    del stack[mark:]
    return items


def _make_object(called: object, arguments: tuple) -> object:
    """Evaluates a call in the pickle. Allows only calls that build dicts and tensors. Raises: ValueError."""
    if called == _Name("collections", "OrderedDict"):
        return dict(*arguments)
    if called == _Name("torch._utils", "_rebuild_tensor_v2"):
        reference, offset, shape, stride = arguments[:4]
        kind, storage, key = reference.fields[:3]
        if kind != "storage" or storage.module != "torch" or storage.name not in STORAGES:
            raise ValueError(f"it contains a {storage}")
        return _Tensor(np.dtype(STORAGES[storage.name]), str(key), offset, shape, stride)
    if called == _Name("torch._utils", "_rebuild_parameter"):
        return arguments[0]
    raise ValueError(f"it would call {called}")


def _find_tensors(value: object) -> dict[str, _Tensor]:
    if not isinstance(value, dict):
        raise ValueError(f"it contains a {type(value).__name__}")
    if isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    tensors = {name: tensor for name, tensor in value.items() if isinstance(name, str) and isinstance(tensor, _Tensor)}
    if not tensors:
        raise ValueError("it contains no arrays")
    return tensors


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """Reads the format before PyTorch 1.6: magic number, protocol, system, value, keys of the storages, then each storage."""
    file = io.BytesIO(data)
    for _ in range(3):
        _read_pickle(file)
    tensors, keys, storages = _find_tensors(_read_pickle(file)), _read_pickle(file), {}
    sizes = {tensor.key: tensor.dtype.itemsize for tensor in tensors.values()}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        if count > MAX_ARRAY_BYTES or str(key) not in sizes:
            raise ValueError(f"its storage {key} is invalid")
        storages[str(key)] = file.read(count * sizes[str(key)])
    return {name: tensor.to_array(storages[tensor.key]) for name, tensor in tensors.items()}
