"""Walks, morphs, arithmetic, directions, inversion: python -m dcgan_jax.explore morph --run runs/article --seeds 0-5"""

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
from dcgan_jax.run import backend, figures


@dataclasses.dataclass(frozen=True)
class ExploreFlags:
    run: str
    """the run's folder, as runs/article"""
    step: int | Literal["best"] | None = None
    """checkpoint to draw from; none: the newest; best: by the scores of its training"""
    condition: str = ""
    """of a conditional run, labels of all samples, as Smiling=1,Male=0"""
    out: str = ""
    """the image; empty: the command's name in the run's folder explore/. The numbers go beside it, as .json"""


@dataclasses.dataclass(frozen=True)
class TruncateFlags(ExploreFlags):
    """The same seeds with latents cut to smaller and smaller magnitudes: faces get more alike, and fail less."""

    seeds: str = "0-7"
    """seeds and ranges, as 7,12,40-47"""
    truncations: tuple[float, ...] = ()
    """largest magnitudes, in standard deviations of a normal law or shares of a uniform one's reach; none: five of them"""


@dataclasses.dataclass(frozen=True)
class MorphFlags(ExploreFlags):
    """From each seed's face to the next one's, a row each."""

    seeds: str = "0-5"
    """seeds and ranges, as 7,12,40-47; at least two"""
    columns: int = 9
    """images of a row, its ends among them"""


@dataclasses.dataclass(frozen=True)
class WalkFlags(ExploreFlags):
    """An endless film from seed to seed: .webp, .gif, or .mp4 where PyAV is installed."""

    seeds: str = "0-5"
    """seeds and ranges, as 7,12,40-47; at least two"""
    frames_each: int = 24
    """frames from one seed to the next"""
    frames_a_second: float = 24.0
    """speed; browsers show GIFs in whole hundredths of a second a frame"""


@dataclasses.dataclass(frozen=True)
class ArithmeticFlags(ExploreFlags):
    """The paper's vector arithmetic: means of chosen seeds' latents, added and subtracted (arXiv:1511.06434, figure 7)."""

    equation: str = "0,1,2 - 3,4,5 + 6,7,8"
    """terms of seeds, with + or - between, as for man with glasses - man + woman"""
    noise_seed: int = 0
    """of the eight latents around the result, each coordinate up to 0.25 away"""


@dataclasses.dataclass(frozen=True)
class AttributesFlags(ExploreFlags):
    """One direction for each attribute of the training images, by a linear probe on what D sees, with sliders' strips."""

    seeds: str = "0"
    """faces to move, a strip each"""
    attributes: tuple[str, ...] = ()
    """which are shown, as Smiling Male; none: the twelve that their directions change most"""
    data: str = ""
    """images with attributes; empty: those the run was trained on"""


@dataclasses.dataclass(frozen=True)
class DirectionsFlags(ExploreFlags):
    """Directions along which faces vary most, without labels."""

    seeds: str = "0"
    """faces to move, a strip each"""
    method: Literal["principal", "factorised"] = "principal"
    """principal: GANSpace, by what the second layer sees; factorised: SeFa, by the first layer's weights alone"""
    count: int = 8
    """directions, the strongest first"""


@dataclasses.dataclass(frozen=True)
class InvertFlags(ExploreFlags):
    """The latent whose face is nearest to a photo's, by gradient descent from several starts."""

    photo: str = ""
    """an image file; it is cut as the training images were"""
    starts: int = 8
    """latents of the seeds 0, 1 ... that the descent begins from"""
    iterations: int = 300
    """steps of the descent"""


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
        print("python -m dcgan_jax.explore COMMAND --run RUN, where COMMAND is one of (each with a --help of its own):\n")
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
            f"warning: {ask.photo}: nothing that the generator draws is much like it; is it a face, cut as the training "
            "images are?",
            file=sys.stderr,
        )
    return 0


def _parse(name: str, *arguments: str) -> tuple[str, ExploreFlags]:
    """A command's name and its flags. Raises: UserError."""
    if name.startswith("-"):
        raise UserError(f"{make_printable(name, 100)}: a command comes first: {', '.join(COMMANDS)}")
    if name not in COMMANDS:
        raise UserError(f"{make_printable(name, 100)}: is no command; {suggest_nearest(name, tuple(COMMANDS))}")
    ask = cli.parse_flags(COMMANDS[name], arguments, prog=f"python -m dcgan_jax.explore {name}")
    if isinstance(ask, WalkFlags) and not 0.01 <= ask.frames_a_second <= 100:  # a GIF's frame lasts 655 s at most
        raise UserError(f"`frames_a_second` {ask.frames_a_second:g}: give 0.01 to 100")
    return name, ask


def explore(gan: TrainedGAN, name: str, ask: ExploreFlags) -> Exploration:
    """What the command of that name asks of the run: the method gets the flags that are its own."""
    of_all = {field.name for field in dataclasses.fields(ExploreFlags)} | {"frames_a_second"}
    arguments = {flag: value for flag, value in vars(ask).items() if flag not in of_all}
    return getattr(gan, METHODS.get(name, name))(**arguments, condition=cli.parse_condition(ask.condition))


METHODS = {"attributes": "attribute_directions"}  # others are named as their commands


# ---- What is written and printed ----


def _choose_out(ask: ExploreFlags, name: str) -> Path:
    suffixes = (".webp", ".gif", ".mp4") if isinstance(ask, WalkFlags) else (".png",)
    out = Path(ask.out or Path(ask.run) / "explore" / f"{name}{suffixes[0]}")
    if out.suffix not in suffixes:
        raise UserError(f"`out` {ask.out}: ends in {' or '.join(suffixes)}")
    return out


def _check_writable(out: Path) -> None:
    """Refuses, before the work rather than after it, what cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for file in (out, out.with_suffix(".json")):
            if file.is_dir():
                raise UserError(f"`out` {out}: {file} is a folder; give another name")
            partial = file.with_name(f"{file.name}.partial")  # what is written first (files.atomic_write), the longest name
            partial.touch()
            partial.unlink()
    except OSError as fault:
        raise UserError(f"`out` {out}: {fault.strerror}; give a place that can be written") from None


def _save(out: Path, found: Exploration, ask: ExploreFlags, of: dict) -> None:
    """The image or film, and beside it the numbers as JSON, after those that say what they are of."""
    numbers = of | found.numbers
    if isinstance(ask, WalkFlags):
        save_film(out, found, ask.frames_a_second)
        numbers |= {"frames_a_second": ask.frames_a_second}
    else:
        figures.save_png(out, found.make_sheet())
    files.write_json(out.with_suffix(".json"), numbers)


def save_film(out: Path, found: Exploration, frames_a_second: float) -> None:
    """The images of the first row as an endless film, each under its captions. Raises: UserError."""
    [(_, images)] = found.rows
    scale = max(1, 256 // images.shape[1])
    frames = [
        figures.make_captioned_sheet(found.title, [("", image[None].repeat(scale, 1).repeat(scale, 2))], [word])
        for image, word in zip(images, found.columns, strict=True)
    ]
    figures.save_animation(out, np.stack(frames), frames_a_second)


def describe(found: Exploration) -> list[str]:
    """Lines for people, where an exploration has more to say than its image."""
    if isinstance(found, AttributeDirections):
        return _describe_attributes(found)
    if isinstance(found, Inversion):
        return [_describe_inversion(found)]
    return []


def _describe_attributes(found: AttributeDirections) -> list[str]:
    changes, names = found.changes_sd, found.attributes
    side = np.abs(changes - np.diag(np.diag(changes)))  # what else changes
    lines = [f"{'attribute':22}{'probe':>8}{'change':>8}  most beside it"]
    lines += [
        f"{name:22}{found.probe_balanced_accuracy[i]:8.3f}{changes[i, i]:8.2f}  {names[side[i].argmax()]} "
        f"{changes[i, side[i].argmax()]:.2f}"
        for i, name in enumerate(names)
    ]
    fitted, tested = found.counts
    lines.append(
        f"probe: balanced accuracy on {tested} other images; change: of its margin over 4 sd of the latent, in sd of faces"
    )
    if found.left_out:
        among = f"of the {fitted:,} images that the probe is fitted to, all or none have them"
        lines.append(f"left out: {', '.join(found.left_out)}: {among}")
    return lines


def _describe_inversion(found: Inversion) -> str:
    before = found.losses_before
    return (
        f"nearest face: {found.rms_grey_levels:.1f} grey levels away (root mean square); losses {found.losses[0]:.4f} to "
        f"{found.losses[-1]:.4f}, before the descent {before.min():.4f} to {before.max():.4f}, median "
        f"{found.loss_of_untouched_seeds:.4f}"
    )


def entry() -> None:
    """The console script."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
