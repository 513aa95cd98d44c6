"""Orbax checkpoints of the whole state, and of the generator alone for those who only draw."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from dcgan_jax.config import BadInput

# What drawing needs; the rest of the state is the "training" item of a checkpoint.
GENERATOR = ("ema_params", "ema_stats")


def manager(run: Path, keep: int) -> ocp.CheckpointManager:
    """Writes in the background, keeps the newest `keep` and removes the older ones after."""
    return ocp.CheckpointManager(
        (run / "checkpoints").absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True))


def save(checkpoints: ocp.CheckpointManager, step: int, state) -> None:
    """Copies the state off the device, then writes in the background. A step that is already there is not written again."""
    if step in checkpoints.all_steps():
        return
    items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
    checkpoints.save(step, args=ocp.args.Composite(**items))


def restore(checkpoints: ocp.CheckpointManager, step: int, like):
    """The state at a step. like: its shapes with their place on the devices, see `placed`. Raises BadInput."""
    found = _restored(Path(checkpoints.directory) / str(step), **_items(like))
    return like.replace(**found["generator"], **found["training"])


def restore_generator(run: Path, shapes, step: int | None = None) -> tuple[int, dict, dict]:
    """(step, ema_params, ema_stats) of the newest checkpoint, or of the one asked for; nothing else is read.

    shapes: the whole state's, from jax.eval_shape. Raises: BadInput where there is no such checkpoint.
    """
    steps = list_steps(run)
    if not steps:
        raise BadInput(f"{run}: no checkpoint yet; train it first, or wait for its first save")
    if step is not None and step not in steps:
        raise BadInput(f"--step {step}: {run} has {', '.join(map(str, steps))}")
    step = steps[-1] if step is None else step
    like = placed(shapes, jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
    # Without a manager, which tidies up: this also reads beside a running training, and from a disk that cannot be written.
    where = (run / "checkpoints" / str(step)).absolute()
    found = _restored(where, generator=_items(like)["generator"])["generator"]
    return step, found["ema_params"], found["ema_stats"]


def list_steps(run: Path) -> list[int]:
    """Steps that have a whole checkpoint, ascending; Orbax renames one into place when it is whole."""
    folder = run / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


def placed(shapes, sharding: jax.sharding.Sharding):
    """The shapes with their place on the devices: what a restore needs to know."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def _items(state):
    leaves = vars(state)
    return {"generator": {name: leaves[name] for name in GENERATOR},
            "training": {name: leaf for name, leaf in leaves.items() if name not in GENERATOR}}


def _restored(where, **items):
    try:
        for name, like in items.items():
            _must_fit(where / name, like)
        with ocp.StandardCheckpointer() as reader:
            return {name: reader.restore(where / name, like) for name, like in items.items()}
    except BadInput:
        raise
    except Exception as fault:  # damaged files make Orbax and TensorStore raise nearly anything, a bare Exception among it
        raise BadInput(f"{where}: cannot be restored ({' '.join(str(fault).split())[:300]}); if its files are damaged, move this "
                       "folder away and the checkpoint before it is used") from fault


def _must_fit(item, like):
    # Before reading: Orbax does not say which leaf has another shape, and casts another dtype silently.
    there, here = _leaves(ocp.StandardCheckpointHandler().metadata(item)), _leaves(like)
    for path in here | there:
        if there.get(path) != here.get(path):
            raise BadInput(f"{item.parent}: {path} is {there.get(path, 'absent')} there, {here.get(path, 'absent')} here: "
                           "config.json is not this checkpoint's")


def _leaves(tree):
    """Path -> dtype and shape, as 'float32 (4, 4, 8, 16)', of arrays or of what Orbax tells of them."""
    def stored(leaf):  # keys lie there as their words
        return jax.eval_shape(jax.random.key_data, leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    found = {jax.tree_util.keystr(path, simple=True, separator="/"): stored(leaf)
             for path, leaf in jax.tree.leaves_with_path(tree) if hasattr(leaf, "shape")}
    return {path: f"{leaf.dtype} {leaf.shape}" for path, leaf in found.items()}
