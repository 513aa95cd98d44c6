"""Handles the signals that end a run: the current step is completed first."""

import signal
import threading
from types import FrameType

# Windows has no SIGHUP.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopSignals:
    """Catches Ctrl-C, SIGTERM and SIGHUP (a closed terminal) inside a with block. A second Ctrl-C interrupts at once.

    received: the signal that was caught, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        in_main = threading.current_thread() is threading.main_thread()  # Python allows signal handlers only there
        self.before = {number: signal.getsignal(number) for number in SIGNALS if in_main}
        for number, handler in self.before.items():
            if handler is not signal.SIG_IGN:  # nohup ignores SIGHUP; keep that
                signal.signal(number, self._receive)
        return self

    def __exit__(self, *fault: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
