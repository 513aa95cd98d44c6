"""python -m dcgan_jax lists the verbs; each is a module of its own."""

import sys

import dcgan_jax
from dcgan_jax import cli
from dcgan_jax.config import BadInput

VERBS = {
    "train": "trains a GAN, or goes on where it stopped",
    "sample": "draws faces of seeds",
    "evaluate": "scores a run or pictures",
    "explore": "morphs, walks, arithmetic, directions, attributes, the latent of a photo",
    "export": "takes a generator away: ONNX, StableHLO, safetensors, PyTorch",
    "report": "one page of a run, or of several side by side",
    "prepare": "packs pictures and says what is wrong with them",
}


def main(arguments: list[str]) -> None:
    """Prints the verbs, or the version."""
    if arguments == ["--version"]:
        print(f"dcgan_jax {dcgan_jax.__version__}")
    elif arguments in ([], ["--help"], ["-h"]):
        print("python -m dcgan_jax.VERB, each with a --help of its own:\n")
        print("\n".join(f"  {name:10}{what}" for name, what in VERBS.items()))
        print("\n--version says which this is. Completion: python -m dcgan_jax.train --tyro-print-completion bash")
    else:
        verb = arguments[0]
        raise BadInput(f"python -m dcgan_jax.{verb} is how it is called" if verb in VERBS else
                       f"{verb}: is no verb; there are {', '.join(VERBS)}")


if __name__ == "__main__":
    cli.run_verb(lambda: main(sys.argv[1:]))
