import json

import jax
import pytest

from dcgan_jax.run import product_speed


@pytest.mark.parametrize("speedup, chosen", [(0.8, "float32"), (1.29, "float32"), (1.3, "bfloat16"), (4.0, "bfloat16")])
def test_bfloat16_is_chosen_where_it_is_faster(speedup, chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(product_speed, "measure_speedup", lambda: speedup)
    assert product_speed.choose_compute_dtype(tmp_path / "cache") == chosen
    assert product_speed.read_speedup(tmp_path / "cache") == speedup


def test_speed_is_measured_once(tmp_path, monkeypatch):
    speeds = iter([4.0])
    monkeypatch.setattr(product_speed, "measure_speedup", lambda: next(speeds))
    assert [product_speed.choose_compute_dtype(tmp_path) for _ in range(2)] == ["bfloat16"] * 2


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"another machine": 4.0}', "HERE: true"])
def test_unusable_memory_is_measured_again(content, tmp_path, monkeypatch):
    content = json.dumps({product_speed._describe_machine(): "fast"}) if content == "HERE: true" else content
    (tmp_path / product_speed.FILE).write_text(content, encoding="utf-8")
    monkeypatch.setattr(product_speed, "measure_speedup", lambda: 1.0)
    assert product_speed.choose_compute_dtype(tmp_path) == "float32"
    assert product_speed.read_speedup(tmp_path) == 1.0


def test_cache_that_cannot_be_written_is_no_fault(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    monkeypatch.setattr(product_speed, "measure_speedup", lambda: 4.0)
    assert product_speed.choose_compute_dtype(tmp_path / "cache") == "bfloat16"
    assert product_speed.read_speedup(tmp_path / "cache") is None


def test_accelerators_are_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert product_speed.choose_compute_dtype(tmp_path) == "float32"


def test_measured_speed_is_a_ratio(monkeypatch):
    times = iter([2.0, 1.0] * product_speed.ROUNDS * len(product_speed.SHAPES))  # float32 takes twice as long as bfloat16
    monkeypatch.setattr(product_speed, "_time", lambda call: call().dtype == "float32" and next(times))
    assert product_speed.measure_speedup() == 2.0
