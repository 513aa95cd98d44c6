"""Lists the commands: python -m dcgan_jax. Each command is a module."""

import contextlib
import functools
import sys
from pathlib import Path

import dcgan_jax
from dcgan_jax import cli
from dcgan_jax.config import UserError
from dcgan_jax.places import expand_home

COMMANDS = {
    "train": "train a GAN, or resume a run",
    "sample": "generate images from seeds",
    "evaluate": "score a run or a folder of images",
    "explore": "explore the latent space: morphs, walks, arithmetic, directions, attributes, photos",
    "export": "export a generator: ONNX, StableHLO, safetensors, PyTorch or a web page",
    "report": "write a web page about a run, or about several side by side",
    "prepare": "pack images and report what is wrong with them",
}
SHELLS = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}  # the name of a program's completion file in each shell


def main() -> int:
    """Prints the commands or the version, or writes shell completions."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"dcgan_jax {dcgan_jax.__version__}")
    elif arguments in ([], ["--help"], ["-h"]):
        print("python -m dcgan_jax.COMMAND, or dcgan-COMMAND, each with its own --help:\n")
        print("\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items()))
        print("\n--version prints the version.")
        print(f"--completion {'|'.join(SHELLS)} FOLDER writes shell completions for dcgan-COMMAND to the folder.")
    elif arguments[0] == "--completion":
        if len(arguments) != 3 or arguments[1] not in SHELLS:
            raise UserError(f"--completion: give a shell, {', '.join(SHELLS)}, and the folder where it looks for completions")
        write_completions(arguments[1], Path(expand_home(arguments[2])))
    elif arguments[0] in COMMANDS:
        raise UserError(f"{arguments[0]}: run it as python -m dcgan_jax.{arguments[0]}")
    else:
        raise UserError(f"{arguments[0]}: no such command; give one of {', '.join(COMMANDS)}")
    return 0


def write_completions(shell: str, folder: Path) -> None:
    """Writes a completion file for each console script, dcgan-train and so on. The shell then completes its flags.

    shell: one of SHELLS. There are no completions for python -m, because the shell would use them for every call of Python.
    """
    import tyro

    # They import JAX, which takes seconds, so a plain list of commands does without them.
    from dcgan_jax.config import Config
    from dcgan_jax.evaluate import Evaluate
    from dcgan_jax.explore import COMMANDS as EXPLORATIONS
    from dcgan_jax.export import Export
    from dcgan_jax.prepare import Prepare
    from dcgan_jax.report import Report
    from dcgan_jax.sample import Sample

    parsers = {"train": Config, "sample": Sample, "evaluate": Evaluate, "explore": EXPLORATIONS}
    parsers |= {"export": Export, "report": Report, "prepare": Prepare}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, flags in parsers.items():
            parse = (
                functools.partial(tyro.extras.subcommand_cli_from_dict, flags)
                if isinstance(flags, dict)
                else functools.partial(tyro.cli, flags)
            )
            program = f"dcgan-{name}"
            arguments = ["--tyro-write-completion", shell, str(folder / SHELLS[shell].format(program))]
            with contextlib.suppress(SystemExit):  # tyro exits after it has written the file
                parse(prog=program, args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    except OSError as fault:
        raise UserError(f"--completion: {fault.filename}: {fault.strerror}; give a folder that can be written") from None
    print(f"{folder}: completions for {', '.join(f'dcgan-{name}' for name in parsers)}")


if __name__ == "__main__":
    cli.run_command(main)
