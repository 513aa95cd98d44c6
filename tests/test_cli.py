import contextlib
import dataclasses
import io
import re
import subprocess
import sys
import typing
from pathlib import Path

import jax
import pytest

from dcgan_jax import cli, config, explore
from dcgan_jax.cli import parse_config, parse_flags
from dcgan_jax.config import Config, UserError
from dcgan_jax.evaluate import Evaluate
from dcgan_jax.export import Export
from dcgan_jax.prepare import Prepare
from dcgan_jax.presets import PRESETS
from dcgan_jax.sample import Sample


def get_refusal(*arguments):
    with pytest.raises(UserError) as mistake:
        parse_config(arguments)
    return cli.show_as_flags(str(mistake.value))


def help_of(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
        parse_config([*arguments, "--help"])
    assert not end.value.code
    return out.getvalue()


# ---- Flags set fields ----

CONTRACT = {
    "workdir": "w",
    "name": "n",
    "data": "images.zip",
    "preset": "torch64",
    "steps": 7,
    "batch_size": 32,
    "size": 128,
    "seed": 5,
    "lr": 0.002,
    "width": 8,
}


@pytest.mark.parametrize("joined", [False, True], ids=["--flag value", "--flag=value"])
def test_each_documented_flag_sets_its_field_only(joined):
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in CONTRACT.items()]
    parsed = parse_config(["=".join(pair) for pair in pairs] if joined else [word for pair in pairs for word in pair])
    assert parsed == config.replace(PRESETS["torch64"], epochs=None, **CONTRACT)


def test_epochs_is_a_documented_flag():
    assert parse_config(["--epochs", "2.5"]).run.epochs == 2.5


@pytest.mark.parametrize("command, contract", [(Sample, "run count seed seeds out"), (Evaluate, "run count seed out")])
def test_other_commands_have_their_flags(command, contract):
    assert set(contract.split()) <= {field.name for field in dataclasses.fields(command)}
    assert parse_flags(command, ["--run", "runs/a", "--count", "3"]).count == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_alone_is_the_preset(preset):
    assert parse_config(["--preset", preset]) == config.replace(PRESETS[preset], name=preset)


def test_run_is_named_after_its_preset_or_by_name():
    assert parse_config([]).run.name == "article"
    assert parse_config(["--preset", "torch64"]).run.name == "torch64"
    assert parse_config(["--preset", "torch64", "--name", "mine"]).run.name == "mine"


@pytest.mark.parametrize("preset", ["article", "torch64"])  # their own lengths are kimg and epochs
@pytest.mark.parametrize("given", ["steps", "epochs", "kimg", "minutes"])
def test_given_length_replaces_the_presets(preset, given):
    run = parse_config(["--preset", preset, f"--{given}", "3"]).run
    assert {name: getattr(run, name) for name in cli.LENGTHS} == {**dict.fromkeys(cli.LENGTHS), given: 3}


def test_last_of_a_repeated_flag_counts():
    """For example, a script's flags followed by the user's flags."""
    assert parse_config(["--preset", "article", "--preset", "torch64"]) == parse_config(["--preset", "torch64"])
    assert parse_config(["--preset=torch64", "--lr", "1", "--preset", "article", "--lr=2"]) == parse_config(["--lr", "2"])


def test_booleans_and_lists():
    parsed = parse_config(["--preset", "soumith", "--no-flip", "--augment", "color", "cutout", "--steps", "3"])
    assert (parsed.data.flip, parsed.loss.augment, parsed.run.steps) == (False, ("color", "cutout"), 3)


# ---- Help ----


def test_help_shows_every_field_once_in_its_group():
    text = help_of()
    headings = re.findall(r"(\w+) options\b", text)
    assert headings == list(config.GROUPS)
    for group, part in zip(headings, re.split(r"\w+ options\b", text)[1:], strict=True):
        for field in dataclasses.fields(config.GROUPS[group]):
            assert len(re.findall(rf"\n\W*--{field.name.replace('_', '-')}[ ,]", part)) == 1, field.name


@pytest.mark.parametrize("preset", ["article", "torch64", "keras64"])
def test_help_shows_the_presets_values(preset):
    text = " ".join(help_of("--preset", preset).replace("│", " ").split())
    for name in ("batch_size", "width", "size", "lr", "preset", "epochs"):
        value = config.flatten(PRESETS[preset])[name]
        assert re.search(rf"--{name.replace('_', '-')} (?:(?!--).)*\(default: {re.escape(str(value))}\)", text), (name, value)


# ---- Mistakes ----


@pytest.mark.parametrize(
    "arguments, names",
    [
        (("--bach-size", "8"), ["--bach-size", "--batch-size"]),
        (("--stepz=8",), ["--stepz", "--steps"]),
        (("--batch", "8"), ["--batch", "--batch-size"]),  # no silent abbreviations: a new field would change their meaning
        (("--qqqq",), ["--qqqq", "--help"]),
        (("--preset", "artcle"), ["artcle", "article"]),
        (("--preset=torch-64",), ["torch-64", "torch64"]),
        (("--preset", "xyz"), ["xyz", *PRESETS]),
        (("--steps", "many"), ["--steps", "many"]),
        (("--steps", "1.5"), ["--steps", "1.5"]),
        (("--lr", "fast"), ["--lr", "fast"]),
        (("--loss", "hing"), ["--loss", "hing", "hinge", "wasserstein"]),
        (("--kernel", "3"), ["--kernel", "3", "4", "5"]),
        (("--augment", "colour"), ["--augment", "colour", "color"]),
        (("--steps", "1e3"), ["--steps 1e3: give a whole number"]),
        (("--size=64.0",), ["--size 64.0: give a whole number"]),
        (("--kimg", "--lr", "1"), ["--kimg: give a number"]),
        (("--grow-kimg", "8", "x", "--lr", "1"), ["--grow-kimg 8 x: give one or more numbers"]),
        (("--augment", "cut", "color"), ["--augment cut color: give one or more of color, translation, cutout"]),
        (("--steps",), ["--steps: give a whole number"]),
        (("--name",), ["--name: give a value"]),
        (("--preset",), ["--preset: give a value"]),
        (("--preset", "--steps", "3"), ["--preset: give a value"]),
        (("faces.zip",), ["faces.zip: this value has no flag before it"]),
        (("--flip", "True"), ["--flip True: takes no value; give --flip or --no-flip"]),
        (("--lr", "1", "--no-flip", "yes"), ["--no-flip yes: takes no value; give --flip or --no-flip"]),
        (("--data", "my", "faces.zip"), ["faces.zip: --data takes one value; quote a value that has spaces"]),
        (("--h",), ["unknown flag --h"]),
        (("--data", "faces.zip", "my faces, and more"), ["my faces, and more: --data takes one value"]),
        (("--name", "b", "--data", "a", "b"), ["b: --data takes one value"]),
        (("--data=faces", "b"), ["b: --data takes one value"]),
        (("--batch_size", "x"), ["--batch-size x: give a whole number"]),
        (("--preset", ""), ["--preset", "no such preset", "article"]),
        (("-s", "4"), ["unknown flag -s: flags begin with two hyphens"]),
        (("--size", "33"), ["--size 33", "16 or 32"]),
        (("--batch-size", "0"), ["--batch-size 0"]),
        (("--steps", "-5"), ["--steps -5"]),
        (("--steps=-5",), ["--steps -5"]),
        (("--lr", "-1e-4"), ["--lr -0.0001"]),
        (("--lr=nan",), ["--lr nan"]),
        (("--seed", "-1"), ["--seed -1"]),
        (("--held-out", "-5"), ["--held-out -5: must be at least 0"]),
        (("--process-id", "-1"), ["--process-id -1: must be at least 0"]),
        (("--max-rollbacks=-1",), ["--max-rollbacks -1: must be at least 0"]),
        (("--keep-checkpoints", "-3"), ["--keep-checkpoints -3: must be at least 1"]),
        (("--g-multipliers", "4", "2", "-1"), ["--g-multipliers 4 2 -1: must be at least 1"]),
        (("--steps", "5", "--epochs", "2"), ["--steps", "--epochs", "steps and epochs given"]),
        (("--steps", "5", "--kimg=2", "--epochs", "1"), ["steps and epochs and kimg given"]),
        (("--name", "a/b"), ["--name a/b"]),
        (("--name", ".."), ["--name .."]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unknown_flag_suggests_the_right_one(arguments, names):
    line = get_refusal(*arguments)
    assert all(name in line for name in names), line
    assert not set(line) & set("\n│╭╰"), line


def list_hints(command):
    for name, hint in typing.get_type_hints(command).items():
        yield from list_hints(hint) if dataclasses.is_dataclass(hint) else [(name, hint)]


COMMANDS = (Config, Sample, Evaluate, Export, Prepare, *explore.COMMANDS.values())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_flag_with_an_impossible_value_says_what_to_give(command):
    flags = ["--" + name.replace("_", "-") for name, hint in list_hints(command) if hint not in (bool, str, tuple[str, ...])]
    missing = dataclasses.MISSING
    required = [field.name for field in dataclasses.fields(command) if field.default is field.default_factory is missing]
    assert flags
    for flag in flags:
        others = [word for name in required if flag != f"--{name}" for word in (f"--{name}", "onnx")]  # a format of `export`
        with pytest.raises(UserError, match=f"^{flag} no value: give (a|one) "):
            parse_flags(command, [*others, flag, "no value"])


def test_missing_required_flag_is_named():
    with pytest.raises(UserError, match="^missing: --run "):
        parse_flags(Sample, [])


def test_one_parse_leaves_no_trace_in_the_next():
    before = parse_config([])
    parse_config(["--lr", "1", "--augment", "color", "--name", "x"])
    assert parse_config([]) == before
    assert PRESETS["article"].run == dataclasses.replace(Config().run, kimg=140.0)


# ---- Exit codes ----


def ends(main, capsys):
    with pytest.raises(SystemExit) as end:
        cli.run_command(main)
    return end.value.code, capsys.readouterr()


@pytest.mark.parametrize("code", [0, 130, None])
def test_command_exits_with_its_return_value(code, capsys):
    assert ends(lambda: code, capsys) == (code, ("", ""))


def test_user_error_is_one_line_and_exit_code_2(capsys):
    def main():
        raise UserError("--data x:\n  spread\tover\nlines")

    code, output = ends(main, capsys)
    assert (code, output.out, output.err) == (2, "", "error: --data x: spread over lines\n")


def test_jax_out_of_memory_is_one_line_and_exit_code_2(capsys):
    def main():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nat many\nplaces")

    code, output = ends(main, capsys)
    assert code == 2 and output.err.startswith("error: out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.")
    assert output.err.count("\n") == 1


def test_other_faults_of_jax_keep_their_traceback():
    def main():
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault of the program")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        cli.run_command(main)


def test_ctrl_c_outside_the_loop_is_exit_code_130(capsys):
    """The message is one line."""

    def main():
        raise KeyboardInterrupt

    code, output = ends(main, capsys)
    assert (code, output.out) == (130, "")
    assert output.err.count("\n") == 1


def test_own_errors_keep_their_traceback():
    def main():
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        cli.run_command(main)


def test_closed_stdout_is_no_error():
    pipe = f"{sys.executable} -m dcgan_jax.train --help | head -1"
    done = subprocess.run(pipe, shell=True, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=120)
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""
