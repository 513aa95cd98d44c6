"""Runs the commands in odd environments. Each must succeed, or end with one line and exit code 2.

    python experiments/fuzz_environment.py --count 500 --seed 0 [--only 17]

A case is a command and up to four oddities: variables, streams, locale, home folder, umask, working directory, user. Cases
are a function of the seed. `sample` must also generate the same images as in a plain environment, and `train` must begin with
the same weights. Another user needs root and `setpriv`; without them this oddity is left out.
`experiments/fuzz.py --environment 500` does the same.
"""

import argparse
import collections
import dataclasses
import functools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable
LIMIT_S = 300
TINY = ["--size", "16", "--width", "8", "--batch-size", "8", "--steps", "2", "--data", "drawn:64", "--no-tensorboard"]
GRID = "00000000.png"  # the samples of a run's initial weights

# Each oddity belongs to a group; a case has at most one of each group.
VARIABLES = {
    "JAX, numbers": [
        {"JAX_ENABLE_X64": "1"},
        {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
        {"JAX_DEFAULT_PRNG_IMPL": "unsafe_rbg", "JAX_ENABLE_CUSTOM_PRNG": "1"},
        {"JAX_THREEFRY_PARTITIONABLE": "0"},
        {"JAX_RANDOM_SEED_OFFSET": "7"},
        {"JAX_NUMPY_DTYPE_PROMOTION": "strict"},
        {"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"},
        {"JAX_DEFAULT_DTYPE_BITS": "64"},
        {"JAX_DISABLE_JIT": "1"},
        {"JAX_DEBUG_NANS": "1", "JAX_DEBUG_INFS": "1"},
        {"JAX_LEGACY_PRNG_KEY": "error"},
        {"JAX_TRANSFER_GUARD": "disallow"},
        {"JAX_OPTIMIZATION_LEVEL": "O0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        {"JAX_NUMPY_RANK_PROMOTION": "raise"},
        {"FLAX_FIX_RNG_SEPARATOR": "1", "FLAX_RETURN_FROZENDICT": "1", "FLAX_PRESERVE_ADOPTED_NAMES": "1"},
        {"JAX_CHECK_TRACER_LEAKS": "1"},
        {"JAX_DEBUG_KEY_REUSE": "1"},
        {"JAX_ENABLE_CHECKS": "1"},
        {"JAX_DEFAULT_DEVICE": "cpu"},
        {"JAX_NUM_CPU_DEVICES": "2"},
    ],
    "JAX, start": [
        {"JAX_PLATFORMS": "cuda"},
        {"JAX_PLATFORMS": "tpu,cpu"},
        {"JAX_PLATFORMS": "nonsense"},
        {"JAX_PLATFORMS": ""},
        {"JAX_PLATFORM_NAME": "gpu"},
        {"JAX_ENABLE_X64": "maybe"},
        {"JAX_NUM_CPU_DEVICES": "0"},
        {"JAX_NUM_CPU_DEVICES": "many"},
        {"JAX_DEFAULT_DEVICE": "gpu"},
        {"JAX_COMPILATION_CACHE_DIR": "/proc/none"},
        {"JAX_COMPILATION_CACHE_DIR": "~/programs"},
        {"XLA_FLAGS": "--xla_no_such_flag=1"},
        {"XLA_FLAGS": "/no/such/file"},
        {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
        {"CUDA_VISIBLE_DEVICES": "-1"},
        {"JAX_LOGGING_LEVEL": "LOUD"},
        {"JAX_TRACEBACK_FILTERING": "off"},
    ],
    "other libraries": [
        {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX2"},
        {"NPY_PROMOTION_STATE": "legacy"},
        {"MPLBACKEND": "nonsense"},
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MPLCONFIGDIR": "/proc/none"},
        {"TQDM_MININTERVAL": "often"},
        {"TQDM_DISABLE": "1"},
        {"FLAX_PROFILE": "perhaps"},
        {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "none"},
        {"OMP_NUM_THREADS": "all"},
        {"TF_CPP_MIN_LOG_LEVEL": "none", "TF_ENABLE_ONEDNN_OPTS": "0"},
        {"http_proxy": "nonsense", "HTTPS_PROXY": "http://["},
    ],
    "Python": [
        {"PYTHONOPTIMIZE": "1"},
        {"PYTHONOPTIMIZE": "2"},
        {"PYTHONWARNINGS": "error"},
        {"PYTHONDEVMODE": "1"},
        {"PYTHONHASHSEED": "0"},
        {"PYTHONUNBUFFERED": "1"},
        {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"},
        {"PYTHONSAFEPATH": "1"},
    ],
    "locale": [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"PYTHONIOENCODING": "utf-16"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "no_SUCH.locale"},
        {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"},
        {"PYTHONUTF8": "1"},
    ],
    "terminal": [
        {"TERM": "dumb", "NO_COLOR": "1"},
        {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"},
        {"COLUMNS": "1"},
        {"COLUMNS": "wide", "LINES": "-1"},
        {"TZ": "Nowhere/None"},
    ],
    "home": [
        {"HOME": None},
        {"HOME": ""},
        {"HOME": "/proc"},
        {"HOME": "/no/such/home"},
        {"HOME": "relative"},
        {"XDG_CACHE_HOME": "relative"},
        {"XDG_CACHE_HOME": "/dev/null"},
        {"DCGAN_JAX_CACHE": "/dev/null/cache"},
        {"DCGAN_JAX_CACHE": "~/cache"},
        {"DCGAN_JAX_CACHE": "~nobody_at_all/cache"},
        {"TMPDIR": "/no/such/folder"},
    ],
}
STREAMS = ["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "| true", "2>&1 | head -n 1"]
UMASKS = [0o000, 0o027, 0o077, 0o277, 0o777]
FOLDERS = ["deleted", "/", "bü  x", "read-only"]
USER = "12345"  # without an entry in the list of users, as in a container


@functools.cache
def can_change_user() -> bool:
    """Whether commands can run as USER. Its processes must be able to start the interpreter: the checks of XLA_FLAGS do."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("setpriv"):
        return False
    tried = ["setpriv", "--reuid", USER, "--clear-groups", "sh", "-c", f"'{PYTHON}' -c ''"]
    return subprocess.run(tried, capture_output=True).returncode == 0


@dataclasses.dataclass(frozen=True)
class Case:
    """A command in an environment. The command's words may name RUN, DATA and OUT."""

    command: tuple[str, ...]
    variables: dict
    streams: str = ""
    umask: int | None = None
    folder: str = ""
    user: str = ""

    def describe(self) -> str:
        """Describes the case as a shell command."""
        variables = " ".join(f"{name}={value}" if value is not None else f"-u {name}" for name, value in self.variables.items())
        others = [f"umask {self.umask:o}" if self.umask is not None else "", self.folder and f"cd {self.folder}"]
        others += [self.user and f"as {self.user}", self.streams]
        return " ".join(filter(None, [*others, variables, *self.command]))


def list_commands() -> list[tuple[str, ...]]:
    """Lists the commands, the quick ones more often."""
    names = ("train", "sample", "evaluate", "explore", "export", "report", "prepare")
    quick = [(name, "--help") for name in names]
    quick += [(name, "--no-such-flag") for name in names]
    quick += [("sample", "--run", "RUN/none"), ("train", "--size", "33"), ("report", "RUN", "--out", "OUT/a ü.html")]
    prepare = [("prepare", "--data", place, "--size", "16") for place in ("drawn:64", "DATA/Fotos ü", "~/none")]
    sample = [("sample", "--run", "RUN", "--count", "4", "--out", "OUT/a.npy")] * 6
    sample += [("sample", "--run", "RUN", "--count", "4", "--out", "OUT/ü x/")]
    train = [("train", *TINY, "--workdir", place) for place in ("OUT/runs", "OUT/Läufe x", "~/runs", "OUT/runs")]
    return quick + prepare * 3 + sample * 2 + train


def draw_case(seed: int, number: int) -> Case:
    """Draws the case of a number, which depends on the seed and the number alone."""
    dice = random.Random(f"{seed} {number}")
    groups = [*VARIABLES, "streams", "umask", "folder", *(["user"] if can_change_user() else [])]
    chosen = dice.sample(groups, dice.choice([1, 1, 2, 2, 3, 4]))
    variables = {}
    for group in chosen:
        if group in VARIABLES:
            variables |= dice.choice(VARIABLES[group])
    others = {"streams": STREAMS, "umask": UMASKS, "folder": FOLDERS, "user": [USER]}
    picked = {name: dice.choice(values) for name, values in others.items() if name in chosen}
    return Case(dice.choice(list_commands()), variables, **picked)


class World:
    """The folders that the cases use, and the reference images."""

    def __init__(self, home: Path):
        self.home, self.out = home, home / "out"
        home.chmod(0o777)
        for name in ("home", "cache", "data/Fotos ü", "bü  x", "read-only"):
            (home / name).mkdir(parents=True)
        _write_images(home / "data" / "Fotos ü")
        self.plain = os.environ | {"PYTHONPATH": str(ROOT), "HOME": f"{home}/home", "DCGAN_JAX_CACHE": f"{home}/cache"}
        self.plain |= {"JAX_PLATFORMS": "cpu"}
        self.run_plain("train", *TINY, "--workdir", str(home))
        self.run_plain("sample", "--run", str(home / "article"), "--count", "4", "--out", str(home / "reference.npy"))
        self.reference = (home / "reference.npy").read_bytes()
        self.first_grid = (home / "article" / "samples" / GRID).read_bytes()
        for place in [home, *home.rglob("*")]:  # other users may read and write everything, as in a shared folder
            place.chmod(0o777 if place.is_dir() else 0o666)
        (home / "read-only").chmod(0o555)

    def run_plain(self, command: str, *arguments: str) -> None:
        """Runs a command that must succeed."""
        subprocess.run([PYTHON, "-m", f"dcgan_jax.{command}", *arguments], env=self.plain, check=True, capture_output=True)

    def reset(self) -> None:
        """Empties the output folder."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        self.out.chmod(0o777)


def _write_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    for at in range(40):
        Image.fromarray(np.random.default_rng(at).integers(0, 255, (20, 18, 3), np.uint8)).save(folder / f"Größe {at}.png")


def run_case(world: World, case: Case) -> str:
    """Runs a case. Returns "success" or "refused", or else what is wrong."""
    world.reset()
    environment = dict(world.plain)
    if any(name in case.variables for name in ("HOME", "XDG_CACHE_HOME")):
        del environment["DCGAN_JAX_CACHE"]
    for name, value in case.variables.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    places = {"RUN": str(world.home / "article"), "DATA": str(world.home / "data"), "OUT": str(world.out)}
    words = [_replace_places(word, places) for word in case.command]
    command = [PYTHON, "-m", f"dcgan_jax.{words[0]}", *words[1:]]
    if case.user:
        command = ["setpriv", "--reuid", case.user, "--clear-groups", *command]
    try:
        done = subprocess.run(
            ["bash", "-c", _make_script(world, case), "bash", *command],
            env=environment,
            cwd=world.home / "home",
            capture_output=True,
            timeout=LIMIT_S,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    return _check_result(world, case, done)


def _replace_places(word: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        if word.split("/")[0] == name:
            return place + word[len(name) :]
    return word


def _make_script(world: World, case: Case) -> str:
    """Makes the lines of bash that set what subprocess cannot: streams, umask, a deleted folder. "$@" is the command."""
    lines = []
    if case.folder == "deleted":
        lines.append(f"mkdir {world.out}/gone && cd {world.out}/gone && rmdir {world.out}/gone")
    elif case.folder:
        lines.append(f"cd '{world.home / case.folder if case.folder != '/' else '/'}'")
    if case.umask is not None:
        lines.append(f"umask {case.umask:o}")
    return "\n".join([*lines, f'"$@" {case.streams}', "exit ${PIPESTATUS[0]}"])


def _check_result(world: World, case: Case, done: subprocess.CompletedProcess) -> str:
    text = (done.stdout + done.stderr).decode("utf-8", "replace").replace("\0", "")
    if "Traceback" in text or "Error:" in text.replace("error:", ""):
        return f"traceback: {text.strip().splitlines()[-1][:200]}"
    if done.returncode not in (0, 2):
        return f"exit code {done.returncode}: {text[-200:]}"
    if done.returncode == 2:
        is_heard = not case.streams and case.variables.get("PYTHONIOENCODING") != "utf-16"
        return "refused" if not is_heard or text.count("error: ") == 1 else f"{text.count('error: ')} lines: {text[-300:]}"
    images = world.out / "a.npy"
    if case.command[0] == "sample" and str(case.command[-1]).endswith(".npy") and images.read_bytes() != world.reference:
        return "other images"
    if any(grid.read_bytes() != world.first_grid for grid in world.out.rglob(GRID)):
        return "other initial weights"
    return "success"


def run(count: int, seed: int, only: int | None = None) -> int:
    """Runs the cases, prints those that fail and a table. Returns: the number of failures."""
    start, found = time.monotonic(), collections.Counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        world = World(Path(home))
        for number in range(count) if only is None else [only]:
            case = draw_case(seed, number)
            result = run_case(world, case)
            is_good = result in ("success", "refused")
            found[case.command[0], result if is_good else "FAILED"] += 1
            if number and number % 50 == 0:
                print(f"{number} cases, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            if not is_good or only is not None:
                print(f"{number}: {case.describe()}\n    {result}", flush=True)
    print("| command | success | refused | failed |\n|---|---|---|---|")
    for command in sorted({command for command, _ in found}):
        print(f"| {command} | " + " | ".join(str(found[command, result]) for result in ("success", "refused", "FAILED")), "|")
    failed = sum(times for (_, result), times in found.items() if result == "FAILED")
    print(f"\n{sum(found.values())} cases in {time.monotonic() - start:.0f} s, {failed} failed")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run only the case of this number, and print its result")
    ask = parser.parse_args()
    return 1 if run(ask.count, ask.seed, ask.only) else 0


if __name__ == "__main__":
    sys.exit(main())
