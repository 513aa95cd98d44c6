"""Whether a checkpoint holds what was saved: SHA-256 of its arrays, and of its files.

The two guard different things, and each is needed.
- Digests of the arrays are taken in memory and come to the disk with them. They show that a save has come back as it was meant,
  and they guard a checkpoint whose process was killed before it had read it back. They also hold each array's shape and dtype.
- Hashes of the files are written after that. They find a damaged file before Orbax reads it, which may print at length, and
  damage to bytes that no array depends on.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np

from dcgan_jax import files
from dcgan_jax.config import UserError, make_printable

Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct
FILES = "files.json"  # in a checkpoint: what it held when it was read back
NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)  # of filesystems that cannot, such as some 9p
# What keeps us from reading, and says nothing of what would be read: such a checkpoint is not broken.
NOT_NOW = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN)


class CorruptCheckpointError(Exception):
    """A checkpoint does not hold what was saved: the message says why, on one line."""


# ---- Arrays ----


def describe_leaves(tree: dict, tell: Callable[[Leaf], str]) -> dict[str, str]:
    """Path -> what `tell` says of each array."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tell(to_stored(leaf))
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def to_stored(leaf: Leaf) -> Leaf:
    """An array or its shape as it lies in a checkpoint: keys as their words."""
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return jax.random.key_data(leaf) if isinstance(leaf, jax.Array) else jax.eval_shape(jax.random.key_data, leaf)


def _describe_kind(leaf: Leaf) -> str:
    return f"{leaf.dtype} {leaf.shape}"


def digest_leaf(leaf: Leaf) -> str:
    """'float32 (4, 4, 8, 16) 5f3a...': what the array is, and the SHA-256 of its numbers."""
    numbers = np.ascontiguousarray(leaf)
    return f"{_describe_kind(leaf)} {hashlib.sha256(numbers.reshape(-1).view(np.uint8).data).hexdigest()}"


def hash_files(path: Path, *parts: str) -> dict[str, str]:
    """Name below path -> SHA-256, of every file in these folders (none: in all) but that which keeps them."""

    def refuse(fault: OSError) -> NoReturn:  # an unreadable folder is not an empty one
        raise fault

    found = sorted(Path(folder, name) for folder, _, names in os.walk(path, onerror=refuse) for name in names)
    names = {str(file.relative_to(path)): file for file in found if file.name not in (FILES, f"{FILES}.partial")}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in names.items() if _is_in_parts(name, parts)}


def _is_in_parts(name: str, parts: tuple[str, ...]) -> bool:
    return not parts or name.split("/")[0] in parts


def seal_files(path: Path) -> None:
    """Writes the list of its files, and waits until all is on the disk: Orbax flushes the arrays, not their descriptions."""
    if not (path / FILES).exists():
        files.write_json(path / FILES, hash_files(path))
    for place in [path, *path.rglob("*"), path.parent]:
        opened = os.open(place, os.O_RDONLY)
        try:
            os.fsync(opened)
        except OSError as fault:
            if not (place.is_dir() and fault.errno in NO_FOLDER_FLUSH):
                raise
        finally:
            os.close(opened)


def check_files(path: Path, *parts: str) -> None:
    # Before Orbax reads a damaged file, whose threads then say so on stderr at length. A kill between a write and its reading
    # back leaves a checkpoint without this list; the digests of its arrays still guard it.
    if not (path / FILES).exists():
        return
    try:
        kept, there = files.load_json(path / FILES), hash_files(path, *parts)
        differing = [name for name in kept if _is_in_parts(name, parts) and kept[name] != there.get(name)]
    except (OSError, ValueError, TypeError, AttributeError) as fault:
        reraise_machine_fault(fault)
        raise CorruptCheckpointError(f"{FILES} cannot be read: {describe_reason(fault)}") from None
    if differing:
        raise CorruptCheckpointError(
            f"{make_printable(differing[0], 200)} is {'not as it was written' if differing[0] in there else 'missing'}"
        )


def digest_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_digests(path: Path) -> dict[str, dict[str, str]]:
    """Item -> path of a leaf -> its digest. Raises CorruptCheckpointError."""
    try:
        kept = files.load_json(path / "digests" / "metadata")  # where Orbax's JsonSave writes
        items = kept["items"]
        whole = digest_json(items) == kept["sha256"]
        texts = all(isinstance(text, str) for name in ("generator", "training") for text in items[name].values())
    except FileNotFoundError:
        raise CorruptCheckpointError("it has no digests: they are missing, or it was written by an earlier version") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as fault:
        reraise_machine_fault(fault)
        raise CorruptCheckpointError(f"its digests cannot be read: {fault.__class__.__name__}") from None
    if not (whole and texts):
        raise CorruptCheckpointError("its digests are not as they were written")
    return items


def check_shapes(path: Path, digests: dict[str, str], like: dict) -> None:
    here = describe_leaves(like, _describe_kind)
    there = {leaf: digest.rpartition(" ")[0] for leaf, digest in digests.items()}
    for leaf in here | there:
        if there.get(leaf) != here.get(leaf):
            raise UserError(
                f"{path}: {leaf} is {there.get(leaf, 'absent')} there, {here.get(leaf, 'absent')} here: "
                "config.json is not this checkpoint's"
            )


def check_digests(found: dict[str, dict], digests: dict[str, dict[str, str]]) -> None:
    for name, item in found.items():
        for leaf, digest in describe_leaves(item, digest_leaf).items():
            if digest != digests[name].get(leaf):
                raise CorruptCheckpointError(f"{leaf} is not as it was saved")


# ---- Faults ----


def reraise_machine_fault(fault: Exception) -> None:
    """Raises it again where it tells of this machine, now, and not of the checkpoint."""
    if isinstance(fault, MemoryError) or (isinstance(fault, OSError) and fault.errno in NOT_NOW):
        raise fault
    if isinstance(fault, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(fault):
        raise MemoryError(describe_reason(fault)) from None
    code = re.search(r"\[os_error_code='?(\d{1,4})\D", str(fault))  # TensorStore's way, in a ValueError
    if code and int(code[1]) in NOT_NOW:
        raise OSError(int(code[1]), describe_reason(fault)) from None


def describe_reason(fault: BaseException) -> str:
    """The disk's own words where it was the disk, else the beginning of what was raised."""
    text = make_printable(str(fault))
    found = re.search(r"([A-Z][^:\[\]]+) \[os_error_code=", text)
    return found[1] if found else text[:200] or type(fault).__name__
