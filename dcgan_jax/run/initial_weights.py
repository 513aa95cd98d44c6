"""Loads initial weights instead of random ones: from another run, from PyTorch, or from the low-resolution stage."""

import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dcgan_jax import terminal
from dcgan_jax.command_lines import format_flags
from dcgan_jax.config import Config, UserError, list_network_fields, make_printable
from dcgan_jax.gan import progressive, torch_names
from dcgan_jax.gan.state import GanState, describe_state, init_state, name_leaves
from dcgan_jax.presets import PRESETS
from dcgan_jax.run import checkpoints, checksums, compact, distributed, pretrained, weight_files, workdir
from dcgan_jax.run.weight_files import WeightFile

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".npz", ".bin", ".ckpt", ".tar", ".pkl")
INDEX = ".index.json"  # names the parts of weights that were saved in several files
OF_NETS = ("g_params", "g_stats", "d_params", "d_stats", "ema_params", "ema_stats")


def load_initial_weights(config: Config) -> dict:
    """Loads the initial weights that config.run.start names: fields of GanState as trees of arrays; {} without --start.

    A field that the files do not contain is absent, such as D's parameters if only G's file is given.
    Raises: UserError if they cannot be read or belong to other networks.
    """
    start = config.run.start
    if not start:
        return {}
    places = _list_weight_files(start)
    fields = _load_files(places, config) if places else _load_run(pretrained.find_run(start), config)
    if config.optimizer.freeze_d and "d_params" not in fields:
        raise UserError(
            f"`start` {start}: contains no discriminator that fits, so the frozen layers would stay random; give `freeze_d` 0, "
            "or the weights of both networks (of PyTorch: netG.pth,netD.pth)"
        )
    return fields


def _list_weight_files(start: str) -> list[Path]:
    """Lists the weight files that --start names: one, two with a comma, or those of a folder. Empty: it names a run."""
    whole = Path(start)
    if re.match("[a-z]+://", start):
        raise UserError(f"`start` {start}: is an address; download the file first, then give its path")
    if os.path.isfile(whole):
        return [] if whole.name == "config.json" else [whole]  # of a run: load the run
    if os.path.isdir(whole):
        return [] if (whole / "checkpoints").is_dir() or compact.is_compact(whole) else _find_in_folder(whole)
    places = [Path(place) for place in start.split(",")]
    for place in places:
        if not os.path.isfile(place):
            weight_files.refuse_tensorflow(place)
    return places if len(places) > 1 or whole.suffix in WEIGHT_SUFFIXES else []


def _find_in_folder(folder: Path) -> list[Path]:
    """Finds the weight files of a folder that is no run: netG's and netD's, or the index of several parts. Empty: it has none."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in WEIGHT_SUFFIXES or path.name.endswith(INDEX)]
    named = [[path for path in files if path.stem == net] for net in ("netG", "netD")]
    indices = [path for path in files if path.name.endswith(INDEX)]
    found = [paths[0] for paths in named if paths] if named[0] else indices[:1]
    if not files:
        weight_files.refuse_tensorflow(folder)
    if files and not found:
        pretrained.check_not_hiding(folder)
        raise UserError(f"`start` {folder}: is no run but has weight files; give one of them, such as `start` {files[-1]}")
    return found


def grow_networks(config: Config, low_resolution: Config) -> dict:
    """Makes fields of GanState from the low-resolution stage, with one more layer in each network (gan/progressive.py)."""
    run = workdir.get_run_path(low_resolution)
    small = _restore_newest(run, low_resolution)
    state = jax.jit(lambda small: progressive.grow_state(config, init_state(config), small))(small)
    fields = (*OF_NETS, "augment_p") if state.augment_p is not None else OF_NETS
    return {name: jax.device_get(getattr(state, name)) for name in fields}


def _load_run(run: Path, config: Config) -> dict:
    source = workdir.read_config(run)
    differing = [name for name in list_network_fields() if getattr(source.nets, name) != getattr(config.nets, name)]
    if differing:
        fields = ", ".join(
            f"{name} is {getattr(source.nets, name)!r} there, {getattr(config.nets, name)!r} here" for name in differing[:4]
        )
        fields += f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        preset, is_packaged = source.run.preset, pretrained.is_packaged(run)
        if is_packaged and config.run.preset != preset:
            flags = format_flags({"preset": preset} | ({"grow_kimg": ()} if PRESETS[preset].run.grow_kimg else {}))
            raise UserError(f"`start` {run.name}: has other networks: {fields}; begin with {flags}")
        flags = format_flags({name: getattr(source.nets, name) for name in differing})
        shown = run.name if is_packaged else run
        raise UserError(f"`start` {shown}: has other networks: {fields}; give the same values: {flags}")
    if compact.is_compact(run):
        return _load_compact(run, source)
    state = _restore_newest(run, source)
    return {name: jax.device_get(getattr(state, name)) for name in OF_NETS}


def _load_compact(run: Path, source: Config) -> dict:
    shapes = describe_state(source)
    params, stats, _ = compact.read_generator(run, shapes)
    # Of G, a compact run has only the EMA generator.
    fields = {"ema_params": params, "ema_stats": stats} | jax.tree.map(np.copy, {"g_params": params, "g_stats": stats})
    if not compact.has_discriminator(run):
        _say(f"warning: {run}: has no discriminator; D starts from random weights")
        return fields
    d_params, d_stats = compact.read_discriminator(run, shapes)
    return fields | {"d_params": d_params, "d_stats": d_stats}


def _restore_newest(run: Path, config: Config) -> GanState:
    like = checkpoints.add_sharding(describe_state(config))
    return checkpoints.restore_newest_read_only(run, like, _say)[1]


def _say(message: str) -> None:
    if distributed.is_first_process():  # every process loads the weights
        terminal.say(message)


def is_stage_complete(low_resolution: Config, total_steps: int) -> bool:
    """Whether the low-resolution stage has an intact checkpoint of its last step."""
    run = workdir.get_run_path(low_resolution)
    steps = checkpoints.list_steps(run)
    if not steps or steps[-1] < total_steps:
        return False
    try:
        checkpoints.restore(
            checkpoints.get_checkpoint_path(run, steps[-1]), checkpoints.add_sharding(describe_state(low_resolution))
        )
    except checksums.CorruptCheckpointError:
        return False  # the stage itself says it, moves the checkpoint aside and resumes from an older one
    return True


def _load_files(places: list[Path], config: Config) -> dict:
    """Loads PyTorch's networks from one file, which may contain both, or from netG's and netD's."""
    start = config.run.start
    if len(places) > 2:
        raise UserError(f"`start` {start}: give netG's file, or netG's and netD's with a comma between them")
    torch_names.check_torch_layout(config.nets, f"`start` {start}", "use `preset` torch32, torch64 or torch128")
    shapes = describe_state(config).replace(key=None)
    state = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes)
    files = {place: weight_files.read_weights(place) for place in places}
    trees = {"G": {"params": state.g_params, "stats": state.g_stats}, "D": {"params": state.d_params, "stats": state.d_stats}}
    likes = {net: name_leaves(*parts.values()) for net, parts in trees.items()}
    fields, is_matched = {}, False
    for net, place in zip("GD", [places[0], places[-1]], strict=True):
        like = likes[net]
        chosen = _find_network(net, files, place, like) or _match_network(net, files, place, likes)
        if chosen is None and net == "D" and len(places) == 1:
            if torch_names.list_prefixes(net, files[place].arrays) and not is_matched:  # else all of its layers are netG's
                _say(f"warning: {place}: its netD has other shapes than the recipe's; D starts from random weights")
            continue
        if chosen is None:
            raise _make_refusal(net, place, files[place], like)
        is_matched = chosen.is_matched
        read = torch_names.from_torch(net, chosen.tensors, like, f"`start` {chosen.file}", chosen.prefix)
        _check_values(read, chosen.file)
        for part, tree in trees[net].items():
            leaves = [read[name] for name in name_leaves(tree)]
            fields[f"{net.lower()}_{part}"] = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    # The EMA generator starts with the same weights as G.
    return fields | {f"ema_{part}": jax.tree.map(np.copy, fields[f"g_{part}"]) for part in ("params", "stats")}


def _check_values(read: dict[str, np.ndarray], file: Path) -> None:
    for name, array in read.items():
        if not np.isfinite(array).all():
            raise UserError(f"`start` {file}: {name} contains a NaN or an infinity; give weights from before training diverged")
        if name.endswith("_norm/var") and (array < 0).any():
            raise UserError(f"`start` {file}: {name} contains a negative variance; copy the file again, or save it again")


class _NetworkInFile(NamedTuple):
    """A network in a file."""

    file: Path
    tensors: Mapping[str, np.ndarray]
    prefix: str  # what stands before 0.weight in their names
    is_matched: bool = False  # by order and shape


def _find_network(net: str, files: dict[Path, WeightFile], place: Path, like: dict) -> _NetworkInFile | None:
    """Finds G or D by the names of its tensors. Looks into `place` first, since the order of files may be swapped."""
    for file in sorted(files, key=lambda other: other != place):
        prefixes = torch_names.find_networks(net, files[file].arrays, like)
        if len(prefixes) > 1:
            names = ", ".join(make_printable(prefix, 60) for prefix in prefixes)
            _say(f"{file}: contains {len(prefixes)} networks that fit net{net}, with names in {names}; the first is used")
        if prefixes:
            return _NetworkInFile(file, files[file].arrays, prefixes[0])
    return None


def _match_network(net: str, files: dict[Path, WeightFile], place: Path, likes: dict[str, dict]) -> _NetworkInFile | None:
    """Finds G or D by order and shapes of its layers, in a file with nothing but G and D. Raises: UserError if several fit."""
    for file in sorted(files, key=lambda other: other != place):
        arrays = files[file].arrays
        matches = {each: torch_names.match_by_order(each, arrays, like) for each, like in likes.items()}
        known = {name for networks in matches.values() for names in networks for name in names.values()}
        if not matches[net] or not known.issuperset(torch_names.list_parameters(arrays)):
            continue
        pairs, *others = (list(names.items()) for names in matches[net])
        if others:
            shown = " and ".join(make_printable(names[0][1], 60) for names in (pairs, *others[:1]))
            raise UserError(
                f"`start` {file}: contains {1 + len(others)} networks that fit net{net} by the order and shapes of their layers, "
                f"from {shown}; {torch_names.describe_saving(net)}"
            )
        (first, theirs), shown = pairs[0], make_printable(pairs[-1][1], 60)
        _say(
            f"{file}: layers have other names than in PyTorch's example; net{net} is matched by order and shape "
            f"({make_printable(theirs, 60)} is main.{first}, ... {shown} is main.{pairs[-1][0]}), and its activations are "
            "taken to be the example's: look at the first samples"
        )
        return _NetworkInFile(file, {f"main.{ours}": arrays[theirs] for ours, theirs in pairs}, "main.", is_matched=True)
    return None


def _make_refusal(net: str, place: Path, file: WeightFile, like: dict) -> UserError:
    """Makes the error for a file without a fitting network: says which tensor differs, or else what was found."""
    about = f"`start` {place}"
    for prefix in torch_names.list_prefixes(net, file.arrays):
        try:
            torch_names.check_tensors(net, file.arrays, like, about, prefix)
        except UserError as fault:
            return fault
    other = "D" if net == "G" else "G"
    has_other = torch_names.list_prefixes(other, file.arrays)
    has_kernels = any(name.endswith("weight") and array.ndim == 4 for name, array in file.arrays.items())
    renames = has_kernels and not has_other
    return UserError(
        f"{about}: contains no net{net} of PyTorch's example (arrays such as main.0.weight) but {file.contents}"
        + (f" (a net{other}: give net{net}'s file too, as netG.pth,netD.pth)" if has_other else "")
        + f"; {torch_names.describe_names(net, like) if renames else torch_names.describe_saving(net)}"
    )


def compute_checksum(networks: dict) -> int:
    """Computes a checksum of all arrays, by which processes check that they loaded the same weights."""
    checksum = 0
    for leaf in jax.tree.leaves(networks):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).data, checksum)
    return checksum
