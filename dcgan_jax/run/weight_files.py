"""Reads arrays from weight files of PyTorch and NumPy, whatever their suffix. Pickles are parsed, never executed."""

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.run.pickles import MAX_ARRAY_BYTES, Instance, Reader, Tensor, read_legacy, to_numpy

LEGACY = bytes.fromhex("8a0a6cfc9c46f920")  # pickled magic number of files from before PyTorch 1.6
# A module that was pickled whole keeps its arrays in these attributes. They are no part of the names in a state dict.
MODULE_PARTS = ("_parameters", "_buffers", "_modules")
MAX_PARTS, MAX_DEPTH = 10**5, 100  # of nested dicts and objects, which may refer to each other
SAVE = 'torch.save(netG.state_dict(), "netG.pth")'
# For files of other programs: a copy or conversion of them would not help.
ONLY_PYTORCH = f"only networks of PyTorch's DCGAN example can be read, saved with {SAVE}"
# Kernels of TensorFlow are (k, k, C_in, C_out) for a convolution and (k, k, C_out, C_in) for a transposed one.
TENSORFLOW = (
    "TensorFlow, which cannot be read; if its network is that of PyTorch's DCGAN example, write the arrays with "
    'np.savez("netG.npz", **arrays), with PyTorch\'s names such as main.0.weight, and kernels as kernel.transpose(3, 2, 0, 1): '
    "tf.train.load_checkpoint(PREFIX).get_tensor(NAME) reads each of a checkpoint's"
)
ONNX = f"an ONNX model; {ONLY_PYTORCH}"
KERAS_ZIP = ".weights.h5"  # the end of an entry's name in a .keras file
TENSORFLOW_PART = r"\.(index|meta|data-\d{5}-of-\d{5})"  # ends of a checkpoint's files; what is before them is its prefix
# First bytes of files that people mistake for weights -> what they are, and the remedy.
MISTAKEN = {
    b"\x89HDF": f"an HDF5 file, as Keras writes; {ONLY_PYTORCH}",
    b"\x93NUMPY": "a single NumPy array; save all arrays of the network with np.savez",
    b"GGUF": f"a GGUF file of a language model; give a file from {SAVE}",
    b"\x1f\x8b": "compressed by gzip; unpack it first, with gunzip or tar -xzf",
    b"BZh": "compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with git lfs pull",
    b"model_checkpoint_path:": f"the list of checkpoints of {TENSORFLOW}",
    b"<": "a web page; the download failed or needs a login: download the file itself",
}
# The same for formats without a signature: the end of the name -> what they are.
MISTAKEN_NAMES = {
    r"\.onnx": ONNX,
    TENSORFLOW_PART: f"a part of a checkpoint of {TENSORFLOW}",
    r"\.pb": f"a model of {TENSORFLOW}",
    r"\.tflite": f"a TensorFlow Lite model; {ONLY_PYTORCH}",
    r"\.msgpack": f"a msgpack file, as Flax writes; {ONLY_PYTORCH}",
    r"\.t7": f"a file of Lua Torch; {ONLY_PYTORCH}",
}


class WeightFile(NamedTuple):
    """The arrays of a file. Names of nested dicts are joined by dots: netG.main.0.weight. Slashes become dots."""

    arrays: dict[str, np.ndarray]
    contents: str  # what was found in the file, for messages


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a weight file: name -> array. Raises: UserError if it cannot be read."""
    return read_weights(path).arrays


def read_weights(path: Path) -> WeightFile:
    """Reads a weight file in a format that its first bytes tell. Raises: UserError if it cannot be read, or has no arrays."""
    try:
        with open(path, "rb") as file:
            start, size = file.read(512), path.stat().st_size
        if size > MAX_ARRAY_BYTES:
            raise ValueError("it is larger than 4 GB")
        tree = _read_tree(path, start, size)
        arrays = dict(_list_arrays(tree))
    except OSError as fault:
        raise UserError(f"{path}: {fault.strerror or fault}; give the path of a weight file") from None
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        MemoryError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        safetensors.SafetensorError,
    ) as fault:  # a file from elsewhere can be broken in many ways
        if isinstance(fault, UserError):
            raise
        raise UserError(
            f"{path}: the weights in it cannot be read ({make_printable(str(fault), 200)}); copy or download it again, or "
            f"save it again with {SAVE}"
        ) from None
    if not arrays:
        raise UserError(f"{path}: contains no arrays but {_describe(tree)}; save the weights with {SAVE}")
    return WeightFile(arrays, _describe(tree))


def _read_tree(path: Path, start: bytes, size: int) -> object:
    """Reads the file as nested dicts, lists, arrays and other values. Raises: UserError, ValueError and others."""
    if start[:2] == b"PK":
        return _read_zip(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size:
        return safetensors.numpy.load_file(path)
    if start[2:].startswith(LEGACY):
        return read_legacy(path.read_bytes(), Reader())
    if mistaken := _recognise_mistaken(path, start):
        raise UserError(f"{path}: is {mistaken}")
    if start.lstrip()[:1] == b"{":
        return _read_sharded(path)
    if start[:1] != b"\x80":
        raise UserError(
            f"{path}: is not a .npz, .safetensors or .pth of arrays (its first bytes, {start[:8]!r}, belong to no format of "
            f"weights); {ONLY_PYTORCH}"
        )
    return Reader().read(path.read_bytes())


def _recognise_mistaken(path: Path, start: bytes) -> str | None:
    """Says what a file that contains no weights is, and the remedy; None if it may contain weights."""
    if not start.strip():
        return "empty; copy it again"
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it first, with tar -xf"
    if start.startswith(b"\x93NUMPY") and b"'|O'" in start[:256]:  # np.save of a dict
        return 'a NumPy file of pickled Python objects; save the dict of arrays with np.savez("netG.npz", **arrays)'
    if start[:1] == b"\x08" and start[2:3] == b"\x12":  # the version of the format, and the name of the program
        return ONNX
    named = (what for ending, what in MISTAKEN_NAMES.items() if re.search(f"({ending})$", path.name, re.IGNORECASE))
    signed = (what for signature, what in MISTAKEN.items() if start.lstrip().startswith(signature))
    return next(named, None) or next(signed, None)


def refuse_tensorflow(place: Path) -> None:
    """Raises a UserError if a path that is no file means a TensorFlow checkpoint or model: by its prefix, or its folder."""
    is_folder = os.path.isdir(place)
    try:
        names = os.listdir(place if is_folder else place.parent)
    except (OSError, ValueError):  # ValueError: a name that no filesystem accepts
        return
    pattern = f".*{TENSORFLOW_PART}|saved_model.pb" if is_folder else re.escape(place.name) + TENSORFLOW_PART
    if any(re.fullmatch(pattern, name) for name in names):
        raise UserError(f"{place}: is a {'folder' if is_folder else 'checkpoint'} of {TENSORFLOW}")


def _read_zip(path: Path) -> object:
    if not zipfile.is_zipfile(path):
        raise ValueError("its end is missing: the copy or download was cut")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if sum(entry.file_size for entry in archive.infolist()) > MAX_ARRAY_BYTES:
            raise ValueError("it is larger than 4 GB")
        pickled = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if pickled:
            return _read_torch_zip(archive, pickled[0].removesuffix("data.pkl"))
    if any(name.endswith(KERAS_ZIP) for name in names):
        raise UserError(f"{path}: is a Keras model; {ONLY_PYTORCH}")
    if not all(name.endswith(".npy") for name in names):
        shown = ", ".join(make_printable(name, 60) for name in names[:3])
        raise UserError(f"{path}: is a zip of other files ({shown}); unpack it first and give the weight file")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: _read_entry(arrays, name) for name in arrays.files}


def _read_torch_zip(archive: zipfile.ZipFile, folder: str) -> object:
    """Reads torch.save's format, or TorchScript's. Each storage is a file of its own."""
    names, reader = set(archive.namelist()), Reader()
    tree = reader.read(archive.read(f"{folder}data.pkl"))
    swapped = f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big"
    for storage in reader.storages.values():
        storage.data = archive.read(f"{folder}data/{storage.key}")
        storage.dtype = storage.dtype.newbyteorder(">") if swapped else storage.dtype
    return tree


def _read_entry(arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray | None:
    """Reads an array of an .npz; None for one of Python objects, such as settings beside the weights."""
    try:
        array = arrays[name]
    except ValueError as fault:
        if "Object arrays" not in str(fault):
            raise
        return None
    return array.view(jnp.bfloat16) if array.dtype == "V2" else array  # NumPy does not save the name of this type


def _read_sharded(index: Path) -> dict:
    """Reads the parts that an index names, such as model.safetensors.index.json. All are in its folder."""
    found = json.loads(index.read_bytes())
    parts = found.get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise UserError(f"{index}: is a JSON file without a weight_map; give the file that contains the weights")
    tree = {}
    for part in sorted(set(map(str, parts.values()))):
        if Path(part).name != part or part == index.name:
            raise UserError(f"{index}: names a part outside of its folder, {make_printable(part, 100)}; put all parts beside it")
        tree |= read_weights(index.parent / part).arrays
    return tree


# ---- What a file contains ----


def _list_arrays(tree: object) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, array) of all arrays in nested dicts, lists and objects. Raises: ValueError for too many."""
    pending: list[tuple[tuple[str, ...], object]] = [((), tree)]
    size_bytes = 0
    for _ in range(MAX_PARTS):
        if not pending:
            return
        path, value = pending.pop()
        array = value.to_array() if isinstance(value, Tensor) else to_numpy(value) if isinstance(value, Instance) else value
        if isinstance(array, np.ndarray):
            size_bytes += array.nbytes
            if size_bytes > MAX_ARRAY_BYTES:
                raise ValueError("its arrays are larger than 4 GB")  # many tensors may be views of one storage
            yield ".".join(path).replace("/", "."), array  # names of an .npz are often written as paths
        elif len(path) < MAX_DEPTH:
            parts = [((*path, *([] if key in MODULE_PARTS else [str(key)])), part) for key, part in _list_parts(value)]
            pending += parts[::-1]  # in the order of the file
    raise ValueError("it has too many parts")


def _list_parts(value: object) -> list[tuple[object, object]]:
    """Lists (name, value) of the entries of a dict or list, or of the attributes and entries of an object."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple) and not isinstance(value, Tensor):
        return list(enumerate(value))
    if isinstance(value, Instance):
        attributes = value.attributes if isinstance(value.attributes, dict) else {}
        return [*value.entries.items(), *attributes.items()]
    return []


def _describe(tree: object) -> str:
    """Says in words what a file contains: its entries, and which of them have arrays."""
    if isinstance(tree, Instance):
        return f"a whole object of class {make_printable(str(tree.made_by), 80)}"
    parts = _list_parts(tree)
    if not parts:
        return f"a {type(tree).__name__}"
    shown = [f"{make_printable(str(key), 40)}{_describe_part(part)}" for key, part in parts[:5]]
    return "the entries " + ", ".join(shown) + (f" and {len(parts) - 5} more" if len(parts) > 5 else "")


def _describe_part(part: object) -> str:
    part = to_numpy(part) if isinstance(part, Instance) and to_numpy(part) is not None else part
    if isinstance(part, np.ndarray | Tensor):
        return f" {tuple(part.shape)}"
    if isinstance(part, Instance):
        return f" (of class {make_printable(str(part.made_by), 80)})"
    count = sum(isinstance(inner, np.ndarray | Tensor) for _, inner in _list_parts(part))
    return f" ({count} arrays)" if count else ""
