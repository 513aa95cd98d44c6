"""Checks whether a checkpoint is intact, by SHA-256 hashes of its arrays and of its files.

Both are needed, because they guard against different faults.
- Digests of the arrays are computed in memory, before the save, and saved with the arrays. They also record shape and dtype.
  They detect a save that was written wrongly, also if the process was killed before it could verify the save.
- Hashes of the files are written after the save was verified. They detect a damaged file before Orbax reads it, so that Orbax
  prints no long error. They also detect damage to bytes that no array depends on.
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
from dcgan_jax.machine import is_out_of_memory

Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct
FILES_JSON = "files.json"  # file inside a checkpoint with the hashes of the other files
# From filesystems that cannot flush folders, such as some 9p.
NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
# Faults of the machine, not of the file: a checkpoint that cannot be read for these reasons is not broken.
NOT_NOW = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN)
# What to do about an error of the operating system.
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free disk space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Make the folder writable"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Raise the limit of open files (ulimit -n)"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN), "Check the disk, or the network that it is on"),
    errno.EFBIG: "Raise the limit of file sizes (ulimit -f), or use another file system",
    errno.ENOMEM: "End other programs",
}


class CorruptCheckpointError(Exception):
    """A checkpoint is damaged. The message gives the reason in one line."""


# ---- Arrays ----


def describe_leaves(tree: dict, describe: Callable[[Leaf], str]) -> dict[str, str]:
    """Applies `describe` to each array of the tree: path -> text."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): describe(to_stored(leaf))
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def to_stored(leaf: Leaf) -> Leaf:
    """Converts an array, or its shape, to the form in which checkpoints store it: random keys become uint32 arrays."""
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return jax.random.key_data(leaf) if isinstance(leaf, jax.Array) else jax.eval_shape(jax.random.key_data, leaf)


def _describe_kind(leaf: Leaf) -> str:
    return f"{leaf.dtype} {leaf.shape}"


def digest_leaf(leaf: Leaf) -> str:
    """Describes an array by dtype, shape and the SHA-256 of its values, such as 'float32 (4, 4, 8, 16) 5f3a...'."""
    values = np.ascontiguousarray(leaf)
    return f"{_describe_kind(leaf)} {hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest()}"


def hash_files(path: Path, *parts: str) -> dict[str, str]:
    """Hashes all files below path except files.json: relative name -> SHA-256. parts: top folders to include; none given: all."""

    def refuse(fault: OSError) -> NoReturn:  # os.walk would treat an unreadable folder as empty
        raise fault

    paths = sorted(Path(folder, name) for folder, _, names in os.walk(path, onerror=refuse) for name in names)
    names = {file.relative_to(path).as_posix(): file for file in paths if file.name not in (FILES_JSON, f"{FILES_JSON}.partial")}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in names.items() if _is_in_parts(name, parts)}


def _is_in_parts(name: str, parts: tuple[str, ...]) -> bool:
    return not parts or name.split("/")[0] in parts


def seal_files(path: Path) -> None:
    """Writes files.json if it is missing, then flushes the checkpoint to disk. Orbax flushes only arrays, not the metadata."""
    if not (path / FILES_JSON).exists():
        files.write_json(path / FILES_JSON, hash_files(path))
    for place in [path, *path.rglob("*"), path.parent]:
        if os.name == "nt" and place.is_dir():  # Windows opens no folders, and flushes only files that may be written
            continue
        opened = os.open(place, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(opened)
        except OSError as fault:
            if not (place.is_dir() and fault.errno in NO_FOLDER_FLUSH):
                raise
        finally:
            os.close(opened)


def check_files(path: Path, *parts: str) -> None:
    """Compares the files of a checkpoint with files.json. Raises: CorruptCheckpointError for a changed or missing file."""
    # A process that was killed between a save and its verification leaves no files.json; the digests still guard the arrays.
    if not (path / FILES_JSON).exists():
        return
    try:
        recorded, current = files.load_json(path / FILES_JSON), hash_files(path, *parts)
        recorded = {name.replace("\\", "/"): value for name, value in recorded.items()}  # an earlier version on Windows
        differing = [name for name in recorded if _is_in_parts(name, parts) and recorded[name] != current.get(name)]
    except (OSError, ValueError, TypeError, AttributeError) as fault:
        reraise_machine_fault(fault)
        raise CorruptCheckpointError(f"{FILES_JSON} cannot be read: {describe_reason(fault)}") from None
    if differing:
        raise CorruptCheckpointError(
            f"{make_printable(differing[0], 200)} {'has changed' if differing[0] in current else 'is missing'}"
        )


def digest_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_digests(path: Path) -> dict[str, dict[str, str]]:
    """Reads the digests of a checkpoint: item -> path of a leaf -> digest. Raises: CorruptCheckpointError."""
    try:
        stored = files.load_json(path / "digests" / "metadata")  # the path that Orbax's JsonSave uses
        items = stored["items"]
        is_unchanged = digest_json(items) == stored["sha256"]
        are_texts = all(isinstance(text, str) for name in ("generator", "training") for text in items[name].values())
    except FileNotFoundError:
        raise CorruptCheckpointError("its digests are missing, or an earlier version wrote it") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as fault:
        reraise_machine_fault(fault)
        raise CorruptCheckpointError(f"its digests cannot be read: {fault.__class__.__name__}") from None
    if not (is_unchanged and are_texts):
        raise CorruptCheckpointError("its digests have changed")
    return items


def check_shapes(path: Path, digests: dict[str, str], like: dict) -> None:
    """Compares the leaves of a checkpoint with those of the config, by dtype and shape. Raises: UserError."""
    expected = describe_leaves(like, _describe_kind)
    stored = {leaf: digest.rpartition(" ")[0] for leaf, digest in digests.items()}
    for leaf in expected | stored:
        if stored.get(leaf) != expected.get(leaf):
            raise UserError(
                f"{path}: {leaf} is {stored.get(leaf, 'absent')} in the checkpoint, {expected.get(leaf, 'absent')} by "
                "config.json, so config.json belongs to another run; restore it from a copy of the run"
            )


def check_digests(items: dict[str, dict], digests: dict[str, dict[str, str]]) -> None:
    """Compares restored arrays with their digests. Raises: CorruptCheckpointError."""
    for name, item in items.items():
        for leaf, digest in describe_leaves(item, digest_leaf).items():
            if digest != digests[name].get(leaf):
                raise CorruptCheckpointError(f"{leaf} differs from what was saved")


# ---- Faults ----


def reraise_machine_fault(fault: Exception) -> None:
    """Raises the fault again if its cause is the machine, such as memory or permissions, and not the checkpoint."""
    if isinstance(fault, MemoryError) or (isinstance(fault, OSError) and fault.errno in NOT_NOW):
        raise fault
    if is_out_of_memory(fault):
        raise MemoryError(describe_reason(fault)) from None
    code = get_errno(fault)
    if code in NOT_NOW:
        raise OSError(code, describe_reason(fault)) from None


def get_errno(fault: BaseException) -> int | None:
    """Returns the operating system's error code (errno); None if the fault has none."""
    if isinstance(fault, OSError):
        return fault.errno
    code = re.search(r"\[os_error_code='?(\d{1,4})\D", str(fault))  # TensorStore puts it into the text of a ValueError
    return int(code[1]) if code else None


def propose_remedy(code: int | None) -> str:
    """Proposes what to do about an error of the operating system, as a sentence without its full stop."""
    if code in REMEDIES:
        return f"{REMEDIES[code]}, then run the same command again"
    return "Run the same command again; if it fails again, give another `workdir`"


def describe_reason(fault: BaseException) -> str:
    """Returns the operating system's message if there is one, else the first 200 characters of the fault's message."""
    text = make_printable(str(fault))
    match = re.search(r"([A-Z][^:\[\]]+) \[os_error_code=", text)
    return match[1] if match else text[:200] or type(fault).__name__
