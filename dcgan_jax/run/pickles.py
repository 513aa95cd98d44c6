"""Reads pickles of PyTorch and NumPy as data: nothing is imported or called.

Arrays, dicts, lists, numbers and strings get their values. Every other object becomes an `Instance`, which only records the name
of its class, its arguments and its attributes. So a file can be read that also holds an optimiser, options or a whole model.
"""

import io
import math
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

# PyTorch storage class -> dtype.
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
MAX_ARRAY_BYTES = 2**32  # all arrays together
NO_DATA = b""
Key = str | int | float | bool | bytes | None


class Name(NamedTuple):
    """A class or function that the pickle would import."""

    module: str
    name: str

    def __str__(self):
        return f"{self.module}.{self.name}"


class Instance:
    """An object that is not made: the class or function that would make it, its arguments, its attributes and its entries."""

    def __init__(self, made_by: Name, arguments: tuple):
        self.made_by, self.arguments = made_by, arguments
        self.attributes: object = {}
        self.entries: dict[Key, object] = {}


class Storage:
    """The numbers of one or more tensors. They lie in another part of the file, or follow later in it."""

    def __init__(self, dtype: np.dtype, key: str):
        self.dtype, self.key, self.data = dtype, key, NO_DATA


class Tensor(NamedTuple):
    """A tensor of the pickle: a view into a storage."""

    storage: Storage
    offset: int  # in elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def to_array(self) -> np.ndarray:
        """Copies the tensor. Raises: ValueError or TypeError if shape and strides exceed the storage."""
        dtype, data = self.storage.dtype, self.storage.data
        if self.offset < 0 or min((*self.shape, *self.stride), default=0) < 0 or math.prod(self.shape) > len(data):
            raise ValueError("an array is larger than its stored data")  # with strides of 0, a small file could fill all memory
        stride = [step * dtype.itemsize for step in self.stride]
        return np.ndarray(self.shape, dtype, data, self.offset * dtype.itemsize, stride).copy()


class Reader:
    """Evaluates pickles. `storages` collects the storages to which they refer, by key."""

    def __init__(self):
        self.storages: dict[str, Storage] = {}
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def read(self, data: bytes | io.BytesIO) -> Any:
        """Reads one pickle. Raises: ValueError, or another error of Python's own types, for an invalid one."""
        self.stack, self.marks, self.memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in VALUES:
                self.stack.append(argument)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in CONTAINERS:
                self.stack.append(CONTAINERS[name]())
            elif name in ACTIONS:
                ACTIONS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise ValueError(f"its pickle contains {name}")
        raise ValueError("its pickle ends too soon")

    def pop_to_mark(self) -> list:
        """Removes the topmost mark and all entries above it. Returns: these entries."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def pop(self) -> None:
        (self.marks if self.marks and self.marks[-1] == len(self.stack) else self.stack).pop()

    def put(self, argument: int | None) -> None:
        self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]

    def pop_name(self) -> None:
        module, name = self.stack[-2:]
        self.stack[-2:] = [_make_name(module, name)]

    def pack_tuple(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def set_items(self, items: list) -> None:
        whole = self.stack[-1]
        entries = whole.entries if isinstance(whole, Instance) else whole
        if not isinstance(entries, dict):
            raise ValueError("its pickle sets an entry of something else than a dict")
        # Other keys, such as tuples, name no array.
        entries.update((key, value) for key, value in zip(items[::2], items[1::2], strict=True) if isinstance(key, Key))

    def append_items(self, items: list) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def call(self, arguments: object) -> None:
        """Replaces the class or function on top of the stack by what `make_object` makes of it."""
        called = self.stack.pop()
        self.stack.append(self.make_object(called, arguments))

    def make_object(self, called: object, arguments: object) -> object:
        """Evaluates a call in the pickle. Makes only dicts, bytes, tensors and arrays; all other calls give an Instance."""
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            raise ValueError("its pickle calls something without a name")
        if called == Name("torch.storage", "_load_from_bytes"):  # pickle.dump of a tensor
            return read_legacy(arguments[0], Reader())
        if called == Name("torch._tensor", "_rebuild_from_type_v2"):
            return self.make_object(arguments[0], arguments[2])
        make = CALLS.get(called)
        return make(*arguments) if make else Instance(called, arguments)

    def build(self) -> None:
        """Sets the attributes of the object on top of the stack. Dicts ignore them: PyTorch's version number of each module."""
        attributes, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, Instance):
            built.attributes = attributes

    def refer(self, fields: object) -> None:
        """Makes the storage that a reference out of the pickle names."""
        kind, storage, key = fields[:3] if isinstance(fields, tuple) else (None, None, None)
        if kind != "storage" or not isinstance(storage, Name) or storage.name not in STORAGES:
            raise ValueError(f"it contains a {storage or 'reference'}")
        self.stack.append(self.storages.setdefault(str(key), Storage(np.dtype(STORAGES[storage.name]), str(key))))


def read_legacy(data: bytes, reader: Reader) -> Any:
    """Reads torch.save's format before PyTorch 1.6: magic number, protocol, system, value, keys of the storages, each storage."""
    file = io.BytesIO(data)
    for _ in range(3):
        reader.read(file)
    value, keys = reader.read(file), reader.read(file)
    for key in keys:
        storage, count = reader.storages.get(str(key)), int.from_bytes(file.read(8), "little")
        if count > MAX_ARRAY_BYTES or storage is None:
            raise ValueError(f"its storage {key} is invalid")
        storage.data = file.read(count * storage.dtype.itemsize)
    return value


# Opcodes whose argument is the value.
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
CONTAINERS = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}  # elements may not be hashable


def _make_name(module: object, name: object) -> Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("its pickle has an invalid name")
    return Name(module, name)


def _make_dict(reader: Reader, argument: object) -> None:
    items = reader.pop_to_mark()
    reader.stack.append({})
    reader.set_items(items)


def _make_old_instance(reader: Reader, argument: str) -> None:
    arguments = tuple(reader.pop_to_mark())
    reader.stack.append(reader.make_object(_make_name(*argument.split(" ", 1)), arguments))


def _make_old_object(reader: Reader, argument: object) -> None:
    called, *arguments = reader.pop_to_mark()
    reader.stack.append(reader.make_object(called, tuple(arguments)))


def _make_new_object(reader: Reader, argument: object) -> None:
    _, arguments = reader.stack.pop(), reader.stack.pop()
    reader.call(arguments)


ACTIONS: dict[str, Callable[[Reader, Any], object]] = {
    "MARK": lambda reader, _: reader.marks.append(len(reader.stack)),
    "POP": lambda reader, _: reader.pop(),
    "POP_MARK": lambda reader, _: reader.pop_to_mark(),
    "DUP": lambda reader, _: reader.stack.append(reader.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Reader.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda reader, at: reader.stack.append(reader.memo[at])),
    "TUPLE": lambda reader, _: reader.stack.append(tuple(reader.pop_to_mark())),
    **{f"TUPLE{count}": lambda reader, _, count=count: reader.pack_tuple(count) for count in (1, 2, 3)},
    **dict.fromkeys(("LIST", "FROZENSET"), lambda reader, _: reader.stack.append(reader.pop_to_mark())),
    "DICT": _make_dict,
    "SETITEM": lambda reader, _: reader.set_items([reader.stack.pop(), reader.stack.pop()][::-1]),
    "SETITEMS": lambda reader, _: reader.set_items(reader.pop_to_mark()),
    "APPEND": lambda reader, _: reader.append_items([reader.stack.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda reader, _: reader.append_items(reader.pop_to_mark())),
    "GLOBAL": lambda reader, name: reader.stack.append(_make_name(*name.split(" ", 1))),
    "STACK_GLOBAL": lambda reader, _: reader.pop_name(),
    "INST": _make_old_instance,
    "OBJ": _make_old_object,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda reader, _: reader.call(reader.stack.pop())),
    "NEWOBJ_EX": _make_new_object,
    "BUILD": lambda reader, _: reader.build(),
    "PERSID": lambda reader, name: reader.refer(name),
    "BINPERSID": lambda reader, _: reader.refer(reader.stack.pop()),
}


# ---- The calls that make something ----


def _make_tensor(storage: object, offset: int, shape: tuple, stride: tuple, *_: object) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("its pickle has a tensor without data")
    return Tensor(storage, offset, shape, stride)


def _make_mapping(*arguments: object) -> dict:
    """Makes the dict that an OrderedDict, a defaultdict or a Counter is. The old form has the entries in its arguments."""
    pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
    return {key: value for key, value in pairs if isinstance(key, Key)}


CALLS: dict[Name, Callable] = {
    **{Name("collections", kind): _make_mapping for kind in ("OrderedDict", "defaultdict", "Counter")},
    Name("torch._utils", "_rebuild_tensor_v2"): _make_tensor,
    Name("torch._utils", "_rebuild_tensor"): _make_tensor,
    Name("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    Name("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
    Name("_codecs", "encode"): lambda text, coding: text.encode("latin1"),
}


# ---- NumPy's arrays ----


def to_numpy(value: Instance) -> np.ndarray | None:
    """Makes the NumPy array that an Instance stands for; None if it is something else, or an array of Python objects."""
    if not value.made_by.module.startswith(("numpy.core.", "numpy._core.")):
        return None
    if value.made_by.name == "_reconstruct" and isinstance(value.attributes, tuple) and len(value.attributes) == 5:
        _, shape, dtype, is_fortran, data = value.attributes
        order = "F" if is_fortran else "C"
    elif value.made_by.name == "_frombuffer":  # protocol 5
        data, dtype, shape, order = value.arguments
    else:
        return None
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, Instance) or not isinstance(dtype.arguments, tuple):
        return None
    code, byte_order = dtype.arguments[0], dtype.attributes[1] if isinstance(dtype.attributes, tuple) else "="
    return np.frombuffer(data, np.dtype(code).newbyteorder(byte_order)).reshape(shape, order=order)
