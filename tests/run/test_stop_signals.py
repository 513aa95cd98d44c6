import importlib
import signal

import pytest
from toy_run import STEPS, send_signals_after, train_toy

from dcgan_jax.run import stop_signals
from dcgan_jax.run.checkpoints import list_steps

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("signal_handlers_stay")]


def test_second_ctrl_c_stops_at_once_keeps_last_save(run, tmp_path):
    with send_signals_after(STEPS + 2, signal.SIGINT, signal.SIGINT):
        done = train_toy(tmp_path, steps=STEPS + 4)
    assert done.code == 130
    assert "Traceback" not in done.err
    assert list_steps(run) == [4, 8, 12]


def test_machine_without_sighup_catches_the_others(monkeypatch):
    """Windows."""
    monkeypatch.delattr(signal, "SIGHUP")
    try:
        assert importlib.reload(stop_signals).SIGNALS == (signal.SIGINT, signal.SIGTERM)
    finally:
        monkeypatch.undo()
        importlib.reload(stop_signals)
