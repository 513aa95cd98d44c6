import shlex
import subprocess

import pytest

from dcgan_jax import cli, command_lines
from dcgan_jax import config as configuration
from dcgan_jax.presets import PRESETS


def make_config(preset, **changes):
    return configuration.replace(PRESETS[preset], **({"name": preset} | changes))


STEPS = {"steps": 3, "kimg": None, "epochs": None}
CONFIGS = [
    make_config("article"),
    make_config("torch64", workdir="my  runs", name="-x"),
    make_config("best64", data="Jürgen's $HOME `a`.zip", start="a b.pth,c.pth", grow_kimg=0.0),
    make_config("soumith", flip=False, augment=("color", "cutout"), **STEPS),
    make_config("best32", augment=(), augment_target=0.0, d_lr=None, seed=7, lr=1e-05),
    make_config("article", condition="5_o_Clock_Shadow,Smiling", g_multipliers=(4, 2, 1), d_multipliers=(1, 2, 4)),
    make_config("article", condition="", held_out=0, debug=True, kimg=0.5, epochs=None),
    make_config("article", coordinator="10.0.0.1:1234", processes=2, process_id=1),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.run.preset} {config.run.name}")
def test_proposed_command_parses_to_the_same_settings(config):
    command = command_lines.format_training_command(config)
    words = ["python", "-m", "dcgan_jax.train"]
    assert shlex.split(command)[:3] == words
    assert cli.parse_config(shlex.split(command)[3:]) == config


def test_proposed_commands_survive_a_shell():
    """Every command is pasted into a shell, whose python prints its arguments."""
    script = "python() { for word; do printf '%s\\0' \"$word\"; done; printf '\\0'; }\n"
    script += "\n".join(map(command_lines.format_training_command, CONFIGS))
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    lists = [words.split("\0") for words in done.stdout.decode().rstrip("\0").split("\0\0")]
    assert [cli.parse_config(words[2:]) for words in lists] == CONFIGS


@pytest.mark.parametrize("preset", PRESETS)
def test_command_of_a_preset_is_short(preset):
    words = shlex.split(command_lines.format_training_command(make_config(preset)))
    assert words[3:] == ([] if preset == "article" else ["--preset", preset])


def test_score_settings_without_scores_are_left_out():
    """From Python they may be set without `score_every_kimg`. The command line refuses that."""
    config = make_config("article", score_count=100, score_share=0.5)
    assert cli.parse_config(shlex.split(command_lines.format_training_command(config))[3:]) == make_config("article")
    scored = configuration.replace(config, score_every_kimg=20.0)
    assert cli.parse_config(shlex.split(command_lines.format_training_command(scored))[3:]) == scored


def test_empty_value_is_quoted():
    assert command_lines.join_words(command_lines.format_flag("condition", "")) == "--condition ''"


def test_new_run_from_a_grown_one_does_not_grow_again():
    words = shlex.split(command_lines.format_start(make_config("best64"), "my runs/a"))
    parsed = cli.parse_config(["--preset", "best64", *words])
    assert (parsed.run.start, parsed.run.name, parsed.run.grow_kimg) == ("my runs/a", "NEW", ())


def test_windows_quotes_with_double_quotes(monkeypatch):
    monkeypatch.setattr(command_lines.os, "name", "nt")
    assert command_lines.quote_word("my faces") == '"my faces"'
