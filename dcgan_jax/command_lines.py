"""Commands that messages propose, built from settings and quoted for the shell."""

import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping

from dcgan_jax import config as configuration
from dcgan_jax.config import LENGTHS, Config
from dcgan_jax.presets import PRESETS

UNUSED_WITHOUT_SCORES = ("score_by", "score_count", "score_share")  # the command line refuses them without `score_every_kimg`


def format_training_command(config: Config) -> str:
    """Formats the command that trains, or resumes, a run with these settings: the preset, and what differs from it.

    Of a run whose minutes have become a length in kimg, it has the kimg, which mean the same on every machine.
    """
    config = configuration.replace(config, minutes=None) if configuration.has_length(config) else config
    preset = PRESETS.get(config.run.preset, Config())
    defaults = configuration.flatten(preset) | {"name": config.run.preset, "preset": Config().run.preset}
    words = ["python", "-m", "dcgan_jax.train"]
    unused = () if config.output.score_every_kimg else UNUSED_WITHOUT_SCORES
    for name, value in _sort_for_reading(configuration.flatten(config)):
        if name not in unused and value != defaults[name] and not (name in LENGTHS and value is None):
            words += format_flag(name, value)
    return join_words(words)


def format_start(config: Config, run: str) -> str:
    """Formats the flags that start a new run from the weights of another one."""
    words = ["--name", "NEW", *format_flag("start", run)]
    return join_words(words + ["--grow-kimg", "0"] * bool(config.run.grow_kimg))  # trained weights are not grown again


def _sort_for_reading(values: dict) -> list[tuple[str, object]]:
    """Sorts settings as people write them: the preset first."""
    return sorted(values.items(), key=lambda item: item[0] != "preset")


def format_flag(name: str, value: object) -> list[str]:
    """Formats a setting as words of a command line: flip, False becomes --no-flip."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, tuple):
        return [f"--{flag}", *map(str, value if value or name != "grow_kimg" else (0,))]  # 0 is easier to read than no number
    text = repr(value) if isinstance(value, float) else str(value)
    return [f"--{flag}={text}"] if text.startswith("-") else [f"--{flag}", text]  # a value like -x would be taken for a flag


def format_flags(values: Mapping[str, object]) -> str:
    """Formats settings, name -> value, as flags of a command line."""
    return join_words(word for name, value in values.items() for word in format_flag(name, value))


def join_words(words: Iterable[str]) -> str:
    """Joins words to a line that the machine's shell splits into the same words."""
    return shlex.join(words) if os.name == "posix" else subprocess.list2cmdline(words)


def quote_word(word: str) -> str:
    """Quotes a word, such as a path with spaces, for the machine's shell."""
    return join_words([word])
