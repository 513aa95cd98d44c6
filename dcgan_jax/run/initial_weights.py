"""Loads initial weights instead of random ones: from another run, from PyTorch, or from the low-resolution stage."""

import zlib
from pathlib import Path

import jax
import numpy as np

from dcgan_jax.config import Config, Mark, Nets, UserError, list_fields
from dcgan_jax.gan import progressive, torch_names
from dcgan_jax.gan.state import GanState, describe_state, init_state, name_leaves
from dcgan_jax.run import checkpoints, checksums, distributed, weight_files, workdir

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".npz")
OF_NETS = ("g_params", "g_stats", "d_params", "d_stats", "ema_params", "ema_stats")


def load_initial_weights(config: Config) -> dict:
    """Loads the initial weights that config.run.start names: fields of GanState as trees of arrays; {} without --start.

    A field that the files do not contain is absent, such as D's parameters if only G's file is given.
    Raises: UserError if they cannot be read or belong to other networks.
    """
    start = config.run.start
    if not start:
        return {}
    places = [Path(place) for place in start.split(",")]
    if all(place.suffix in WEIGHT_SUFFIXES for place in places):
        return _load_files(places, config)
    return _load_run(Path(start), config)


def grow_networks(config: Config, low_resolution: Config) -> dict:
    """Makes the same fields from the low-resolution stage, with one more layer in each network (gan/progressive.py)."""
    run = workdir.get_run_path(low_resolution)
    small = _restore_readable(run, low_resolution)
    state = jax.jit(lambda small: progressive.grow_state(config, init_state(config), small))(small)
    fields = (*OF_NETS, "augment_p") if state.augment_p is not None else OF_NETS
    return {name: jax.device_get(getattr(state, name)) for name in fields}


def _load_run(run: Path, config: Config) -> dict:
    source = workdir.read_config(run)
    compared = [name for name in vars(Nets()) if name not in list_fields(Mark.TRAINING_ONLY)]
    differing = [name for name in compared if getattr(source.nets, name) != getattr(config.nets, name)]
    if differing:
        fields = ", ".join(
            f"{name} is {getattr(source.nets, name)!r} there, {getattr(config.nets, name)!r} here" for name in differing[:4]
        )
        raise UserError(
            f"`start` {run}: has other networks: {fields}; give the same values, for example by `preset` {source.run.preset}"
        )
    if not checkpoints.list_steps(run):
        raise UserError(f"`start` {run}: no checkpoint yet; train it first, or wait for its first save")
    state = _restore_readable(run, source)
    return {name: jax.device_get(getattr(state, name)) for name in OF_NETS}


def _restore_readable(run: Path, config: Config) -> GanState:
    """Restores the newest intact checkpoint of a run, which is not changed. Prints a warning for each newer, broken one."""
    like = checkpoints.add_sharding(describe_state(config))
    broken = []
    for step in checkpoints.list_steps(run)[::-1]:
        try:
            state = checkpoints.restore(run / "checkpoints" / str(step), like)
        except checksums.CorruptCheckpointError as fault:
            broken.append(f"the checkpoint of step {step} is broken ({fault})")
            continue
        for what in broken:
            _say(f"warning: {run}: {what}; that of step {step} is used")
        return state
    raise UserError(f"{run}: none of its checkpoints is intact; restore one from a copy of the run")


def _say(message: str) -> None:
    if distributed.is_first_process():  # every process loads the weights
        print(message)


def is_stage_complete(low_resolution: Config, total_steps: int) -> bool:
    """Whether the low-resolution stage has an intact checkpoint of its last step."""
    run = workdir.get_run_path(low_resolution)
    steps = checkpoints.list_steps(run)
    if not steps or steps[-1] < total_steps:
        return False
    try:
        checkpoints.restore(run / "checkpoints" / str(steps[-1]), checkpoints.add_sharding(describe_state(low_resolution)))
    except checksums.CorruptCheckpointError:
        return False  # the stage itself says it, moves the checkpoint aside and resumes from an older one
    return True


def _load_files(places: list[Path], config: Config) -> dict:
    if len(places) > 2:
        raise UserError(f"`start` {config.run.start}: give netG's file, or netG's and netD's with a comma between them")
    torch_names.check_torch_layout(config.nets, f"`start` {config.run.start}")
    shapes = describe_state(config).replace(key=None)
    state = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes)
    fields = {}
    for net, place in zip("GD", places, strict=False):
        letter = net.lower()
        trees = {"params": getattr(state, f"{letter}_params"), "stats": getattr(state, f"{letter}_stats")}
        read = torch_names.from_torch(net, weight_files.read_arrays(place), name_leaves(*trees.values()), f"`start` {place}")
        for name, array in read.items():
            if not np.isfinite(array).all():
                raise UserError(
                    f"`start` {place}: {name} contains a NaN or an infinity; give weights from before training diverged"
                )
        for part, tree in trees.items():
            fields[f"{letter}_{part}"] = jax.tree.unflatten(jax.tree.structure(tree), [read[name] for name in name_leaves(tree)])
    # The EMA generator starts with the same weights as G.
    return fields | {f"ema_{part}": jax.tree.map(np.copy, fields[f"g_{part}"]) for part in ("params", "stats")}


def compute_digest(networks: dict) -> int:
    """Computes a checksum of all arrays, by which processes check that they loaded the same weights."""
    checksum = 0
    for leaf in jax.tree.leaves(networks):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).data, checksum)
    return checksum
