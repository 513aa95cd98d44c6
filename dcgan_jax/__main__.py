"""python -m dcgan_jax lists the verbs; each is a module of its own."""

import sys
from pathlib import Path

import dcgan_jax
from dcgan_jax import cli
from dcgan_jax.config import UserError

VERBS = {
    "train": "trains a GAN, or goes on where it stopped",
    "sample": "draws faces of seeds",
    "evaluate": "scores a run or pictures",
    "explore": "morphs, walks, arithmetic, directions, attributes, the latent of a photo",
    "export": "takes a generator away: ONNX, StableHLO, safetensors, PyTorch, a web page",
    "report": "one page of a run, or of several side by side",
    "prepare": "packs pictures and says what is wrong with them",
}


def main() -> int:
    """Prints the verbs, or the version; or writes what completes their flags in a shell."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"dcgan_jax {dcgan_jax.__version__}")
    elif arguments in ([], ["--help"], ["-h"]):
        print("python -m dcgan_jax.VERB, or dcgan-VERB, each with a --help of its own:\n")
        print("\n".join(f"  {name:10}{what}" for name, what in VERBS.items()))
        print("\n--version says which this is.")
        print(f"--completion {'|'.join(cli.SHELLS)} FOLDER writes there what completes dcgan-VERB.")
    elif arguments[0] == "--completion":
        if len(arguments) != 3 or arguments[1] not in cli.SHELLS:
            raise UserError(f"--completion: give a shell, {', '.join(cli.SHELLS)}, and the folder where it looks for completions")
        _complete(arguments[1], Path(arguments[2]).expanduser())
    else:
        verb = arguments[0]
        raise UserError(
            f"python -m dcgan_jax.{verb} is how it is called"
            if verb in VERBS
            else f"{verb}: is no verb; there are {', '.join(VERBS)}"
        )
    return 0


def _complete(shell, folder):
    # Not before they are needed: with JAX, which takes seconds.
    from dcgan_jax.config import Config
    from dcgan_jax.evaluate import Evaluate
    from dcgan_jax.explore import COMMANDS
    from dcgan_jax.export import Export
    from dcgan_jax.prepare import Prepare
    from dcgan_jax.report import Report
    from dcgan_jax.sample import Sample

    flags = {
        "train": Config,
        "sample": Sample,
        "evaluate": Evaluate,
        "explore": COMMANDS,
        "export": Export,
        "report": Report,
        "prepare": Prepare,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for verb in VERBS:
            cli.write_completion(shell, folder, f"dcgan-{verb}", flags[verb])
    except OSError as fault:
        raise UserError(f"--completion: {fault.filename}: {fault.strerror}; give a folder that can be written") from None
    print(f"{folder}: completes {', '.join(f'dcgan-{verb}' for verb in VERBS)}")


if __name__ == "__main__":
    cli.run_command(main)
