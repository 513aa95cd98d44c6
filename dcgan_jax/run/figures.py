"""Figures of a run: image grids such as reals.png, captioned sheets, animations, plots of losses and scores."""

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.files import atomic_write
from dcgan_jax.gan.metrics import LOSS_METRICS, METRICS

REALS_SHOWN = 20  # as in the article
SMOOTHED_OVER = 0.05  # share of the run in the moving average of the losses
GAP_PX = 2
TEXT_PX = 14
NAME_PX = 182  # widest name of a row
DENSE, SPARSE = 20, 100  # sample grids kept: those of the first 20 saves, and at most 100 later ones


def make_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lays out (N, S, S, C) uint8 images as one (H, W, C) uint8 sheet on white, `columns` wide (None: nearly square)."""
    count, side, _, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (side + GAP_PX) + GAP_PX, columns * (side + GAP_PX) + GAP_PX, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (GAP_PX + place * (side + GAP_PX) for place in divmod(i, columns))
        sheet[top : top + side, left : left + side] = image
    return sheet


def to_pil(image: np.ndarray) -> Image.Image:
    """Converts (H, W, C) uint8, C 1 or 3, to a PIL image."""
    return Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)


def save_png(path: Path, image: np.ndarray) -> None:
    """Saves (H, W, C) uint8, C 1 or 3, as a PNG, atomically."""
    with atomic_write(path) as partial:
        to_pil(image).save(partial, format="PNG")


def encode_png(image: np.ndarray) -> bytes:
    """Encodes (H, W, C) uint8, C 1 or 3, as a PNG."""
    file = io.BytesIO()
    to_pil(image).save(file, format="PNG")
    return file.getvalue()


def save_grid(path: Path, images: np.ndarray, columns: int | None = None) -> None:
    """Saves (N, S, S, C) uint8 images as one sheet; small images are enlarged."""
    save_png(path, enlarge(make_grid(images, columns), images.shape[1]))


def enlarge(sheet: np.ndarray, side: int) -> np.ndarray:
    """Enlarges (H, W, C), a sheet of images with this side, by a whole factor and without interpolation."""
    scale = choose_scale(side)
    return sheet.repeat(scale, 0).repeat(scale, 1)


def choose_scale(side: int) -> int:
    """Returns the factor by which images of this side are enlarged."""
    return max(1, 96 // side)


def make_captioned_sheet(title: str, rows: list[tuple[str, np.ndarray]], columns: Sequence[str] = ()) -> np.ndarray:
    """Makes one RGB sheet: a title, a heading for each column, and rows of (N, S, S, C) uint8 images after their names.

    Rows may have different lengths. Text that does not fit is cut.
    """
    side = rows[0][1].shape[1]
    cell = side * choose_scale(side)
    font = ImageFont.load_default(TEXT_PX)
    margin = math.ceil(min(max(font.getlength(name) for name, _ in rows), NAME_PX)) + 12
    top = (TEXT_PX + 8) * (2 if columns else 1) + 4
    most = max(len(images) for _, images in rows)
    width = max(margin + most * (cell + 2 * GAP_PX) + GAP_PX, math.ceil(font.getlength(title)) + 24)
    sheet = Image.new("RGB", (width, top + len(rows) * (cell + 2 * GAP_PX) + GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)

    draw.text((12, 4), _cut_text(draw, title, width - 16, font), "black", font)
    for i, word in enumerate(columns):
        draw.text((margin + i * (cell + 2 * GAP_PX), TEXT_PX + 10), _cut_text(draw, word, cell + GAP_PX, font), "dimgrey", font)
    for i, (name, images) in enumerate(rows):
        y = top + i * (cell + 2 * GAP_PX)
        draw.text((8, y + (cell - TEXT_PX) // 2), _cut_text(draw, name, margin - 12, font), "black", font)
        for j, image in enumerate(images):
            sheet.paste(to_pil(enlarge(image, side)), (margin + j * (cell + 2 * GAP_PX), y))
    return np.asarray(sheet)


def _cut_text(draw: ImageDraw.ImageDraw, text: str, width_px: float, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    while text and draw.textlength(text, font=font) > width_px:
        text = text[:-1]
    return text


def save_animation(path: Path, frames: np.ndarray, frames_a_second: float) -> None:
    """Saves (F, H, W, C) uint8 as a looping .gif or .webp, or as an .mp4, atomically. Raises: UserError."""
    if path.suffix == ".mp4":
        return _save_film(path, frames, frames_a_second)
    stills = [to_pil(frame) for frame in frames]
    file_format, options = {".gif": ("GIF", {"optimize": False}), ".webp": ("WEBP", {"quality": 90})}[path.suffix]
    with atomic_write(path) as partial:
        stills[0].save(
            partial,
            file_format,
            save_all=True,
            append_images=stills[1:],
            duration=round(1000 / frames_a_second),
            loop=0,
            **options,
        )


def _save_film(path: Path, frames: np.ndarray, frames_a_second: float) -> None:
    try:
        import av  # optional: 40 MB
    except ImportError:
        raise UserError(f"{path}: .mp4 needs PyAV: pip install av; or use a name that ends in .webp or .gif") from None
    height, width = (side + side % 2 for side in frames.shape[1:3])  # even sides, as yuv420p needs
    frames = np.pad(frames, ((0, 0), (0, height - frames.shape[1]), (0, width - frames.shape[2]), (0, 0)), constant_values=255)
    frames = np.broadcast_to(frames, (*frames.shape[:3], 3))
    with atomic_write(path) as partial, av.open(partial, "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=Fraction(frames_a_second).limit_denominator(1000), options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        film.mux(stream.encode())


def delete_old_grids(samples: Path, save_every_steps: int) -> None:
    """Deletes grids of a long run: keeps the first DENSE, the newest, and every 2nd, 4th ... of the others, at most SPARSE.

    The choice depends only on the steps, so an interrupted run keeps the same grids.
    """
    steps = {int(file.stem): file for file in samples.glob("*.png") if file.stem.isdecimal()}
    newest = max(steps, default=0)
    every = save_every_steps
    while newest / every > SPARSE:
        every *= 2
    for step, file in steps.items():
        if step > DENSE * save_every_steps and step % every and step != newest:
            file.unlink(missing_ok=True)


def save_losses(path: Path, metrics: dict[str, list[float]]) -> None:
    """Plots the losses of both networks over the steps, raw and smoothed, as in the article."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(8, 4.5))
    figure.subplots_adjust(left=0.12, right=0.98, bottom=0.12, top=0.92)  # a computed layout draws twice, at every save
    axes = figure.add_subplot()
    steps = np.array(metrics.get("step", []))
    for name, colour in zip(LOSS_METRICS, ("tab:blue", "tab:orange"), strict=True):
        label = METRICS[name].label
        values = np.array(metrics.get(name, np.full(steps.shape, np.nan)))  # NaN if metrics.jsonl lacks it
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        window = max(1, round(len(values) * SMOOTHED_OVER))
        if len(values) >= window > 0:
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            axes.plot(steps[window - 1 :], smooth, color=colour, label=f"{label} (mean of {window})")
    axes.set(xlabel="step", ylabel="loss", title="A GAN's losses balance; they do not measure quality")
    if steps.size:
        axes.legend()
    axes.grid(alpha=0.3)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def save_scores(path: Path, curve: dict[int, float], measure: str) -> None:
    """Plots a score over the steps; measure is the label of its axis."""
    from matplotlib.figure import Figure  # as above

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot()
    steps = sorted(curve)
    axes.plot(steps, [curve[step] for step in steps], marker="o")
    axes.set(xlabel="step", ylabel=make_printable(measure, 60), title="Smaller is better")
    axes.grid(alpha=0.3)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
