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


def test_machines_that_share_a_cache_keep_their_own_speeds(tmp_path, monkeypatch):
    for machine, speed in (("a", 4.0), ("b", 1.0)):
        monkeypatch.setattr(product_speed, "_describe_machine", lambda machine=machine: machine)
        monkeypatch.setattr(product_speed, "measure_speedup", lambda speed=speed: speed)
        product_speed.choose_compute_dtype(tmp_path)
    assert product_speed.read_speedup(tmp_path) == 1.0
    monkeypatch.setattr(product_speed, "_describe_machine", lambda: "a")
    assert product_speed.read_speedup(tmp_path) == 4.0


def test_cache_that_cannot_be_written_is_no_fault(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    monkeypatch.setattr(product_speed, "measure_speedup", lambda: 4.0)
    assert product_speed.choose_compute_dtype(tmp_path / "cache") == "bfloat16"
    assert product_speed.read_speedup(tmp_path / "cache") is None


def test_accelerators_are_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert product_speed.choose_compute_dtype(tmp_path) == "float32"


def test_measured_speed_is_a_ratio(monkeypatch):
    monkeypatch.setattr(product_speed, "_compile", lambda dtype, *operands: dtype)
    monkeypatch.setattr(product_speed, "_time", {"float32": 3.0, "bfloat16": 1.0}.get)
    assert product_speed.measure_speedup() == 3.0


def test_products_of_both_formats_can_be_timed():
    assert product_speed.measure_speedup() > 0
