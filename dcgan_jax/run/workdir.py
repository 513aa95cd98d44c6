"""The run directory explains itself: what was asked, what ran it, which pictures; and it tells a resumption from a mistake."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dcgan_jax import config as configuration
from dcgan_jax.config import BadInput, Config
from dcgan_jax.run import devices

OWN = ("samples", "data.json", "environment.json", "config.json")  # what open_run makes; with the last the folder is a run
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow", "tensorflow", "tensorflow-cpu")


def open_run(config: Config, data_facts: dict) -> Path:
    """Makes `<workdir>/<name>` with config.json, environment.json and data.json, or finds it for a resumption.

    data_facts: index.json of the pack. What a run there says of itself is left as it is; `go_on` brings it up to date.
    Raises BadInput where the run that is there had other pictures, other networks or
    another recipe, naming the fields, and where the folder cannot be written.
    """
    path = Path(config.run.workdir) / config.run.name
    try:
        is_run = (path / "config.json").exists()
        if is_run:
            _must_agree(path, config, data_facts)
        elif path.exists() and not (path.is_dir() and all(file.name.removesuffix(".partial") in OWN for file in path.iterdir())):
            raise BadInput(f"{path}: exists and is no run; give another --name")
        (path / "samples").mkdir(parents=True, exist_ok=True)
        if not is_run:  # perhaps over the files of a start that did not come to its config.json
            write_json(path / "data.json", data_facts)
            go_on(path, config)
    except OSError as fault:
        raise BadInput(f"{path}: {fault.strerror}; give a --workdir and --name that can be written") from None
    return path


def go_on(path: Path, config: Config) -> None:
    """Writes what is asked now and what runs it: environment.json, then config.json, with which the folder is a run."""
    write_json(path / "environment.json", _environment())
    write_json(path / "config.json", configuration.flat(config))


def read_config(path: Path) -> Config:
    """The config of the run at path. Raises BadInput where path is no run or its config.json cannot be read."""
    file = path / "config.json"
    if not os.path.exists(file):  # os.path: also false, not an error, for names no disk takes
        runs = sorted(str(found.parent) for found in path.glob("*/config.json")) if os.path.isdir(path) else []
        raise BadInput(f"{path}: no run is there (no config.json)" + (f"; did you mean {' or '.join(runs[:3])}?" if runs else ""))
    config = configuration.from_flat(read_json(file), str(file))
    try:
        configuration.check(config)
    except BadInput as fault:
        raise BadInput(f"{file}: {fault}; restore it from a copy of the run") from None
    return config


def read_data_facts(path: Path) -> dict:
    """What data.json of the run at path says of its pictures. Raises BadInput."""
    facts = read_json(path / "data.json")
    if not isinstance(facts, dict) or not {"fingerprint", "count", "source"} <= facts.keys():
        raise BadInput(f"{path / 'data.json'}: does not describe the run's pictures; restore it from a copy of the run")
    return facts


def read_json(file: Path):
    """Its value. Raises BadInput where it is no JSON."""
    try:
        return json.loads(file.read_text())
    except (ValueError, OSError) as fault:
        raise BadInput(f"{file}: cannot be read ({fault}); restore it from a copy of the run") from None


def write_json(file: Path, value) -> None:
    """Whole or not at all: a reader never sees half of it."""
    with whole(file) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path beside the file, to be written; it takes the file's place at the end, and goes where that is not reached."""
    partial = file.with_name(file.name + ".partial")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _must_agree(path, config, data_facts):
    asked, found = configuration.flat(config), configuration.flat(read_config(path))
    differing = [name for name in asked if name not in configuration.FREE_TO_CHANGE and asked[name] != found[name]]
    if differing:
        fields = ", ".join(f"{name} {found[name]} there, {asked[name]} asked" for name in differing[:4])
        flags = " ".join(_flag(name, found[name]) for name in differing[:4])
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise BadInput(f"{path} was started otherwise: {fields}{more}. Continue it with {flags}{more}, give another --name, or "
                       "move it away")
    before = read_data_facts(path)
    if before["fingerprint"] != data_facts["fingerprint"]:
        raise BadInput(f"{path} was trained on other pictures: {before['source']['name']} ({before['count']:,}) there, "
                       f"{data_facts['source']['name']} ({data_facts['count']:,}) asked. Continue it with the same --data, give "
                       "another --name, or move it away")


def _flag(name, value):
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _environment():
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # one of the TensorFlows is always absent
    return {"command": sys.argv, "python": platform.python_version(), "platform": platform.platform(),
            "devices": devices.describe(), "packages": versions, "commit": _commit()}


def _commit():
    # Where the code runs from a git checkout; an installed package has its version instead.
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=here, capture_output=True, text=True,
                              timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine: the commit is simply not known
        return None
    return done.stdout.strip() or None
