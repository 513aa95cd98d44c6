"""Logs the metrics of a run to metrics.jsonl, TensorBoard, Weights & Biases and a progress bar."""

import contextlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from dcgan_jax import terminal
from dcgan_jax.config import UserError, make_printable
from dcgan_jax.files import atomic_write, write_json
from dcgan_jax.gan.metrics import SUMMARY
from dcgan_jax.run.workdir import read_json

PLAIN_LINE_EVERY_S = 10.0
MAX_NAMES = 256  # metrics in one file; this program writes about ten
MAX_LINE = 2**16  # characters in one line of metrics.jsonl; this program writes a few hundred


class NonFiniteError(Exception):
    """A metric is NaN or infinite. The message names the step and the metric."""


class Logs:
    """Opens the logs at the step from which a run starts or resumes. Removes lines of later steps, from a killed process."""

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
        """Args: wandb: project at Weights & Biases, "" for none. settings: shown there as the config of the run.
        silent: check the metrics but write nothing, for all processes except the first.
        Raises: UserError.
        """
        self.file = run / "metrics.jsonl"
        self.silent = silent
        self.every_steps, self.images_per_step, self.image_count = every_steps, images_per_step, image_count
        self.total, self.tensorboard = total, tensorboard
        self.wandb = _Wandb(run, wandb, settings) if wandb and not silent else None  # first, because it may raise
        self.terminal = terminal.is_terminal() and not silent
        self._open(start)

    def _open(self, start: int) -> None:
        self.metrics: dict[str, list[float]] = {}  # as `read_metrics` returns them; empty if silent
        self.warnings: list[tuple[int, str, str]] = []  # as `read_warnings` returns them
        self.lines = None if self.silent else self._open_lines(start)
        self.events = _Events(self.file.parent, start) if self.tensorboard and not self.silent else None
        self.bar = tqdm(
            total=self.total,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            file=terminal.get_stream("stderr"),
            disable=not self.terminal,
        )
        self.shown_kinds: list[str] = []  # kinds of warnings that the progress bar shows
        self.last_line_s = time.monotonic()
        # (step, time) after the first dispatch, so that compilation does not count in the speed
        self.rate_from: tuple[int, float] | None = None

    def rewind(self, start: int) -> None:
        """Removes all metrics after step `start`, from which the run resumes."""
        self._close_files()
        self._open(start)

    def write(self, steps: range, metrics: dict[str, np.ndarray]) -> None:
        """Writes the metrics of one dispatch: name -> (k,) values, for steps.start + 1 to steps.stop.

        Raises: NonFiniteError, before it writes any of them, if one is NaN or infinite.
        """
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

    def warn(self, step: int, warnings: dict[str, str]) -> None:
        """Logs the warnings of a save, kind -> message. Prints new kinds; the bar shows all kinds until the next save."""
        lines = self.lines
        if lines is None:
            return
        for kind, message in warnings.items():
            line = {"step": step, "warning": kind, "message": message}
            self._add(line)
            lines.write(json.dumps(line) + "\n")
            if kind not in self.shown_kinds:
                self.say(f"warning: step {step:,}: {message}")
        self.shown_kinds = list(warnings)

    def say(self, line: str) -> None:
        """Prints a line above the progress bar."""
        if not self.silent:
            with tqdm.external_write_mode(file=terminal.get_stream("stdout")):
                terminal.say(line)

    def flush(self) -> None:
        """Flushes the logs to disk. Call it before the checkpoint of the same step is saved."""
        if self.lines is None:
            return
        self.lines.flush()
        os.fsync(self.lines.fileno())
        if self.events:
            self.events.flush()

    def close(self) -> None:
        """Closes the logs. A full disk is ignored here: everything up to the last checkpoint was flushed before."""
        self._close_files()
        self._to_wandb(lambda wandb: wandb.close())

    def _close_files(self) -> None:
        for file in filter(None, (self.lines, self.events)):
            with contextlib.suppress(OSError):
                file.close()
        self.bar.close()

    def _to_wandb(self, act: Callable[["_Wandb"], None]) -> None:
        if not self.wandb:
            return
        try:
            act(self.wandb)
        except Exception as fault:  # a failure of this service must not end the run
            self.wandb = None
            self.say(f"warning: Weights & Biases gets no more metrics ({make_printable(str(fault), 200)}); metrics.jsonl has all")

    def _show(self, steps: range, values: dict[str, float], images_per_s: float | None, now: float) -> None:
        epoch = steps.stop / (self.image_count // self.images_per_step)  # an epoch counts only full batches, as in --epochs
        speed = "compiled" if images_per_s is None else f"{images_per_s:,.0f} img/s"
        shown = "".join(f"[{kind}]  " for kind in self.shown_kinds)
        shown += f"epoch {epoch:.2f}  {speed}  {SUMMARY.format_map(values)}"
        if self.terminal:
            self.bar.set_postfix_str(shown, refresh=False)
            self.bar.update(len(steps))
        elif now - self.last_line_s >= PLAIN_LINE_EVERY_S or steps.stop == self.total:
            self.last_line_s = now
            left = f"  {(self.total - steps.stop) * self.images_per_step / images_per_s:.0f} s left" if images_per_s else ""
            self.say(f"step {steps.stop}/{self.total}  {shown}{left}")

    def _add(self, row: dict) -> None:
        if "warning" in row:
            self.warnings.append((row["step"], row["warning"], row["message"]))
            return
        _extend_columns(self.metrics, row)

    def _open_lines(self, start: int) -> TextIO:
        kept, last, first_broken = [], 0, 0
        with contextlib.suppress(FileNotFoundError), self.file.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(_iterate_lines(lines), 1):
                row = _parse_row(line)
                if row is None or not line.endswith("\n"):
                    first_broken = first_broken or number  # cut off by a crash, so of a step that was not saved
                elif not last <= row["step"] <= start:
                    break
                elif first_broken:  # valid lines follow, so it was no crash; do not delete them
                    raise UserError(f"{self.file}: line {first_broken} is not a record of a step; remove it")
                else:
                    kept.append(line)
                    self._add(row)
                    last = row["step"]
        with atomic_write(self.file) as partial:
            partial.write_text("".join(kept), encoding="utf-8")
        return self.file.open("a", encoding="utf-8")


class _Events:
    """Writes TensorBoard's file in this thread. tensorboardX's own writer uses a thread that hangs on a full disk."""

    def __init__(self, run: Path, start: int):
        from tensorboardX.event_file_writer import EventsWriter  # imported only with --tensorboard: protobuf loads slowly

        # pyrefly: ignore[missing-module-attribute] - protobuf makes these classes when it is imported
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self.event, self.scalar = Event, scalar
        # The name contains the step, so that a clock that was set back cannot overwrite an earlier file.
        self.file = EventsWriter(str(run / "events"), filename_suffix=f".{start}")
        # Makes TensorBoard discard later steps from an earlier, killed process.
        self.file.write_event(Event(wall_time=time.time(), step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.file.write_event(self.event(wall_time=time.time(), step=step, summary=self.scalar(name, value)))

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class _Wandb:
    """Sends the same lines to Weights & Biases. A resumed run continues there, because wandb.json stores its id."""

    def __init__(self, run: Path, project: str, settings: dict | None):
        try:
            import wandb  # optional: it is large, and sends data to a service
        except ImportError:
            raise UserError(f"`wandb` {project}: the package is not installed: pip install wandb, or omit `wandb`") from None

        file = run / "wandb.json"
        facts = read_json(file) if file.exists() else {"id": secrets.token_hex(8)}
        if not (isinstance(facts, dict) and isinstance(facts.get("id"), str)):
            raise UserError(f"{file}: contains no run id; remove it to start a new run at Weights & Biases")
        write_json(file, facts)
        try:  # its folder is next to the run, because it contains links to other places, which a run must not contain
            self.run = wandb.init(project=project, id=facts["id"], name=run.name, dir=run.parent, config=settings, resume="allow")
        except Exception as fault:  # no account, no network, no such project ...
            words = make_printable(str(fault), 300)
            raise UserError(f"`wandb` {project}: {words}; set WANDB_MODE=offline to log on this machine only") from None
        self.run.define_metric("*", step_metric="step")  # steps that a killed process has already sent are sent again

    def write(self, line: dict) -> None:
        self.run.log(line)

    def close(self) -> None:
        self.run.finish()


def _iterate_lines(opened: TextIO) -> Iterator[str]:
    return iter(lambda: opened.readline(MAX_LINE), "")


def _parse_row(line: str) -> dict | None:
    """Parses a line of metrics.jsonl: the metrics of a step, or a warning. None if it is neither."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < 2**31):
        return None
    if row.keys() == {"step", "trouble", "words"}:  # names in runs of version 0.1.0
        row = {"step": row["step"], "warning": row["trouble"], "message": row["words"]}
    if "warning" in row:
        is_warning = row.keys() == {"step", "warning", "message"}
        return row if is_warning and isinstance(row["warning"], str) and isinstance(row["message"], str) else None
    are_numbers = all(type(value) is float or (type(value) is int and abs(value) < 2**53) for value in row.values())
    return row if are_numbers else None


def _read_rows(run: Path) -> Iterator[dict]:
    file = run / "metrics.jsonl"
    if not os.path.exists(file):
        return
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(_iterate_lines(lines), 1):
            row = _parse_row(line)
            if row is None:
                raise UserError(f"{file}: line {number} is not a record of a step; remove it and all lines after it")
            yield row


def _extend_columns(columns: dict[str, list[float]], row: dict) -> None:
    count = len(columns.get("step", ()))
    for name in columns | row:
        columns.setdefault(name, [math.nan] * count).append(row.get(name, math.nan))


def read_metrics(run: Path) -> dict[str, list[float]]:
    """Reads metrics.jsonl: name -> column of values, NaN where a line lacks the name; {} without lines. Raises: UserError."""
    columns = {}
    for row in _read_rows(run):
        if "warning" not in row:
            _extend_columns(columns, row)
            if len(columns) > MAX_NAMES:
                raise UserError(f"{run / 'metrics.jsonl'}: has more than {MAX_NAMES} metrics; dcgan_jax writes fewer")
    return columns


def read_warnings(run: Path) -> list[tuple[int, str, str]]:
    """Reads the warnings in metrics.jsonl, in order: (step, kind, message) each. Raises: UserError."""
    return [(row["step"], row["warning"], row["message"]) for row in _read_rows(run) if "warning" in row]
