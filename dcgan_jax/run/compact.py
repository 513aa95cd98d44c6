"""Compact runs: folders with the settings, data facts and weights of a run, without its optimiser and logs.

They can be sampled, scored, explored and exported, and `--start` begins with their weights. They cannot be resumed. Kernels are
stored in float16, everything else as in the run. SHA256SUMS, in the format of sha256sum, lists all other files.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import jax
import numpy as np
import safetensors
import safetensors.numpy

from dcgan_jax import files
from dcgan_jax.config import SIZES, Config, UserError, flatten, make_printable, replace, unflatten
from dcgan_jax.gan.state import GanState, name_leaves

GENERATOR, DISCRIMINATOR = "weights-g.safetensors", "weights-d.safetensors"  # D's is optional
SUMS = "SHA256SUMS"
LOW_RESOLUTION = "half"  # progressive growing: folder of the last low-resolution stage, inside the run's folder
# half/, half/half/ ...: the folders of all low-resolution stages that a run may have, from the last one on.
STAGES = tuple(f"{LOW_RESOLUTION}/" * depth for depth in range(1, len(SIZES)))
# The other files. Those of the low-resolution stages tell how many images these were shown.
FACTS = (
    "config.json",
    "data.json",
    "scores.jsonl",
    *(stage + name for stage in STAGES for name in ("config.json", "metrics.jsonl")),
)
MAX_BYTES = 2**30
REMEDY = "copy the folder again; for a generator of the package, install the package again"


def is_compact(run: Path) -> bool:
    """Whether there is a compact run at this path."""
    return os.path.isfile(run / GENERATOR) and not os.path.isdir(run / "checkpoints")


def read_step(run: Path) -> int:
    """Reads the step at which the run's weights were saved. Raises: UserError."""
    _read_checked(run, GENERATOR)
    try:
        with safetensors.safe_open(run / GENERATOR, "numpy") as opened:
            step = (opened.metadata() or {}).get("step", "")
    except (OSError, safetensors.SafetensorError) as fault:
        raise _make_error(run / GENERATOR, fault) from None
    if not re.fullmatch("[0-9]{1,9}", step):
        raise _make_error(run / GENERATOR, "its metadata names no step")
    return int(step)


def read_generator(run: Path, shapes: GanState) -> tuple[dict, dict, np.ndarray | None]:
    """Reads the EMA generator: parameters, BN statistics, and labels if it is conditional. shapes: see `describe_state`.

    Raises: UserError if the files are damaged or belong to another config.
    """
    found = _read_tree(run, GENERATOR, _list_generator(shapes))
    return found["params"], found["stats"], found.get("labels")


def has_discriminator(run: Path) -> bool:
    """Whether the compact run contains its discriminator too."""
    return os.path.isfile(run / DISCRIMINATOR)


def read_discriminator(run: Path, shapes: GanState) -> tuple[dict, dict]:
    """Reads D's parameters and statistics. Raises: UserError as `read_generator`, and if there is no D."""
    found = _read_tree(run, DISCRIMINATOR, {"params": shapes.d_params, "stats": shapes.d_stats})
    return found["params"], found["stats"]


def _list_generator(state: GanState) -> dict:
    tree = {"params": state.ema_params, "stats": state.ema_stats}
    return tree if state.labels is None else tree | {"labels": state.labels}


def _read_tree(run: Path, name: str, like: dict) -> dict:
    """Reads arrays with the structure, shapes and dtypes of `like`."""
    try:
        arrays = safetensors.numpy.load(_read_checked(run, name))
    except (safetensors.SafetensorError, ValueError, KeyError) as fault:
        raise _make_error(run / name, fault) from None
    expected, leaves = name_leaves(like), []
    for leaf in expected | arrays:
        shape = tuple(expected[leaf].shape) if leaf in expected else "absent"
        there = arrays[leaf].shape if leaf in arrays else "absent"
        if there != shape:
            raise _make_error(run / name, f"{leaf} is {there}, by config.json {shape}")
        leaves.append(arrays[leaf].astype(expected[leaf].dtype))
        if not np.isfinite(leaves[-1]).all():
            raise _make_error(run / name, f"{leaf} contains a NaN or an infinity")
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _read_checked(run: Path, name: str) -> bytes:
    """Reads a file, after its sum and those of the run's facts were checked. Raises: UserError."""
    try:
        listed = dict(line.split("  ", 1)[::-1] for line in (run / SUMS).read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as fault:
        raise _make_error(run / SUMS, fault) from None
    content = b""
    for file in (*(fact for fact in FACTS if fact in listed or (run / fact).exists()), name):
        try:
            if (run / file).stat().st_size > MAX_BYTES:
                raise ValueError("too large")
            content = (run / file).read_bytes()
        except (OSError, ValueError) as fault:
            raise _make_error(run / file, fault) from None
        if hashlib.sha256(content).hexdigest() != listed.get(file):
            raise _make_error(run / file, f"its SHA-256 is not the one in {SUMS}")
    return content


def _make_error(file: Path, fault: object) -> UserError:
    reason = fault.strerror if isinstance(fault, OSError) and fault.strerror else str(fault)
    return UserError(f"{file}: cannot be used ({make_printable(reason, 200)}); {REMEDY}")


# ---- Writing ----


def write(run: Path, step: int, state: GanState, config: Config, folder: Path) -> None:
    """Writes a run as a compact run.

    Args: run, whose facts are copied; step, of the checkpoint; state, its state; config, of the run: it is stored with the
        workdir "runs", because the path of a machine is no fact of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        GENERATOR: _serialize(_list_generator(state), step),
        DISCRIMINATOR: _serialize({"params": state.d_params, "stats": state.d_stats}, step),
        "data.json": (run / "data.json").read_bytes(),
    }
    if (run / "scores.jsonl").exists():
        content["scores.jsonl"] = (run / "scores.jsonl").read_bytes()
    configs = {"config.json": config}
    for stage in STAGES:
        settings, metrics = f"{stage}config.json", f"{stage}metrics.jsonl"
        if (run / settings).exists():
            configs[settings] = unflatten(files.load_json(run / settings), settings)
            lines = (run / metrics).read_bytes().splitlines(keepends=True)
            # "trouble": the name of a warning in runs of version 0.1.0
            content[metrics] = [line for line in lines if not re.search(b'"(warning|trouble)"', line)][-1]
            (folder / stage).mkdir(exist_ok=True)
    for name, one in configs.items():
        content[name] = (json.dumps(flatten(replace(one, workdir="runs")), indent=1) + "\n").encode()
    for name in (DISCRIMINATOR, *FACTS):  # of an older compact run there
        (folder / name).unlink(missing_ok=True)
    for name, one in content.items():
        (folder / name).write_bytes(one)
    sums = [f"{hashlib.sha256(one).hexdigest()}  {name}\n" for name, one in sorted(content.items())]
    (folder / SUMS).write_bytes("".join(sums).encode())  # as text, lines would end differently on Windows


def _serialize(tree: dict, step: int) -> bytes:
    arrays = {name: _round_kernel(name, np.asarray(leaf)) for name, leaf in name_leaves(tree).items()}
    return safetensors.numpy.save(arrays, metadata={"step": str(step)})


def _round_kernel(name: str, array: np.ndarray) -> np.ndarray:
    """Rounds a kernel to float16 if its values fit. Biases and statistics are few, and a variance may be too small for it."""
    fits = name.endswith("/kernel") and np.abs(array).max(initial=0) <= np.finfo(np.float16).max
    return array.astype(np.float16) if fits else array
