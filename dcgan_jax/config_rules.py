"""Checks a Config: types, bounds of single fields, and combinations of fields that are not possible."""

import math
import os
import re
import reprlib
import typing

from annotated_types import Interval

from dcgan_jax.config import (
    FIELDS,
    LENGTHS,
    MAX_CHANNELS,
    SIZES,
    Config,
    Field,
    Mark,
    Nets,
    Optimizer,
    Run,
    UserError,
    flatten,
    list_fields,
    replace,
)
from dcgan_jax.field_types import describe_type, has_type

MAX_CONDITIONS = 256
# The values that residual networks need: they have no normalisation, no other blocks, and their own initial values.
RESIDUAL_VALUES = {
    "kernel": 4,
    "g_last_kernel": 0,
    "head_norm": "none",
    "g_norm": "none",
    "d_norm": "none",
    "g_refine": 0,
    "d_refine": 0,
    "g_smooth": False,
    "g_smooth_inner": 0,
    "g_activation": "leaky",
    "conv_bias": False,
    "init": "he",
}


def check_config(config: Config) -> None:
    """Checks all values and their combinations. Raises: UserError, one line with the argument and the nearest valid values."""
    for name, value in flatten(config).items():
        _check_type(name, value, FIELDS[name])
    _check_size(config.nets)  # before the bounds: this message names the nearest valid sizes
    for name, value in flatten(config).items():
        _check_bounds(name, value, FIELDS[name])
    _check_run(config.run)
    _check_processes(config.run)
    _check_loss(config)
    _check_penalties(config)
    _check_optimizer(config.optimizer)
    _check_residual(config.nets)
    _check_layers(config.nets)
    _check_channels(config.nets)
    _check_freezing(config)
    if config.run.grow_kimg:
        _check_growth(config)


def check_stored_config(config: Config) -> None:
    """Checks the config of a run. A run given in `minutes` also stores the `kimg` chosen for them.

    Raises: UserError, as check_config.
    """
    if config.run.minutes is not None and config.run.kimg is not None:
        check_config(replace(config, minutes=None))
        config = replace(config, kimg=None)
    check_config(config)


def _require(ok: object, name: str, value: object, remedy: str) -> None:
    if not ok:
        raise UserError(f"`{name}` {' '.join(map(str, value)) if isinstance(value, tuple) else value}: {remedy}")


def _check_type(name: str, value: object, field: Field) -> None:
    items = value if isinstance(value, tuple) else (value,)
    is_finite = all(math.isfinite(item) for item in items if isinstance(item, float))
    _require(is_finite, name, value, "give a finite number")
    _require(has_type(value, field.type), name, reprlib.repr(value), f"must be {describe_type(field.type)}")


def _check_bounds(name: str, value: typing.Any, field: Field) -> None:
    bounds = field.bounds
    if value is None or bounds is None:
        return
    limits = [("at least", bounds.ge), ("above", bounds.gt), ("at most", bounds.le), ("below", bounds.lt)]
    text = " and ".join(f"{word} {limit:,}" for word, limit in limits if limit is not None)
    items = value if isinstance(value, tuple) else (value,)
    _require(all(_is_within(item, bounds) for item in items), name, value, f"must be {text} {field.unit}".rstrip())


def _is_within(value: float, bounds: Interval) -> bool:
    # pyrefly: ignore[unsupported-operation] - annotated-types declares limits as protocols; here they are numbers
    above = (bounds.ge is None or value >= bounds.ge) and (bounds.gt is None or value > bounds.gt)
    # pyrefly: ignore[unsupported-operation] - as above
    return above and (bounds.le is None or value <= bounds.le) and (bounds.lt is None or value < bounds.lt)


def _check_size(nets: Nets) -> None:
    near = sorted(sorted(SIZES, key=lambda size: abs(size - nets.size))[:2])
    text = f"sizes are powers of two from {SIZES[0]} to {SIZES[-1]}; nearest: {near[0]} or {near[1]}"
    _require(nets.size in SIZES, "size", nets.size, text)


def _check_run(run: Run) -> None:
    given = [name for name in LENGTHS if getattr(run, name) is not None]
    if len(given) != 1:
        shown = " and ".join(given) or "none"
        raise UserError(
            f"a run needs exactly one of `steps`, `epochs`, `kimg`, `minutes`: {shown} given; give one (in Python, set the "
            "others to None)"
        )
    reserved = "[/\0]" if os.name == "posix" else r'[/\0\\:*?"<>|]'
    is_folder = not re.search(reserved, run.name) and run.name not in (".", "..")
    _require(is_folder, "name", run.name, "must be the name of a folder inside `workdir`, without /")


def _check_processes(run: Run) -> None:
    by_hand = run.coordinator not in ("", "auto")
    is_address = not by_hand or re.fullmatch(r"[^:\s]{1,255}:[0-9]{1,5}", run.coordinator)
    _require(is_address, "coordinator", run.coordinator, "give address:port, such as 10.0.0.1:1234, or auto")
    _require(run.process_id < run.processes, "process_id", run.process_id, f"must be from 0 to {run.processes - 1}")
    _require(by_hand or run.processes == 1, "processes", run.processes, "needs `coordinator` address:port")
    _require(not by_hand or run.processes > 1, "processes", run.processes, "must be at least 2 with a `coordinator`")


def _check_loss(config: Config) -> None:
    loss, augment = config.loss, config.loss.augment
    _require(loss.real_label == 1 or loss.loss == "bce", "real_label", loss.real_label, f"needs `loss` bce, not {loss.loss}")
    _require(len(set(augment)) == len(augment), "augment", augment, "name each augmentation only once")
    _require(augment or not loss.augment_target, "augment_target", loss.augment_target, "needs `augment`")
    is_tanh = config.nets.g_output == "tanh"
    _require(not augment or is_tanh, "augment", augment, "needs images in [-1, 1]: give `g_output` tanh")


def _check_penalties(config: Config) -> None:
    loss, every, noise = config.loss, config.loss.penalty_every_steps, config.loss.penalty_noise
    _require(loss.has_penalty or every == 1, "penalty_every_steps", every, "needs a penalty: `r1_gamma`, `r2_gamma`, `gp_weight`")
    text = "must be 1 with `updates` alternating, which updates D in every second step only"
    _require(every == 1 or config.optimizer.updates != "alternating", "penalty_every_steps", every, text)
    _require(not noise or loss.r1_gamma or loss.r2_gamma, "penalty_noise", noise, "needs `r1_gamma` or `r2_gamma`")
    text = "must be 0 or at least 0.001: float32 rounds smaller noise away"
    _require(noise == 0 or noise >= 1e-3, "penalty_noise", noise, text)


def _check_optimizer(optimizer: Optimizer) -> None:
    if optimizer.updates == "alternating":
        one_each = optimizer.d_steps == optimizer.g_steps == 1
        _require(one_each, "updates", "alternating", "needs `d_steps` 1 `g_steps` 1")
        _require(optimizer.g_latents == "new", "g_latents", "same", "must be new with `updates` alternating")
    share = optimizer.lr_decay_share
    text = "needs `lr_decay` linear or cosine; without decay, give `lr_decay_share` 1"
    _require(optimizer.lr_decay != "none" or share == 1, "lr_decay_share", share, text)


def _check_residual(nets: Nets) -> None:
    missing = [f"`{name}` {value}" for name, value in RESIDUAL_VALUES.items() if getattr(nets, name) != value]
    text = f"these networks have no normalisation and one kind of block; give {' '.join(missing)}, or `architecture` dcgan"
    _require(nets.architecture != "residual" or not missing, "architecture", nets.architecture, text)


def _check_layers(nets: Nets) -> None:
    names = nets.conditions
    _require(all(names) and len(set(names)) == len(names), "condition", nets.condition, "name each once, separated by commas")
    _require(len(names) <= MAX_CONDITIONS, "condition", f"of {len(names)} attributes", f"give at most {MAX_CONDITIONS}")
    text = "needs a G whose last layer is an up-sampling: give `g_last_kernel` 0"
    _require(not (nets.g_refine and nets.g_last_kernel), "g_refine", nets.g_refine, text)
    text = "needs a G whose last layer is an up-sampling: give `g_last_kernel` 0"
    _require(not (nets.g_smooth and nets.g_last_kernel), "g_smooth", nets.g_smooth, text)
    inner = nets.levels - (nets.g_last_kernel == 0)  # up-samplings before the last layer
    text = f"G has {inner} up-sampling{'' if inner == 1 else 's'} before its last layer; give at most {inner}"
    _require(nets.g_smooth_inner <= inner, "g_smooth_inner", nets.g_smooth_inner, text)
    text = "its zero initial weights cannot be divided by their norm, as `d_norm` spectral does; give `d_norm` batch or none"
    _require(not (nets.d_refine and nets.d_norm == "spectral"), "d_refine", nets.d_refine, text)
    _require(nets.g_multipliers or not nets.g_last_kernel, "g_last_kernel", nets.g_last_kernel, "needs `g_multipliers`")


def _check_channels(nets: Nets) -> None:
    levels = nets.levels
    is_residual = nets.architecture == "residual"  # its networks also have a map at the image's side
    counts = {"g_multipliers": levels + (nets.g_last_kernel > 0 or is_residual), "d_multipliers": levels + is_residual}
    for name, count in counts.items():
        multipliers = getattr(nets, name)
        text = f"must have {count} numbers for `size` {nets.size} and `base_px` {nets.base_px}; give it together with `size`"
        _require(len(multipliers) in (0, count), name, multipliers, text)
        widest = max(multipliers, default=2 ** (levels - 1 + is_residual))
        text = (
            f"the widest layer has {widest} times as many channels, more than {MAX_CHANNELS:,}; give at most `width` "
            f"{max(1, MAX_CHANNELS // widest)}, or smaller multipliers"
        )
        _require(nets.width * widest <= MAX_CHANNELS, "width", nets.width, text)


def _check_freezing(config: Config) -> None:
    count, nets, run = config.optimizer.freeze_d, config.nets, config.run
    levels = nets.levels
    text = f"D halves the side {levels} times with `size` {nets.size} and `base_px` {nets.base_px}; give at most {levels}"
    _require(count <= levels, "freeze_d", count, text)
    # Growing excludes `start`, so a remedy that named only one of the two would lead to the next refusal.
    remedy = "`start` with a trained network" + (" and `grow_kimg` 0" if run.grow_kimg else "")
    text = f"random layers must be trained; give {remedy}, or `freeze_d` 0"
    _require(count == 0 or (run.start and not run.grow_kimg), "freeze_d", count, text)


def _check_growth(config: Config) -> None:
    grow, nets, default = config.run.grow_kimg, config.nets, Nets()
    otherwise = "give `grow_kimg` 0 to train at the full size from the start"
    most = int(math.log2(nets.size // SIZES[0]))
    _require(most, "grow_kimg", grow, f"half of `size` {nets.size} is too small; {otherwise}")
    _require(all(grow), "grow_kimg", grow, f"each of several stages needs a number above 0; {otherwise}")
    text = f"the smallest side is {SIZES[0]} px; with `size` {nets.size}, give at most {most} number{'' if most == 1 else 's'}"
    _require(len(grow) <= most, "grow_kimg", grow, text)
    _require(not config.run.start, "grow_kimg", grow, "cannot start from trained networks, as `start` does: give `grow_kimg` 0")
    for name in sorted(list_fields(Mark.DEFAULT_TO_GROW)):
        value, only = getattr(nets, name), getattr(default, name)
        text = f"progressive growing needs {name} {'empty' if only == () else only}, not {value}; {otherwise}"
        _require(value == only, "grow_kimg", grow, text)
    least = 2 * nets.channels
    _require(nets.width >= least, "grow_kimg", grow, f"needs `width` {least} or more, two channels per colour; or {otherwise}")
