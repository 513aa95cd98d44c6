import importlib
import signal

import pytest
from toy_run import STEPS, train_toy

from dcgan_jax.run import stop_signals
from dcgan_jax.run.checkpoints import list_steps
from dcgan_jax.run.logs import Logs

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("signal_handlers_stay")]


def test_second_ctrl_c_stops_at_once_keeps_last_save(run, tmp_path, monkeypatch):
    real = Logs.write

    def twice(self, steps, values):
        if steps.stop == STEPS + 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        real(self, steps, values)

    monkeypatch.setattr(Logs, "write", twice)
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
