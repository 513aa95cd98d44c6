"""python -m dcgan_jax says what there is."""

import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from toy_run import get_refusal

import dcgan_jax
import dcgan_jax.__main__
from dcgan_jax import prepare
from dcgan_jax.__main__ import COMMANDS, write_completions


def run_module(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)


def test_commands_are_listed_and_exist():
    done = run_module("dcgan_jax")
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"  {name} " in done.stdout and find_spec(f"dcgan_jax.{name}")


def test_version_is_printed():
    assert run_module("dcgan_jax", "--version").stdout == f"dcgan_jax {dcgan_jax.__version__}\n"


@pytest.mark.parametrize("word, says", [("sample", "python -m dcgan_jax.sample"), ("draw", "give one of train, sample")])
def test_unknown_command_is_one_line(word, says):
    done = run_module("dcgan_jax", word)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert says in done.stderr


# ---- Completion ----


@pytest.fixture(scope="module")
def completions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home") / "completions"
    done = run_module("dcgan_jax", "--completion", "bash", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.integration
def test_every_console_script_is_completed(completions):
    scripts = tomllib.loads((Path(dcgan_jax.__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    assert {file.name for file in completions.iterdir()} == scripts.keys() == {f"dcgan-{name}" for name in COMMANDS}
    told = bash(f"for file in {completions}/*; do source $file; done; complete -p")
    assert sorted(line.split()[-1] for line in told) == sorted(scripts)  # python is not among them


@pytest.mark.parametrize(
    "typed, completed",
    [
        ("dcgan-sample --cond", {"--condition"}),
        ("dcgan-train --preset a", set()),
        ("dcgan-train --loss hin", {"hinge"}),
        ("dcgan-explore mor", {"morph"}),
        ("dcgan-explore morph --col", {"--columns"}),
        ("dcgan-explore walk --col", set()),
    ],
)
def test_bash_completes_flags(completions, typed, completed):
    words, script = typed.split(), completions / typed.split()[0]
    told = bash(f"""source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}
        $(complete -p {words[0]} | sed 's/.*-F \\([^ ]*\\).*/\\1/'); printf '%s\\n' "${{COMPREPLY[@]}}" """)
    assert set(filter(None, told)) == completed


def bash(code):
    if not shutil.which("bash"):
        pytest.skip("bash is not installed, so its completions did not run")
    return subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


def test_zsh_and_fish_files_have_the_names_they_look_for(tmp_path):
    write_completions("zsh", tmp_path)
    write_completions("fish", tmp_path)
    expected = {f"_dcgan-{name}" for name in COMMANDS} | {f"dcgan-{name}.fish" for name in COMMANDS}
    assert {file.name for file in tmp_path.iterdir()} == expected
    assert (tmp_path / "_dcgan-prepare").read_text().startswith("#compdef dcgan-prepare\n")


@pytest.mark.parametrize(
    "arguments, says", [((), "bash, zsh, fish"), (("tcsh", "a"), "bash, zsh, fish"), (("bash", "/proc/nowhere"), "/proc/nowhere")]
)
def test_bad_completion_arguments_are_one_line(arguments, says):
    assert says in get_refusal(dcgan_jax.__main__, "--completion", *arguments)


def test_tyro_completion_flag_is_refused_by_modules():
    assert "unknown flag" in get_refusal(prepare, "--tyro-print-completion", "bash")
