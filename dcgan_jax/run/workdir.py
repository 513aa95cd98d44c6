"""The run directory explains itself: its settings, what ran it, its images; and whether a run may be resumed."""

import errno
import importlib.metadata
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock

from dcgan_jax import config as configuration
from dcgan_jax import files
from dcgan_jax.config import Config, UserError, make_printable
from dcgan_jax.config_rules import check_config
from dcgan_jax.data.checks import CHECKED_FACTS
from dcgan_jax.files import write_json
from dcgan_jax.run import distributed

LOCK, MARKER = "lock", "lock.owner"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
# What claim_folder makes; with the last the folder is a run.
OWN = (LOCK, MARKER, "samples", "data.json", "environment.json", "config.json")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow", "tensorflow", "tensorflow-cpu")


def claim_folder(config: Config, data_facts: dict) -> tuple[Path, filelock.BaseFileLock | None]:
    """Makes `<workdir>/<name>` with config.json, environment.json and data.json, or finds it for a resumption.

    data_facts: index.json of the pack. What a run there says of itself is left as it is; `write_run_facts` brings it up to date.
    Returns: its path, and the lock that the first process of the run holds until it releases it or dies (none in others).
    Raises: UserError where the run that is there had other images, other networks or another recipe, naming the fields; where
    another process trains it; and where the folder cannot be written.
    """
    path = get_run_path(config)
    try:
        _check_run(path, config, data_facts)
        (path / "samples").mkdir(parents=True, exist_ok=True)
        lock = _lock_run(path) if distributed.is_first_process() else None
        try:
            if lock:
                _remove_partial_files(path)
            if not _check_run(path, config, data_facts):  # once more: another may have made it meanwhile
                write_json(path / "data.json", data_facts)  # perhaps over the files of a start without a config.json
                write_run_facts(path, config)
        except BaseException:
            if lock:
                lock.release()
            raise
    except OSError as fault:
        raise UserError(f"{path}: {fault.strerror}; give a `workdir` and `name` that can be written") from None
    return path, lock


def get_run_path(config: Config) -> Path:
    """Where the run lies, or will."""
    return Path(config.run.workdir) / config.run.name


def _check_run(path: Path, config: Config, data_facts: dict) -> bool:
    """Whether a run is there. Raises UserError where it, or what else is there, is not the one that is asked for."""
    if (path / "config.json").exists():
        _check_same_config(path, config, data_facts)
        return True
    if path.exists() and not (path.is_dir() and all(file.name.removesuffix(".partial") in OWN for file in path.iterdir())):
        raise UserError(f"{path}: exists and is no run; give another `name`")
    _check_links(path)
    return False


def _lock_run(path: Path) -> filelock.BaseFileLock:
    # flock, which the kernel drops when its owner dies. Where a filesystem has none, a file tells the owner's host and process:
    # a dead one on this host is found out, one on another host must be removed by hand (docs/reliability.md).
    lock = filelock.FileLock(path / LOCK, timeout=0, fallback_to_soft=False)  # it would, with a warning, for one of NO_LOCKS
    try:
        try:
            lock.acquire()
        except OSError as fault:
            if fault.errno not in NO_LOCKS:
                raise
            lock = filelock.SoftFileLock(path / MARKER, timeout=1)  # its first look only removes what a dead owner left
            lock.acquire()
    except filelock.Timeout:
        owner = read_environment(path).get("process", "unknown")
        raise UserError(
            f"{path} is being trained by another process ({owner}): wait for it, stop it, or give another `name`"
        ) from None
    return lock


def _remove_partial_files(path: Path) -> None:
    """Removes what a killed process left half made. Its step may never be saved again, which would put it right."""
    image_names = r"(reals|losses|scores|neighbours|\d{8,})\.png"
    ours = re.compile(rf"(config|data|environment)\.json|metrics\.jsonl|{image_names}|report\.html(\.\d+)?|files\.json")
    for half in [*path.glob("*.partial"), *path.glob("samples/*.partial"), *path.glob("checkpoints/*/*.partial")]:
        if ours.fullmatch(half.name.removesuffix(".partial")) and half.is_file():
            half.unlink(missing_ok=True)
    for half in (path / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(half, ignore_errors=True)


def write_run_facts(path: Path, config: Config) -> str:
    """Writes the settings and what runs them now: environment.json, then config.json, with which the folder is a run.

    Returns: the name of this process there, which `check_ownership` compares.
    """
    environment = _describe_environment()
    write_json(path / "environment.json", environment)
    write_json(path / "config.json", configuration.flatten(config))
    return environment["process"]


def check_ownership(path: Path, process: str) -> None:
    """Raises UserError where another process has taken the run over, as it can on a filesystem that ignores locks."""
    now = read_json(path / "environment.json").get("process")
    if now != process:
        raise UserError(f"{path}: another process ({now}) has taken this run over; this one stops without saving")


def compare_environment(path: Path) -> str:
    """What ran the run until now and is another thing here, such as 'jax 0.10.2 -> 0.12.0'; empty where nothing is."""
    found = read_environment(path)
    before = found["packages"] if isinstance(found.get("packages"), dict) else {}
    before, now = before | {"devices:": found.get("devices")}, _list_packages() | {"devices:": distributed.describe_devices()}
    return ", ".join(
        f"{name} {make_printable(str(before[name]), 100)} -> {now[name]}"
        for name in now
        if before.get(name) not in (None, now[name])
    )


def read_environment(path: Path) -> dict:
    """environment.json, or {} where it is missing or broken: it only informs, so a run is not refused for that."""
    try:
        found = read_json(path / "environment.json")
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def read_config(path: Path) -> Config:
    """The config of the run at path. Raises UserError where path is no run or its config.json cannot be read."""
    file = path / "config.json"
    if not os.path.exists(file):  # os.path: also false, not an error, for names no disk takes
        runs = sorted(str(found.parent) for found in path.glob("*/config.json")) if os.path.isdir(path) else []
        raise UserError(
            f"{path}: no run is there (no config.json)" + (f"; did you mean {' or '.join(runs[:3])}?" if runs else "")
        )
    _check_links(path)
    config = configuration.unflatten(read_json(file), str(file))
    try:
        check_config(config)
        if config.optimizer.lr_decay != "none" and config.run.epochs is not None:  # train.py makes steps of them
            raise UserError("its learning rate decays over epochs, which a run has as steps")
    except UserError as fault:
        raise UserError(f"{file}: {fault}; restore it from a copy of the run") from None
    return config


def _check_links(path: Path) -> None:
    # A run may be a stranger's: going on with it must not change, nor drawing from it read, what its links point to elsewhere,
    # nor wait for ever for what comes out of a pipe.
    inside = os.path.realpath(path) + os.sep
    for folder, folders, names in os.walk(path):
        for name in folders + names:
            there = os.path.join(folder, name)
            if os.path.islink(there) and not os.path.realpath(there).startswith(inside):
                raise UserError(f"{make_printable(there)}: is a link out of the run, not followed; move here what it points to")
            if os.path.exists(there) and not (os.path.isfile(there) or os.path.isdir(there)):
                raise UserError(f"{make_printable(there)}: is neither a file nor a folder; remove it")


def read_data_facts(path: Path) -> dict:
    """What data.json of the run at path says of its images. Raises UserError."""
    facts = read_json(path / "data.json")
    found = facts if isinstance(facts, dict) else {}
    source = found.get("source")
    numbers = [found.get(name, 0) for name in CHECKED_FACTS]
    texts = (found.get("fingerprint"), source.get("name") if isinstance(source, dict) else None, found.get("pixels", ""))
    if not (
        all(isinstance(text, str) for text in texts)
        and type(found.get("count")) is int
        and 0 < found["count"] < 2**40
        and all(type(number) in (int, float) for number in numbers)
    ):
        raise UserError(f"{path / 'data.json'}: does not describe the run's images; restore it from a copy of the run")
    return facts


def is_same_data(one: dict, other: dict) -> bool:
    """Whether two packs' facts tell of the same pixels in the same order, wherever the files lay and whatever their dates."""
    return one.get("pixels") == other["pixels"]


def read_json(file: Path) -> Any:
    """Its value. Raises UserError where it is no JSON, or none of ours by size or depth."""
    try:
        return files.load_json(file)
    except (ValueError, OSError) as fault:
        raise UserError(f"{file}: cannot be read ({fault}); restore it from a copy of the run") from None


def _check_same_config(path: Path, config: Config, data_facts: dict) -> None:
    asked, found = configuration.flatten(config), configuration.flatten(read_config(path))
    resumable = configuration.list_resumable_fields(config)
    differing = [name for name in asked if name not in resumable and asked[name] != found[name]]
    if differing:
        fields = ", ".join(f"{name} {found[name]} there, {asked[name]} asked" for name in differing[:4])
        flags = " ".join(_format_argument(name, found[name]) for name in differing[:4])
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        why = f" (its learning rate decays over its length: start a longer run from it with `start` {path})"
        raise UserError(
            f"{path} was started otherwise: {fields}{more}. Continue it with {flags}{more}, give another `name`, or "
            f"move it away{why if set(configuration.LENGTHS) & set(differing) else ''}"
        )
    before = read_data_facts(path)
    if not is_same_data(before, data_facts):
        raise UserError(
            f"{path} was trained on other images: {before['source']['name']} ({before['count']:,}) there, "
            f"{data_facts['source']['name']} ({data_facts['count']:,}) asked. Continue it with the same `data`, give "
            "another `name`, or move it away"
        )


def _format_argument(name: str, value: object) -> str:
    return f"`{name}` {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _list_packages() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # one of the TensorFlows is always absent
    return versions


def _describe_environment() -> dict:
    # The random part: two containers may have the same host name and process number.
    process = f"process {os.getpid()} on {platform.node()}, {secrets.token_hex(4)}"
    return {
        "command": sys.argv,
        "process": process,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": distributed.describe_devices(),
        "packages": _list_packages(),
        "commit": _describe_commit(),
    }


def _describe_commit() -> str | None:
    # Where the code runs from a git checkout; an installed package has its version instead.
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine: the commit is simply not known
        return None
    return done.stdout.strip() or None
