"""A run's numbers: metrics.jsonl (each line the values of its own step), TensorBoard events, and one progress bar."""

import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dcgan_jax.run.workdir import whole

PLAIN_LINE_EVERY_S = 10.0


class NotFinite(Exception):
    """A NaN or an infinity in a step's numbers: the message names the step and the number."""


class Logs:
    """Opened at the step a run starts or goes on from; lines of later steps, left by a killed process, are dropped."""

    def __init__(self, run: Path, *, start: int, total: int, images_per_step: int, image_count: int, every_steps: int,
                 tensorboard: bool, silent: bool = False):
        """silent: check the numbers and write nothing, as all processes but the first."""
        self.file = run / "metrics.jsonl"
        self.silent = silent
        self.every_steps, self.images_per_step, self.image_count = every_steps, images_per_step, image_count
        self.total = total
        self.lines = None if silent else self._opened(start)
        self.events = None
        if tensorboard and not silent:
            from tensorboardX import SummaryWriter  # only where asked for: protobuf takes a moment to load
            self.events = SummaryWriter(str(run), purge_step=start + 1, flush_secs=30)
        self.terminal = sys.stderr.isatty() and not silent
        self.bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, file=sys.stderr, disable=not self.terminal)
        self.said = time.monotonic()
        self.rate_from = None  # (step, time) after the first dispatch: compiling it is no part of the speed

    def write(self, steps: range, metrics: dict[str, np.ndarray]) -> None:
        """metrics: (k,) for steps.start + 1 .. steps.stop. Raises NotFinite before anything of a bad dispatch is written."""
        metrics = {name: np.asarray(values) for name, values in metrics.items()}
        for name, values in metrics.items():
            if not np.isfinite(values).all():
                step = steps.start + 1 + int(np.argmin(np.isfinite(values)))
                raise NotFinite(f"step {step}: {name} is {values[step - steps.start - 1]}")
        if self.silent:
            return
        now = time.monotonic()
        if self.rate_from is None:
            self.rate_from = steps.stop, now
        images = (steps.stop - self.rate_from[0]) * self.images_per_step
        images_per_s = images / (now - self.rate_from[1]) if images else None
        for offset in range(len(steps)):
            step = steps.start + 1 + offset
            if step % self.every_steps and step != self.total:
                continue
            values = {name: float(series[offset]) for name, series in metrics.items()}
            line = {"step": step, "images": step * self.images_per_step} | values
            if images_per_s is not None:
                line["images_per_s"] = round(images_per_s, 1)
            self.lines.write(json.dumps(line) + "\n")
            if self.events:
                for name, value in values.items():
                    self.events.add_scalar(name, value, step)
        self._show(steps, {name: float(series[-1]) for name, series in metrics.items()}, images_per_s, now)

    def say(self, line: str) -> None:
        """A line for the person watching, above the bar."""
        if not self.silent:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def flush(self) -> None:
        """Lines on the disk: before a checkpoint of their step is."""
        if self.silent:
            return
        self.lines.flush()
        os.fsync(self.lines.fileno())
        if self.events:
            self.events.flush()

    def close(self) -> None:
        self.bar.close()
        if self.lines:
            self.lines.close()
        if self.events:
            self.events.close()

    def _show(self, steps, values, images_per_s, now):
        epoch = steps.stop / (self.image_count // self.images_per_step)  # of whole batches, like --epochs
        speed = "compiled" if images_per_s is None else f"{images_per_s:,.0f} img/s"
        shown = (f"epoch {epoch:.2f}  {speed}  D {values['d_loss']:.3f}  G {values['g_loss']:.3f}  "
                 f"D right on real {values['d_real_hits']:.0%} fake {values['d_fake_hits']:.0%}")
        if self.terminal:
            self.bar.set_postfix_str(shown, refresh=False)
            self.bar.update(len(steps))
        elif now - self.said >= PLAIN_LINE_EVERY_S or steps.stop == self.total:
            self.said = now
            left = f"  {(self.total - steps.stop) * self.images_per_step / images_per_s:.0f} s left" if images_per_s else ""
            self.say(f"step {steps.stop}/{self.total}  {shown}{left}")

    def _opened(self, start):
        kept = []
        for line in self.file.read_text(errors="replace").splitlines() if self.file.exists() else ():
            try:
                if json.loads(line)["step"] > start:
                    break
            except (ValueError, TypeError, KeyError):  # a line cut by a crash: it and what follows belong to steps not saved
                break
            kept.append(line + "\n")
        with whole(self.file) as partial:
            partial.write_text("".join(kept))
        return self.file.open("a")


def read_metrics(run: Path) -> dict[str, list[float]]:
    """metrics.jsonl as columns; names that a line lacks are NaN there. Empty before the first line."""
    file = run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, math.nan) for row in rows] for name in names}
