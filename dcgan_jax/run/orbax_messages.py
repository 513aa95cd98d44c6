"""Silences messages of Orbax about faults that it also raises, and stops TensorStore's metrics, which leak memory."""

import contextlib
import logging
import sys
import threading
from collections.abc import Generator

import tensorstore

TENSORSTORE_METRICS = "experimental_collect_matching_metrics"


class _Silence:
    """Counts the nested and overlapping uses of `silence_orbax`. The last one to end restores the original hooks."""

    lock = threading.Lock()
    count = 0
    undo = contextlib.ExitStack()


@contextlib.contextmanager
def silence_orbax() -> Generator[None]:
    """Silences the log messages and warnings of Orbax in the whole process. Exceptions are still raised."""
    with _Silence.lock:
        if not _Silence.count:
            _Silence.undo = _replace_hooks()
        _Silence.count += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.count -= 1
            if not _Silence.count:
                _Silence.undo.close()


def _replace_hooks() -> contextlib.ExitStack:
    undo = contextlib.ExitStack()
    # Orbax and its event loops log tracebacks of faults that they also raise. Afterwards TensorStore's threads call a closed
    # event loop, and coroutines that were never awaited warn when they are collected.
    for logger in map(logging.getLogger, ("absl", "asyncio")):
        undo.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
    report = sys.unraisablehook

    def report_others(fault: "sys.UnraisableHookArgs") -> None:
        code = getattr(fault.object, "cr_code", None)
        if str(fault.exc_value) != "Event loop is closed" and "/orbax/" not in getattr(code, "co_filename", ""):
            report(fault)

    undo.callback(setattr, sys, "unraisablehook", report)
    sys.unraisablehook = report_others
    # At each save and restore Orbax collects TensorStore's metrics for its log. TensorStore 0.1.86 leaks 60 kB each time, which
    # adds up in a run of weeks.
    undo.callback(setattr, tensorstore, TENSORSTORE_METRICS, getattr(tensorstore, TENSORSTORE_METRICS))
    setattr(tensorstore, TENSORSTORE_METRICS, lambda *prefix, **how: [])
    return undo
