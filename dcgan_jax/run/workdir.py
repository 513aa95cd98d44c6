"""The run's folder: records settings, environment and data, and holds the lock."""

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
from dcgan_jax.config_rules import check_stored_config
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.checks import CHECKED_FACTS
from dcgan_jax.files import write_json
from dcgan_jax.places import check_encodable
from dcgan_jax.run import compact, distributed, pretrained
from dcgan_jax.run.product_speed import read_speedup
from dcgan_jax.run.resume_check import check_resumable

LOCK, MARKER = "lock", "lock.owner"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
# What claim_folder creates. config.json is written last: a folder with it is a run.
OWN = (LOCK, MARKER, "samples", "data.json", "environment.json", "config.json")
COMPILER_VARIABLES = ("JAX_", "XLA_")  # beginnings of names; JAX's own settings are pinned (numerics.py), XLA's are not
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow", "tensorflow", "tensorflow-cpu")


def claim_folder(config: Config, data_facts: dict) -> tuple[Path, filelock.BaseFileLock | None]:
    """Creates `<workdir>/<name>` with config.json, environment.json and data.json, or checks an existing run before it resumes.

    Files of an existing run stay unchanged here; `write_run_facts` updates them.
    Args: data_facts: index.json of the pack.
    Returns: the path, and the lock. The first process holds the lock until it releases it or ends; others get None.
    Raises: UserError if the existing run has other images or settings (the message names them), if another process trains
    it, or if the folder cannot be written.
    """
    path = get_run_path(config)
    check_encodable(os.path.abspath(path))
    try:
        _check_run(path, config, data_facts)
        (path / "samples").mkdir(parents=True, exist_ok=True)
        lock = _lock_run(path) if distributed.is_first_process() else None
        try:
            if lock:
                _remove_partial_files(path)
            if not _check_run(path, config, data_facts):  # again, under the lock: another process may have created it meanwhile
                write_json(path / "data.json", data_facts)  # replaces that of an interrupted start
                write_run_facts(path, config)
        except BaseException:
            if lock:
                lock.release()
            raise
    except OSError as fault:
        raise UserError(f"{path}: {fault.strerror}; give a `workdir` and `name` that can be written") from None
    return path, lock


def get_run_path(config: Config) -> Path:
    """Returns the folder of the run, which need not exist yet."""
    return Path(config.run.workdir) / config.run.name


def is_run(path: Path) -> bool:
    """Whether there is a run at path."""
    # Path.exists raises for names that no filesystem accepts.
    return os.path.exists(path / "config.json") and not _is_export(path)


def _is_export(path: Path) -> bool:
    # It has a config.json like a run, but a model card instead of checkpoints and facts about the data.
    has = {name: os.path.exists(path / name) for name in ("README.md", "data.json", "checkpoints")}
    return has["README.md"] and not has["data.json"] and not has["checkpoints"]


def list_low_resolution_stages(run: Path) -> list[Path]:
    """Lists the folders of the run's low-resolution stages, from the smallest image side on: half/half, half."""
    return [run / stage for stage in reversed(compact.STAGES) if is_run(run / stage)]


def _check_run(path: Path, config: Config, data_facts: dict) -> bool:
    """Returns whether the folder is a run.

    Raises: UserError if the run has other settings, images or labels, or if the folder has foreign files.
    """
    if compact.is_compact(path):
        raise UserError(f"{path}: has weights only and cannot be resumed; give another `name`, and its path as `start`")
    if is_run(path):
        check_resumable(path, read_config(path), read_data_facts(path), config, data_facts)
        return True
    if path.exists() and not (path.is_dir() and all(file.name.removesuffix(".partial") in OWN for file in path.iterdir())):
        raise UserError(f"{path}: exists but is not a run; give another `name`")
    _check_links(path)
    return False


def _lock_run(path: Path) -> filelock.BaseFileLock:
    # The kernel releases a flock when its owner ends. A filesystem without flock gets a file that names host and process. If its
    # owner has died, the file is removed automatically on the same host, by hand on others (docs/reliability.md).
    lock = filelock.FileLock(path / LOCK, timeout=0, fallback_to_soft=False)  # the built-in fallback prints a warning
    try:
        try:
            lock.acquire()
        except OSError as fault:
            if fault.errno not in NO_LOCKS:
                raise
            lock = filelock.SoftFileLock(path / MARKER, timeout=1)  # the first attempt only removes the file of a dead owner
            lock.acquire()
    except filelock.Timeout:
        owner = read_environment(path).get("process", "unknown")
        raise UserError(
            f"{path} is being trained by another process ({owner}): wait for it, stop it, or give another `name`"
        ) from None
    return lock


def _remove_partial_files(path: Path) -> None:
    """Removes unfinished files of a killed process. A later save would replace them, but may never come."""
    image_names = r"(reals|losses|scores|neighbours|\d{8,})\.png"
    ours = re.compile(rf"(config|data|environment)\.json|metrics\.jsonl|{image_names}|report\.html(\.\d+)?|files\.json")
    for partial in [*path.glob("*.partial"), *path.glob("samples/*.partial"), *path.glob("checkpoints/*/*.partial")]:
        if ours.fullmatch(partial.name.removesuffix(".partial")) and partial.is_file():
            partial.unlink(missing_ok=True)
    for partial in (path / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(partial, ignore_errors=True)


def write_run_facts(path: Path, config: Config) -> str:
    """Writes environment.json, then config.json. Only with config.json the folder counts as a run.

    Returns: the name of this process in environment.json, for `check_ownership`.
    """
    environment = _describe_environment()
    write_json(path / "environment.json", environment)
    write_json(path / "config.json", configuration.flatten(config))
    return environment["process"]


def check_ownership(path: Path, process: str) -> None:
    """Raises UserError if another process now trains this run, which can happen on a filesystem that ignores locks."""
    now = read_json(path / "environment.json").get("process")
    if now != process:
        raise UserError(f"{path}: another process ({now}) now trains this run; this process stops without saving")


def compare_environment(path: Path) -> str:
    """Describes changes of packages and devices since the last training, such as 'jax 0.10.2 -> 0.12.0'; "" if none."""
    facts = read_environment(path)
    before = facts["packages"] if isinstance(facts.get("packages"), dict) else {}
    before, now = before | {"devices:": facts.get("devices")}, _list_packages() | {"devices:": distributed.describe_devices()}
    return ", ".join(
        f"{name} {make_printable(str(before[name]), 100)} -> {now[name]}"
        for name in now
        if before.get(name) not in (None, now[name])
    )


def read_environment(path: Path) -> dict:
    """Reads environment.json; {} if it is missing or broken. Nothing depends on it, so a broken one is no reason to stop."""
    try:
        environment = read_json(path / "environment.json")
    except UserError:
        return {}
    return environment if isinstance(environment, dict) else {}


def read_config(path: Path) -> Config:
    """Reads the config of the run at path. Raises: UserError if path is not a run, or its config.json cannot be read."""
    file = path / "config.json"
    check_encodable(os.path.abspath(path))
    if not os.path.exists(file):  # Path.exists raises for names that no filesystem accepts
        pretrained.check_not_hiding(path)
        inside = sorted(file.parent for file in path.glob("*/config.json")) if os.path.isdir(path) else []
        around = [*path.parents, Path("runs", path)]
        runs = [str(near) for near in around if is_run(near)] or [str(child) for child in inside if is_run(child)]
        raise UserError(
            f"{path}: no run is there (no config.json); "
            + (f"did you mean {' or '.join(runs[:3])}?" if runs else pretrained.suggest_name(path))
        )
    if _is_export(path):
        pretrained.check_not_hiding(path)
        raise UserError(f"{path}: is an export, not a run; give the folder of the run")
    if not pretrained.is_packaged(path):  # installers may link a package's files
        _check_links(path)
    config = configuration.unflatten(read_json(file), str(file))
    try:
        check_stored_config(config)
        if config.optimizer.lr_decay != "none" and config.run.epochs is not None:  # train.py converts epochs to steps
            raise UserError("with a learning-rate decay, the length must be `steps`, not `epochs`")
        if config.nets.compute_dtype == "auto":  # setup.py replaces it
            raise UserError("`compute_dtype` must be float32 or bfloat16, not auto")
    except UserError as fault:
        raise UserError(f"{file}: {fault}; restore it from a copy of the run") from None
    return config


def restore_length(config: Config) -> Config:
    """Adds the lengths in kimg that an existing run chose for its `minutes`.

    Returns: the config; unchanged without `minutes`, or if there is no such run.
    """
    path = get_run_path(config)
    if config.run.minutes is None or not is_run(path):
        return config
    stored = read_config(path).run
    if stored.minutes != config.run.minutes or stored.kimg is None:
        return config
    config = configuration.replace(config, kimg=stored.kimg)
    has_same_stages = len(config.run.grow_kimg) == len(stored.grow_kimg)
    return configuration.replace(config, grow_kimg=stored.grow_kimg) if has_same_stages else config


def _check_links(path: Path) -> None:
    # A run may come from a stranger. Its links must not make us read or change files outside of it, and reading a pipe could
    # block for ever.
    inside = os.path.realpath(path) + os.sep
    for folder, folders, names in os.walk(path):
        for name in folders + names:
            there = os.path.join(folder, name)
            if os.path.islink(there) and not os.path.realpath(there).startswith(inside):
                raise UserError(
                    f"{make_printable(there)}: is a link out of the run, not followed; replace it by a copy of its target"
                )
            if os.path.exists(there) and not (os.path.isfile(there) or os.path.isdir(there)):
                raise UserError(f"{make_printable(there)}: is neither a file nor a folder; remove it")


def read_data_facts(path: Path) -> dict:
    """Reads data.json of the run at path: the facts about its images. Raises: UserError."""
    facts = read_json(path / "data.json")
    entries = facts if isinstance(facts, dict) else {}
    source = entries.get("source")
    numbers = [entries.get(name, 0) for name in CHECKED_FACTS]
    texts = (entries.get("fingerprint"), source.get("name") if isinstance(source, dict) else None, entries.get("pixels", ""))
    if not (
        all(isinstance(text, str) for text in texts)
        and type(entries.get("count")) is int
        and 0 < entries["count"] < 2**40
        and all(type(number) in (int, float) for number in numbers)
    ):
        raise UserError(f"{path / 'data.json'}: does not describe the run's images; restore it from a copy of the run")
    return facts


def read_json(file: Path) -> Any:
    """Reads a JSON file of a run. Raises: UserError if it is not valid JSON, too large or too deeply nested."""
    try:
        return files.load_json(file)
    except (ValueError, OSError) as fault:
        raise UserError(f"{file}: cannot be read ({fault}); restore it from a copy of the run") from None


def _list_packages() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # at least one of the two TensorFlow packages is absent
    return versions


def _describe_environment() -> dict:
    # Two containers may have the same host name and process number, so a random part is added.
    process = f"process {os.getpid()} on {platform.node()}, {secrets.token_hex(4)}"
    return {
        "command": sys.argv,
        "process": process,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": distributed.describe_devices(),
        "bfloat16_speedup": read_speedup(get_cache_dir()),  # of matrix products; None if no run has asked for "auto" here
        "variables": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(COMPILER_VARIABLES)},
        "packages": _list_packages(),
        "commit": _describe_commit(),
    }


def _describe_commit() -> str | None:
    # Only if the code runs from a git checkout. An installed package has a version instead.
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):  # without git the commit stays unknown
        return None
    return done.stdout.strip() or None
