"""Writes files as torch.save does, without PyTorch: pickles that name PyTorch's classes, with each storage beside them."""

import collections
import io
import pickle
import zipfile

import jax
import numpy as np

from dcgan_jax.gan import torch_names
from dcgan_jax.gan.state import init_state, name_leaves

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int8": "CharStorage",
}
LEGACY_START = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})


def make_state_dicts(config):
    """Makes state dicts of netG and netD of PyTorch's example, with random weights."""
    state = jax.jit(lambda: init_state(config))()
    nets = (("G", state.g_params, state.g_stats), ("D", state.d_params, state.d_stats))
    return [
        torch_names.to_torch(net, {name: np.asarray(leaf) for name, leaf in name_leaves(params, stats).items()})
        for net, params, stats in nets
    ]


class Global:
    """A class or function of another program, which a pickle names."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self, *arguments):
        raise AssertionError("only its name is pickled")


class Object:
    """An object of another program's class, with attributes."""

    def __init__(self, module, name, **attributes):
        self.made_by, self.attributes = Global(module, name), attributes

    def __reduce__(self):
        return self.made_by, (), to_tensors(self.attributes)


class Tensor:
    def __init__(self, array):
        self.array = np.ascontiguousarray(array).reshape(np.shape(array))

    def __reduce__(self):
        stride = tuple(step // self.array.itemsize for step in self.array.strides)
        hooks = collections.OrderedDict()
        return Global("torch._utils", "_rebuild_tensor_v2"), (_Storage(self), 0, self.array.shape, stride, False, hooks)


class _Storage:
    def __init__(self, tensor):
        self.tensor = tensor


class _Pickler(pickle._Pickler):  # the version in Python, whose `save` can be overridden
    def __init__(self, file):
        super().__init__(file, 2)
        self.storages = {}  # key -> array

    def save(self, value, *arguments, **options):
        if isinstance(value, Global):
            self.write(f"c{value.module}\n{value.name}\n".encode())
        else:
            super().save(value, *arguments, **options)

    def persistent_id(self, value):
        if not isinstance(value, _Storage):
            return None
        array, key = value.tensor.array, str(len(self.storages))
        self.storages[key] = array
        return "storage", Global("torch", STORAGES[array.dtype.name]), key, "cuda:0", array.size


def to_tensors(value):
    """Replaces the arrays in nested dicts and lists by tensors, and dicts by OrderedDicts as of a state dict."""
    if isinstance(value, np.ndarray):
        return Tensor(value)
    if isinstance(value, dict):
        return collections.OrderedDict((key, to_tensors(part)) for key, part in value.items())
    return [to_tensors(part) for part in value] if isinstance(value, list) else value


def save(path, value, legacy=False):
    """Writes what torch.save(value, path) does, for nested dicts and lists of arrays, and objects. Returns: path."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(to_tensors(value))
    if legacy:
        start = b"".join(pickle.dumps(part, 2) for part in LEGACY_START)
        keys = pickle.dumps(list(pickler.storages), 2)
        data = b"".join(array.size.to_bytes(8, "little") + array.tobytes() for array in pickler.storages.values())
        path.write_bytes(start + file.getvalue() + keys + data)
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", file.getvalue())
        for key, array in pickler.storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path
