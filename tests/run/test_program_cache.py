import importlib.metadata
import itertools
import operator
import os
import pickle
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from toy_run import FLAGS, read_state

import dcgan_jax
from dcgan_jax import cli
from dcgan_jax.config import replace
from dcgan_jax.run import program_cache, session, setup
from dcgan_jax.run.program_cache import MAX_PROGRAMS, ProgramCache, hash_sources, open_program_cache

HERE = Path(dcgan_jax.__file__).parents[1]


class Lowering:
    """Lowers x -> {"scaled": scale x}, donates x, and counts the calls. Each has a scale that is new to JAX's cache too."""

    used = itertools.count(os.getpid() % 10_000 * 1000)  # workers share JAX's cache

    def __init__(self):
        self.scale, self.count = next(self.used), 0

    def __call__(self):
        self.count += 1
        everywhere = NamedSharding(jax.make_mesh((jax.device_count(),), ("data",)), PartitionSpec())
        scale = jax.jit(lambda x: {"scaled": self.scale * x}, donate_argnums=0, in_shardings=everywhere, out_shardings=everywhere)
        return scale.lower(jnp.ones(3))


def compute(program):
    """Returns the program's scale."""
    return program(jnp.ones(3))["scaled"][1]


@pytest.fixture
def cache(tmp_path):
    return ProgramCache(tmp_path, "sources")


def test_kept_program_is_loaded_and_computes_the_same(cache):
    lowering = Lowering()
    assert [compute(cache.load_or_compile(("a",), lowering)) for _ in range(2)] == [lowering.scale] * 2
    assert lowering.count == 1


def test_loaded_program_donates_its_argument(cache):
    for _ in range(2):
        x = jnp.ones(3)
        cache.load_or_compile(("a",), Lowering())(x)
        assert x.is_deleted()


def test_other_parts_are_another_program(cache):
    for part in ("a", "b"):
        lowering = Lowering()
        assert compute(cache.load_or_compile((part,), lowering)) == lowering.scale


def test_program_from_jaxs_own_cache_is_not_kept(cache):
    """XLA writes no code for a program that it has loaded. Such a file could be loaded but not run."""
    lowering = Lowering()
    cache.load_or_compile(("a",), lowering)
    [file] = cache.folder.iterdir()
    file.unlink()
    jax.clear_caches()
    for count in (2, 3):
        assert compute(cache.load_or_compile(("a",), lowering)) == lowering.scale
        assert lowering.count == count
    assert not list(cache.folder.iterdir())


def flip_a_byte(whole):
    return whole[:99] + bytes([whole[99] ^ 1]) + whole[100:]


def add_checksum(content):
    return program_cache.hashlib.sha256(content).digest() + content


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda whole: whole[:-1],
        lambda whole: b"",
        lambda whole: add_checksum(b"no pickle"),
        lambda whole: add_checksum(pickle.dumps((b"no program", None, None))),
    ],
)
def test_damaged_program_is_not_used(cache, damage):
    lowering = Lowering()
    cache.load_or_compile(("a",), lowering)
    [file] = cache.folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert compute(cache.load_or_compile(("a",), lowering)) == lowering.scale
    assert lowering.count == 2


def test_program_of_another_user_is_not_loaded(cache, monkeypatch):
    """It may come into the folder after the folder was found to be private."""
    lowering = Lowering()
    cache.load_or_compile(("a",), lowering)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    cache.load_or_compile(("a",), lowering)
    assert lowering.count == 2


def test_program_that_cannot_be_stored_is_used(cache, monkeypatch):
    def refuse(program):
        raise ValueError("Compilation does not support serialization")

    monkeypatch.setattr(program_cache.serialize_executable, "serialize", refuse)
    lowering = Lowering()
    assert compute(cache.load_or_compile(("a",), lowering)) == lowering.scale
    assert not list(cache.folder.iterdir())


def test_folder_that_cannot_be_written_is_left_alone(tmp_path):
    (tmp_path / "file").touch()
    lowering = Lowering()
    assert compute(ProgramCache(tmp_path / "file", "sources").load_or_compile((), lowering)) == lowering.scale


def test_programs_that_were_not_used_for_longest_are_removed(cache):
    cache.load_or_compile(("used",), Lowering())
    [used] = cache.folder.iterdir()
    for i in range(MAX_PROGRAMS):
        for name in (f"{i}.program", f"{i}.program.77.partial"):
            (cache.folder / name).touch()
            os.utime(cache.folder / name, (i, i))
    os.utime(used, (0, 0))
    cache.load_or_compile(("used",), Lowering())  # is now the newest
    cache.load_or_compile(("new",), Lowering())
    left = {file.name for file in cache.folder.iterdir()}
    assert len(left) == MAX_PROGRAMS
    assert used.name in left
    assert not {"0.program", "1.program"} & left


# ---- The key ----


@pytest.mark.parametrize("what", ["code", "parts", "list_versions", "list_settings"])
def test_key_depends_on_its_parts(cache, monkeypatch, what):
    before = cache.compute_key(("program",))
    assert cache.compute_key(("program",)) == before
    if what.startswith("list"):
        real = getattr(program_cache, what)
        monkeypatch.setattr(program_cache, what, lambda: [*real(), "more"])
    sources = "other" if what == "code" else cache.sources
    parts = ("other",) if what == "parts" else ("program",)
    assert cache._replace(sources=sources).compute_key(parts) != before


@pytest.mark.parametrize("library", ["jax", "jax.lib", "flax", "optax", "np"])
def test_versions_are_those_of_the_imported_libraries(monkeypatch, library):
    before = program_cache.list_versions()
    monkeypatch.setattr(operator.attrgetter(library)(program_cache), "__version__", "9.9")
    assert program_cache.list_versions() != before


@pytest.mark.parametrize("name", ["PJRT_NPROC", "NPROC", "XLA_FLAGS"])
def test_settings_include_what_xla_reads(monkeypatch, name):
    before = program_cache.list_settings()
    monkeypatch.setenv(name, "1")
    assert program_cache.list_settings() != before


def test_settings_include_those_of_jax_and_flax():
    before = program_cache.list_settings()
    old = jax.config.values["jax_check_tracer_leaks"]
    try:
        jax.config.update("jax_check_tracer_leaks", not old)
        assert program_cache.list_settings() != before
    finally:
        jax.config.update("jax_check_tracer_leaks", old)
    with program_cache.flax.config.temp_flip_flag("preserve_adopted_names", True):
        assert program_cache.list_settings() != before
    assert program_cache.list_settings() == before


def test_checksum_of_sources_sees_contents_and_names(tmp_path, monkeypatch):
    monkeypatch.setattr(program_cache, "PACKAGE", tmp_path)
    later = time.monotonic() + 99  # a process that began after the edits below
    assert hash_sources(later) == ""
    assert open_program_cache(tmp_path, later) is None
    (tmp_path / "gan").mkdir()
    (tmp_path / ".#lock.py").symlink_to("nowhere")  # as Emacs makes them
    found = []
    for name, text in (("step.py", "a = 1\n"), ("step.py", "a = 2\n"), ("other.py", "a = 2\n")):
        (tmp_path / "gan" / name).write_text(text)
        found.append(hash_sources(later))
        (tmp_path / "gan" / name).unlink()
    assert len({*found}) == 3


def test_no_program_is_kept_after_an_edit_that_this_process_may_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(program_cache, "PACKAGE", tmp_path)
    (tmp_path / "step.py").touch()
    now = time.monotonic()
    assert hash_sources(now) == ""
    assert hash_sources(now + 99)  # a process that began after the edit
    monkeypatch.setattr(Path, "read_bytes", lambda file: (tmp_path / "removed").open())
    assert hash_sources(now + 99) == ""


def test_builds_of_one_version_have_other_keys(monkeypatch):
    before = hash_sources(time.monotonic())
    monkeypatch.setattr(program_cache, "_read_record", lambda library: f"{library}/a.py,sha256=0")
    assert hash_sources(time.monotonic()) not in ("", before)


@pytest.mark.parametrize(
    "files", [None, {}, {"RECORD": "a.py", "direct_url.json": '{"dir_info": {"editable": true}, "url": "file:///"}'}]
)
def test_no_program_is_kept_where_files_of_a_library_are_unknown(tmp_path, monkeypatch, files):
    assert open_program_cache(tmp_path, time.monotonic())
    real = importlib.metadata.distribution

    def find(name):
        if name != "optax":
            return real(name)
        if files is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return types.SimpleNamespace(read_text=files.get)

    monkeypatch.setattr(importlib.metadata, "distribution", find)
    assert open_program_cache(tmp_path, time.monotonic()) is None


def test_no_program_is_kept_in_a_folder_of_others(tmp_path, monkeypatch):
    for mode in (0o777, 0o775):  # a file that another user wrote would be unpickled
        tmp_path.chmod(mode)
        assert open_program_cache(tmp_path, time.monotonic()) is None
    tmp_path.chmod(0o755)
    assert open_program_cache(tmp_path, time.monotonic())
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert open_program_cache(tmp_path, time.monotonic()) is None


def test_no_program_is_kept_where_caches_are_switched_off(tmp_path):
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        assert open_program_cache(tmp_path, time.monotonic()) is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


# ---- Whole commands ----


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="programs are kept on Linux only")
def test_second_start_compiles_no_step_and_trains_the_same(tmp_path):
    """Other lengths, seeds and names use the same programs, also with two devices and other hashes of texts."""

    def train(name, cache, *more):
        own = {"JAX_COMPILATION_CACHE_DIR": "", "DCGAN_JAX_CACHE": str(tmp_path / cache), "JAX_LOG_COMPILES": "1"}
        own |= {"JAX_NUM_CPU_DEVICES": "2", "PYTHONHASHSEED": str(len(name))}
        flags = [*FLAGS, "--head-norm", "channel", "--workdir", tmp_path, "--name", name, *more]
        done = subprocess.run(
            [sys.executable, "-m", "dcgan_jax.train", *flags],
            cwd=HERE,
            env=os.environ | own,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        kept = sorted(file.name for file in (tmp_path / cache / "programs").glob("*/*.program"))
        return {name for name in ("run_unrolled", "recalibrate") if f"Compiling jit({name})" in done.stderr}, kept

    compiled, kept = train("first", "cache", "--steps", "2")
    assert compiled == {"run_unrolled", "recalibrate"}
    assert len(kept) == 2
    assert train("next", "cache", "--steps", "1", "--seed", "3") == (set(), kept)
    assert train("alone", "empty", "--steps", "1", "--seed", "3")[0] == compiled
    states = [jax.tree.leaves(read_state(tmp_path / name, 1)) for name in ("next", "alone")]
    assert all(map(np.array_equal, *states))


def open_toy_run(folder, *more):
    config = cli.parse_config([*FLAGS, "--workdir", str(folder), "--steps", "1", *more])
    return setup.open_run(config, ProgramCache(folder, "sources"))


@pytest.mark.parametrize(
    ("flags", "is_used"), [([], True), (["--debug"], False), (["--score-every-kimg", "1", "--score-by", "own.py:f"], False)]
)
def test_runs_that_use_kept_programs(tmp_path, flags, is_used):
    """--debug checks while it traces. A user's file may change the package before the step is traced."""
    with open_toy_run(tmp_path, *flags) as plan:
        assert (plan.program_cache is not None) == is_used


@pytest.mark.parametrize(
    ("change", "others"),
    [
        ({"lr": 1e-3}, {"steps"}),
        ({"loss": "hinge"}, {"steps"}),
        ({"width": 6}, {"steps", "recalibrate"}),
        ({"start": "drawn32"}, {"steps", "recalibrate"}),
        ({"seed": 3, "steps": 9, "name": "other"}, set()),
    ],
)
def test_key_depends_on_what_a_program_reads(tmp_path, monkeypatch, change, others):
    def list_keys(plan):
        keys = {}
        monkeypatch.setattr(ProgramCache, "load_or_compile", lambda cache, parts, lower: keys.update({parts[0][0]: repr(parts)}))
        session.make_programs(plan).get_steps(1)
        return keys

    with open_toy_run(tmp_path) as plan:
        before, after = list_keys(plan), list_keys(plan._replace(config=replace(plan.config, **change)))
    assert before.keys() == {"steps", "recalibrate"}
    assert {name for name in before if before[name] != after[name]} >= others
    assert others or before == after


@pytest.mark.integration
def test_training_from_python_keeps_no_program(tmp_path, monkeypatch):
    """A notebook may replace functions of this package, and no checksum of files shows that."""
    kept = []
    monkeypatch.setattr(ProgramCache, "load_or_compile", lambda self, parts, lower: kept.append(parts))
    result = dcgan_jax.train(cli.parse_config([*FLAGS, "--workdir", str(tmp_path), "--steps", "1"]))
    assert result.is_complete
    assert not kept
