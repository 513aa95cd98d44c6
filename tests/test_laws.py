"""Invariants of the whole project: exact resume, one compilation per program, allowed imports, names in docstrings."""

import ast
import io
import os
import re
import signal
import subprocess
import sys
import tokenize
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_run
from numpy.testing import assert_array_equal
from toy_run import FLAGS, STEPS, TraceCounter, get_reference_run, read_metric_lines, read_state, train_toy

import dcgan_jax
from dcgan_jax.data import batches
from dcgan_jax.run.checkpoints import list_steps

ONCE = {"make_train_steps": 1, "make_recalibrate": 1, "check_finite": 1}
PACKAGE = Path(dcgan_jax.__file__).parent


def assert_equals_reference_run(run):
    """Compares the last state, all metrics and all images with the reference run, bit for bit."""
    ours, theirs = read_state(run, STEPS), read_state(get_reference_run().run, STEPS)
    assert list(ours) == list(theirs)
    for path, leaf in ours.items():
        assert leaf.dtype == theirs[path].dtype, path
        # NaN counts as equal, but the reference run has none: test_reference_run_changes_every_leaf.
        assert_array_equal(leaf, theirs[path], err_msg=path)
    assert read_metric_lines(run) == read_metric_lines(get_reference_run().run)
    for image in ("reals.png", "losses.png", *(f"samples/{step:08d}.png" for step in (0, 4, 8, 12))):
        assert (run / image).read_bytes() == (get_reference_run().run / image).read_bytes(), image


# ---- Resume is exact ----


@pytest.mark.integration
def test_reference_run_changes_every_leaf():
    states = [read_state(get_reference_run().run, step) for step in (4, 8, 12)]
    for path, leaf in states[2].items():
        if np.issubdtype(leaf.dtype, np.floating):
            assert np.isfinite(leaf).all(), path
            assert (leaf != states[0][path]).any(), path  # every leaf changes, so a lost leaf would be detected
            assert (leaf != states[1][path]).any(), path


@pytest.mark.tensorflow
@pytest.mark.integration
def test_run_stopped_twice_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    """It gets SIGTERM while the loop waits for metrics, then Ctrl-C between two steps. The last part uses the other feed."""
    with toy_run.send_signals_after(2, signal.SIGTERM):
        first = train_toy(tmp_path)
    assert first.code == 0
    (stopped,) = list_steps(tmp_path / "article")[-1:]
    assert stopped in (3, 4)
    assert f"stopped at step {stopped} of 12 and saved\n" in first.out
    assert "run the same command again to resume: python -m dcgan_jax.train --" in first.out

    with monkeypatch.context() as patch:
        feed = batches.gather_batches

        def resident(*args):
            for at, batch in enumerate(feed(*args), stopped):
                if at + 1 == 7:
                    signal.raise_signal(signal.SIGINT)
                yield batch

        patch.setattr(batches, "gather_batches", resident)
        second = train_toy(tmp_path)
    assert second.code == 130
    assert "stopped at step 7 of 12 and saved\n" in second.out
    assert list_steps(tmp_path / "article")[-1] == 7

    with TraceCounter() as traces:
        third = train_toy(tmp_path, "--feed", "stream")
    assert third.code == 0, third
    assert "resumes from step 7" in third.out
    assert traces.counts == ONCE
    assert_equals_reference_run(tmp_path / "article")


@pytest.mark.integration
def test_extended_run_equals_one_of_full_length(tmp_path):
    """The interval of saves makes no difference."""
    assert train_toy(tmp_path, "--save-every-steps", 2, steps=6).code == 0
    done = train_toy(tmp_path, steps=12)
    assert done.code == 0
    assert "resumes from step 6" in done.out
    assert_equals_reference_run(tmp_path / "article")


KILLED = """
import os, signal, sys
from dcgan_jax import cli
from dcgan_jax.run.logs import Logs
from dcgan_jax.train import main
real = Logs.write
def write(self, steps, values):
    real(self, steps, values)
    self.flush()  # worst case: the file has lines of steps without a checkpoint, and the last line is incomplete
    if steps.stop == 11:
        with open(self.file, "a") as file:
            file.write('{"step": 12, "ima')
        os.kill(os.getpid(), signal.SIGKILL)
Logs.write = write
cli.run_command(main)
"""


@pytest.mark.integration
def test_killed_run_resumes_exactly_from_its_last_save(tmp_path):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "--workdir", tmp_path, *FLAGS, "--steps", str(STEPS)],
        cwd=PACKAGE.parent,
        env=environment,
        capture_output=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = tmp_path / "article"
    assert (run / "metrics.jsonl").read_text().endswith('{"step": 12, "ima')
    done = train_toy(tmp_path)
    assert done.code == 0, done
    assert "resumes from step 8" in done.out or "resumes from step 4" in done.out  # the kill may interrupt the save of step 8
    assert_equals_reference_run(run)


# ---- One program per run ----


def test_run_compiles_each_program_once():
    """The reference run includes ends of epochs, four saves, and log lines."""
    assert get_reference_run().traces == ONCE


def test_trace_count_can_fail():
    with TraceCounter() as traces:
        steps = jax.jit(toy_run.session.check_finite)
        for length in (1, 2):
            steps({"leaf": np.zeros(length)})
    assert traces.counts["check_finite"] == 2


# ---- Imports between packages ----

PACKAGES = {"data", "explorations", "gan", "quality", "run", "export"}
COMMANDS = {"train", "sample", "evaluate", "prepare", "explore", "report", "export.__main__"}
MAY_IMPORT = {  # packages and modules, within the project
    "terminal": set(),
    "startup": {"terminal"},
    "places": {"config"},
    "command_lines": {"config", "presets"},
    "batch": set(),
    "machine": set(),
    "files": set(),
    "field_types": set(),
    "config": {"field_types"},
    "config_rules": {"config", "field_types"},
    "seeds": {"config"},
    "arguments": {"config", "field_types", "places"},
    "presets": {"config"},
    "cli": {"command_lines", "config", "config_rules", "field_types", "presets", "places", "machine", "terminal"},
    "data": {"data", "batch", "config", "files", "machine", "places", "terminal"},
    "gan": {"gan", "quality", "batch", "config", "files"},
    "quality": {"gan", "quality", "config", "files"},
    "run": {
        "run",
        "batch",
        "data",
        "gan",
        "quality",
        "config",
        "config_rules",
        "presets",
        "files",
        "machine",
        "places",
        "terminal",
        "command_lines",
    },
    "explorations": {
        "explorations",
        "api",
        "data",
        "gan",
        "quality",
        "run",
        "config",
        "seeds",
    },  # methods of the object that api.load returns
    "api": {"explorations", "data", "gan", "quality", "run", "config", "files", "seeds", "places"},
    "export": {"export", "api", "data", "gan", "quality", "run", "config", "presets", "files", "arguments", "command_lines"},
    "export.numpy_generator": set(),  # the export copies this file next to the weights
    "__main__": {
        "cli",
        "config",
        "places",
        "train",
        "sample",
        "evaluate",
        "prepare",
        "explore",
        "report",
        "export",
    },  # for the completion of flags
}
FOR_COMMANDS = {
    "api",
    "cli",
    "config",
    "config_rules",
    "presets",
    "startup",
    "files",
    "seeds",
    "arguments",
    "places",
    "terminal",
    "command_lines",
    *PACKAGES,
}
SIDE_EFFECTS = {"os", "pathlib", "time", "json", "shutil", "subprocess", "random", "socket", "tempfile", "tensorflow"}


def list_imports(file):
    """Lists the full names of all modules that a file imports anywhere: dcgan_jax.data.pack, numpy ..."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the package"
            # The imported name may be a module: `from dcgan_jax.run import logs` is dcgan_jax.run.logs.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def list_sources():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def get_part(path):
    """Returns the package of a file, or the file's own name if MAY_IMPORT has rules for it."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name if name in COMMANDS | MAY_IMPORT.keys() else name.split(".")[0]


@pytest.mark.parametrize("file", list_sources(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_module_imports_are_allowed(file):
    here = get_part(file)
    allowed = FOR_COMMANDS if here in COMMANDS else MAY_IMPORT[here]
    used = {name.split(".")[1] for name in list_imports(file) if name.startswith("dcgan_jax.")}
    assert used <= allowed, f"{file.name} is in {here} and imports {used - allowed}"


@pytest.mark.parametrize(
    "file",
    [file for file in list_sources() if get_part(file) in ("gan", "quality")],
    ids=lambda file: str(file.relative_to(PACKAGE)),
)
def test_gan_and_quality_have_no_side_effects(file):
    """They import no module for files, clocks or global random numbers."""
    tops = {name.split(".")[0] for name in list_imports(file)}
    assert not tops & SIDE_EFFECTS


def test_import_check_sees_every_form(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("import dcgan_jax.train\nfrom dcgan_jax import cli\ndef f():\n    from dcgan_jax.run.logs import Logs\n")
    assert list_imports(file) == {"dcgan_jax.train", "dcgan_jax.cli", "dcgan_jax.run.logs.Logs"}


def test_import_is_cheap_and_without_tensorflow():
    code = """
import sys
import dcgan_jax
assert not {"jax", "numpy", "flax"} & set(sys.modules), "import dcgan_jax is no longer cheap"
import dcgan_jax.train, dcgan_jax.sample, dcgan_jax.evaluate, dcgan_jax.prepare
heavy = {"tensorflow", "tensorflow_datasets", "matplotlib", "tensorboardX", "torch"} & set(sys.modules)
assert not heavy, heavy
import jax
jax.config.update("jax_num_cpu_devices", 3)  # raises if an import has started the devices
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def list_calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("file", list_sources(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_asserts_do_no_work(file):
    """python -O removes them."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Assert):
            work = [part for part in ast.walk(node.test) if isinstance(part, ast.Call | ast.NamedExpr | ast.Await)]
            assert all(getattr(getattr(part, "func", None), "id", "") in ("isinstance", "len") for part in work), node.lineno


@pytest.mark.parametrize("file", list_sources(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_text_files_are_utf8_everywhere(file):
    """Also on Windows and in an ASCII locale. Ruff's PLW1514 finds only calls whose object it can infer."""
    for call in list_calls(ast.parse(file.read_text("utf-8"))):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if ast.unparse(call.func) in ("av.open", "installed.read_text"):  # a film; a file of an installed package, always UTF-8
            continue
        is_text = name in ("read_text", "write_text") or (name == "open" and is_text_mode(call))
        assert not is_text or any(word.arg == "encoding" for word in call.keywords), call.lineno


def is_text_mode(call):
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and re.fullmatch("[rwax][bt+]*", str(arg.value))]
    return any("b" not in mode for mode in modes) or any(word.arg in ("errors", "newline") for word in call.keywords)


# ---- Names in docstrings and comments ----

FOREIGN = {"optimization_barrier"}  # a name of JAX that the code does not use


def collect_names(tree):
    """Returns (names that other files may refer to: functions, classes, arguments, attributes, constants, words; local names)."""
    shared, local = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                shared.add(node.name)
            case ast.arg() | ast.keyword():
                shared.add(node.arg)
            case ast.Attribute():
                shared.add(node.attr)
            case ast.alias():
                shared |= {*node.name.split("."), node.asname}
            case ast.Constant(value=str(text)) if re.fullmatch(r"[\w-]+", text):
                shared.add(text)  # such as a key of a file, a command, a choice
            case ast.Name():
                local.add(node.id)
    shared |= {
        node.id
        for part in tree.body
        for node in ast.walk(part)
        if isinstance(part, ast.Assign | ast.AnnAssign) and isinstance(node, ast.Name)
    }
    shared |= {
        node.target.id
        for part in ast.walk(tree)
        if isinstance(part, ast.ClassDef)
        for node in part.body
        if isinstance(node, ast.AnnAssign)
    }
    return shared, local


def quoted_names(file):
    """Lists (line, name) of each `name` in the file's docstrings and comments."""
    text = file.read_text()
    words = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    words += [
        (node.lineno, node.value.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return [(line, name) for line, sentence in words for name in re.findall(r"`([A-Za-z_][\w.]*)`", sentence)]


def test_names_in_docstrings_and_comments_exist():
    parsed = {file: collect_names(ast.parse(file.read_text())) for file in PACKAGE.rglob("*.py")}
    modules = {part for file in parsed for part in file.relative_to(PACKAGE.parent).with_suffix("").parts}
    known = modules | FOREIGN | set().union(*(shared for shared, _ in parsed.values()))
    unknown = [
        f"{file.relative_to(PACKAGE)}:{line}: `{name}`"
        for file, (_, local) in parsed.items()
        for line, name in quoted_names(file)
        if not set(name.split(".")) <= known | local
    ]
    assert not unknown
