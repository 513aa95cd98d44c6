import os
import subprocess
import sys
from pathlib import Path

import pytest

import dcgan_jax
from dcgan_jax import startup


@pytest.mark.parametrize(
    "argv, original, is_command",
    [
        (["-m"], ["python", "-m", "dcgan_jax.train", "--help"], True),
        (["-m"], ["python", "-Om", "dcgan_jax"], True),
        (["/bin/dcgan-train"], ["python", "/bin/dcgan-train"], True),
        (["-m"], ["python", "-m", "pytest"], False),
        (["train.py"], ["python", "train.py", "dcgan_jax.train"], False),
        ([""], ["python"], False),
        ([], ["python"], False),
    ],
)
def test_commands_are_recognised(monkeypatch, argv, original, is_command):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert startup.is_command() == is_command


@pytest.mark.parametrize(
    "fault, says",
    [
        (ValueError("invalid truth value 'maybe'"), "jax refuses an environment variable (invalid truth value 'maybe')"),
        (RuntimeError(""), "(RuntimeError)"),
        (ImportError("cannot load\nthis"), "(cannot load this)"),
    ],
)
def test_refused_variable_is_named(monkeypatch, fault, says):
    def refuse(name):
        raise fault

    monkeypatch.setattr(startup, "READERS", {"JAX_": "jax"})
    monkeypatch.setenv("JAX_ENABLE_X64", "maybe")
    monkeypatch.setattr(startup.importlib, "import_module", refuse)
    line = startup.find_refused_variables()
    assert says in line and "correct or unset" in line and "JAX_ENABLE_X64=maybe" in line and "\n" not in line


def test_variable_that_the_library_names_is_shown_alone(monkeypatch):
    def refuse(name):
        raise ValueError("invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'")

    monkeypatch.setattr(startup, "READERS", {"JAX_": "jax"})
    for name in ("JAX_ENABLE_X64", "JAX_ENABLE", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, "maybe")
    monkeypatch.setattr(startup.importlib, "import_module", refuse)
    assert startup.find_refused_variables().endswith(": correct or unset JAX_ENABLE_X64=maybe")


def test_missing_library_is_not_the_variables_fault(monkeypatch):
    monkeypatch.setattr(startup, "READERS", {"NOBODY_": "no_such_library"})
    monkeypatch.setenv("NOBODY_READS", "this")
    assert startup.find_refused_variables() == ""


def test_deleted_working_directory_is_named(monkeypatch):
    def fail():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(startup.os, "getcwd", fail)
    assert "change to a folder that exists" in startup.find_missing_folder()


@pytest.mark.parametrize(
    "user, mask, is_refused", [(1000, 0o777, True), (1000, 0o277, True), (1000, 0o077, False), (0, 0o777, False)]
)
def test_umask_that_denies_the_own_files_is_named(monkeypatch, user, mask, is_refused):
    # Without it, Matplotlib ended in a traceback: it could not enter the folder that it had created.
    monkeypatch.setattr(startup.os, "geteuid", lambda: user)
    before = os.umask(mask)
    try:
        found = startup.find_blocking_umask()
        assert os.umask(mask) == mask, "the umask was changed"
    finally:
        os.umask(before)
    assert ("umask 022" in found) == is_refused


# ---- Processes ----

ROOT = Path(dcgan_jax.__file__).parents[1]


def run_shell(script, **variables):
    """Runs a line of shell, in which PYTHON is the interpreter."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"PYTHONPATH": str(ROOT)} | variables
    script = script.replace("PYTHON", sys.executable)
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120)


def test_refused_variable_ends_a_command_in_one_line():
    done = run_shell("PYTHON -m dcgan_jax.prepare --help", JAX_ENABLE_X64="maybe")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: jax refuses") and done.stderr.count("\n") == 1


def test_closed_streams_get_the_null_device():
    """Else the first file that is opened would get descriptor 2, and libraries would print into it."""
    code = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in (0, 2)] if os.path.exists('/proc/self/fd') else '')"
    check = f"import sys; sys.argv, sys.orig_argv = ['-m'], ['python', '-m', 'dcgan_jax']; import dcgan_jax; {code}"
    done = run_shell(f'PYTHON -c "{check}" <&- 2>&-')
    assert done.returncode == 0
    assert done.stdout.strip() in ("", "['/dev/null', '/dev/null']")


WITHOUT_POSIX = """
import os, runpy, shutil, signal, sys
del signal.SIGHUP, os.getuid, os.O_NONBLOCK
shutil._use_fd_functions = False  # as there; Python 3.13's rmtree needs O_NONBLOCK otherwise
for name in ("fcntl", "pwd", "resource", "termios"):
    sys.modules[name] = None
sys.argv = ["-m", "--help"]
runpy.run_module("dcgan_jax.train", run_name="__main__", alter_sys=True)
"""


def test_help_works_without_posix():
    """As far as Windows can be imitated here. filelock's warning is about fcntl, for which it has a replacement on Windows."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_POSIX], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--workdir" in done.stdout
