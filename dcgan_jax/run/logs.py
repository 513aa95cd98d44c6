"""A run's numbers: metrics.jsonl (each line the values of its own step), TensorBoard, Weights & Biases, and one progress bar."""

import contextlib
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.files import atomic_write, write_json
from dcgan_jax.gan.metrics import SUMMARY
from dcgan_jax.run.workdir import read_json

PLAIN_LINE_EVERY_S = 10.0
MAX_NAMES = 256  # of numbers; ours are some ten
MAX_LINE = 2**16  # characters of metrics.jsonl; ours have some hundred


class NonFiniteError(Exception):
    """A NaN or an infinity in a step's numbers: the message names the step and the number."""


class Logs:
    """Opened at the step a run starts or resumes from; lines of later steps, left by a killed process, are dropped."""

    def __init__(
        self,
        run: Path,
        *,
        start: int,
        total: int,
        images_per_step: int,
        image_count: int,
        every_steps: int,
        tensorboard: bool,
        wandb: str = "",
        settings: dict | None = None,
        silent: bool = False,
    ):
        """wandb: the project there, and settings, what it shows as the run's; silent: check the numbers and write nothing, as
        all processes but the first. Raises UserError.
        """
        self.file = run / "metrics.jsonl"
        self.silent = silent
        self.every_steps, self.images_per_step, self.image_count = every_steps, images_per_step, image_count
        self.total, self.tensorboard = total, tensorboard
        self.wandb = _Wandb(run, wandb, settings) if wandb and not silent else None  # first, as it may refuse
        self.terminal = sys.stderr.isatty() and not silent
        self._open(start)

    def _open(self, start: int) -> None:
        self.metrics: dict[str, list[float]] = {}  # what the file holds, as `read_metrics` reads it; empty where silent
        self.warnings: list[tuple[int, str, str]] = []  # as `read_warnings` reads them
        self.lines = None if self.silent else self._open_lines(start)
        self.events = _Events(self.file.parent, start) if self.tensorboard and not self.silent else None
        self.bar = tqdm(
            total=self.total, initial=start, unit="step", dynamic_ncols=True, file=sys.stderr, disable=not self.terminal
        )
        self.shown_kinds: list[str] = []  # warnings that the bar shows beside the numbers
        self.last_line_s = time.monotonic()
        # (step, time) after the first dispatch: compiling it is no part of the speed
        self.rate_from: tuple[int, float] | None = None

    def rewind(self, start: int) -> None:
        """Drops all numbers after step `start`, from which the run resumes."""
        self._close_files()
        self._open(start)

    def write(self, steps: range, metrics: dict[str, np.ndarray]) -> None:
        """metrics: (k,) for steps.start + 1 .. steps.stop. Raises NonFiniteError before anything of a bad dispatch is written."""
        metrics = {name: np.asarray(values) for name, values in metrics.items()}
        for name, values in metrics.items():
            if not np.isfinite(values).all():
                step = steps.start + 1 + int(np.argmin(np.isfinite(values)))
                raise NonFiniteError(f"step {step}: {name} is {values[step - steps.start - 1]}")
        lines = self.lines
        if lines is None:
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
            self._add(line)
            lines.write(json.dumps(line) + "\n")
            if self.events:
                self.events.write(step, values)
            self._to_wandb(lambda wandb, line=line: wandb.write(line))
        self._show(steps, {name: float(series[-1]) for name, series in metrics.items()}, images_per_s, now)

    def warn(self, step: int, found: dict[str, str]) -> None:
        """Logs what is wrong at a save, kind -> message; the bar shows the kinds until the next save, new ones are printed."""
        lines = self.lines
        if lines is None:
            return
        for kind, words in found.items():
            line = {"step": step, "trouble": kind, "words": words}
            self._add(line)
            lines.write(json.dumps(line) + "\n")
            if kind not in self.shown_kinds:
                self.say(f"warning: step {step:,}: {words}")
        self.shown_kinds = list(found)

    def say(self, line: str) -> None:
        """A line for the person watching, above the bar."""
        if not self.silent:
            with self._ignore_closed_stream("stdout"):
                tqdm.write(line, file=sys.stdout)
                sys.stdout.flush()

    def flush(self) -> None:
        """Lines on the disk: before a checkpoint of their step is."""
        if self.lines is None:
            return
        self.lines.flush()
        os.fsync(self.lines.fileno())
        if self.events:
            self.events.flush()

    def close(self) -> None:
        """Whatever a checkpoint needs was flushed before it; what a full disk does not take here belongs to later steps."""
        self._close_files()
        self._to_wandb(lambda wandb: wandb.close())

    def _close_files(self) -> None:
        for file in filter(None, (self.lines, self.events)):
            with contextlib.suppress(OSError):
                file.close()
        with self._ignore_closed_stream("stderr"):
            self.bar.close()

    @contextlib.contextmanager
    def _ignore_closed_stream(self, stream: str) -> Generator[None]:
        # A closed terminal or a full disk under the output is no reason to lose a run: it continues without words there.
        try:
            yield
        except OSError:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115 - Python's own flush at the end must not fail either
            if stream == "stderr":
                self.terminal, self.bar.disable = False, True

    def _to_wandb(self, act: Callable[["_Wandb"], None]) -> None:
        if not self.wandb:
            return
        try:
            act(self.wandb)
        except Exception as fault:  # another's service is no reason to lose a run
            self.wandb = None
            self.say(f"warning: Weights & Biases gets no more numbers ({make_printable(str(fault), 200)}); metrics.jsonl has all")

    def _show(self, steps: range, values: dict[str, float], images_per_s: float | None, now: float) -> None:
        epoch = steps.stop / (self.image_count // self.images_per_step)  # of whole batches, like --epochs
        speed = "compiled" if images_per_s is None else f"{images_per_s:,.0f} img/s"
        shown = "".join(f"[{kind}]  " for kind in self.shown_kinds)
        shown += f"epoch {epoch:.2f}  {speed}  {SUMMARY.format_map(values)}"
        if self.terminal:
            with self._ignore_closed_stream("stderr"):
                self.bar.set_postfix_str(shown, refresh=False)
                self.bar.update(len(steps))
        elif now - self.last_line_s >= PLAIN_LINE_EVERY_S or steps.stop == self.total:
            self.last_line_s = now
            left = f"  {(self.total - steps.stop) * self.images_per_step / images_per_s:.0f} s left" if images_per_s else ""
            self.say(f"step {steps.stop}/{self.total}  {shown}{left}")

    def _add(self, row: dict) -> None:
        if "trouble" in row:
            self.warnings.append((row["step"], row["trouble"], row["words"]))
            return
        _extend_columns(self.metrics, row)

    def _open_lines(self, start: int) -> TextIO:
        kept, last, broken = [], 0, 0
        with contextlib.suppress(FileNotFoundError), self.file.open(errors="replace") as lines:
            for number, line in enumerate(_iterate_lines(lines), 1):
                row = _parse_row(line)
                if row is None or not line.endswith("\n"):
                    broken = broken or number  # cut by a crash: it belongs to steps that were not saved
                elif not last <= row["step"] <= start:
                    break
                elif broken:  # no crash does that, and what follows is not to be lost
                    raise UserError(f"{self.file}: line {broken} holds no numbers of a step; remove it")
                else:
                    kept.append(line)
                    self._add(row)
                    last = row["step"]
        with atomic_write(self.file) as partial:
            partial.write_text("".join(kept))
        return self.file.open("a")


class _Events:
    """TensorBoard's file, written in this thread: tensorboardX's writer has one of its own, which a full disk ends and hangs."""

    def __init__(self, run: Path, start: int):
        from tensorboardX.event_file_writer import EventsWriter  # only where asked for: protobuf takes a moment to load

        # pyrefly: ignore[missing-module-attribute] - protobuf makes these classes when it is imported
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self.event, self.scalar = Event, scalar
        # The step in the name: a clock that was set back must not overwrite an earlier file.
        self.file = EventsWriter(str(run / "events"), filename_suffix=f".{start}")
        # TensorBoard forgets what an earlier, killed process wrote of these steps.
        self.file.write_event(Event(wall_time=time.time(), step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.file.write_event(self.event(wall_time=time.time(), step=step, summary=self.scalar(name, value)))

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class _Wandb:
    """Weights & Biases, from the same lines. A resumed run is the same run there, by the name that wandb.json keeps."""

    def __init__(self, run: Path, project: str, settings: dict | None):
        try:
            import wandb  # optional: it is large, and sends what it is given to its maker
        except ImportError:
            raise UserError(f"`wandb` {project}: the package is not installed: pip install wandb, or leave `wandb` out") from None

        file = run / "wandb.json"
        known = read_json(file) if file.exists() else {"id": secrets.token_hex(8)}
        if not (isinstance(known, dict) and isinstance(known.get("id"), str)):
            raise UserError(f"{file}: holds no id of a run; remove it, and the run is a new one there")
        write_json(file, known)
        try:  # beside the run: it makes links to its logs elsewhere, which a run must not hold
            self.run = wandb.init(project=project, id=known["id"], name=run.name, dir=run.parent, config=settings, resume="allow")
        except Exception as fault:  # its own kinds: no account, no network, no such project
            words = make_printable(str(fault), 300)
            raise UserError(f"`wandb` {project}: {words}; WANDB_MODE=offline keeps the numbers here") from None
        self.run.define_metric("*", step_metric="step")  # steps that a killed process had sent already come once more

    def write(self, line: dict) -> None:
        self.run.log(line)

    def close(self) -> None:
        self.run.finish()


def _iterate_lines(opened: TextIO) -> Iterator[str]:
    return iter(lambda: opened.readline(MAX_LINE), "")


def _parse_row(line: str) -> dict | None:
    """A line of metrics.jsonl: numbers, or the words of a trouble, of a step. None where it is neither."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < 2**31):
        return None
    is_trouble = row.keys() == {"step", "trouble", "words"} and isinstance(row["trouble"], str) and isinstance(row["words"], str)
    are_numbers = all(type(value) is float or (type(value) is int and abs(value) < 2**53) for value in row.values())
    return row if is_trouble or (are_numbers and "trouble" not in row) else None


def _read_rows(run: Path) -> Iterator[dict]:
    file = run / "metrics.jsonl"
    if not os.path.exists(file):
        return
    with file.open(errors="replace") as lines:
        for number, line in enumerate(_iterate_lines(lines), 1):
            row = _parse_row(line)
            if row is None:
                raise UserError(f"{file}: line {number} holds no numbers of a step; remove it and what follows")
            yield row


def _extend_columns(columns: dict[str, list[float]], row: dict) -> None:
    count = len(columns.get("step", ()))
    for name in columns | row:
        columns.setdefault(name, [math.nan] * count).append(row.get(name, math.nan))


def read_metrics(run: Path) -> dict[str, list[float]]:
    """metrics.jsonl as columns; names that a line lacks are NaN there. Empty before the first line. Raises UserError."""
    columns = {}
    for row in _read_rows(run):
        if "trouble" not in row:
            _extend_columns(columns, row)
            if len(columns) > MAX_NAMES:
                raise UserError(f"{run / 'metrics.jsonl'}: has more than {MAX_NAMES} names of numbers; it is not ours")
    return columns


def read_warnings(run: Path) -> list[tuple[int, str, str]]:
    """(step, kind, words) of each trouble that was found, in order. Raises UserError."""
    return [(row["step"], row["trouble"], row["words"]) for row in _read_rows(run) if "trouble" in row]
