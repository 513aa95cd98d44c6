"""Explores the latent space of a trained run: python -m dcgan_jax.explore morph --run runs/article --seeds 0-5"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from dcgan_jax import cli, files
from dcgan_jax.api import TrainedGAN, load
from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.attributes import suggest_nearest
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.explorations.results import AttributeDirections, Exploration, Inversion
from dcgan_jax.run import backend, figures, pretrained


@dataclasses.dataclass(frozen=True)
class ExploreFlags:
    run: str
    """folder of the run, such as runs/article; or drawn32 or drawn64, from the package"""
    step: int | Literal["best"] | None = None
    """checkpoint to sample from; none: the newest; best: the one with the best score during training"""
    condition: str = ""
    """labels of all samples of a conditional run, such as Smiling=1,Male=0"""
    out: str = ""
    """file of the image; empty: explore/COMMAND.png in the run (walk: .webp). Its numbers are written beside it as .json"""


@dataclasses.dataclass(frozen=True)
class TruncateFlags(ExploreFlags):
    """Truncates the latents of the same seeds more and more: the faces vary less and fail less often."""

    seeds: str = "0-7"
    """seeds and ranges, such as 7,12,40-47"""
    truncations: tuple[float, ...] = ()
    """largest magnitudes: standard deviations of normal latents, or shares of the range of uniform ones; none: five values"""


@dataclasses.dataclass(frozen=True)
class MorphFlags(ExploreFlags):
    """Interpolates from each seed's face to the next one's, in one row each."""

    seeds: str = "0-5"
    """at least two seeds, as seeds and ranges such as 7,12,40-47"""
    columns: int = 9
    """images in a row, including both ends"""


@dataclasses.dataclass(frozen=True)
class WalkFlags(ExploreFlags):
    """Makes a looping animation from seed to seed: .webp, .gif, or .mp4 where PyAV is installed."""

    seeds: str = "0-5"
    """at least two seeds, as seeds and ranges such as 7,12,40-47"""
    frames_each: int = 24
    """frames from one seed to the next"""
    frames_a_second: float = 24.0
    """frames per second; browsers round the duration of a GIF's frame to hundredths of a second"""


@dataclasses.dataclass(frozen=True)
class ArithmeticFlags(ExploreFlags):
    """Adds and subtracts mean latents of chosen seeds, as the DCGAN paper does (arXiv:1511.06434, figure 7)."""

    equation: str = "0,1,2 - 3,4,5 + 6,7,8"
    """terms of seeds, with + or - between them, as in: man with glasses - man + woman"""
    noise_seed: int = 0
    """seed of the noise for eight more latents near the result; each coordinate differs by up to 0.25"""


@dataclasses.dataclass(frozen=True)
class AttributesFlags(ExploreFlags):
    """Finds a latent direction for each attribute of the training images, with a linear probe on D's features."""

    seeds: str = "0"
    """seeds of the faces that are moved, in one strip each"""
    attributes: tuple[str, ...] = ()
    """attributes to show, such as Smiling Male; none: the twelve that change most along their own direction"""
    data: str = ""
    """images with attributes; empty: the training images of the run"""


@dataclasses.dataclass(frozen=True)
class DirectionsFlags(ExploreFlags):
    """Finds the latent directions along which faces vary most. It needs no labels."""

    seeds: str = "0"
    """seeds of the faces that are moved, in one strip each"""
    method: Literal["principal", "factorised"] = "principal"
    """principal: GANSpace, from the outputs of G's first up-sampling; factorised: SeFa, from the weights of G's first layer"""
    count: int = 8
    """number of directions, the strongest first"""


@dataclasses.dataclass(frozen=True)
class InvertFlags(ExploreFlags):
    """Finds the latent whose face is nearest to a photo, by gradient descent from several starts."""

    photo: str = ""
    """an image file; a square is not cropped, another image is cropped as the training images were"""
    starts: int = 8
    """number of starts of the descent: the latents of seeds 0, 1 and so on"""
    iterations: int = 300
    """gradient steps from each start"""


COMMANDS: dict[str, type[ExploreFlags]] = {
    "truncate": TruncateFlags,
    "morph": MorphFlags,
    "walk": WalkFlags,
    "arithmetic": ArithmeticFlags,
    "attributes": AttributesFlags,
    "directions": DirectionsFlags,
    "invert": InvertFlags,
}


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h"):
        print("python -m dcgan_jax.explore COMMAND --run RUN, with a COMMAND of this list. Each has its own --help:\n")
        print("\n".join(f"  {name:12}{command.__doc__}" for name, command in COMMANDS.items()))
        return 0
    name, ask = _parse(*arguments)
    out = _choose_out(ask, name)
    backend.start_backend(get_cache_dir())
    gan = load(ask.run, ask.step)
    _check_writable(out)
    found = explore(gan, name, ask)
    of = {"command": name, "run": ask.run, "step": gan.step, "preset": gan.config.run.preset, "condition": ask.condition}
    _save(out, found, ask, of)
    print("\n".join([*describe(found), f"{out}, and its numbers beside it"]))
    if isinstance(ask, InvertFlags) and isinstance(found, Inversion) and not found.is_close:
        print(
            f"warning: {ask.photo}: the generator has no image close to it; give a photo of a face, cropped like the training "
            "images",
            file=sys.stderr,
        )
    return 0


def _parse(name: str, *arguments: str) -> tuple[str, ExploreFlags]:
    """Parses a command's name and its flags. Raises: UserError."""
    if name.startswith("-"):
        raise UserError(f"{make_printable(name, 100)}: give a command first: {', '.join(COMMANDS)}")
    if name not in COMMANDS:
        raise UserError(f"{make_printable(name, 100)}: no such command; {suggest_nearest(name, tuple(COMMANDS))}")
    ask = cli.parse_flags(COMMANDS[name], arguments, prog=f"python -m dcgan_jax.explore {name}")
    if isinstance(ask, WalkFlags) and not 0.01 <= ask.frames_a_second <= 100:  # a frame of a GIF lasts 655 s at most
        raise UserError(f"`frames_a_second` {ask.frames_a_second:g}: give 0.01 to 100")
    return name, ask


def explore(gan: TrainedGAN, name: str, ask: ExploreFlags) -> Exploration:
    """Runs the named exploration: calls the method of `gan` with the flags that belong to it."""
    of_all = {field.name for field in dataclasses.fields(ExploreFlags)} | {"frames_a_second"}
    arguments = {flag: value for flag, value in vars(ask).items() if flag not in of_all}
    return getattr(gan, METHODS.get(name, name))(**arguments, condition=cli.parse_condition(ask.condition))


METHODS = {"attributes": "attribute_directions"}  # other methods have the name of their command


# ---- Output ----


def _choose_out(ask: ExploreFlags, name: str) -> Path:
    suffixes = (".webp", ".gif", ".mp4") if isinstance(ask, WalkFlags) else (".png",)
    out = Path(ask.out or pretrained.get_output_folder(ask.run) / "explore" / f"{name}{suffixes[0]}")
    if out.suffix not in suffixes:
        raise UserError(f"`out` {ask.out}: end it in {' or '.join(suffixes)}")
    return out


def _check_writable(out: Path) -> None:
    """Raises UserError if the output cannot be written. Called first, so that no work is lost."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for file in (out, out.with_suffix(".json")):
            if file.is_dir():
                raise UserError(f"`out` {out}: {file} is a folder; give another name")
            files.check_replaceable(file)
            partial = file.with_name(f"{file.name}.partial")  # files.atomic_write writes this one first; it has the longest name
            partial.touch()
            partial.unlink()
    except OSError as fault:
        raise UserError(f"`out` {out}: {fault.strerror}; give a place that can be written") from None


def _save(out: Path, found: Exploration, ask: ExploreFlags, of: dict) -> None:
    """Saves the image or animation, and beside it `of` and the numbers as JSON."""
    numbers = of | found.numbers
    if isinstance(ask, WalkFlags):
        save_film(out, found, ask.frames_a_second)
        numbers |= {"frames_a_second": ask.frames_a_second}
    else:
        figures.save_png(out, found.make_sheet())
    files.write_json(out.with_suffix(".json"), numbers)


def save_film(out: Path, found: Exploration, frames_a_second: float) -> None:
    """Saves the images of the first row as a looping animation, each with its captions. Raises: UserError."""
    [(_, images)] = found.rows
    scale = max(1, 256 // images.shape[1])
    frames = [
        figures.make_captioned_sheet(found.title, [("", image[None].repeat(scale, 1).repeat(scale, 2))], [word])
        for image, word in zip(images, found.columns, strict=True)
    ]
    figures.save_animation(out, np.stack(frames), frames_a_second)


def describe(found: Exploration) -> list[str]:
    """Describes an exploration in lines to print. Empty where the image shows all of it."""
    if isinstance(found, AttributeDirections):
        return _describe_attributes(found)
    if isinstance(found, Inversion):
        return [_describe_inversion(found)]
    return []


def _describe_attributes(found: AttributeDirections) -> list[str]:
    changes, names = found.changes_sd, found.attributes
    side = np.abs(changes - np.diag(np.diag(changes)))  # changes of the other attributes
    lines = [f"{'attribute':22}{'probe':>8}{'change':>8}  largest other change"]
    lines += [
        f"{name:22}{found.probe_balanced_accuracy[i]:8.3f}{changes[i, i]:8.2f}  {names[side[i].argmax()]} "
        f"{changes[i, side[i].argmax()]:.2f}"
        for i, name in enumerate(names)
    ]
    fitted, tested = found.counts
    lines.append(
        f"probe: balanced accuracy on {tested} held-out images; change: of the probe's margin, in sd over samples, when the "
        "latent moves by 4 sd"
    )
    if found.left_out:
        among = f"all or none of the {fitted:,} images that the probe is fitted to have them"
        lines.append(f"left out: {', '.join(found.left_out)}: {among}")
    return lines


def _describe_inversion(found: Inversion) -> str:
    before = found.losses_before
    return (
        f"nearest face: RMS difference {found.rms_grey_levels:.1f} grey levels; loss {found.losses[0]:.4f} to "
        f"{found.losses[-1]:.4f} over the starts; before the descent {before.min():.4f} to {before.max():.4f}, median "
        f"{found.loss_of_untouched_seeds:.4f}"
    )


def entry() -> None:
    """Runs the command as the console script dcgan-explore."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
